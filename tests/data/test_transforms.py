"""From a case to patches: one kernel for anatomy and noise, an exact level, and targets without noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_gradient_magnitude

from medidiff.data.dataset import phantom_cases
from medidiff.data.prepare import SHARPEST, Case
from medidiff.data.transforms import (
    EDGE_WEIGHT,
    MARGIN,
    Augmentation,
    NoiseEstimated,
    RandDosed,
    RandLesiond,
    RandPatchesd,
    RandSlabd,
    add_low_frequencies,
    apply_kernel,
    body_deviation,
    draw_kernel,
    edge_weight,
    enlarged,
    training_transforms,
)
from medidiff.noise.level import noise_estimate
from medidiff.physics.ct import Kernel, noise_image

SETTINGS = Augmentation(window=64, patch=32, patches=2)


def stack(seed: int = 0, shape: tuple[int, ...] = (3, 64, 64)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 20, shape).astype(np.float32)


def test_a_kernel_is_a_linear_filter_that_keeps_the_mean() -> None:
    """Linear, commuting with other kernels and with periodic shifts; frequency 0 passes with gain 1."""
    a, b = stack(0), stack(1)
    one, two = Kernel("hann", 0.8, 1.0), Kernel("cosine", 1.2, 2.0, 0.5)
    np.testing.assert_allclose(
        apply_kernel(2 * a - 3 * b, one), 2 * apply_kernel(a, one) - 3 * apply_kernel(b, one), atol=1e-3
    )
    np.testing.assert_allclose(
        apply_kernel(apply_kernel(a, one), two), apply_kernel(apply_kernel(a, two), one), atol=1e-4
    )
    np.testing.assert_allclose(apply_kernel(np.roll(a, 5, -1), one), np.roll(apply_kernel(a, one), 5, -1), atol=1e-4)
    np.testing.assert_allclose(apply_kernel(a + 100, one).mean((1, 2)), (a + 100).mean((1, 2)), atol=1e-3)


def test_low_frequencies_are_added_as_the_formula_says() -> None:
    """Power of noise with a ramp spectrum grows from ~f to ~f + corner; the mean stays."""
    size, corner = 256, 0.1
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    white = np.fft.rfft2(np.random.default_rng(0).normal(size=(size, size)))
    ramp = (np.fft.irfft2(white * np.sqrt(frequency)) + 5).astype(np.float32)
    more = np.abs(np.fft.rfft2(add_low_frequencies(ramp, corner))) ** 2
    before = np.abs(np.fft.rfft2(ramp)) ** 2
    for low, high in ((0.02, 0.05), (0.1, 0.15), (0.3, 0.4)):
        ring = (frequency > low) & (frequency < high)
        wanted = np.mean(frequency[ring] + corner) / np.mean(frequency[ring])
        assert more[ring].sum() / before[ring].sum() == pytest.approx(wanted, rel=0.05)
    assert more[0, 0] == pytest.approx(before[0, 0], rel=1e-4)


@pytest.mark.parametrize(("cutoff", "correlation"), [(0.5, 0.93), (0.8, 0.88)])
def test_filtering_sharp_noise_is_reconstructing_with_the_kernel(cutoff: float, correlation: float) -> None:
    """The physics oracle: noise of the sharpest kernel through a smooth one = noise reconstructed with the smooth one.

    Not exactly: a sharp image holds aliases (its kernel reaches 0.75 cycles a pixel) and interpolation error.
    """
    water = np.where(np.hypot(*(np.mgrid[:128, :128] - 63.5)) < 50, 0.0, -1000.0).astype(np.float32)
    inner = (slice(32, -32), slice(32, -32))

    def noise(kernel: Kernel) -> np.ndarray:
        generator = np.random.default_rng(0)
        return noise_image(water, 2.0, dose_fraction=0.25, i0=2e5, full_dose=True, kernel=kernel, generator=generator)

    kernel = Kernel("hann", cutoff)
    filtered, reconstructed = apply_kernel(noise(SHARPEST), kernel)[inner], noise(kernel)[inner]
    assert np.corrcoef(filtered.ravel(), reconstructed.ravel())[0, 1] > correlation
    assert filtered.std() == pytest.approx(reconstructed.std(), rel=0.12)


@pytest.mark.parametrize("seed", range(4))
def test_the_inserted_noise_has_the_drawn_level_and_the_target_none(seed: int) -> None:
    """slab - target is the filtered noise at a level within the range; the target is the filtered anatomy alone."""
    clean = np.full((3, 64, 64), 40.0, np.float32)
    clean[:, 20:40, 20:40] = 120
    noise = stack(seed)
    transform = RandDosed(SETTINGS).set_random_state(seed)
    item = transform({"clean": clean, "noise": noise})
    random = np.random.RandomState(seed)
    kernel = draw_kernel(random, SETTINGS)
    level = np.exp(random.uniform(*np.log(SETTINGS.noise_hu)))
    np.testing.assert_allclose(item["target"][0], apply_kernel(clean, kernel)[1], atol=1e-3)
    inserted = item["slab"] - apply_kernel(clean, kernel)
    assert inserted.std() == pytest.approx(level, rel=1e-3)
    correlation = np.corrcoef(inserted.ravel(), apply_kernel(noise, kernel).ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-4)


def test_drawn_levels_and_kernels_fill_their_ranges() -> None:
    """Log-uniform levels; cut-offs from very smooth to sharp; some kernels lift edges."""
    random = np.random.RandomState(0)
    kernels = [draw_kernel(random, SETTINGS) for _ in range(300)]
    cutoffs = [kernel.cutoff for kernel in kernels]
    assert min(cutoffs) < 0.5
    assert max(cutoffs) > 1.45
    assert 0.2 < np.mean([kernel.boost > 0 for kernel in kernels]) < 0.6
    assert {kernel.window for kernel in kernels} == {"hann", "cosine", "shepp-logan"}


def test_noise_in_air_does_not_set_the_level() -> None:
    """The level is measured inside the patient, anywhere only where there is no patient."""
    clean = np.full((64, 64), -1000.0, np.float32)
    noise = stack(0, (64, 64))
    assert body_deviation(noise, clean) == pytest.approx(noise.std(), rel=1e-4)
    clean[:32] = 0
    noise[32:] *= 100
    assert body_deviation(noise, clean) == pytest.approx(noise[:32].std(), rel=1e-4)


def test_measured_pairs_pass_through_untouched() -> None:
    """No noise is added: the slab is the low dose, the target the full dose, from the same window."""
    full, low = stack(0), stack(1)
    item = RandDosed(SETTINGS)({"clean": full, "low": low})
    np.testing.assert_array_equal(item["target"], full[1:2])
    np.testing.assert_array_equal(item["slab"], low)
    index = np.arange(5 * 64 * 64, dtype=np.float32).reshape(5, 64, 64)
    case = Case("pair", index, None, index)
    patches = training_transforms(3, SETTINGS).set_random_state(3)({"case": case})
    np.testing.assert_array_equal(patches["slab"][:, 1:2], patches["target"])


def test_a_slab_holds_neighbours_of_one_window() -> None:
    """Slices k - 1, k, k + 1 (ends repeated), or one slice alone; noise is drawn along."""
    index = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (4, 80, 80))
    case = Case("c", index, stack(0, (4, 80, 80)), None)
    transform = RandSlabd(3, SETTINGS).set_random_state(0)
    seen = {tuple(transform({"case": case})["clean"][:, 0, 0].astype(int)) for _ in range(200)}
    neighbours = {(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)}
    assert seen == neighbours | {(k, k, k) for k in range(4)}
    assert transform({"case": case})["clean"].shape == (3, 64, 64)


def test_the_level_is_what_inference_would_estimate() -> None:
    """Same estimator, on the middle slice."""
    slab = stack(0, (3, 128, 128))
    slab[0] *= 9
    item = NoiseEstimated()({"slab": slab})
    expected = noise_estimate(slab[1])
    assert item["level"] == np.float32(expected.level)
    assert tuple(item["colour"]) == pytest.approx(expected.colour, rel=1e-6)


def test_patches_stay_clear_of_the_periodic_border_and_together() -> None:
    """Target and slab are cut at one place, at least MARGIN pixels from the window's border."""
    place = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    item = RandPatchesd(SETTINGS).set_random_state(0)({"target": place, "slab": np.repeat(place, 3, 0)})
    assert item["target"].shape == (2, 1, 32, 32)
    np.testing.assert_array_equal(item["slab"][:, 2:], item["target"])
    rows, columns = np.divmod(item["target"], 64)
    for where in (rows, columns):
        assert where.min() >= MARGIN
        assert where.max() < 64 - MARGIN


