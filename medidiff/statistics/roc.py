"""How well readers tell lesions from what is none, from the confidence that they gave: ROC and AFROC.

    psi(x, y) = 1 where x > y, 1/2 where x = y, 0 else
    AUC   = mean psi(rating of abnormal case, rating of normal case)             Bamber (1975), J. Math. Psychol. 12:387
    theta = mean psi(rating of lesion, highest rating of a false mark in a normal case)       JAFROC, Chakraborty and
            Berbaum (2004), Med. Phys. 31:2313; over all cases where there is no normal one: JAFROC1

A case is rated by its highest mark, a lesion by the highest mark on it, and what was not marked by 0. theta is the area
below the AFROC curve: share of lesions found over share of normal cases with a false mark, with a straight end.

The mean of a kernel psi (p, q) has DeLong's variance var(row means) / p + var(column means) / q (DeLong et al. 1988,
Biometrics 44:837). Kernels may be averaged over readers, or subtracted between two methods, first: the readers are then
taken as they are, and the cases as a sample. Where lesions of one case go together, cases are resampled instead.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medidiff.statistics.agreement import NOWHERE, Estimate, percentiles

Array = NDArray[np.float64]


def psi(positive: Array, negative: Array) -> Array:
    """(p, q) comparisons of ratings (p,) and (q,)."""
    return (np.sign(np.subtract.outer(positive, negative)) + 1) / 2


def delong(kernel: Array) -> tuple[float, float]:
    """Mean of a kernel (p, q) and its standard error; the error is nan for p or q < 2."""
    p, q = kernel.shape
    if min(p, q) < 2:
        return float(kernel.mean()), float("nan")
    variance = kernel.mean(1).var(ddof=1) / p + kernel.mean(0).var(ddof=1) / q
    return float(kernel.mean()), math.sqrt(variance)


def area(kernel: Array, confidence: float = 0.95) -> Estimate:
    """Area below the curve with an interval that stays within 0 and 1 (on the logit); nan where nothing errs."""
    value, error = delong(kernel)
    if not 0 < value < 1 or not error > 0:
        return Estimate(value, NOWHERE)
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * error / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-x)) for x in (logit - reach, logit + reach))
    return Estimate(value, (low, high))


def difference(kernel: Array, confidence: float = 0.95) -> tuple[Estimate, float]:
    """Of two areas, from the difference (p, q) of their kernels: the difference, and its two-sided p; 1 where equal."""
    value, error = delong(kernel)
    if not error > 0:
        return Estimate(value, NOWHERE), 1.0 if value == 0 else float("nan")
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * error
    return Estimate(value, (value - reach, value + reach)), float(2 * stats.norm.sf(abs(value) / error))


def resampled(
    kernel: Array, rows: NDArray[np.integer], columns: NDArray[np.integer], confidence: float = 0.95,
    resamples: int = 2000, seed: int = 0,
) -> tuple[Estimate, float]:  # fmt: skip
    """Mean of a kernel (p, q) over resampled cases, and the two-sided p of a mean of 0, which a difference may have.

    rows, columns   the case (a number) of each row (p,) and column (q,)
    Cases with a row, abnormal ones, and cases without are drawn apart, so that each resample has as many of both. The
    interval is that of percentiles, and p is no smaller than 2 / (resamples + 1).
    """
    random = np.random.default_rng([seed, len(rows), len(columns)])
    weights = np.zeros((resamples, int(max(rows.max(), columns.max())) + 1))
    for cases in (np.unique(rows), np.setdiff1d(columns, rows)):
        if cases.size:
            weights[:, cases] = random.multinomial(cases.size, np.full(cases.size, 1 / cases.size), resamples)
    left, right = weights[:, rows], weights[:, columns]
    sums = left.sum(1) * right.sum(1)
    means = ((left @ kernel) * right).sum(1) / np.where(sums > 0, sums, np.nan)
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * float(beyond + 1) / (resamples + 1))
    return Estimate(float(kernel.mean()), percentiles(means, confidence)), p


def curve(positive: Array, negative: Array) -> tuple[Array, Array]:
    """Points of the ROC curve from (0, 0) to (1, 1): share of negatives, then of positives, rated as high or higher."""
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    false, true = ((ratings[:, None] >= thresholds).mean(0) for ratings in (negative, positive))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])
