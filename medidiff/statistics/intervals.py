"""Bias-corrected and accelerated bootstrap interval of a mean: BCa, Efron (1987), J. Am. Stat. Assoc. 82:171.

    z0 = Phi^-1(share of resampled means below the mean, ties by half)     a = sum e_i^3 / (6 (sum e_i^2)^1.5)
    limits: the quantiles Phi(z0 + (z0 + z_q) / (1 - a (z0 + z_q))) of the resampled means,  e_i = x_i - mean

All samples of one size see the same resamples: an interval does not depend on what else is analysed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

TIE = 1e-12
AT_ONCE = 256  # samples resampled together: bounds memory


def bca(samples: Array, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Array:
    """Limits (2, k) of the mean of k samples (k, n); nan for n < 2 or values that are not finite."""
    k, n = samples.shape
    limits = np.full((2, k), np.nan)
    usable = np.isfinite(samples).all(1) & (n > 1)
    weights = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), resamples) / n
    for chosen in np.array_split(np.flatnonzero(usable), max(1, -(-k // AT_ONCE))):
        limits[:, chosen] = _limits(samples[chosen], weights, confidence)
    return limits


def _limits(samples: Array, weights: Array, confidence: float) -> Array:
    mean = samples.mean(1, keepdims=True)
    errors = samples - mean
    slack = TIE * np.abs(samples).max(1, initial=0)
    means = np.sort(weights @ errors.T, axis=0)
    below = ((means < -slack).mean(0) + (means <= slack).mean(0)) / 2
    variance = (errors**2).sum(1)
    steady = variance <= slack**2  # equal values: the interval is a point
    z0 = ndtri(below)
    acceleration = (errors**3).sum(1) / (6 * np.where(steady, 1, variance) ** 1.5)
    z = z0 + ndtri([[(1 - confidence) / 2], [(1 + confidence) / 2]])
    return mean[:, 0] + np.where(steady, 0, _quantiles(means, ndtr(z0 + z / (1 - acceleration * z))))


def _quantiles(ordered: Array, q: Array) -> Array:
    """Quantiles q (2, k), each of its own column of (resamples, k), linear between order statistics."""
    place = q * (len(ordered) - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    return ordered[low, columns] + (place - low) * (ordered[high, columns] - ordered[low, columns])


def intervals(samples: Sequence[Array], confidence: float, resamples: int, seed: int) -> Array:
    """Limits (2, k) of k samples of any sizes; those of one size go together."""
    limits = np.full((2, len(samples)), np.nan)
    sizes = np.array([sample.size for sample in samples])
    for size in set(sizes.tolist()):
        chosen = np.flatnonzero(sizes == size)
        limits[:, chosen] = bca(np.stack([samples[k] for k in chosen.tolist()]), confidence, resamples, seed)
    return limits
