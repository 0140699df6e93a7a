"""The script behind the figure of training noise measures what it says, on noise whose answer is known."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "noise_spectra.py"))


def white(n: int, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 12, (n, size, size))


def test_white_noise_is_zero_decibels_without_direction(script: dict[str, Any]) -> None:
    noise = script["noise_of"](white(300), (0.0, 0.0), 1.0, 1.0)
    assert np.abs(noise.spectrum[script["INSIDE"]]).max() < 0.6  # the median of a ring lies a little below its mean
    assert noise.level == pytest.approx(12, rel=0.05)
    assert noise.direction < 0.03
    assert (noise.error[script["INSIDE"]] < 0.4).all()


def test_noise_smoothed_along_one_axis_has_a_direction(script: dict[str, Any]) -> None:
    rows = gaussian_filter(white(100, size=64), (0, 0, 3))[:, 16:48, 16:48]
    assert script["noise_of"](rows, (0.0, 0.0), 1.0, 1.0).direction > 0.5


def test_correlation_along_z_is_that_of_shared_noise(script: dict[str, Any]) -> None:
    a, b = white(60, 1), white(60, 2)
    assert script["correlation"](a, 0.6 * a + 0.8 * b) == pytest.approx(0.6, abs=0.05)


def test_unevenness_of_even_and_of_uneven_noise(script: dict[str, Any]) -> None:
    """Noise twice as strong at the middle as at the skin: half the level at the edge; even noise: one."""
    y, x = np.mgrid[:200, :200] - 100.0
    radius = np.hypot(x, y) / 90
    anatomy = np.where(radius < 1, 40.0, -1000.0)
    even = white(1, 3, 200)[0]
    assert script["unevenness"](even, anatomy)[1] == pytest.approx(1, abs=0.08)
    ratio, edge = script["unevenness"](even * (2 - np.minimum(radius, 1)), anatomy)
    assert edge == pytest.approx(1.1 / 1.75, abs=0.1)  # of the mean levels in the outer and inner fifth of the depths
    assert ratio > 1.4


def test_coverage_tells_a_colour_that_no_draw_has(script: dict[str, Any]) -> None:
    """Draws from white to mildly smooth noise cover one in between, and not one far smoother."""

    def colour(sigma: float, seed: int) -> Any:
        rois = gaussian_filter(white(40, seed, 64), (0, sigma, sigma))[:, 16:48, 16:48]
        return script["noise_of"](rois, (0.0, 0.0), 1.0, 1.0)

    draws = [colour(sigma, k) for k, sigma in enumerate(np.linspace(0, 0.9, 40))]
    real = [script["Real"]("scan", "kernel", False, 0.7, colour(sigma, 99)) for sigma in (0.45, 2.0)]
    inside, outside = script["coverage"](real, draws)
    assert inside.covered
    assert not outside.covered
    assert outside.nearest > 3
