"""The noise estimate knows white noise, ignores gradients, scales with the image and tells colours apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import chi2

from medidiff.noise.level import (
    FLOOR_HU,
    PERCENTILE,
    WINDOW,
    block_mean,
    local_deviation,
    noise_estimate,
    noise_level,
    noise_map,
)


def white(sigma: float, shape: tuple[int, int] = (256, 256), seed: int = 0) -> NDArray[np.float64]:
    return sigma * np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("sigma", [5.0, 12.0, 30.0])
@pytest.mark.parametrize("mean_hu", [0.0, 40.0])
def test_white_noise_is_measured_within_a_few_percent(sigma: float, mean_hu: float) -> None:
    """The 20th percentile of deviations with n - 3 degrees of freedom: 7 % below sigma, by the chi-squared law."""
    freedom = WINDOW**2 - 3
    expected = sigma * np.sqrt(chi2.ppf(PERCENTILE / 100, freedom) / freedom)
    assert noise_level(mean_hu + white(sigma)) == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(sigma, rel=0.075)


def test_local_deviation_is_unbiased_and_local() -> None:
    """Its mean square is sigma^2 in each half of an image whose halves differ."""
    image = white(10.0, (128, 256))
    image[:, 128:] *= 3
    deviation, mean = local_deviation(image)
    half = deviation.shape[1] // 2
    assert np.sqrt((deviation[:, : half - 4] ** 2).mean()) == pytest.approx(10, rel=0.03)
    assert np.sqrt((deviation[:, half + 4 :] ** 2).mean()) == pytest.approx(30, rel=0.03)
    assert np.abs(mean).max() < 20


def test_a_gradient_is_not_noise() -> None:
    """A plane, as cupping makes, changes the level by less than 1 %; by itself it is below the floor."""
    rows, columns = np.mgrid[:256, :256]
    plane = 0.3 * rows - 0.2 * columns
    image = white(12.0)
    assert noise_level(image + plane) == pytest.approx(noise_level(image), rel=0.01)
    assert noise_level(0.5 * plane) == FLOOR_HU


def test_the_level_scales_with_the_image_and_the_colour_does_not() -> None:
    """Within the soft-tissue range, where the same windows count."""
    image = white(8.0)
    one, two = noise_estimate(image), noise_estimate(2 * image)
    assert two.level == pytest.approx(2 * one.level, rel=1e-4)
    assert two.colour == pytest.approx(one.colour, abs=1e-3)


def test_white_noise_halves_with_each_halving_of_the_matrix() -> None:
    """Averages over 2 x 2 and 4 x 4 independent pixels: log2 ratios -1 and -2."""
    half, quarter = noise_estimate(white(20.0, (512, 512))).colour
    assert half == pytest.approx(-1, abs=0.05)
    assert quarter == pytest.approx(-2, abs=0.1)


def test_smooth_noise_survives_averaging() -> None:
    """The longer the correlation the larger the colours, from -1 of white noise to about 0 at a body kernel."""
    colours = []
    for width in (0.0, 0.7, 1.0):
        noise = gaussian_filter(white(1.0, (512, 512)), width) if width else white(1.0, (512, 512))
        colours.append(noise_estimate(20 * noise / noise.std()).colour)
    assert colours[0][0] < colours[1][0] < colours[2][0]
    assert colours[0][1] < colours[1][1] < colours[2][1]
    assert colours[2][0] == pytest.approx(0, abs=0.25)


def test_edges_and_air_do_not_count() -> None:
    """Organs, bone and noise-free padding around them leave the level where it was."""
    rows, columns = np.mgrid[:256, :256]
    body = np.hypot(rows - 128, columns - 128) < 100
    bone = np.hypot(rows - 100, columns - 128) < 12
    plain = noise_level(white(15.0) + 40)
    image = np.where(body, 40 + 900 * bone + white(15.0), -1000.0)
    assert noise_level(image) == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("shape", [(8, 8), (64, 8), (64, 64)])
def test_constant_or_tiny_images_have_the_floor(shape: tuple[int, int]) -> None:
    """Nothing to measure gives the floor and colour 0, never zero or NaN."""
    estimate = noise_estimate(np.full(shape, 40.0))
    assert estimate.level == FLOOR_HU
    assert estimate.colour == (0.0, 0.0)


def test_block_mean_drops_incomplete_blocks() -> None:
    """Each value is the mean of its block."""
    image = np.arange(35.0).reshape(5, 7)
    expected = [[image[r : r + 2, c : c + 2].mean() for c in (0, 2, 4)] for r in (0, 2)]
    np.testing.assert_allclose(block_mean(image, 2), expected)


def test_the_noise_map_follows_noise_that_grows_across_the_image() -> None:
    """Noise from 0.7 to 1.4 of the level: log2 from -0.5 to 0.5, within 0.2 in the image and flat for even noise."""
    factor = 2 ** np.linspace(-0.5, 0.5, 384)
    image = 40 + white(20, (384, 384)) * factor
    found = noise_map(image, 20.0) - np.median(noise_map(40 + white(20, (384, 384), 1), 20.0))
    assert found.shape == image.shape
    assert np.abs(found[:, 32:-32] - np.log2(factor)[32:-32]).max() < 0.2
    assert np.ptp(noise_map(40 + white(20, (384, 384)), 20.0)) < 0.2


def test_without_a_body_the_noise_map_is_flat() -> None:
    """Air and constant images tell nothing: zero, as for an image too small to measure."""
    for image in (np.full((128, 128), -1000.0), np.zeros((128, 128)), white(5, (16, 16))):
        assert not noise_map(image, 5.0).any()
