"""Tests of paired differences d_1 ... d_n, one a patient, and the sizes of their effects.

    sign flip     p = share of all sign patterns s with |sum s_i d_i| >= |sum d_i|           exact, 2^n patterns
                  p = (b + 1) / (m + 1), b of m random patterns at least as extreme          Phipson and Smyth (2010)
    Holm          p'_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))                            Holm (1979)
    Hedges' g_z   J(n - 1) mean(d) / sd(d),  J(v) = Gamma(v/2) / (sqrt(v/2) Gamma((v-1)/2))  Hedges (1981)
    rank-biserial (W+ - W-) / (W+ + W-), W the sums of the ranks of |d|, zeros left out      Kerby (2014)

The sign-flip test is exact when swapping the two methods within a patient changes nothing but the sign of d: what "the
methods do not differ" means. Arrays are (..., n): many studies are tested at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln

Array = NDArray[np.float64]

EXACT_N = 14  # up to here all 2^n sign patterns are tried
TIE = 1e-12  # sums that differ by rounding only are equal


def sign_flip(differences: Array, resamples: int = 10_000, seed: int = 0) -> Array:
    """Two-sided p of each study in `differences` (..., n), n >= 1; (...)."""
    n = differences.shape[-1]
    slack = TIE * np.abs(differences).sum(-1)
    least = np.abs(differences.sum(-1)) - slack
    signs = _all_signs(n) if n <= EXACT_N else _random_signs(n, resamples, seed)
    extreme = (np.abs(differences @ signs.T) >= least[..., None]).sum(-1)
    drawn = int(n > EXACT_N)  # of random patterns the observed one is one more
    return np.asarray((extreme + drawn) / (len(signs) + drawn))


def smallest_p(n: int, resamples: int = 10_000) -> float:
    """The least two-sided p that `sign_flip` can give for n patients, whatever their differences."""
    return 2.0 ** (1 - n) if n <= EXACT_N else 1 / (resamples + 1)


@lru_cache(maxsize=EXACT_N)
def _all_signs(n: int) -> Array:
    """(2^(n-1), n): the last sign is +, as a pattern and its negative are equally extreme."""
    bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    return np.where(bits == 1, -1.0, 1.0)


@lru_cache(maxsize=4)
def _random_signs(n: int, resamples: int, seed: int) -> Array:
    return np.random.default_rng([seed, n]).choice([-1.0, 1.0], (resamples, n))


def wilcoxon(differences: Array) -> float:
    """Two-sided p of the signed-rank test of (n,); exact when small, 1 when nothing differs (zeros are left out)."""
    moved = differences[differences != 0]
    return float(stats.wilcoxon(moved).pvalue) if moved.size else 1.0


def holm(p: Array) -> Array:
    """Adjusted p of a family (..., m): no more than alpha of all families hold one below alpha by chance."""
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * (m - np.arange(m))
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(scaled, -1), 1), -1)
    return adjusted


def hedges_g(differences: Array) -> float:
    """Mean difference of (n,) in units of its standard deviation, corrected for small n; nan where that is 0."""
    v = differences.size - 1
    if v < 2 or np.ptp(differences) == 0:
        return float("nan")
    correction = np.exp(gammaln(v / 2) - gammaln((v - 1) / 2)) / np.sqrt(v / 2)
    return float(correction * differences.mean() / differences.std(ddof=1))


def rank_biserial(differences: Array) -> float:
    """From -1 (every difference is negative) to 1; 0 when nothing differs; (n,)."""
    moved = differences[differences != 0]
    ranks = stats.rankdata(np.abs(moved))
    return float((np.sign(moved) * ranks).sum() / ranks.sum()) if moved.size else 0.0
