"""How far two readings of the same patients agree.

Bland and Altman (1986), Lancet 327:307: bias = mean(a - b), limits of agreement = bias -+ 1.96 sd. The interval of the
bias is Student's; those of the limits are exact for normal differences, by the noncentral t distribution (Carkeet 2015,
Optom. Vis. Sci. 92:e71), and not symmetric.

Intraclass correlation, McGraw and Wong (1996), Psychol. Methods 1:30, of n patients by k raters, two-way:

    ICC(2,1) = (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)     absolute agreement, random raters
    ICC(3,1) = (MSR - MSE) / (MSR + (k - 1) MSE)                         consistency, fixed raters

Of scores 0 ... c - 1 on a scale, agreement beyond chance, p_ij the share of patients that two raters gave i and j:

    kappa_w = 1 - sum v_ij p_ij / sum v_ij p_i. p_.j,   v_ij = |i - j| (linear), (i - j)^2 (quadratic)
                                                        Cohen (1968), Psychol. Bull. 70:213; of more raters the mean
                                                        over their pairs: Light (1971), Psychol. Bull. 76:365
    kappa = (P - P_e) / (1 - P_e),   P = mean over patients of the share of agreeing pairs of raters,
                                     P_e = sum p_j^2    Fleiss (1971), Psychol. Bull. 76:378; the order does not count
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Interval = tuple[float, float]

ROUNDED = 1e-14  # a share of the variance this small is what single precision leaves of no error at all
NOWHERE = (float("nan"), float("nan"))
Z = float(stats.norm.ppf(0.975))  # limits of agreement hold 95 % of the differences


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; nan where the data do not determine it."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement of n patients."""

    n: int
    bias: Estimate
    lower: Estimate
    upper: Estimate


def bland_altman(differences: Array, confidence: float = 0.95) -> BlandAltman:
    """Agreement by the differences (n,) of two readings, or of a reading and the truth."""
    n, mean = differences.size, float(differences.mean())
    if n < 2:
        unknown = Estimate(float("nan"), NOWHERE)
        return BlandAltman(n, Estimate(mean, NOWHERE), unknown, unknown)
    sd = float(differences.std(ddof=1))
    student, near, far = (sd * factor for factor in _factors(n, confidence))
    return BlandAltman(
        n,
        Estimate(mean, (mean - student, mean + student)),
        Estimate(mean - Z * sd, (mean - far, mean - near)),
        Estimate(mean + Z * sd, (mean + near, mean + far)),
    )


