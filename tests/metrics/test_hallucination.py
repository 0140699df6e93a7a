"""Planted inventions are found, honest processing is not accused, and correlation by chance scatters as computed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.metrics.hallucination import (
    N_RINGS,
    PATCH,
    chance,
    excess,
    patch_corners,
    ring_correlation,
    ring_frequencies,
    texture,
    transforms,
)

PIXEL_MM = (0.7, 0.7)
SIZE = 256
Y, X = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * 0.7
LESION = 40.0 * ((X - 10) ** 2 + (Y + 12) ** 2 <= 4**2)  # 8 mm, 40 HU


def noise(seed: int, deviation: float) -> np.ndarray:
    """Band-passed like that of a CT kernel."""
    white = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    coloured = gaussian_filter(white, 0.8) - gaussian_filter(white, 3)
    return deviation * coloured / coloured.std()


def anatomy() -> np.ndarray:
    """A body in air with ribs of 900 HU, a vessel and lung."""
    image = np.where(X**2 + (1.3 * Y) ** 2 < 80**2, 40.0, -1000.0)
    image[(X + 40) ** 2 + Y**2 < 20**2] = -850
    image[(np.abs(np.hypot(X, 1.3 * Y) - 70) < 4) & (np.sin(9 * np.arctan2(Y, X)) > 0.3)] = 900
    image[(X - 35) ** 2 + (Y - 5) ** 2 < 2**2] = 240
    return gaussian_filter(image, 0.7)


TRUTH = anatomy()
SCAN = TRUTH + noise(1, 25)
CLEAN = gaussian_filter(SCAN, 1.5)  # about 1 mm


def test_an_added_lesion_is_found_where_it_is() -> None:
    """A fake lesion of 8 mm and 40 HU stands out of noise by many sigma and at its place only."""
    assert not excess(CLEAN, TRUTH, SCAN, PIXEL_MM).added.any()
    found = excess(CLEAN + LESION, TRUTH, SCAN, PIXEL_MM)
    assert found.added.max() > 5
    assert np.mean(found.added[LESION > 0] > 0) > 0.3
    assert not found.added[gaussian_filter(LESION, 4) < 0.1].any()
    assert not found.removed.any()


def test_an_added_dark_lesion_is_negative() -> None:
    """What was made darker has the other sign."""
    assert excess(CLEAN - LESION, TRUTH, SCAN, PIXEL_MM).added.min() < -5


def test_a_removed_lesion_is_found_where_it_was() -> None:
    """A lesion that reference and scan hold and the candidate does not is removed structure."""
    kept = excess(gaussian_filter(SCAN + LESION, 1.5), TRUTH + LESION, SCAN + LESION, PIXEL_MM)
    lost = excess(CLEAN, TRUTH + LESION, SCAN + LESION, PIXEL_MM)
    assert not kept.removed.any()
    assert lost.removed.max() > 5
    assert not lost.removed[gaussian_filter(LESION, 4) < 0.1].any()
    assert not lost.added.any()


def test_a_lesion_that_only_the_reference_lacks_is_not_made_up() -> None:
    """What the scan shows is supported although the reference does not have it."""
    assert not excess(CLEAN + LESION, TRUTH, SCAN + LESION, PIXEL_MM).added.any()


@pytest.mark.parametrize("blur_mm", [0.5, 1.0, 2.0, 3.0])
def test_smoothing_adds_nothing(blur_mm: float) -> None:
    """Blurred ribs, skin and lung are no invention, however far the blurred image is from the reference."""
    blurred = gaussian_filter(SCAN, blur_mm / 0.7)
    assert not excess(blurred, TRUTH, SCAN, PIXEL_MM).added.any()
    assert np.abs(blurred - TRUTH).max() > 100


def test_smoothing_within_the_scale_removes_nothing() -> None:
    """A blur of less than the test's own 2 mm takes less than half of the contrast of anything."""
    assert not excess(gaussian_filter(SCAN, 1.5 / 0.7), TRUTH, SCAN, PIXEL_MM).removed.any()


@pytest.mark.parametrize("candidate", [SCAN, TRUTH], ids=["the scan", "the truth"])
def test_the_extremes_are_innocent(candidate: np.ndarray) -> None:
    """Neither to do nothing nor to be perfect is hallucination, by either test."""
    found = excess(candidate, TRUTH, SCAN, PIXEL_MM)
    assert not found.added.any()
    assert not found.removed.any()
    assert made_up(candidate) == 0


def made_up(candidate: np.ndarray) -> float:
    corners = patch_corners(np.ones((SIZE, SIZE), bool))
    found = texture(*(transforms(image, corners) for image in (candidate, TRUTH, SCAN)))
    return float(found.unsupported.mean())


def test_made_up_texture_is_unsupported_and_kept_texture_is_not() -> None:
    """Noise of the same power and colour: the scan's own is supported, fresh noise is not."""
    kept = CLEAN + 0.5 * (SCAN - CLEAN)
    fresh = CLEAN + 0.5 * noise(2, 25)
    assert made_up(kept) == 0
    assert made_up(CLEAN) == 0
    assert made_up(fresh) > 0.3


def test_correlation_by_chance_scatters_as_computed() -> None:
    """Two white images have ring correlations of mean 0 and deviation sqrt(3.78 / n)."""
    random = np.random.default_rng(0)
    images = [random.normal(size=(640, 640)) for _ in range(2)]
    corners = patch_corners(np.ones((640, 640), bool))[::2]
    frc = ring_correlation(*(transforms(image, corners) for image in images)).frc
    np.testing.assert_allclose(frc.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(frc.std(0) / chance(), 1, atol=0.15)


def test_the_correlation_of_signal_in_noise_is_the_share_of_power() -> None:
    """Two images of one signal S and independent noise N have FRC S / (S + N) in every ring (van Heel 1987)."""
    random = np.random.default_rng(3)
    signal = random.normal(size=(640, 640))
    images = [signal + 0.5 * random.normal(size=signal.shape) for _ in range(2)]
    corners = patch_corners(np.ones(signal.shape, bool))
    frc = ring_correlation(*(transforms(image, corners) for image in images)).frc
    np.testing.assert_allclose(frc.mean(0), 1 / 1.25, atol=0.02)


def test_rings_end_at_the_nyquist_frequency() -> None:
    """The last of the rings is at half a cycle a pixel."""
    assert ring_frequencies(0.7)[-1] == pytest.approx(0.5 / 0.7)
    assert len(ring_frequencies(0.7)) == N_RINGS == PATCH // 8
