"""Agreement against the published numbers of the papers that defined it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medidiff.statistics.agreement import bland_altman, icc

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
