"""Bootstrap intervals against scipy's, and how often they hold the truth: also where that is too seldom."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medidiff.statistics.intervals import bca, intervals


@pytest.mark.parametrize("n", [5, 8, 30])
def test_bca_equals_scipy(n: int) -> None:
    """Within the Monte Carlo error of 20000 resamples, on a skewed sample."""
    sample = np.random.default_rng(n).exponential(3, n)
    found = stats.bootstrap((sample,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(1))
    expected = found.confidence_interval
    assert bca(sample[None], 0.95, 20_000)[:, 0] == pytest.approx(
        [expected.low, expected.high], abs=0.02 * np.ptp(sample)
    )


def test_an_interval_moves_and_scales_with_its_sample() -> None:
    """Limits of a x + b are those of x, mapped; a negative a swaps them."""
    x = np.random.default_rng(0).gamma(2, 1, (1, 9))
    low, high = bca(x)[:, 0]
    assert bca(1000 + 2 * x)[:, 0] == pytest.approx([1000 + 2 * low, 1000 + 2 * high])
    assert bca(-x, resamples=50_000)[:, 0] == pytest.approx([-high, -low], abs=0.05)


def test_an_interval_does_not_depend_on_its_company() -> None:
    """Samples of any sizes together give what each gives alone, in their order."""
    random = np.random.default_rng(0)
    samples = [random.normal(size=n) for n in (3, 8, 3, 5, 8, 8)]
    together = intervals(samples, 0.9, 500, 4)
    alone = np.column_stack([intervals([sample], 0.9, 500, 4)[:, 0] for sample in samples])
    assert together == pytest.approx(alone, rel=1e-12)


def test_samples_that_allow_no_interval() -> None:
    """One patient or an infinite value: nan; equal values: a point."""
    limits = intervals([np.array([1.0]), np.array([1.0, np.inf]), np.full(5, 0.1)], 0.95, 200, 0)
    assert np.isnan(limits[:, :2]).all()
    assert limits[:, 2] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("draw", "n", "coverage"),
    [
        ("normal", 4, 0.80),
        ("normal", 8, 0.89),
        ("normal", 15, 0.92),
        ("normal", 30, 0.93),
        ("exponential", 8, 0.86),
        ("exponential", 30, 0.92),
    ],
)
def test_coverage_is_what_the_page_on_statistics_says(draw: str, n: int, coverage: float) -> None:
    """3000 studies: 95 % intervals hold the true mean as often as docs/statistics.md admits, which at n = 8 is 89 %."""
    random = np.random.default_rng(n)
    samples = getattr(random, draw)(size=(3000, n))
    low, high = bca(samples, 0.95, 1000)
    truth = {"normal": 0, "exponential": 1}[draw]
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(coverage, abs=0.02)
