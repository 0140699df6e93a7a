"""The paired tests against second implementations, hand examples, and the false-positive rate they promise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from medidiff.statistics.paired import EXACT_N, hedges_g, holm, rank_biserial, sign_flip, smallest_p, wilcoxon


def differences(n: int, seed: int = 0, shift: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, n)


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_the_exact_sign_flip_equals_scipy(n: int) -> None:
    """All 2^n patterns, as scipy.stats.permutation_test tries them."""
    d = differences(n, n)
    found = stats.permutation_test(
        (d,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert float(sign_flip(d)) == pytest.approx(found.pvalue, abs=1e-12)


def test_the_smallest_p_is_what_the_most_extreme_data_give() -> None:
    """2/2^n while the test is exact: 0.125 of four patients can never be significant."""
    assert smallest_p(4) == 0.125
    for n in range(1, EXACT_N + 1):
        assert Fraction(float(sign_flip(np.full(n, 0.1)))) == Fraction(2, 2**n) == Fraction(smallest_p(n))


def test_ties_of_rounding_count_as_ties() -> None:
    """0.1 + 0.2 and 0.3 are equally extreme: of the 8 patterns of (0.1, 0.2, -0.3), all reach the sum of 0."""
    assert float(sign_flip(np.array([0.1, 0.2, -0.3]))) == 1
    assert float(sign_flip(np.array([0.1, 0.2, 0.3]) * 3)) == 0.25
    assert float(sign_flip(np.zeros(5))) == 1


def test_random_patterns_agree_with_all_of_them() -> None:
    """n = 16: 4000 random patterns come within their binomial error of the 2^16, and p is never 0 (Phipson, Smyth)."""
    d = differences(16, 3)
    patterns = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = np.mean(np.abs(patterns @ d) >= abs(d.sum()) - 1e-9)
    assert float(sign_flip(d, 4000, 1)) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))
    assert float(sign_flip(np.ones(40), 999)) == smallest_p(40, 999) == 1 / 1000


def test_many_studies_at_once_are_each_alone() -> None:
    """The last axis is the patients; the others are studies."""
    many = np.stack([differences(9, seed) for seed in range(6)]).reshape(2, 3, 9)
    assert sign_flip(many).tolist() == [[float(sign_flip(d)) for d in row] for row in many]


def test_wilcoxon_of_a_textbook() -> None:
    """Siegel (1956), nursery school and home: n = 8, T = 4, two-sided p = 0.0547 (exact); zeros are left out."""
    school, home = np.array([82, 69, 73, 43, 58, 56, 76, 65]), np.array([63, 42, 74, 37, 51, 43, 80, 62])
    d = (school - home).astype(float)
    assert wilcoxon(d) == pytest.approx(14 / 256)
    assert wilcoxon(np.append(d, 0.0)) == wilcoxon(d)
    assert wilcoxon(np.zeros(4)) == 1


def test_holm_by_hand() -> None:
    """R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") is 0.03 0.06 0.06 0.02; never above 1."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.5])).tolist() == [1, 1]
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([])).size == 0


def test_hedges_correction() -> None:
    """Eleven patients: Gamma(5) / (sqrt(5) Gamma(4.5)) = 0.92275, near Hedges' 1 - 3 / (4 x 10 - 1) = 0.92308."""
    d = differences(11)
    assert hedges_g(d) / (d.mean() / d.std(ddof=1)) == pytest.approx(24 / (math.sqrt(5) * math.gamma(4.5)))
    assert hedges_g(d) / (d.mean() / d.std(ddof=1)) == pytest.approx(1 - 3 / 39, abs=5e-4)
    assert math.isnan(hedges_g(np.ones(5)))


def test_the_rank_biserial_correlation_is_the_share_of_ranks() -> None:
    """Ranks 1 2 3 4 of which 1 is negative: (9 - 1) / 10; and it is scipy's signed-rank statistic, rescaled."""
    assert rank_biserial(np.array([-1.0, 2.0, 3.0, 4.0, 0.0])) == pytest.approx(0.8)
    d = differences(12)
    smaller = stats.wilcoxon(d).statistic
    assert abs(rank_biserial(d)) == pytest.approx(1 - 2 * smaller / (12 * 13 / 2))
    assert rank_biserial(np.zeros(3)) == 0


STUDIES = 4000
SLACK = 3.5  # standard errors of a binomial share


def share_bound(alpha: float) -> float:
    return alpha + SLACK * math.sqrt(alpha * (1 - alpha) / STUDIES)


def null_studies(n: int, methods: int, kind: str) -> np.ndarray:
    """(STUDIES, methods, n): differences of methods that do not differ from one shared baseline, patient effects in."""
    random = np.random.default_rng(7)
    draw = {"normal": random.standard_normal, "skewed": random.standard_exponential, "heavy": random.standard_cauchy}
    patients = 10 * random.standard_normal((STUDIES, 1, n))
    values = patients + draw[kind]((STUDIES, methods + 1, n))
    return values[:, 1:] - values[:, :1]


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy"])
@pytest.mark.parametrize("n", [6, 8, 20])
def test_the_false_positive_rate_is_nominal(n: int, kind: str) -> None:
    """4000 studies without any difference: p <= 0.05 in no more than 5 % of them, whatever the noise, nor far fewer.

    The exact test has steps of 2/2^n: with six patients the largest level it can reach below 0.05 is 2/64.
    """
    rate = np.mean(sign_flip(null_studies(n, 1, kind)[:, 0], 499) <= 0.05)
    attainable = math.floor(0.05 * 2 ** (n - 1)) / 2 ** (n - 1) if n <= EXACT_N else 0.05
    assert rate == pytest.approx(attainable, abs=share_bound(attainable) - attainable)


def test_holm_keeps_the_family_wise_rate() -> None:
    """Three methods against one baseline, eight patients: uncorrected 12 % of null studies claim something."""
    p = sign_flip(null_studies(8, 3, "normal"))
    assert np.mean((p <= 0.05).any(-1)) > 0.09
    assert np.mean((holm(p) <= 0.05).any(-1)) <= share_bound(0.05)


def test_a_real_difference_is_found() -> None:
    """Power, by the t-test of the same studies: one standard deviation in twelve patients is seen in 88 %."""
    d = np.random.default_rng(1).normal(1, 1, (STUDIES, 12))
    found = np.mean(sign_flip(d) <= 0.05)
    assert found == pytest.approx(np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05), abs=0.02)
    assert found > 0.85
