"""Indices of structure against other people's programs, and laws that hold for all of them.

Golden numbers (ldct-benchmark 0.0.15, piq 0.8.0) come from golden/make.py.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from medidiff.metrics.gmsd import gmsd
from medidiff.metrics.haarpsi import haarpsi
from medidiff.metrics.image import psnr, rmse
from medidiff.metrics.moments import gaussian, moments
from medidiff.metrics.preset import PRESETS, find_presets
from medidiff.metrics.ssim import SCALE_WEIGHTS, ms_ssim, ssim
from medidiff.metrics.vif import vif

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torchmetrics imports is not ours to mend
    from torchmetrics.functional import image as oracle

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "golden.json").read_text())
ABDOMEN = PRESETS["abdomen"]
METRICS = {"ssim": ssim, "ms-ssim": ms_ssim, "vif": vif, "gmsd": gmsd, "haarpsi": haarpsi}
PERFECT = {"ssim": 1, "ms-ssim": 1, "vif": 1, "gmsd": 0, "haarpsi": 1}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Low and full dose, 97 x 110."""
    with np.load(GOLDEN / "pair.npz") as file:
        return file["low"], file["full"]


@pytest.fixture(scope="module")
def large(pair) -> Pair:
    """Large enough for five scales, and odd on one side."""
    low, full = (np.tile(image, (2, 2))[:193, :208] for image in pair)
    return low, full


def tensors(pair: Pair, preset=ABDOMEN) -> list[torch.Tensor]:
    return [torch.from_numpy(preset.map(image))[None, None] for image in pair]


@pytest.mark.parametrize("exam", EXPECTED["ldct-benchmark"])
def test_the_ldct_benchmark_presets_are_that_protocol_to_the_digit(pair, exam):
    """PSNR, SSIM and RMSE to 1e-6 of what their code says; VIF to 5e-5, as their single precision varies by machine.

    (Their VIF of a slice of 512 x 512 moves by 1.6e-5 when both images are mirrored.)
    """
    preset, expected = PRESETS[f"ldct-benchmark-{exam}"], EXPECTED["ldct-benchmark"][exam]
    found = {"PSNR": psnr(*pair, preset), "SSIM": ssim(*pair, preset), "RMSE": rmse(*pair, preset)}
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)
    assert vif(*pair, preset) == pytest.approx(expected["VIF"], abs=5e-5)


def test_gmsd_and_haarpsi_are_those_of_piq(pair):
    """A second implementation, in double precision, on 97 x 110 pixels: odd rows, even columns."""
    assert gmsd(*pair, ABDOMEN) == pytest.approx(EXPECTED["piq"]["gmsd"], rel=1e-10)
    assert haarpsi(*pair, ABDOMEN) == pytest.approx(EXPECTED["piq"]["haarpsi"], rel=1e-10)


@pytest.mark.parametrize("name", ["hu", "abdomen", "lung", "bone"])
def test_ssim_and_ms_ssim_are_those_of_torchmetrics(large, name):
    """Scale by scale, on 193 x 208 pixels; where torchmetrics goes on beyond the image, its border is cut off."""
    preset = PRESETS[name]
    pair, product = tensors(large, preset), 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        _, contrast = oracle.structural_similarity_index_measure(
            *pair, data_range=1.0, return_contrast_sensitivity=True
        )
        _, similarity = oracle.structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
        inner = similarity[..., 5:-5, 5:-5].mean()
        if scale == 0:
            assert ssim(*large, preset) == pytest.approx(float(inner), abs=1e-9)
        product *= float(inner if scale == len(SCALE_WEIGHTS) - 1 else contrast) ** weight
        pair = [torch.nn.functional.avg_pool2d(image, 2) for image in pair]
    assert ms_ssim(*large, preset) == pytest.approx(product, abs=1e-9)


def test_ms_ssim_is_that_of_piq(large):
    """192 x 208 pixels, so that every scale is even."""
    even = [image[:192] for image in large]
    assert ms_ssim(*even, ABDOMEN) == pytest.approx(EXPECTED["piq"]["multi_scale_ssim"], abs=1e-7)


