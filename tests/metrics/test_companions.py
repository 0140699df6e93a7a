"""The gains that theory allows against a noisy reference, reached by optimal estimates of Gaussian images."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.metrics.companions import best_blend, blend_errors, limit_gain_db, mean_psnr, truth_gain_db
from medidiff.metrics.image import PRESETS, mse, psnr

HU = PRESETS["hu"]
ABDOMEN = PRESETS["abdomen"]
SHAPE = (8, 256, 256)


def scans(dose: float, noise: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, full dose, low dose): noise that differs 4 times from slice to slice and across each slice."""
    random = np.random.default_rng(seed)
    truth = random.normal(30, 60, SHAPE)
    sigma = np.linspace(5, 20, SHAPE[0])[:, None, None] * np.linspace(0.5, 2, SHAPE[1])[:, None]
    full = truth + sigma * random.normal(size=SHAPE)
    inserted = sigma * np.sqrt((1 - dose) / dose) * random.normal(size=SHAPE)
    low = full + inserted if noise == "shared" else truth + sigma / np.sqrt(dose) * random.normal(size=SHAPE)
    return truth, full, low


def slice_psnr(image: np.ndarray, reference: np.ndarray) -> float:
    return float(np.mean([psnr(a, b, HU) for a, b in zip(image, reference, strict=True)]))


@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize("dose", [0.1, 0.25, 0.5, 0.75])
def test_the_truth_and_the_optimum_gain_what_is_computed(dose: float, noise: str) -> None:
    """Knowing the truth, E[reference | scan] is `t + a (y - t)` where noise is shared and `t` where it is not."""
    truth, full, low = scans(dose, noise)
    optimum = truth + dose * (low - truth) if noise == "shared" else truth
    scan = slice_psnr(low, full)
    assert slice_psnr(truth, full) - scan == pytest.approx(truth_gain_db(dose, noise), abs=0.05)
    assert slice_psnr(optimum, full) - scan == pytest.approx(limit_gain_db(dose, noise), abs=0.05)


def test_the_figures_of_a_quarter_and_a_half() -> None:
    """4.77 dB at a quarter and 0 at a half for the truth, 6.02 dB attainable at a quarter; 6.99 for a re-scan."""
    assert truth_gain_db(0.25, "shared") == pytest.approx(4.771, abs=1e-3)
    assert truth_gain_db(0.5, "shared") == 0
    assert limit_gain_db(0.25, "shared") == pytest.approx(6.021, abs=1e-3)
    assert truth_gain_db(0.25, "independent") == limit_gain_db(0.25, "independent") == pytest.approx(6.990, abs=1e-3)


@pytest.mark.parametrize("dose", [0.25, 0.4])
def test_the_best_blend_of_the_truth_reaches_the_limit(dose: float) -> None:
    """With shared noise the best blend of a perfect image keeps the fraction `a` of the input's noise."""
    truth, full, low = scans(dose, "shared")
    errors = np.array([blend_errors(*s, HU, None) for s in zip(truth, low, full, strict=True)])
    alpha, value = best_blend(errors, np.ones(len(errors)))
    assert alpha == pytest.approx(dose, abs=0.005)
    assert value - slice_psnr(low, full) == pytest.approx(limit_gain_db(dose, "shared"), abs=0.02)


def test_the_blend_is_least_squares_exactly() -> None:
    """Without clipping, alpha and PSNR equal the closed form -sum(d e) / sum(d d) with d = y - x_hat, e = x_hat - r."""
    truth, full, low = scans(0.3, "shared", seed=3)
    candidate = 0.9 * truth + 0.1 * low + 2
    errors = np.array([blend_errors(*s, HU, None) for s in zip(candidate, low, full, strict=True)])
    alpha, value = best_blend(errors, np.ones(len(errors)))
    step = low - candidate
    expected = -(step * (candidate - full)).sum() / (step**2).sum()
    assert alpha == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(slice_psnr(candidate + expected * step, full), abs=1e-5)


def test_a_clipped_window_finds_the_blend_of_a_fine_search() -> None:
    """In the abdominal window the parabola through a coarse grid finds what 1,001 blends find."""
    truth, full, low = scans(0.3, "shared", seed=4)
    errors = np.array([blend_errors(*s, ABDOMEN, None) for s in zip(truth, low, full, strict=True)])
    alpha, value = best_blend(errors, np.ones(len(errors)))
    fine = np.linspace(0.2, 0.4, 41)
    pooled = [mse(truth + a * (low - truth), full, ABDOMEN) for a in fine]
    assert alpha == pytest.approx(fine[np.argmin(pooled)], abs=0.005)
    blended = truth + alpha * (low - truth)
    direct = mean_psnr(np.array([mse(b, f, ABDOMEN) for b, f in zip(blended, full, strict=True)]))
    assert value == pytest.approx(direct, abs=0.005)


def test_an_identical_image_is_its_own_blend() -> None:
    """A candidate that is its input cannot be blended: the PSNR is the input's."""
    _, full, low = scans(0.25, "shared")
    errors = np.array([blend_errors(*s, HU, None) for s in zip(low, low, full, strict=True)])
    assert best_blend(errors, np.ones(len(errors))) == (0, pytest.approx(slice_psnr(low, full), abs=1e-6))
