"""Noise power spectra of known noise, and of noise behind anatomy."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.noise.spectrum import (
    cut,
    detrend,
    homogeneous_regions,
    noise_spectrum,
    power_spectra,
    region_powers,
    region_spectrum,
    robust_spectrum,
    sections,
    spectrum_of,
)

PIXEL = 0.7


def _coloured(shape: tuple[int, ...], seed: int, level: float = 20.0) -> np.ndarray:
    """Noise with power proportional to |f| exp(-(f / 0.2)^2), f in cycles a pixel, and its level."""
    f = np.hypot(np.fft.fftfreq(shape[-1]), np.fft.fftfreq(shape[-2])[:, None])
    gain = np.sqrt(f * np.exp(-((f / 0.2) ** 2)))
    white = np.random.default_rng(seed).standard_normal(shape)
    return level * np.fft.ifft2(np.fft.fft2(white) * gain / np.sqrt((gain**2).mean())).real


def test_white_noise_is_flat() -> None:
    """White noise of variance s^2 has the power s^2 dx dy at every frequency, and its own level."""
    noise = np.random.default_rng(0).normal(0, 10, (400, 32, 32))
    spectrum = noise_spectrum(noise, PIXEL)
    np.testing.assert_allclose(spectrum.power[1:], 100 * PIXEL**2, rtol=0.08)
    assert spectrum.level == pytest.approx(10, rel=0.01)
    assert spectrum.frequency.max() == pytest.approx(np.sqrt(0.5) / PIXEL, rel=0.01)


def test_coloured_noise_has_its_frequencies() -> None:
    """Noise of power f exp(-(f / f0)^2) has the mean of that formula and peaks at f0 / sqrt(2)."""
    spectrum = noise_spectrum(_coloured((200, 64, 64), 1)[:, 16:48, 16:48], PIXEL)
    f = spectrum.frequency * PIXEL
    truth = f * np.exp(-((f / 0.2) ** 2))
    assert spectrum.mean_frequency == pytest.approx((f * truth).sum() / truth.sum() / PIXEL, rel=0.03)  # leakage
    assert spectrum.peak_frequency * PIXEL == pytest.approx(0.2 / np.sqrt(2), abs=1.5 / 32)


def test_detrending_removes_second_order_polynomials() -> None:
    """A quadratic surface leaves nothing."""
    y, x = np.mgrid[:32, :32].astype(float)
    surface = 3 + 0.5 * x - 2 * y + 0.1 * x * y - 0.03 * x**2 + 0.2 * y**2
    assert np.abs(detrend(surface[None])).max() < 1e-9


def test_anatomy_hardly_moves_the_estimate() -> None:
    """Noise behind organs and vessels is measured as it is without them: level within 10 %, mean frequency 5 %."""
    y, x = np.mgrid[:384, :384] - 191.5
    clean = np.where((x / 170) ** 2 + (y / 140) ** 2 < 1, 40.0, -1000.0)
    clean += 30 * ((x / 60) ** 2 + ((y - 40) / 50) ** 2 < 1)
    rng = np.random.default_rng(2)
    for centre in rng.uniform(-110, 110, (12, 2)):
        clean += 100 * (np.hypot(x - centre[0], y - centre[1]) < 4)
    noise = _coloured((6, 384, 384), 3)
    corners = homogeneous_regions(clean + noise)
    assert len(corners) >= 12
    seen, truth = region_spectrum(clean + noise, corners, PIXEL), region_spectrum(noise, corners, PIXEL)
    assert seen.level == pytest.approx(truth.level, rel=0.1)
    assert seen.mean_frequency == pytest.approx(truth.mean_frequency, rel=0.05)
    tissue = cut(np.broadcast_to(clean, noise.shape), corners)
    assert tissue.min() > -100


def test_choice_does_not_favour_quiet_regions() -> None:
    """In pure noise the regions that are chosen are as noisy as the others, within 3 %."""
    noise = 40 + _coloured((8, 256, 256), 4)
    chosen = cut(noise, homogeneous_regions(noise))
    assert np.sqrt(detrend(chosen).var()) == pytest.approx(20, rel=0.03)


def test_no_soft_tissue_no_regions() -> None:
    """Air and lung give no region, and no error."""
    assert homogeneous_regions(np.full((2, 128, 128), -850.0)).shape == (0, 3)


def test_the_plane_holds_the_variance_and_the_directions() -> None:
    """The two-dimensional integral of the spectrum is the variance; noise smooth along rows only shows in sections."""
    white = np.random.default_rng(5).normal(0, 10, (600, 32, 96))
    smooth = (white[:, :, 32:64] + white[:, :, 33:65] + white[:, :, 31:63]) / 3
    plane = power_spectra(smooth, PIXEL).mean(0)
    assert plane.sum() / (32 * PIXEL) ** 2 == pytest.approx(100 / 3, rel=0.02)  # less the trend's 6 of 1024
    assert spectrum_of(plane, PIXEL).level == pytest.approx(10 / np.sqrt(3), rel=0.01)
    frequency, along_x, along_y = sections(plane, PIXEL)
    gain = (1 + 2 * np.cos(2 * np.pi * frequency * PIXEL)) ** 2 / 9
    np.testing.assert_allclose(along_x[1:], 100 * PIXEL**2 * gain[1:], atol=0.05 * 100 * PIXEL**2)
    np.testing.assert_allclose(along_y[1:], 100 * PIXEL**2, rtol=0.1)


def test_regions_collected_slice_by_slice_are_those_of_the_stack() -> None:
    """Powers of one slice after the other give the spectrum of all at once."""
    slices = 40 + _coloured((3, 128, 128), 6)
    corners = homogeneous_regions(slices)
    found = [region_powers(cut(slices, corners[corners[:, 0] == k]), PIXEL) for k in range(3)]
    power, variance = (np.concatenate([f[part] for f in found]) for part in (1, 2))
    together = region_spectrum(slices, corners, PIXEL)
    apart = robust_spectrum(found[0][0], power, variance)
    np.testing.assert_allclose(apart.power, together.power)
    assert apart.level == pytest.approx(together.level)
