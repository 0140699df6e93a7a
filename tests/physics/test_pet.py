"""PET projections against closed forms, attenuation, and the statistics of full and thinned counts."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.physics.pet import (
    MU_LUNG,
    MU_WATER,
    Contamination,
    Events,
    Means,
    ParallelGeometry,
    beam,
    draw,
    expected,
    hu_of_mu,
    mu_of_activity,
    mu_of_hu,
    sinograms,
    thin,
)
from medidiff.physics.pet_phantoms import nema, render, uniform

GEOMETRY = ParallelGeometry(n_angles=42)
RADIUS = 100.0


def _bins() -> tuple[np.ndarray, np.ndarray]:
    """Angles and offsets of all bins, (angles, bins)."""
    s = (np.arange(GEOMETRY.n_bins) - (GEOMETRY.n_bins - 1) / 2) * GEOMETRY.bin_mm
    return np.broadcast_arrays(GEOMETRY.angles[:, None], s)


def _project(picture: np.ndarray, pixel_mm: float) -> np.ndarray:
    operator = beam((picture.shape[0], picture.shape[1]), pixel_mm, GEOMETRY)
    return (operator.matrix @ picture.astype(np.float32).ravel()).reshape(operator.out_shape)


def test_projections_are_line_integrals() -> None:
    """Bins of an ellipse's image hold its analytic line integrals, averaged over the bin, to 0.3 % rms of the most."""
    ellipses = [Ellipse(140, 90, 1.0, x0=20, y0=-15, phi=0.4), Ellipse(20, 30, 2.0, x0=-40, y0=30, phi=-1)]
    theta, s = _bins()
    within = (np.arange(8) - 3.5) / 8 * GEOMETRY.bin_mm
    truth = np.mean([integrals(ellipses, theta, s + d) for d in within], axis=0)
    seen = _project(image(ellipses, (128, 128), 4.0), 4.0)
    assert np.sqrt(np.mean((seen - truth) ** 2)) < 3e-3 * truth.max()


@pytest.mark.parametrize("pixel_mm", [2.0, 4.0])
def test_every_angle_holds_the_whole_image(pixel_mm: float) -> None:
    """The bins of one angle sum to the image's integral, whatever the pixels: strips leave no gap and no overlap."""
    n = round(512 / pixel_mm)
    picture = image([Ellipse(60, 40, 1.0, x0=30, y0=-20)], (n, n), pixel_mm)
    whole = picture.sum() * pixel_mm**2
    np.testing.assert_allclose(_project(picture, pixel_mm).sum(1) * GEOMETRY.bin_mm, whole, rtol=1e-4)


def test_attenuation_of_a_cylinder() -> None:
    """exp(-P mu) of 200 mm of water is exp(-2 mu sqrt(R^2 - s^2)), 0.147 in the middle; 2 % anywhere, 0.5 % rms."""
    _, s = _bins()
    closed = np.exp(-MU_WATER * 2 * np.sqrt(np.maximum(RADIUS**2 - s**2, 0)))
    seen = np.exp(-_project(render(uniform(), (1, 128, 128), (4.0, 4.0, 4.0)).mu[0], 4.0))
    inside = np.abs(s) < 0.9 * RADIUS
    np.testing.assert_allclose(seen[inside], closed[inside], rtol=0.02)
    assert np.sqrt(np.mean((seen[inside] / closed[inside] - 1) ** 2)) < 0.005
    assert closed[np.abs(s) < 3].mean() == pytest.approx(0.147, abs=0.001)


def test_attenuation_of_ct_numbers() -> None:
    """Water 0.0096 / mm, air none, lung of -698 HU 0.0029, bone of 1000 HU 0.0149 (Carney 2006), and back again."""
    found = mu_of_hu(np.array([0.0, -1000.0, -2000.0, -698.0, 1000.0]))
    np.testing.assert_allclose(found, [MU_WATER, 0, 0, MU_LUNG, 0.01491], atol=1e-5)
    hu = np.linspace(-1000, 2000, 61)
    np.testing.assert_allclose(hu_of_mu(mu_of_hu(hu)), hu, atol=1e-6)


