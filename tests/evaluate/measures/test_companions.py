"""The companions of PSNR: expected from the dose, or measured against a truth, and told in rows."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.companions import MEASURES
from medidiff.evaluate.view import Context, View
from medidiff.metrics.image import PRESETS, psnr

SHAPE = (192, 192)
DOSE = 0.25


def views(with_truth: bool, kept: float = 0.0) -> list[View]:
    """A body in air; the candidate is the truth and the share `kept` of the input's noise."""
    random = np.random.default_rng(2)
    truth = np.full(SHAPE, -1000.0)
    truth[10:180, 10:180] = random.choice([-90.0, 20.0, 50.0, 90.0], (170, 170))
    shown = []
    for index in range(4):
        full = truth + (6 + 2 * index) * random.normal(size=SHAPE)
        low = full + (6 + 2 * index) * np.sqrt(1 / DOSE - 1) * random.normal(size=SHAPE)
        candidate, scan, reference = (image.astype(np.float32) for image in (truth + kept * (low - truth), low, full))
        known = truth.astype(np.float32) if with_truth else None
        shown.append(View(index, candidate, reference, np.ones(SHAPE, bool), scan=scan, truth=known))
    return shown


def figures(shown: list[View], **facts: object) -> dict[tuple[str, str], float]:
    values, _ = judge(shown, [MEASURES["companions"](Context(**{"reference_noise": "shared", "dose": DOSE, **facts}))])
    return {(value.metric, value.preset): value.value for value in values}


def test_expected_and_measured_companions_agree() -> None:
    """What the dose predicts for the truth is what a known truth measures; in a clipped window within 0.1 dB."""
    expected, measured = figures(views(with_truth=False)), figures(views(with_truth=True))
    assert expected["PSNR truth", "hu"] == pytest.approx(measured["PSNR truth", "hu"], abs=0.05)
    assert expected["PSNR truth", "abdomen"] == pytest.approx(measured["PSNR truth", "abdomen"], abs=0.1)
    assert measured["PSNR truth", "hu"] - measured["PSNR input", "hu"] == pytest.approx(4.77, abs=0.05)


def test_the_optimum_attains_all_and_the_truth_does_not() -> None:
    """Keeping the fraction `a` of the noise reaches 100 % of the attainable gain, the truth 4.77 / 6.02."""
    optimum, truth = figures(views(False, kept=DOSE)), figures(views(False))
    assert optimum["attainable gain", "hu"] == pytest.approx(100, abs=1)
    assert truth["attainable gain", "hu"] == pytest.approx(100 * 4.771 / 6.021, abs=1)
    assert truth["PSNR best blend", "hu"] == pytest.approx(truth["PSNR limit", "hu"], abs=0.05)
    assert truth["best blend", "hu"] == pytest.approx(DOSE, abs=0.01)


def test_the_input_is_the_mean_over_slices() -> None:
    """PSNR input equals the mean of the slices' own PSNR."""
    shown = views(False)
    expected = np.mean([psnr(view.scan, view.reference, PRESETS["abdomen"]) for view in shown])
    assert figures(shown)["PSNR input", "abdomen"] == pytest.approx(expected, abs=1e-4)


def test_padding_counts_for_nothing() -> None:
    """A frame of padding changes no figure."""
    framed = [
        View(
            view.index,
            *(np.pad(image, 9, constant_values=value) for image, value in (
                (view.candidate, 500), (view.reference, 0), (view.measured, False))),
            scan=np.pad(view.scan, 9, constant_values=-300),
        )
        for view in views(False)
    ]  # fmt: skip
    assert figures(framed) == pytest.approx(figures(views(False)), rel=1e-6)


def test_nothing_is_promised_that_is_not_known() -> None:
    """No dose: no expected truth and no limit; against a truth neither is needed; without a scan there are no rows."""
    assert {metric for metric, _ in figures(views(False), dose=None)} == {"PSNR input", "PSNR best blend", "best blend"}
    assert ("PSNR limit", "hu") not in figures(views(False), reference_noise="none")
    image = np.zeros(SHAPE, np.float32)
    assert figures([View(0, image, image, np.ones(SHAPE, bool))]) == {}
