"""Image metrics against closed forms, the authors' formula written out, and laws."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.metrics.image import PRESETS, hu_bias, mse, psnr, rmse, ssim


@pytest.fixture
def scene() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (80 * gaussian_filter(rng.standard_normal((64, 72)), 3) + 40).astype(np.float32)


def test_a_constant_error_has_the_closed_form_values(scene):
    """An offset of 10 HU: RMSE 10 HU, bias 10 HU, PSNR 20 log10(range / 10) for the declared range."""
    off = scene.astype(np.float64) + 10
    assert rmse(off, scene) == pytest.approx(10, abs=1e-9)
    assert hu_bias(off, scene) == pytest.approx(10, abs=1e-9)
    assert psnr(off, scene) == pytest.approx(20 * math.log10(4095 / 10), abs=1e-9)
    assert psnr(off, scene, PRESETS["abdomen"]) == pytest.approx(20 * math.log10(400 / 10), abs=1e-9)


def test_equal_images_are_perfect(scene):
    """PSNR is infinite, SSIM 1, RMSE and bias 0."""
    assert psnr(scene, scene) == math.inf
    assert (ssim(scene, scene), rmse(scene, scene), hu_bias(scene, scene)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_data_range_is_declared_not_measured(scene, preset):
    """One bright pixel, the same in both images, changes the sum of errors by nothing: PSNR must not move."""
    noisy = scene + np.random.default_rng(1).normal(0, 5, scene.shape)
    bright, bright_noisy = scene.copy(), noisy.copy()
    bright[30, 30] = bright_noisy[30, 30] = 3000
    share = mse(noisy, scene, preset) - (preset.map(noisy)[30, 30] - preset.map(scene)[30, 30]) ** 2 / scene.size
    assert psnr(bright_noisy, bright, preset) == pytest.approx(-10 * math.log10(share), abs=1e-9)


def test_a_window_hides_what_lies_outside_it(scene):
    """Errors between 1000 and 2000 HU do not exist in an abdominal window, and all count in `hu`."""
    metal, other = scene.copy(), scene.copy()
    metal[:5], other[:5] = 2000, 1000
    assert rmse(metal, other, PRESETS["abdomen"]) == 0
    assert rmse(metal, other) == pytest.approx(1000 * math.sqrt(5 / 64))


def test_a_mask_restricts_to_its_pixels(scene):
    """The bias of half an image is that of the half; SSIM of an untouched half, far from the edge, is 1."""
    off = scene.copy()
    off[32:] += 8
    upper = np.zeros(scene.shape, bool)
    upper[:20] = True
    assert hu_bias(off, scene, ~upper) == pytest.approx(8 * 32 / 44, rel=1e-5)
    assert rmse(off, scene, mask=upper) == 0
    assert ssim(off, scene, PRESETS["abdomen"], upper) == pytest.approx(1)


def test_ssim_is_the_formula_of_wang(scene):
    """Wang et al. (2004) eq. 13 with sigma 1.5, truncated at 11 x 11, written out here."""
    preset = PRESETS["abdomen"]
    x = preset.map(scene)
    y = preset.map(scene + np.random.default_rng(2).normal(0, 20, scene.shape))

    def blur(values):
        return gaussian_filter(values, 1.5, truncate=3.5)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    unmapped = [values * preset.range + preset.low for values in (y, x)]
    assert ssim(*unmapped, preset) == pytest.approx(expected[5:-5, 5:-5].mean(), abs=1e-9)


def test_metrics_are_symmetric_and_get_worse_with_noise(scene):
    """Swapping the images changes nothing but the sign of the bias; four times the noise costs 12.04 dB."""
    noise = np.random.default_rng(3).standard_normal(scene.shape)
    little, much = scene + 2 * noise, scene + 8 * noise
    for metric in (psnr, ssim, rmse):
        assert metric(little, scene) == pytest.approx(metric(scene, little))
    assert hu_bias(little, scene) == pytest.approx(-hu_bias(scene, little))
    assert psnr(little, scene) - psnr(much, scene) == pytest.approx(20 * math.log10(4), abs=1e-6)
    assert ssim(much, scene) < ssim(little, scene) < 1


def test_presets_are_the_published_windows():
    """ldct-benchmark: centre -600 / width 1500, 50 / 400, 40 / 80, mapped as PS3.3 C.11.2.1.2 does: width - 1 HU."""
    bounds = {name: (p.low, p.high) for name, p in PRESETS.items()}
    assert bounds["ldct-benchmark-chest"] == (-1350, 149)
    assert bounds["ldct-benchmark-abdomen"] == (-150, 249)
    assert bounds["ldct-benchmark-neuro"] == (0, 79)
    assert bounds["abdomen"] == (-160, 240)
