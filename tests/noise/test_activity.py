"""The noise of a PET volume: measured where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.noise.activity import FACTS, FLOOR_SUV, MOST, activity_of, facts_of

SPACING = (3.27, 4.0, 4.0)


def body(shape: tuple[int, int, int] = (20, 96, 96)) -> np.ndarray:
    """A cylinder of SUV 1 with a liver of 2.5, air around it."""
    r = np.hypot(*np.meshgrid(np.arange(96) - 47.5, np.arange(96) - 47.5, indexing="ij"))
    plane = np.where(r < 38, 1.0, 0.0)
    plane[40:64, 20:44] = 2.5
    return np.broadcast_to(gaussian_filter(plane, 1.0), shape).astype(np.float32)


def noisy(clean: np.ndarray, relative: float, seed: int = 0) -> np.ndarray:
    """With noise of a share of the mean, as grainy as a 5 mm filter leaves it."""
    white = gaussian_filter(np.random.default_rng(seed).normal(size=clean.shape), 0.53)
    return (clean * (1 + relative * white / white.std())).astype(np.float32)


@pytest.mark.parametrize("relative", [0.1, 0.2, 0.4])
def test_relative_noise_is_found(relative: float) -> None:
    """Within 20 % of what was put in, at three levels, edges of organs notwithstanding."""
    assert activity_of(noisy(body(), relative), SPACING).relative == pytest.approx(relative, rel=0.2)


def test_the_level_follows_the_activity() -> None:
    """In the liver it is that much higher than in the body as the liver is hotter; in air it is at its floor."""
    found = activity_of(noisy(body(), 0.2), SPACING)
    inside, liver, air = found.level[:, 66:74, 60:68], found.level[:, 48:56, 28:36], found.level[:, :4, :4]
    assert liver.mean() / inside.mean() == pytest.approx(2.5, rel=0.1)
    np.testing.assert_allclose(air, found.relative * FLOOR_SUV, rtol=0.2)


def test_the_map_is_the_local_activity() -> None:
    """4 ** map is the SUV of what is even and large: muscle of 1 and liver of 2.5; the noise level does not matter."""
    for relative in (0.1, 0.4):
        found = 4 ** activity_of(noisy(body(), relative), SPACING).map
        assert found[4:-4, 66:74, 60:68].mean() == pytest.approx(1.0, rel=0.06)
        assert found[4:-4, 50:54, 30:34].mean() == pytest.approx(2.5, rel=0.1)


def test_scaling_the_activity_scales_the_level() -> None:
    """Above the floor: twice the SUV, twice the noise, the same relative noise."""
    scan = noisy(body() + 2, 0.2)
    once, twice = activity_of(scan, SPACING), activity_of(2 * scan, SPACING)
    assert twice.relative == pytest.approx(once.relative, rel=1e-5)
    np.testing.assert_allclose(twice.level, 2 * once.level, rtol=1e-4)


def test_coarse_noise_survives_averaging() -> None:
    """White noise halves its level over 2 x 2 voxels (log2 -1) and falls by sqrt 2 over two slices (-0.5); noise of a
    wide filter hardly falls."""
    rng = np.random.default_rng(1)
    white = (body() * (1 + 0.3 * rng.normal(size=body().shape))).astype(np.float32)
    coarse = gaussian_filter(rng.normal(size=body().shape), 1.5)
    smooth = (body() * (1 + 0.3 * coarse / coarse.std())).astype(np.float32)
    assert activity_of(white, SPACING).colour == pytest.approx((-1.0, -0.5), abs=0.15)
    assert min(activity_of(smooth, SPACING).colour) > -0.25


def test_what_a_network_is_told_has_a_limit_and_what_is_found_has_none() -> None:
    """Eight times the mean: the level stays at MOST, the measure that a range is held against does not; below they are
    the same number."""
    wild, tame = (activity_of(noisy(body(), relative), SPACING) for relative in (8.0, 0.4))
    assert wild.relative == MOST
    assert wild.found > 2 * MOST
    assert tame.found == tame.relative


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 40, 40)])
def test_a_few_slices_and_an_empty_one_have_a_level(shape: tuple[int, int, int]) -> None:
    """Never zero, never NaN: the network divides by it."""
    empty = activity_of(np.zeros(shape, np.float32), (0.0 if shape[0] == 1 else 3.0, 4.0, 4.0))
    assert np.isfinite(empty.level).all()
    assert empty.level.min() > 0


def test_facts_are_of_order_one() -> None:
    """Over the range of counts and voxels that scans have."""
    for relative in (0.05, 0.8):
        for spacing in ((2.0, 2.0, 2.0), (5.0, 5.5, 5.5), (0.0, 4.0, 4.0)):
            facts = facts_of(activity_of(noisy(body(), relative), spacing), spacing, has_guide=True)
            assert facts.shape == (FACTS,)
            assert np.abs(facts).max() < 2
