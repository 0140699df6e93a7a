"""Noise of a drawn colour has that colour, whatever the bank's own spectrum; anatomy passes the same kernel."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.prepare import SHARPEST, scanner_noise
from medidiff.data.spectra import (
    BANK_CUTOFF,
    GRID,
    SpectrumRanges,
    apply_spectrum,
    correlate_along_z,
    random_spectrum,
    random_unevenness,
)
from medidiff.noise.spectrum import ROI, cut, region_powers
from medidiff.physics.ct import Kernel

RANGES = SpectrumRanges()
NARROW = SpectrumRanges(width=(0.2, 0.2), steepness=(1.8, 1.8), flatness=(0.05, 0.05), boost=0.0, ripple_db=0.0)


def disc(size: int = 256) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return np.where(np.hypot(x, y) < 0.4 * size, 40.0, -1000.0).astype(np.float32)


def rings(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and mean ring averages of the middle of (n, 256, 256); tapered, for spectra that fall steeply."""
    corners = np.array([(k, r, c) for k in range(len(noise)) for r in range(64, 161, 16) for c in range(64, 161, 16)])
    frequency, power, _ = region_powers(cut(noise, corners), 1.0)
    return frequency, power.mean(0)


def bank_noise(n: int) -> np.ndarray:
    return np.stack([scanner_noise(disc(), 0.8, 0.3, SHARPEST, np.random.default_rng(k)) for k in range(n)])


def test_the_bank_is_what_it_is_divided_by() -> None:
    """The aliases that are summed are those of the sharpest kernel of the bank."""
    assert 0.5 * SHARPEST.cutoff == BANK_CUTOFF
    assert SHARPEST.window == "ram-lak"


def test_noise_of_the_bank_takes_the_drawn_spectrum() -> None:
    """Ring by ring within 0.8 dB where there is power; the bank itself has a step of 4 dB at 0.25 cycles a pixel."""
    colour = random_spectrum(np.random.RandomState(0), NARROW)
    bank = bank_noise(4)
    _, noise = apply_spectrum(np.zeros_like(bank), bank, colour)
    frequency, power = rings(noise)
    inside = frequency < 0.4
    error = 10 * np.log10(power / np.interp(frequency, GRID, colour.power))[inside]
    assert np.abs(error - error.mean()).max() < 0.8
    frequency, power = rings(apply_spectrum(bank, bank, colour)[0])  # the kernel alone
    step = 10 * np.log10(power / frequency / np.interp(frequency, GRID, colour.kernel**2))
    assert step[round(0.31 * ROI) - 2] - step[round(0.19 * ROI) - 2] > 2.5


def test_anatomy_passes_the_kernel_and_keeps_its_mean() -> None:
    """A wave of one frequency leaves with the kernel's gain there; a constant is unchanged by every draw."""
    size, cycles = 128, 16
    wave = np.cos(2 * np.pi * cycles * np.arange(size) / size)[None].repeat(size, 0).astype(np.float32)
    colour = random_spectrum(np.random.RandomState(0), NARROW)
    passed, _ = apply_spectrum(wave, wave, colour)
    f = cycles / size
    np.testing.assert_allclose(passed, wave * np.exp(-((f / 0.2) ** 1.8)), atol=2e-3)
    for seed in range(20):
        flat, _ = apply_spectrum(wave + 50, wave, random_spectrum(np.random.RandomState(seed), RANGES))
        assert flat.mean() == pytest.approx(50, abs=1e-3)


def test_draws_reach_smooth_and_sharp() -> None:
    """Mean frequencies of ramp noise from below 0.11 (Siemens B20 at 0.6 mm) to above 0.42 cycles a pixel (GE BONE)."""
    generator = np.random.RandomState(1)
    colours = [random_spectrum(generator, RANGES) for _ in range(300)]
    means = [float((GRID * c.power).sum() / c.power.sum()) for c in colours]
    low, high = np.percentile(means, [3, 97])
    assert low < 0.125
    assert high > 0.40
    assert all((c.power > 0).all() and c.kernel[0] == 1 for c in colours)


def test_a_ripple_has_the_stated_size_and_length() -> None:
    """Differences of the logarithm at distant frequencies have sqrt(2) times the deviation; at near ones far less."""
    flat = NARROW.model_copy(update={"ripple_db": 1.0})
    plain = random_spectrum(np.random.RandomState(0), NARROW).kernel
    generator = np.random.RandomState(3)
    curves = np.array([20 * np.log10(random_spectrum(generator, flat).kernel / plain) for _ in range(400)])
    far, near = curves[:, 55] - curves[:, 10], curves[:, 12] - curves[:, 10]
    assert far.std() == pytest.approx(np.sqrt(2), rel=0.12)
    assert near.std() < 0.25


def test_unevenness_is_smooth_positive_and_of_the_stated_deviation() -> None:
    """The logarithm's deviation over draws and places; neighbours differ by little."""
    generator = np.random.RandomState(0)
    factors = np.stack([random_unevenness(generator, (64, 48), 0.15) for _ in range(200)])
    assert factors.min() > 0
    assert np.log(factors).std() == pytest.approx(0.15, rel=0.1)
    assert np.abs(np.diff(np.log(factors), axis=1)).max() < 0.1


@pytest.mark.parametrize("share", [0.0, 0.15, 0.4])
def test_slices_correlate_as_the_formula_says(share: float) -> None:
    """Power unchanged; lag 1 is 2 s / (1 + 2 s^2), lag 2 is s^2 / (1 + 2 s^2), lag 3 nothing."""
    noise = np.random.default_rng(0).normal(size=(9, 200, 200)).astype(np.float32)
    out = correlate_along_z(noise, share)
    assert out.shape == (7, 200, 200)
    assert out.std() == pytest.approx(1, rel=0.02)
    wanted = (2 * share / (1 + 2 * share**2), share**2 / (1 + 2 * share**2), 0.0)
    for lag, value in enumerate(wanted, start=1):
        assert float(np.mean(out[:-lag] * out[lag:])) == pytest.approx(value, abs=0.02)


def test_a_kernel_of_the_scanner_itself_has_no_step_to_remove() -> None:
    """Noise reconstructed directly with a smooth kernel has the equalised shape, not the bank's: the cure is right."""
    smooth = Kernel("hann", 0.8)
    direct = np.stack([scanner_noise(disc(), 0.8, 0.3, smooth, np.random.default_rng(k)) for k in range(4)])
    frequency, power = rings(direct)
    inside = (frequency > 0.08) & (frequency < 0.32)
    shape = 10 * np.log10(power[inside] / (frequency * smooth.response(frequency) ** 2)[inside])
    assert np.ptp(shape) < 1.5