def test_neighbouring_slices_may_share_noise_without_changing_its_level() -> None:
    """A share of common noise correlates a slab along z; the variance of each slice stays."""
    rng = np.random.default_rng(0)
    case = Case("c", np.zeros((8, 64, 64), np.float32), rng.normal(0, 10, (8, 64, 64)).astype(np.float32), None)
    transform = RandSlabd(3, SETTINGS.model_copy(update={"lone_share": 0.0})).set_random_state(1)
    slabs = [transform({"case": case})["noise"] for _ in range(40)]
    correlations = [np.corrcoef(slab[0].ravel(), slab[2].ravel())[0, 1] for slab in slabs]
    assert min(correlations) < 0.05
    assert max(correlations) > 0.3
    assert np.median([slab[1].std() for slab in slabs]) == pytest.approx(10, rel=0.05)


def test_a_window_too_small_for_its_patches_is_refused() -> None:
    """Both numbers are named."""
    with pytest.raises(ValueError, match=r"window 64 must be at least patch 96 \+ 16"):
        Augmentation(window=64, patch=96)


def test_the_whole_chain_on_a_phantom() -> None:
    """Targets are anatomy, slabs hold more noise, and the estimated level is near the error that was inserted."""
    case = phantom_cases(1, 96, 0)[0]
    item = training_transforms(3, Augmentation(window=96, patch=64, noise_hu=(40, 40))).set_random_state(2)(
        {"case": case}
    )
    error = (item["slab"][:, 1:2] - item["target"]).std()
    assert error == pytest.approx(40, rel=0.35)
    assert item["level"] == pytest.approx(40, rel=0.5)


