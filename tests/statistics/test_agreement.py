"""Agreement against the published numbers of the papers that defined it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff.statistics.agreement import bland_altman, disagreement, fleiss_kappa, icc, kappa, weighted_kappa

# Shrout and Fleiss (1979), Psychol. Bull. 86:420, table 2: six targets by four judges
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)

# Bland and Altman (1986), table 1: peak expiratory flow in l/min, first readings of the two meters
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_icc_of_shrout_and_fleiss() -> None:
    """Their table 4: ICC(2,1) = 0.29, ICC(3,1) = 0.71; the intervals as R's psych::ICC prints them."""
    absolute, consistent = icc(JUDGES)
    assert absolute.value == pytest.approx(0.29, abs=0.005)
    assert consistent.value == pytest.approx(0.71, abs=0.006)
    assert absolute.interval == pytest.approx((0.019, 0.761), abs=5e-4)
    assert consistent.interval == pytest.approx((0.342, 0.946), abs=5e-4)


def test_icc_of_raters_that_agree_or_differ_by_a_constant() -> None:
    """A constant offset costs absolute agreement, not consistency; patients that do not differ determine nothing."""
    x = np.random.default_rng(0).normal(size=(9, 1))
    assert [found.value for found in icc(np.hstack([x, x]))] == pytest.approx([1, 1])
    absolute, consistent = icc(np.hstack([x, x + 1]))
    assert absolute.value < 0.8
    assert consistent.value == pytest.approx(1)
    for ratings in (np.full((5, 2), 3.3), np.tile([33.0, 29.7], (8, 1)), x[:1] @ np.ones((1, 2))):
        assert all(math.isnan(found.value) for found in icc(ratings))


def test_icc_of_few_whole_scores_is_a_number_or_none() -> None:
    """Scores of few patients often leave nothing to measure by: then there is no interval, and never a failure."""
    swapped = icc(np.array([[1.0, 2], [2, 1]]))
    assert math.isnan(swapped[0].value)
    assert swapped[1].value == -1
    random = np.random.default_rng(0)
    for _ in range(3000):
        n, k, highest = random.integers(1, 6), random.integers(2, 4), random.integers(2, 6)
        for found in icc(random.integers(1, highest, (n, k)).astype(float)):
            low, high = found.interval
            assert math.isnan(low) == math.isnan(high)
            assert math.isnan(low) or low <= found.value + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_intervals_of_icc_hold_the_truth(seed: int) -> None:
    """Two raters, true ICC 0.8: 95 % intervals of both hold it in 95 % of 600 studies."""
    random = np.random.default_rng(seed)
    patients, noise = random.normal(0, 2, (600, 15, 1)), random.normal(0, 1, (600, 15, 2))
    found = [icc(study) for study in patients + noise]
    for k in range(2):
        covered = np.mean([f[k].interval[0] <= 0.8 <= f[k].interval[1] for f in found])
        assert covered == pytest.approx(0.95, abs=0.035)


def test_bland_and_altman_of_their_paper() -> None:
    """Mean -2.1, sd 38.8 l/min; 95 % interval of the bias -22.0 to 17.8; limits -2.1 -+ 1.96 x 38.8.

    The paper's intervals of the limits (-114.3 to -45.1, 40.9 to 110.1) are the symmetric approximation that it gives;
    the exact ones lie further out.
    """
    found = bland_altman(np.subtract(WRIGHT, MINI).astype(float))
    assert found.n == 17
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    assert found.bias.interval == pytest.approx((-22.0, 17.8), abs=0.1)
    assert (found.lower.value, found.upper.value) == pytest.approx((-2.1 - 1.96 * 38.8, -2.1 + 1.96 * 38.8), abs=0.1)
    assert found.lower.interval == pytest.approx((-114.3, -45.1), abs=12)
    assert found.upper.interval == pytest.approx((40.9, 110.1), abs=12)
    assert found.upper.interval[1] > 110.1
    assert found.upper.interval[0] > 40.9


def test_intervals_of_the_limits_are_exact() -> None:
    """Eight normal differences: the interval of the true upper limit 1.96 holds it in 95 % of 4000 studies."""
    studies = np.random.default_rng(2).normal(size=(4000, 8))
    found = [bland_altman(study) for study in studies]
    z = 1.959964
    assert np.mean([f.upper.interval[0] <= z <= f.upper.interval[1] for f in found]) == pytest.approx(0.95, abs=0.012)
    assert np.mean([f.lower.interval[0] <= -z <= f.lower.interval[1] for f in found]) == pytest.approx(0.95, abs=0.012)


