"""The frequency of noise: analytic values, and little regard for anatomy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.noise.level import noise_estimate
from medidiff.noise.traits import noise_frequency, traits_of


@pytest.fixture(scope="module")
def white() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 20, (256, 256)).astype(np.float32)


def anatomy(size: int = 256) -> NDArray[np.float32]:
    """A body in air, with organs of soft edges and a ramp."""
    y, x = np.mgrid[:size, :size] - size / 2
    body = np.where(x**2 + y**2 < (0.45 * size) ** 2, 40.0 + 0.2 * x, -1000.0)
    for k in range(6):
        at = (70 * np.cos(k), 70 * np.sin(k))
        body += np.where((x - at[0]) ** 2 + (y - at[1]) ** 2 < (6 + 3 * k) ** 2, 30.0 + 10 * k, 0.0)
    return gaussian_filter(body, 1.0).astype(np.float32)


def test_white_noise_has_a_quarter_of_a_cycle(white: NDArray[np.float32]) -> None:
    """<du^2> = 2 sigma^2, so f = arcsin(1 / sqrt 2) / pi = 1 / 4."""
    assert noise_frequency(40 + white) == pytest.approx(0.25, abs=0.005)


def test_alternating_pixels_have_half_a_cycle() -> None:
    """The highest frequency that there is; the fitted plane takes 3 of the 81 degrees of freedom of a window."""
    board = 10 * (-1.0) ** np.add.outer(np.arange(128), np.arange(128))
    assert noise_frequency(board.astype(np.float32)) == pytest.approx(np.arcsin(np.sqrt(78 / 81)) / np.pi, abs=0.005)


def test_a_wave_has_its_own_frequency() -> None:
    """Of a plane wave along one axis (of period 4, the other axis constant): sin^2 averages to half."""
    wave = 20 * np.sqrt(2) * np.sin(np.pi / 2 * np.arange(128) + 0.3) * np.ones((128, 1))
    expected = np.arcsin(np.sqrt(0.5 * np.sin(np.pi / 4) ** 2)) / np.pi
    assert noise_frequency(wave.astype(np.float32)) == pytest.approx(expected, abs=0.01)


def test_level_and_offset_do_not_matter(white: NDArray[np.float32]) -> None:
    smooth = gaussian_filter(white, 0.8)
    assert noise_frequency(3 * smooth - 70) == pytest.approx(noise_frequency(smooth), rel=1e-3)


@pytest.mark.parametrize("blur", [0.0, 0.6, 1.0])
def test_anatomy_hardly_matters(white: NDArray[np.float32], blur: float) -> None:
    noise = gaussian_filter(white, blur) if blur else white
    noise *= 20 / noise.std()
    assert noise_frequency(anatomy() + noise) == pytest.approx(noise_frequency(noise), rel=0.08)


def test_smoother_noise_has_a_lower_frequency(white: NDArray[np.float32]) -> None:
    found = [noise_frequency(gaussian_filter(white, blur)) for blur in (0.3, 0.5, 0.7, 1.0, 1.4)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("image", [np.full((64, 64), 40.0, np.float32), np.zeros((20, 300), np.float32)])
def test_nothing_measurable_counts_as_white(image: NDArray[np.float32]) -> None:
    """Constant or tiny images; their level says that there is nothing to remove."""
    assert noise_frequency(image) == 0.25
    assert all(np.isfinite(value) for value in traits_of(image, noise_estimate(image)).values())