def drawn(settings: Augmentation, clean: np.ndarray, seed: int, **parts: np.ndarray) -> np.ndarray:
    """What RandLesiond adds to `clean`."""
    transform = RandLesiond(settings)
    transform.set_random_state(seed=seed)
    return transform({"clean": clean, **parts})["clean"] - clean


def test_lesions_are_faint_lie_in_tissue_and_fade_into_the_neighbours() -> None:
    """One blob has the drawn contrast and size in its slice, no more in the next ones, and none in air or bone."""
    clean = np.full((3, 96, 96), 40, np.float32)
    clean[:, :, :20], clean[:, :, -20:] = -1000, 600
    settings = Augmentation(lesions=0.3, lesion_hu=(20, 20), lesion_radius=(6, 6))
    blobs = [blob for seed in range(60) if (blob := drawn(settings, clean, seed, noise=clean)).any()]
    assert len(blobs) > 10
    for blob in blobs:
        assert not blob[:, :, :20].any()
        assert not blob[:, :, -20:].any()
        assert np.abs(blob[0]).sum() <= np.abs(blob[1]).sum() + 1e-2
    peaks = [np.abs(blob[1]).max() for blob in blobs]
    assert np.median(peaks) == pytest.approx(20, rel=0.05)
    assert {np.sign(blob.sum()) for blob in blobs} == {-1.0, 1.0}


def test_lesions_are_left_out_of_measured_pairs_and_when_none_are_asked_for() -> None:
    """A measured pair shows what it shows; without lesions the chain, and its random numbers, are as before."""
    clean = np.full((3, 96, 96), 40, np.float32)
    assert not drawn(Augmentation(lesions=50.0), clean, 0, low=clean).any()
    assert len(training_transforms(3, SETTINGS).transforms) == 7
    assert len(training_transforms(3, Augmentation(lesions=2.0)).transforms) == 8


def test_strong_edges_of_cleaned_scans_count_less_and_phantoms_do_not() -> None:
    """Even tissue weighs 1, a step of bone the least, a step of 10 HU as good as 1; a phantom is exact everywhere."""
    step = np.where(np.arange(64) < 32, 0, 1).astype(np.float32) * np.ones((64, 1), np.float32)
    gradient = gaussian_gradient_magnitude(step, 1.0)
    strong, faint = edge_weight(1000 * gradient, 60, 5), edge_weight(10 * gradient, 60, 5)
    assert edge_weight(100 * gradient, 60, 100).min() > 0.99  # an edge that such noise hides
    assert strong[:, 31].max() == np.float32(EDGE_WEIGHT)
    assert strong[:, :20].min() == 1
    assert faint.min() > 0.99
    settings = Augmentation(window=64, patch=32, edge_hu=60, noise_hu=(5.0, 6.0))
    scan = Case("scan", 1000 * np.stack([step] * 3), stack(1), None)
    for case, least in ((scan, EDGE_WEIGHT), (replace(scan, is_exact=True), 1.0)):
        slab = RandSlabd(3, settings).set_random_state(seed=0)
        assert isinstance(slab, RandSlabd)
        dosed = RandDosed(settings).set_random_state(seed=0)
        assert isinstance(dosed, RandDosed)
        assert dosed(slab({"case": case}))["weight"].min() == np.float32(least)


def test_enlarging_keeps_size_middle_and_means() -> None:
    """A plane of slope s per pixel becomes one of s / zoom about the same centre."""
    plane = np.broadcast_to(np.arange(64, dtype=np.float32), (2, 64, 64)).copy()
    twice = enlarged(plane, 2.0)
    assert twice.shape == plane.shape
    np.testing.assert_allclose(np.diff(twice[0, 0, 8:-8:2]), 1.0, atol=1e-4)
    assert twice.mean() == pytest.approx(plane.mean(), abs=1e-3)
    np.testing.assert_allclose(enlarged(plane, 1.0), plane, atol=1e-4)