def test_one_patient_has_no_limits() -> None:
    """Its difference is the bias; nothing else is known."""
    found = bland_altman(np.array([2.0]))
    assert found.bias.value == 2
    assert math.isnan(found.upper.value)
    assert math.isnan(found.bias.interval[0])


def test_icc_of_raters_that_agree_but_for_rounding() -> None:
    """Readings that differ in the eleventh digit, as after a detour through single precision, agree perfectly."""
    once = np.array([20.494118719418424, 14.233072715723228, 21.26397767366099, 22.08099003309846])
    again = np.array([20.494118719570565, 14.233072715634895, 21.26397767374219, 22.080990033277278])
    absolute, consistent = icc(np.column_stack([once, again]))
    assert (absolute.value, consistent.value) == (pytest.approx(1), 1.0)


# Cohen (1968), Psychol. Bull. 70:213, table 1: shares of 200 cases; weights of disagreement as he gave them
COHEN = np.array([[0.44, 0.07, 0.09], [0.05, 0.20, 0.05], [0.01, 0.03, 0.06]])
COHEN_WEIGHTS = np.array([[0.0, 1, 3], [1, 0, 6], [3, 6, 0]])

# The example of Wikipedia's article on Fleiss' kappa: ten subjects, fourteen raters, five categories
FOURTEEN = np.array(
    [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
     [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
)  # fmt: skip


def scores(seed: int, raters: int = 2) -> NDArray[np.integer]:
    """Fifty patients on a scale of five that the raters mostly agree about."""
    random = np.random.default_rng(seed)
    return np.clip(random.integers(0, 5, (50, 1)) + random.integers(-1, 2, (50, raters)), 0, 4)


def test_weighted_kappa_of_cohen() -> None:
    """His numbers: 0.492 unweighted, 0.348 weighted."""
    assert weighted_kappa(COHEN, disagreement(3, 0)) == pytest.approx(0.492, abs=5e-4)
    assert weighted_kappa(COHEN, COHEN_WEIGHTS) == pytest.approx(0.348, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_quadratic_kappa_is_the_concordance_of_the_scores(seed: int) -> None:
    """2 cov / (var + var + (difference of means)^2), Lin (1989), with moments over n: an identity."""
    a, b = scores(seed).T
    expected = 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert kappa(scores(seed), 5, 2).value == pytest.approx(expected)


def test_kappa_of_many_raters_is_the_mean_of_their_pairs() -> None:
    three = scores(1, 3)
    pairs = [kappa(three[:, pair], 5, 1).value for pair in ([0, 1], [0, 2], [1, 2])]
    assert kappa(three, 5, 1).value == pytest.approx(np.mean(pairs))


def test_kappa_of_raters_that_agree_oppose_or_know_nothing() -> None:
    a = np.random.default_rng(0).integers(0, 5, 2000)
    assert kappa(np.column_stack([a, a]), 5, 1).value == 1
    assert kappa(np.column_stack([a, 4 - a]), 5, 2).value < -0.9
    low, high = kappa(np.column_stack([a, np.roll(a, 7)]), 5, 1).interval
    assert low < 0 < high
    assert math.isnan(kappa(np.zeros((9, 2), int), 5, 1).value)
    assert math.isnan(kappa(np.zeros((9, 2), int), 5, 1).interval[0])


def test_intervals_of_kappa_hold_the_truth() -> None:
    """The truth is kappa of 400,000 patients; 95 % intervals of 400 studies of 60 hold it nearly as often."""

    def study(random: np.random.Generator, n: int) -> NDArray[np.integer]:
        return np.clip(random.integers(0, 5, (n, 1)) + random.integers(-1, 2, (n, 2)), 0, 4)

    random = np.random.default_rng(3)
    truth = kappa(study(random, 400_000), 5, 1, resamples=1).value
    found = [kappa(study(random, 60), 5, 1, resamples=400).interval for _ in range(400)]
    assert np.mean([low <= truth <= high for low, high in found]) == pytest.approx(0.94, abs=0.035)


def test_fleiss_kappa_of_fourteen_raters() -> None:
    """The article gives 0.210."""
    assert fleiss_kappa(FOURTEEN) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_of_two_raters_is_scotts_pi() -> None:
    """(P - P_e) / (1 - P_e), with chance from the shares of both raters together (Scott 1955)."""
    two = scores(2)
    shares = np.bincount(two.ravel(), minlength=5) / two.size
    agreed, chance = (two[:, 0] == two[:, 1]).mean(), (shares**2).sum()
    counts = np.stack([np.bincount(row, minlength=5) for row in two])
    assert fleiss_kappa(counts) == pytest.approx((agreed - chance) / (1 - chance))
    assert math.isnan(fleiss_kappa(np.full((4, 1), 3)))
