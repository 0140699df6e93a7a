"""The measure of claimed deviations: what it covers is in its name, and where it is read."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.uncertainty import MEASURES
from medidiff.evaluate.view import Context, View
from medidiff.metrics.uncertainty import Z90

SHAPE = (160, 160)


def views(noise_of_reference: float = 0.0, with_truth: bool = False, claim: float = 1.0) -> list[View]:
    """Air, fat and soft tissue; errors of 8 HU in air, 10 in fat, 20 in soft tissue; claims of `claim` times that."""
    random = np.random.default_rng(1)
    truth = np.full(SHAPE, -1000, np.float32)
    truth[20:140, 20:80], truth[20:140, 80:140] = -100, 40
    spread = np.select([truth < -500, truth < 0], [8, 10], 20).astype(np.float32)
    shown = []
    for index in range(6):
        candidate = (truth + spread * random.normal(size=SHAPE)).astype(np.float32)
        reference = (truth + noise_of_reference * random.normal(size=SHAPE)).astype(np.float32)
        known = truth if with_truth else None
        measured = np.ones(SHAPE, bool)
        shown.append(View(index, candidate, reference, measured, truth=known, deviation=claim * spread))
    return shown


def figures(shown: list[View], noise: str) -> dict[tuple[str, str], float]:
    values, _ = judge(shown, [MEASURES["uncertainty"](Context(reference_noise=noise))])
    return {(value.metric, value.region): value.value for value in values}


@pytest.mark.parametrize("claim", [1.0, 0.6])
def test_coverage_of_the_truth_overall_per_tissue_and_per_tenth(claim: float) -> None:
    """Gaussian errors of known spread are covered as the closed form says, in every row."""
    found = figures(views(claim=claim), "none")
    expected = 100 * (2 * norm.cdf(Z90 * claim) - 1)
    regions = ["all", "patient", "air", "fat", "soft", "deviation tenth 1", "deviation tenth 10"]
    assert [found["coverage", region] for region in regions] == pytest.approx([expected] * 7, abs=1)
    assert found["sharpness", "soft"] == pytest.approx(2 * Z90 * 20 * claim, rel=1e-3)
    assert found["worst tenth's coverage", "patient"] == pytest.approx(expected, abs=2)


def test_a_noisy_reference_is_named_for_what_it_covers() -> None:
    """Against another scan, intervals for the truth cover less, and no row claims to be coverage of the truth."""
    found = figures(views(noise_of_reference=20), "independent")
    assert not any(metric == "coverage" for metric, _ in found)
    expected = 100 * (2 * norm.cdf(Z90 / np.sqrt(2)) - 1)
    assert found["coverage of reference", "soft"] == pytest.approx(expected, abs=1)


def test_a_known_truth_is_used_in_place_of_a_noisy_reference() -> None:
    """Phantoms with a noisy full dose: coverage is of the truth and so is its name."""
    found = figures(views(noise_of_reference=20, with_truth=True), "shared")
    assert found["coverage", "soft"] == pytest.approx(90, abs=1)


def test_curves_lie_on_the_diagonal_for_honest_claims() -> None:
    """The calibration curve equals its nominal levels and the error its claimed deviation."""
    _, found = judge(views(), [MEASURES["uncertainty"](Context(reference_noise="none"))])
    curves = {curve.name: curve for curve in found}
    np.testing.assert_allclose(curves["calibration"].y, curves["calibration"].x, atol=1)
    np.testing.assert_allclose(curves["error by deviation"].y, curves["error by deviation"].x, rtol=0.08)


def test_a_method_without_a_claim_is_not_judged() -> None:
    """No deviation, no rows and no curves."""
    image = np.zeros(SHAPE, np.float32)
    assert judge([View(0, image, image, np.ones(SHAPE, bool))], [MEASURES["uncertainty"](Context())]) == ([], [])
