"""Model observers against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gamma
from scipy.stats import norm

from medidiff.metrics.detectability import (
    DEGREE_MM,
    EYE_DECAY,
    EYE_EXPONENT,
    channelised_hotelling,
    channels,
    contrast_to_noise,
    disc_spectrum,
    eye_filter,
    npwe,
)

PIXEL = 0.9
F = np.linspace(0, 3, 6001)  # cycles / mm


def moment(power: float, decay: float) -> float:
    """The integral of f^power exp(-decay f^2) over the plane."""
    return np.pi * gamma(power / 2 + 1) / decay ** (power / 2 + 1)


def test_contrast_to_noise() -> None:
    """60 HU below the surrounding at a noise of 20 HU is 3."""
    assert contrast_to_noise(-60.0, 400.0) == pytest.approx(3)


def test_without_an_eye_white_noise_gives_the_energy_of_the_signal() -> None:
    """d'^2 = (integral of the signal's square) / NPS: C^2 pi R^2 / N_0 for a disc."""
    found = npwe(np.linspace(0, 200, 400001), disc_spectrum(np.linspace(0, 200, 400001), 2.5, 10.0), np.array(81.0), 1)
    assert found == pytest.approx(np.sqrt(10.0**2 * np.pi * 2.5**2 / 81.0), rel=1e-3)


def test_eye_filter_in_white_and_coloured_noise() -> None:
    """A Gaussian signal, the eye filter and noise of power f exp(-f^2 / b) have closed-form integrals."""
    s, n0 = 1.5, 50.0
    signal = 10 * 2 * np.pi * s**2 * np.exp(-2 * np.pi**2 * s**2 * F**2)
    height = (10 * 2 * np.pi * s**2) ** 2
    q, n, c = 4 * np.pi**2 * s**2, EYE_EXPONENT, EYE_DECAY * DEGREE_MM**2
    top = height * DEGREE_MM ** (2 * n) * moment(2 * n, q + 2 * c)
    for p, b in ((0.0, 0.0), (1.0, 5.0)):
        bottom = height * n0 * DEGREE_MM ** (4 * n) * moment(4 * n + p, q + 4 * c + b)
        nps = n0 * F**p * np.exp(-b * F**2)
        assert npwe(F, signal, nps, eye_filter(F)) == pytest.approx(top / np.sqrt(bottom), rel=1e-4)


def test_the_eye_sees_best_at_four_cycles_a_degree() -> None:
    """Burgess' filter peaks at sqrt(1.3 / 0.08) = 4.03 cycles a degree."""
    assert F[np.argmax(eye_filter(F))] * DEGREE_MM == pytest.approx(4.03, abs=0.01)


def test_disc_spectrum_is_that_of_a_disc() -> None:
    """At frequency 0 it is the integral; its first zero lies at 0.61 / R."""
    spectrum = disc_spectrum(F, 2.5, 10.0)
    assert spectrum[0] == pytest.approx(10 * np.pi * 2.5**2)
    assert F[np.flatnonzero(spectrum < 0)[0]] == pytest.approx(0.6098 / 2.5, abs=1e-3)


def patches(n: int, hu: float, sigma: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Responses of n present and n absent patches of white noise, the templates and the signal."""
    y, x = (np.mgrid[:40, :40] - 19.5).reshape(2, -1) * PIXEL
    signal = hu * (np.hypot(x - 0.3, y) < 3.5)
    templates = channels(x - 0.3, y, PIXEL)
    noise = np.random.default_rng(seed).normal(0, sigma, (2, n, x.size))
    return (signal + noise[0]) @ templates.T, noise[1] @ templates.T, templates, signal


@pytest.mark.parametrize("hu", [0.0, 4.0, 8.0])
def test_hotelling_finds_what_the_ideal_observer_of_its_channels_finds(hu: float) -> None:
    """In white noise AUC = Phi(d' / sqrt 2), d'^2 = (U s)^T (sigma^2 U U^T)^-1 (U s): within 0.02."""
    present, absent, templates, signal = patches(1500, hu, 20.0, seed=1)
    scale = np.linalg.norm(templates, axis=1)
    u = templates / scale[:, None]
    d2 = (u @ signal) @ np.linalg.lstsq(u @ u.T, u @ signal)[0] / 20.0**2
    found = channelised_hotelling(present, absent, np.arange(1500), np.arange(1500), np.random.default_rng(0))
    assert found.auc == pytest.approx(norm.cdf(np.sqrt(d2 / 2)), abs=0.02)
    assert found.low <= found.auc <= found.high
    assert found.high - found.low < 0.06


def test_few_samples_do_not_flatter() -> None:
    """With 100 samples a class and no signal the mean AUC over 20 experiments is a half, within 0.02."""
    found = []
    for seed in range(20):
        present, absent, *_ = patches(100, 0.0, 20.0, seed)
        slices = np.arange(100) // 4
        found.append(channelised_hotelling(present, absent, slices, slices, np.random.default_rng(seed)).auc)
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_channels_do_not_see_a_constant() -> None:
    """A shift of all HU changes no response."""
    y, x = (np.mgrid[:40, :40] - 19.5).reshape(2, -1) * PIXEL
    assert np.abs(channels(x, y, PIXEL).sum(1)).max() < 1e-12
