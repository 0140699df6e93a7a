"""Coverage, sharpness and calibration against the closed forms of Gaussian errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medidiff.metrics.uncertainty import LEVELS, Z90, Coverage, Reliability, coverage

RANDOM = np.random.default_rng(5)
SPREAD = RANDOM.uniform(2, 40, 400_000)  # HU
ERROR = RANDOM.normal(0, SPREAD)


def reliability(error: np.ndarray, deviation: np.ndarray, parts: int = 7) -> Reliability:
    seen = Reliability()
    for e, sd in zip(np.array_split(error, parts), np.array_split(deviation, parts), strict=True):
        seen.add(e, sd)
    return seen


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
def test_gaussian_errors_are_covered_as_the_closed_form_says(factor: float) -> None:
    """Claims of `factor` times the true deviation cover 2 Phi(z factor) - 1 at every nominal level."""
    seen = reliability(ERROR, factor * SPREAD)
    z = norm.ppf((1 + LEVELS) / 2)
    np.testing.assert_allclose(seen.calibration(), 2 * norm.cdf(z * factor) - 1, atol=0.003)
    region = Coverage()
    for e, sd in zip(np.array_split(ERROR, 5), np.array_split(factor * SPREAD, 5), strict=True):
        region.add(e, sd)
    assert region.share == pytest.approx(2 * norm.cdf(Z90 * factor) - 1, abs=0.002)
    assert region.share == pytest.approx(coverage(ERROR, factor * SPREAD), abs=1e-12)
    assert region.sharpness == pytest.approx(2 * Z90 * factor * SPREAD.mean(), rel=1e-12)


def test_tenths_equal_a_sort_of_all_pixels() -> None:
    """Sums in logarithmic bins give the tenths that sorting every pixel gives."""
    tenths = reliability(ERROR, SPREAD).tenths()
    order = np.array_split(np.argsort(SPREAD), 10)
    np.testing.assert_allclose(tenths.deviation, [SPREAD[k].mean() for k in order], rtol=1e-3)
    np.testing.assert_allclose(tenths.rmse, [np.sqrt((ERROR[k] ** 2).mean()) for k in order], rtol=5e-3)
    np.testing.assert_allclose(tenths.coverage, [coverage(ERROR[k], SPREAD[k]) for k in order], atol=2e-3)


def test_one_width_for_all_is_right_overall_and_wrong_in_tenths() -> None:
    """A constant width that covers 90 % overall covers less where the error is large: tenths of the truth show it."""
    width = np.quantile(np.abs(ERROR), 0.9) / Z90
    blurred = width * (1 + 1e-3 * (SPREAD - SPREAD.mean()))  # hardly varies, and orders the pixels by true deviation
    seen = reliability(ERROR, blurred)
    assert coverage(ERROR, blurred) == pytest.approx(0.9, abs=0.01)
    covered = seen.tenths().coverage
    assert covered[0] > 0.999
    assert covered[-1] < 0.75


def test_equal_claims_make_equal_tenths() -> None:
    """A map of one value has no tenths: each is a fair share of all pixels."""
    tenths = reliability(ERROR, np.full_like(ERROR, 20.0)).tenths()
    np.testing.assert_allclose(tenths.coverage, coverage(ERROR, np.full_like(ERROR, 20.0)), rtol=1e-12)


def test_a_claim_of_zero_covers_no_error() -> None:
    """Where no deviation is claimed an exact pixel is covered and any other is not."""
    np.testing.assert_array_equal(reliability(np.array([0.0, 1.0]), np.zeros(2), 1).calibration(), 0.5)
    assert coverage(np.array([0.0, 1.0]), np.zeros(2)) == 0.5


def test_calibration_error_is_the_mean_distance_from_the_diagonal() -> None:
    """Claims half as wide as they should be, against the closed form."""
    expected = np.abs(2 * norm.cdf(0.5 * norm.ppf((1 + LEVELS) / 2)) - 1 - LEVELS).mean()
    assert reliability(ERROR, 0.5 * SPREAD).calibration_error() == pytest.approx(expected, abs=0.002)
