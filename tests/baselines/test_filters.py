"""Laws of every classical denoiser, and second implementations of those that are ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from medidiff.baselines import BASELINES, filled, filters
from medidiff.baselines.bilateral import RADIUS_PX, SPATIAL_SIGMA_PX
from medidiff.errors import UsageError

FILTERS = [name for name in BASELINES if name != "identity"]
NOISE = 20.0
Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def disc() -> Image:
    """A disc of water with an insert in air, 66 x 60, and white noise."""
    y, x = np.mgrid[:66, :60] - 32.0
    clean = np.where(x**2 + y**2 < 26**2, 40.0, -1000.0) + np.where(x**2 + y**2 < 6**2, 60.0, 0.0)
    return (clean + np.random.default_rng(0).normal(0, NOISE, clean.shape)).astype(np.float32)


def apply(name: str, image: Image, noise: float = NOISE, smoothing: float | None = None) -> Image:
    if name == "bm3d":
        pytest.importorskip("bm3d", reason="BM3D IS NOT INSTALLED: pip install 'medidiff[bm3d]'")
    baseline = BASELINES[name]
    return baseline.function(image, noise, baseline.smoothing if smoothing is None else smoothing)


@pytest.mark.parametrize("name", FILTERS)
def test_adding_a_constant_adds_it(name: str, disc: Image) -> None:
    """No method has an opinion on where 0 HU lies (rounding may move a block of BM3D over its threshold)."""
    off = apply(name, disc + np.float32(512)) - 512 - apply(name, disc)
    assert np.sqrt(np.mean(off**2)) < (0.05 if name == "bm3d" else 1e-3)


@pytest.mark.parametrize("name", FILTERS)
def test_scaling_image_and_noise_scales_the_answer(name: str, disc: Image) -> None:
    """Strengths are in units of the noise: the unit of the image does not matter (a power of two is exact)."""
    np.testing.assert_allclose(apply(name, 4 * disc, 4 * NOISE), 4 * apply(name, disc), atol=0.02)


@pytest.mark.parametrize("name", FILTERS)
def test_a_constant_image_stays(name: str) -> None:
    flat = np.full((40, 36), -37.0, np.float32)
    np.testing.assert_allclose(apply(name, flat), flat, atol=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_no_smoothing_changes_nothing(name: str, disc: Image) -> None:
    """Strength 0 is the scan to the last bit, in an array of its own."""
    answer = apply(name, disc, smoothing=0.0)
    np.testing.assert_array_equal(answer, disc)
    assert not np.shares_memory(answer, disc)


@pytest.mark.parametrize("name", FILTERS)
def test_noise_goes_and_the_input_stays(name: str, disc: Image) -> None:
    """At three times its default each at least halves the noise of a flat region; mean and input are kept."""
    before, flat = disc.copy(), (slice(42, 52), slice(24, 42))
    answer = apply(name, disc, smoothing=min(3 * (BASELINES[name].smoothing or 0), BASELINES[name].high))
    np.testing.assert_array_equal(disc, before)
    assert answer.dtype == np.float32
    assert answer[flat].std() < 0.5 * disc[flat].std()
    assert abs(answer[flat].mean() - disc[flat].mean()) < 0.25 * NOISE


@pytest.mark.parametrize("name", FILTERS)
def test_a_greater_strength_changes_more(name: str, disc: Image) -> None:
    """What the search relies on: within its range the change grows with the strength."""
    baseline = BASELINES[name]
    strengths = np.geomspace(baseline.low, baseline.high, 4)
    changes = [float(np.sqrt(np.mean((apply(name, disc, smoothing=float(s)) - disc) ** 2))) for s in strengths]
    assert changes == sorted(changes)
    assert changes[0] < 0.8 * changes[-1]


def test_the_gaussian_is_a_convolution_with_a_gaussian(disc: Image) -> None:
    """Against a direct sum in torch, away from the edge."""
    radius, sigma = 8, 1.3
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    direct = torch.nn.functional.conv2d(torch.from_numpy(disc).double()[None, None], kernel[None, None])[0, 0].numpy()
    inner = (slice(radius, -radius), slice(radius, -radius))
    np.testing.assert_allclose(apply("gaussian", disc, smoothing=sigma)[inner], direct, atol=0.2)  # cut at 4 sigma


def test_the_bilateral_filter_is_its_definition(disc: Image) -> None:
    """Pixel by pixel from Tomasi and Manduchi's two weights (scikit-image's table of distances is not centred)."""
    reach = np.arange(-RADIUS_PX, RADIUS_PX + 1)
    near = np.exp(-0.5 * (reach[:, None] ** 2 + reach**2) / SPATIAL_SIGMA_PX**2)
    answer = apply("bilateral", disc, smoothing=3.0)
    for r, c in ((8, 30), (20, 30), (32, 26), (32, 9), (50, 40)):
        around = disc[r - RADIUS_PX : r + RADIUS_PX + 1, c - RADIUS_PX : c + RADIUS_PX + 1].astype(np.float64)
        weights = near * np.exp(-0.5 * ((around - disc[r, c]) / (3 * NOISE)) ** 2)
        assert answer[r, c] == pytest.approx(np.sum(weights * around) / weights.sum(), abs=1e-3)


def test_a_bilateral_filter_that_finds_all_alike_is_a_gaussian(disc: Image) -> None:
    """Its limit at a great range sigma, up to the edge."""
    gaussian = gaussian_filter(disc, SPATIAL_SIGMA_PX, radius=RADIUS_PX, mode="reflect")
    np.testing.assert_allclose(apply("bilateral", disc, smoothing=1e5), gaussian, atol=0.01)


def rof(u: Image, y: Image, weight: float) -> float:
    """The objective of Rudin, Osher and Fatemi."""
    down = np.diff(u.astype(np.float64), axis=0, append=u[-1:])
    right = np.diff(u.astype(np.float64), axis=1, append=u[:, -1:])
    return float(0.5 * np.sum((u - y) ** 2, dtype=np.float64) + weight * np.sum(np.sqrt(down**2 + right**2)))


@pytest.mark.parametrize("smoothing", [0.3, 1.0, 4.0])
def test_total_variation_reaches_the_minimum(smoothing: float, disc: Image) -> None:
    """As low an objective as 3000 steps of Chambolle's iteration in scikit-image find, to 2 in 1000."""
    weight = smoothing * NOISE
    ours = apply("tv", disc, smoothing=smoothing)
    theirs = denoise_tv_chambolle(disc.astype(np.float64), weight=weight, eps=0, max_num_iter=3000)
    assert rof(ours, disc, weight) < 1.002 * rof(theirs, disc, weight) < rof(disc, disc, weight)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.05 * NOISE


def test_bm3d_says_its_licence_where_it_is_absent(disc: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"bm3d is not installed.*non-commercial use only.*medidiff\[bm3d\]"):
        BASELINES["bm3d"].require()


def test_pixels_without_a_measurement_take_the_nearest_value() -> None:
    image = np.array([[1, 2, -2000, -2000], [3, 4, 5, -2000]], np.float32)
    np.testing.assert_array_equal(filled(image, image == -2000), [[1, 2, 2, 5], [3, 4, 5, 5]])
    np.testing.assert_array_equal(filled(image, np.ones_like(image, dtype=bool)), image)