@lru_cache(maxsize=256)
def _factors(n: int, confidence: float) -> tuple[float, float, float]:
    """Half width of the interval of the bias, near and far end of that of a limit, in standard deviations."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    near, far = stats.nct.ppf(tails, n - 1, Z * math.sqrt(n)) / math.sqrt(n)
    return float(stats.t.ppf(tails[1], n - 1)) / math.sqrt(n), float(near), float(far)


def icc(ratings: Array, confidence: float = 0.95) -> tuple[Estimate, Estimate]:
    """ICC(2,1) and ICC(3,1) of ratings (n patients, k raters); nan for n < 2 or patients that do not differ."""
    n, k = ratings.shape
    unknown = Estimate(float("nan"), NOWHERE)
    if n < 2:
        return unknown, unknown
    msr, msc, mse = _mean_squares(ratings)
    rounding = (1e-12 * float(np.abs(ratings).max())) ** 2
    if msr + mse <= rounding:
        return unknown, unknown
    consistent = (msr - mse) / (msr + (k - 1) * mse)
    spread = msr + (k - 1) * mse + k * (msc - mse) / n
    if spread <= rounding:  # two raters who swap two patients
        return unknown, Estimate(float(consistent), _consistent_interval(msr / mse, n, k, confidence))
    absolute = (msr - mse) / spread
    if mse <= max(rounding, ROUNDED * msr):  # raters differ by a constant at most: no error to measure an interval by
        return Estimate(float(absolute), NOWHERE), Estimate(1.0, (1.0, 1.0))
    return (
        Estimate(float(absolute), _absolute_interval(msr, msc, mse, n, k, confidence)),
        Estimate(float(consistent), _consistent_interval(msr / mse, n, k, confidence)),
    )


def _mean_squares(ratings: Array) -> tuple[float, float, float]:
    """Between patients, between raters, and what is left."""
    n, k = ratings.shape
    centred = ratings - ratings.mean()
    rows, columns = centred.mean(1), centred.mean(0)
    left = centred - rows[:, None] - columns
    return (
        float(k * (rows**2).sum() / (n - 1)),
        float(n * (columns**2).sum() / (k - 1)),
        float((left**2).sum() / ((n - 1) * (k - 1))),
    )


def _consistent_interval(f: float, n: int, k: int, confidence: float) -> Interval:
    """McGraw and Wong, table 7, ICC(C,1)."""
    tail, error = (1 + confidence) / 2, (n - 1) * (k - 1)
    low, high = f / stats.f.ppf(tail, n - 1, error), f * stats.f.ppf(tail, error, n - 1)
    return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _absolute_interval(msr: float, msc: float, mse: float, n: int, k: int, confidence: float) -> Interval:
    """McGraw and Wong, table 7, ICC(A,1): degrees of freedom after Satterthwaite."""
    tail = (1 + confidence) / 2
    r = (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)
    a, b = k * r / (n * (1 - r)), 1 + k * r * (n - 1) / (n * (1 - r))
    parts = (a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1))
    v = (a * msc + b * mse) ** 2 / parts if parts > 0 else 0.0
    f_low, f_high = stats.f.ppf(tail, n - 1, v), stats.f.ppf(tail, v, n - 1)
    if not (math.isfinite(f_low) and math.isfinite(f_high)):  # few patients, who vary less than the error
        return NOWHERE
    spread = k * msc + (k * n - k - n) * mse
    low = n * (msr - f_low * mse) / (f_low * spread + n * msr)
    high = n * (f_high * msr - mse) / (spread + n * f_high * msr)
    return float(low), float(high)


def disagreement(categories: int, power: int) -> Array:
    """(c, c) weights |i - j|^power: 1 linear, 2 quadratic; 0 counts every disagreement alike."""
    apart = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories)))
    return np.where(apart > 0, apart.astype(float) ** power, 0.0)


def weighted_kappa(tables: Array, weights: Array) -> Array:
    """Cohen's weighted kappa of tables (..., c, c) of two raters, (...); nan where chance alone agrees perfectly.

    weights   (c, c) of disagreements, 0 on the diagonal
    """
    total = tables.sum((-2, -1))
    found = (tables * weights).sum((-2, -1)) * total
    expected = (tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] * weights).sum((-2, -1))
    return np.where(expected > 0, 1 - found / np.where(expected > 0, expected, 1), np.nan)


def kappa(
    scores: NDArray[np.integer], categories: int, power: int, confidence: float = 0.95, resamples: int = 2000,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """Weighted kappa of scores (n patients, k raters) from 0 to c - 1: Cohen's of two raters, Light's of more.

    power     of the weights: 0, 1 or 2
    The interval is that of percentiles over resampled patients; nan for n < 2, or where a resample has no kappa in more
    than half of the cases, as when nearly all scores are equal.
    """
    n, k = scores.shape
    if n < 2 or k < 2:
        return Estimate(float("nan"), NOWHERE)
    drawn = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), resamples)
    patients = np.concatenate([np.ones((1, n)), drawn])
    weights, one_hot = disagreement(categories, power), np.eye(categories)
    found = np.zeros(len(patients))
    for a, b in combinations(range(k), 2):
        cells = one_hot[scores[:, a]][:, :, None] * one_hot[scores[:, b]][:, None, :]
        tables = (patients @ cells.reshape(n, -1)).reshape(-1, categories, categories)
        found += weighted_kappa(tables, weights) / (k * (k - 1) / 2)
    return Estimate(float(found[0]), percentiles(found[1:], confidence))


def percentiles(samples: Array, confidence: float = 0.95) -> Interval:
    """Of bootstrap samples (m,); nan where more than half of them are no number."""
    finite = samples[np.isfinite(samples)]
    if finite.size <= samples.size / 2:
        return NOWHERE
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def fleiss_kappa(counts: NDArray[np.integer]) -> float:
    """Fleiss' kappa of (n patients, c categories): how many raters chose each, the same number for every patient."""
    raters = int(counts[0].sum())
    agreeing = (counts * (counts - 1)).sum(1) / (raters * (raters - 1))
    by_chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((agreeing.mean() - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")