def test_attenuation_guessed_from_uptake() -> None:
    """Of the NEMA phantom: water in 97 to 108 % of its cross-section, the lung insert as lung, nothing in the air."""
    rendered = render(nema(), (16, 128, 128), (8.0, 4.0, 4.0))
    guess, true = mu_of_activity(rendered.suv, (8.0, 4.0, 4.0)), rendered.mu
    assert 0.97 < np.count_nonzero(guess) / np.count_nonzero(true > 0.5 * MU_LUNG) < 1.08
    lung = guess == np.float32(MU_LUNG)
    assert 0.6 < lung.sum() / np.count_nonzero(np.isclose(true, MU_LUNG)) < 1.3
    assert np.isclose(true[lung], MU_LUNG).mean() > 0.7
    assert not (mu_of_activity(np.ones((4, 64, 64)), (4.0, 4.0, 4.0)) == np.float32(MU_LUNG)).any()
    assert not mu_of_activity(np.zeros((4, 64, 64)), (4.0, 4.0, 4.0)).any()


@pytest.fixture(scope="module")
def means() -> Means:
    rng = np.random.default_rng(0)
    trues = rng.uniform(0, 200, (2, 20, 32)).astype(np.float32)
    return expected(trues, np.full_like(trues, 0.5), 2.0, Contamination(), 4.0)


def test_scatter_and_randoms_have_their_fractions(means: Means) -> None:
    """0.35 of trues and scatter, 0.30 of prompts, in every slice; factors are attenuation times calibration."""
    trues, scatter, randoms = (s.sum((1, 2)) for s in (means.trues, means.scatter, means.randoms))
    np.testing.assert_allclose(scatter / (trues + scatter), 0.35, rtol=1e-5)
    np.testing.assert_allclose(randoms / (trues + scatter + randoms), 0.30, rtol=1e-5)
    np.testing.assert_allclose(means.factors, 1.0)


def _many(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng([5, k]) for k in range(n)]


def test_thinned_counts_are_part_of_the_full_ones() -> None:
    """Never more than the full counts; given those, mean y p and variance y p (1 - p); over all draws Poisson."""
    full = np.full((1, 400, 500), 60.0, np.float32)
    means = Means(full, np.zeros_like(full), np.full_like(full, 20.0), full)
    events = draw(means, _many(1))
    low = thin(events, 4, "time", [np.random.default_rng(9)])
    assert np.all(low.coincidences <= events.coincidences)
    assert np.all(low.randoms <= events.randoms)
    rest = low.coincidences - events.coincidences / 4
    assert rest.mean() == pytest.approx(0, abs=0.03)
    assert rest.var() == pytest.approx(60 * 0.25 * 0.75, rel=0.02)
    assert low.prompts.mean() == pytest.approx(20, rel=0.005)
    assert low.prompts.var() == pytest.approx(20, rel=0.02)


def test_less_activity_lowers_randoms_faster_than_less_time(means: Means) -> None:
    """Trues fall as p both ways, randoms as p or p^2; what corrects them is their mean."""
    drf = 5
    for reduction, power in (("time", 1), ("dose", 2)):
        events = draw(means, _many(2))
        low = thin(events, drf, reduction, _many(2))
        assert low.coincidences.sum() / events.coincidences.sum() == pytest.approx(1 / drf, rel=0.02)
        assert low.randoms.sum() / events.randoms.sum() == pytest.approx(drf**-power, rel=0.05)
        data = sinograms(means, low, drf, reduction)
        np.testing.assert_allclose(data.additive, means.scatter / drf + means.randoms / drf**power, rtol=1e-5)
        ideal = data.factors / means.factors * means.trues + data.additive
        assert data.counts.sum() == pytest.approx(ideal.sum(), rel=0.01)


def test_a_reduction_of_one_is_the_full_scan(means: Means) -> None:
    """Nothing is drawn again."""
    events: Events = draw(means, _many(2))
    assert thin(events, 1, "dose", _many(2)) is events
