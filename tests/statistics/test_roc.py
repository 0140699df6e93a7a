"""ROC and AFROC against published numbers, brute force, and what resampling says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff.statistics.roc import area, curve, delong, difference, psi, resampled

# Hanley and McNeil (1982), Radiology 143:29, table I: CT images of the head rated 1 to 5, 58 normal and 51 abnormal
NORMAL, ABNORMAL = (np.repeat([1.0, 2, 3, 4, 5], n) for n in ([33, 6, 6, 11, 2], [3, 2, 2, 11, 33]))


def readings(seed: int, n: int = 40) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratings of abnormal and of normal cases with many ties."""
    random = np.random.default_rng(seed)
    return random.integers(1, 6, n).astype(float), random.integers(0, 4, n - 7).astype(float)


def test_the_area_of_hanley_and_mcneil() -> None:
    """Their area by the Wilcoxon statistic is 0.893, its standard error 0.032."""
    value, error = delong(psi(ABNORMAL, NORMAL))
    assert value == pytest.approx(0.893, abs=5e-4)
    assert error == pytest.approx(0.032, abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_that_of_every_pair_and_that_below_the_curve(seed: int) -> None:
    positive, negative = readings(seed)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in positive for y in negative]
    false, true = curve(positive, negative)
    assert area(psi(positive, negative)).value == pytest.approx(np.mean(pairs))
    assert np.trapezoid(true, false) == pytest.approx(np.mean(pairs))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_standard_error_is_that_of_the_jackknife(seed: int) -> None:
    """Leaving out one case at a time (two-sample jackknife, Arvesen 1969) gives DeLong's variance exactly."""
    kernel = psi(*readings(seed))
    parts = []
    for axis in (0, 1):
        n = kernel.shape[axis]
        left_out = np.array([np.delete(kernel, k, axis).mean() for k in range(n)])
        parts.append((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    assert delong(kernel)[1] ** 2 == pytest.approx(sum(parts))


def test_intervals_of_the_area_hold_the_truth() -> None:
    """Normal ratings one standard deviation apart have the area Phi(1 / sqrt 2): 95 % intervals hold it as often."""
    truth = 0.5 * (1 + math.erf(0.5))
    random = np.random.default_rng(0)
    found = [area(psi(random.normal(1, 1, 40), random.normal(0, 1, 50))).interval for _ in range(1000)]
    assert np.mean([low <= truth <= high for low, high in found]) == pytest.approx(0.95, abs=0.02)


def test_the_test_of_a_difference_errs_as_often_as_it_says() -> None:
    """Two methods read on the same cases that do not differ: p < 0.05 in 5 % of 1000 studies."""
    random = np.random.default_rng(1)
    p = []
    for _ in range(1000):
        x, y = random.normal(1, 1, (40, 1)), random.normal(0, 1, (50, 1))
        first, second = ((x + random.normal(0, 1, x.shape), y + random.normal(0, 1, y.shape)) for _ in range(2))
        p.append(difference(psi(first[0][:, 0], first[1][:, 0]) - psi(second[0][:, 0], second[1][:, 0]))[1])
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_resampled_cases_give_the_interval_of_delong_where_each_is_one_row() -> None:
    positive, negative = readings(4, 200)
    kernel = psi(positive, negative)
    estimate, p = resampled(kernel, np.arange(200), 200 + np.arange(len(negative)), resamples=4000)
    value, error = delong(kernel)
    assert estimate.value == value
    assert estimate.interval == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.005)
    assert p == pytest.approx(2 / 4001)


def test_lesions_of_one_case_go_together() -> None:
    """Ten lesions of a case that are found or missed together are one finding: the interval is as wide as of one."""
    found, negative = np.repeat([3.0, 0, 3, 3, 0, 3], 10), np.array([0.0, 1, 0, 2, 0])
    rows, columns = np.repeat(np.arange(6), 10), 6 + np.arange(5)
    together = resampled(psi(found, negative), rows, columns)[0]
    single = resampled(psi(found[::10], negative), rows[::10], columns)[0]
    apart = resampled(psi(found, negative), np.arange(60), 60 + np.arange(5))[0]
    assert together.value == single.value
    assert np.ptp(together.interval) == pytest.approx(np.ptp(single.interval), rel=0.1)
    assert np.ptp(apart.interval) < 0.8 * np.ptp(together.interval)


def test_a_case_may_have_lesions_and_false_marks() -> None:
    """Without normal cases (JAFROC1) rows and columns are of the same cases and are drawn with them."""
    lesions, false = np.array([3.0, 2, 0, 1]), np.array([0.0, 2, 0, 1])
    estimate, _ = resampled(psi(lesions, false), np.arange(4), np.arange(4))
    assert estimate.value == pytest.approx(psi(lesions, false).mean())
    assert estimate.interval[0] < estimate.value < estimate.interval[1]


def test_perfect_reading_has_no_interval_and_equal_ones_no_difference() -> None:
    kernel = psi(np.array([2.0, 3, 4]), np.array([0.0, 1]))
    assert area(kernel).value == 1
    assert math.isnan(area(kernel).interval[0])
    assert difference(kernel - kernel)[1] == 1
    assert math.isnan(delong(kernel[:1])[1])