def test_the_flat_window_is_the_default_of_scikit_image(pair):
    """7 x 7 pixels and sample covariance, which `ldct-benchmark` uses."""
    preset = PRESETS["ldct-benchmark-abdomen"]
    expected = structural_similarity(*map(preset.map, pair), data_range=1.0)
    assert ssim(*pair, preset) == pytest.approx(expected, abs=1e-12)


def test_vif_is_that_of_torchmetrics(pair):
    """0 to 255 over the preset's range, eye noise of variance 2, in double precision."""
    low, full = (255 * image for image in tensors(pair))
    expected = oracle.visual_information_fidelity(low, full, sigma_n_sq=2.0)
    assert vif(*pair, ABDOMEN) == pytest.approx(float(expected), rel=1e-9)


def test_local_moments_are_sums_written_out(pair):
    """Weighted mean, variance and covariance of one window, one pixel after the other."""
    x, y = (image[:20, :24].astype(float) for image in pair)
    window = gaussian(5, 1.2)
    weights, (i, j) = np.outer(window, window), (7, 11)
    a, b = x[i : i + 5, j : j + 5], y[i : i + 5, j : j + 5]
    m_a, m_b = (weights * a).sum(), (weights * b).sum()
    products = [(a - m_a) ** 2, (b - m_b) ** 2, (a - m_a) * (b - m_b)]
    expected = [m_a, m_b, *(1.5 * (weights * product).sum() for product in products)]
    found = moments(x, y, window, 1.5)
    assert found.shape == (5, 16, 20)
    assert found[:, i, j] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_equal_images_are_perfect(large, name):
    assert METRICS[name](large[1], large[1], ABDOMEN) == pytest.approx(PERFECT[name], abs=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_more_noise_is_worse(large, name):
    """Every index leaves its perfect value further behind when the difference is doubled."""
    low, full = large
    losses = [abs(PERFECT[name] - METRICS[name](full + k * (low - full), full, ABDOMEN)) for k in (0.5, 1, 2)]
    assert losses == sorted(losses)
    assert losses[0] > 0.001


def test_vif_rewards_contrast_and_punishes_its_loss(pair):
    """Twice the contrast carries more information than the reference has, half of it less (within one window)."""
    soft = np.clip(pair[1], 0, 80)
    more, less = (40 + k * (soft - 40) for k in (2, 0.5))
    assert vif(less, soft, ABDOMEN) < 0.9 < 1.1 < vif(more, soft, ABDOMEN)


@every_metric
def test_padding_has_no_influence(large, metric):
    """Whatever lies outside the mask, in either image, the index is the same."""
    low, full = large
    mask = np.hypot(*(np.indices(full.shape) - 97)) < 90
    other_low, other_full = low.copy(), full.copy()
    other_low[~mask], other_full[~mask] = -3024, 500
    assert metric(other_low, other_full, ABDOMEN, mask) == metric(low, full, ABDOMEN, mask)


@every_metric
def test_a_mask_of_all_pixels_is_no_mask(large, metric):
    everything = np.ones(large[0].shape, bool)
    assert metric(*large, ABDOMEN, everything) == metric(*large, ABDOMEN)


@pytest.mark.parametrize(("metric", "smallest"), [(ssim, 11), (ms_ssim, 176), (vif, 41), (haarpsi, 16)])
def test_a_slice_too_small_has_no_value(large, metric, smallest):
    """One pixel less than the largest window needs is nan, not an error."""
    fits, short = ([image[:smallest, :190] for image in large], [image[: smallest - 1, :190] for image in large])
    assert np.isfinite(metric(*fits, ABDOMEN))
    assert np.isnan(metric(*short, ABDOMEN))


def test_presets_are_found_by_name_and_unit():
    assert list(find_presets(["hu", "suv", "lung"], "HU")) == ["hu", "lung"]
    assert find_presets(["suv"], "SUV")["suv"].range == 20
