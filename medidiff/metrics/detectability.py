"""How well an observer can see something: contrast-to-noise ratio, and two model observers.

    CNR  = |mean inside - mean around| / standard deviation around

**Non-prewhitening observer with an eye filter** for a signal of spectrum `W` behind a transfer function `TTF`, in
noise of spectrum `NPS` (AAPM TG-233: Samei et al. 2019, Med Phys 46:e735; all are functions of |f|):

    d'^2 = [int W^2 TTF^2 E^2 df]^2 / int W^2 TTF^2 E^4 NPS df,      df = 2 pi f df
    E(rho) = rho^1.3 exp(-0.04 rho^2),  rho in cycles a degree       (Burgess 1994, JOSA A 11:1237)

**Channelised Hotelling observer**: an image is reduced to its responses to difference-of-Gaussian channels,

    C_j(rho) = exp(-(rho / Q sigma_j)^2 / 2) - exp(-(rho / sigma_j)^2 / 2),   sigma_j = sigma_0 a^j   cycles a pixel

(dense: 10 channels, sigma_0 = 0.005, a = 1.4, Q = 1.67; Abbey & Barrett 2001, JOSA A 18:473), and these are weighted
by `S^-1 (mean present - mean absent)`, `S` their covariance. Weights and score never come from the same slices: each
fifth of the slices is scored by an observer trained on the others, and present is compared with absent within it.
In Gaussian noise AUC = Phi(d' / sqrt 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

Array = NDArray[np.floating]

VIEWING_MM = 500.0
DEGREE_MM = VIEWING_MM * np.pi / 180  # of a life-size image
EYE_EXPONENT, EYE_DECAY = 1.3, 0.04
CHANNELS, FIRST_SIGMA, SIGMA_STEP, BANDWIDTH = 10, 0.005, 1.4, 1.67
FOLDS = 5
MIN_SAMPLES = 4 * CHANNELS  # of each class; below it the covariance is not known well enough
BOOTSTRAPS = 500
CONFIDENCE = 95.0  # %


@dataclass(frozen=True)
class Detection:
    """Area under the ROC curve, and its bootstrap interval over the images."""

    auc: float
    low: float
    high: float


def contrast_to_noise(contrast: float, variance: float) -> float:
    """CNR of the mean contrast and the mean variance over slices."""
    return float(abs(contrast) / np.sqrt(variance))


def disc_spectrum(frequency: Array, radius_mm: float, hu: float) -> Array:
    """Fourier transform of a disc, HU mm^2, at frequencies in cycles / mm."""
    x = 2 * np.pi * radius_mm * frequency
    return hu * np.pi * radius_mm**2 * np.where(x > 0, 2 * j1(x) / np.where(x > 0, x, 1), 1.0)


def eye_filter(frequency: Array) -> Array:
    """Burgess' eye filter for a life-size image VIEWING_MM away; frequency in cycles / mm."""
    rho = frequency * DEGREE_MM
    return rho**EYE_EXPONENT * np.exp(-EYE_DECAY * rho**2)


def npwe(frequency: Array, signal: Array, nps: Array, eye: Array | float) -> float:
    """d' of the non-prewhitening observer; `signal` is W TTF in HU mm^2, `nps` in HU^2 mm^2, all at `frequency`."""
    seen = (signal * eye) ** 2 * 2 * np.pi * frequency
    signal2 = np.trapezoid(seen, frequency)
    noise2 = np.trapezoid(seen * eye**2 * nps, frequency)
    return float(signal2 / np.sqrt(noise2))


def channels(x_mm: Array, y_mm: Array, pixel_mm: float) -> Array:
    """(CHANNELS, pixels) templates at positions in mm from the signal's centre; no template sees a constant.

    The Gaussian of width s in frequency is `2 pi s^2 exp(-2 pi^2 s^2 r^2)` in space, so the signal may lie between
    pixels.
    """
    r2 = (x_mm**2 + y_mm**2) / pixel_mm**2
    sigma = FIRST_SIGMA * SIGMA_STEP ** np.arange(CHANNELS)[:, None]
    templates = _gaussian(r2, BANDWIDTH * sigma) - _gaussian(r2, sigma)
    return templates - templates.mean(1, keepdims=True)


def _gaussian(r2: Array, sigma: Array) -> Array:
    return 2 * np.pi * sigma**2 * np.exp(-2 * np.pi**2 * sigma**2 * r2)


def hotelling(present: Array, absent: Array) -> Array:
    """(channels,) weights from responses (n, channels) and (m, channels)."""
    covariance = (np.cov(present, rowvar=False) + np.cov(absent, rowvar=False)) / 2
    scale = np.sqrt(np.diag(covariance))  # channels differ by orders of magnitude
    difference = (present.mean(0) - absent.mean(0)) / scale
    return np.linalg.lstsq(covariance / np.outer(scale, scale), difference)[0] / scale


def channelised_hotelling(
    present: Array,
    absent: Array,
    present_slice: NDArray[np.integer],
    absent_slice: NDArray[np.integer],
    generator: np.random.Generator,
) -> Detection:
    """AUC from channel responses (n, channels) and (m, channels), and the slice that each of them is of."""
    wins = [
        _comparisons(present, absent, _held_out(present_slice, fold), _held_out(absent_slice, fold))
        for fold in range(FOLDS)
    ]
    draws = [np.mean([_resampled(w, generator) for w in wins]) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile(draws, [50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2])
    return Detection(float(np.mean([w.mean() for w in wins])), float(low), float(high))


def _held_out(slices: NDArray[np.integer], fold: int) -> NDArray[np.bool_]:
    """Samples of every FOLDSth slice of those that occur."""
    _, order = np.unique(slices, return_inverse=True)
    return order % FOLDS == fold


def _comparisons(present: Array, absent: Array, p_out: NDArray[np.bool_], a_out: NDArray[np.bool_]) -> Array:
    """(held-out present, held-out absent) 1 where present scores higher, 1/2 for a tie."""
    weights = hotelling(present[~p_out], absent[~a_out])
    gap = (present[p_out] @ weights)[:, None] - absent[a_out] @ weights
    return (np.sign(gap) + 1) / 2


def _resampled(wins: Array, generator: np.random.Generator) -> float:
    n, m = wins.shape
    return float(wins[generator.integers(n, size=n)][:, generator.integers(m, size=m)].mean())
