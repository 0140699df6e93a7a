"""Uptake figures against closed forms, brute force and plain numpy on real lesions; NEMA against its definition."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.special import erf

from medidiff.metrics.pet import (
    MTV_SHARE,
    PEAK_MM,
    background_variability,
    bias_percent,
    contrast_recovery,
    disc_mean,
    disc_weights,
    foci_above,
    lesion,
    matched_filter,
    sphere_kernel,
    udpet_mean,
    udpet_score,
)

SPACING = (2.0, 1.5, 1.2)
SHAPE = (31, 41, 51)
Z, Y, X = np.meshgrid(*[(np.arange(n) - n // 2) * d for n, d in zip(SHAPE, SPACING, strict=True)], indexing="ij")
R = np.sqrt(Z**2 + Y**2 + X**2)


def test_a_uniform_sphere() -> None:
    """SUV 5 in a ball of 15 mm radius: mean, max and peak are 5, MTV is its volume and TLG 5 times that."""
    ball = R <= 15
    found = lesion(np.where(ball, 5.0, 1.0), ball, SPACING)
    assert (found.mean, found.max) == (5, 5)
    assert found.peak == pytest.approx(5)
    assert found.mtv_ml == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.02)
    assert found.tlg == pytest.approx(5 * found.mtv_ml)


def test_the_peak_of_a_gaussian_blob_has_a_closed_form() -> None:
    """The mean of A exp(-r^2 / 2 s^2) in a ball, to the 1 % that voxels of 2 mm leave."""
    s, radius, amplitude = 6.0, PEAK_MM / 2, 8.0
    tail = s**2 * radius * np.exp(-(radius**2) / (2 * s**2))
    closed = 3 * amplitude / radius**3 * (s**3 * np.sqrt(np.pi / 2) * erf(radius / (s * np.sqrt(2))) - tail)
    found = lesion(amplitude * np.exp(-(R**2) / (2 * s**2)), R < 10, SPACING)
    assert found.peak == pytest.approx(closed, rel=0.01)
    assert found.max == amplitude


def test_mtv_of_a_gaussian_blob_is_the_ball_above_the_threshold() -> None:
    """exp(-r^2 / 2 s^2) falls to 41 % at r = s sqrt(2 ln(1 / 0.41))."""
    s = 6.0
    radius = s * np.sqrt(2 * np.log(1 / MTV_SHARE))
    found = lesion(np.exp(-(R**2) / (2 * s**2)), R < 14, SPACING)
    assert found.mtv_ml == pytest.approx(4 / 3 * np.pi * (radius / 10) ** 3, rel=0.03)


def test_the_sphere_is_placed_where_its_mean_is_greatest() -> None:
    """A lone hot voxel gives the maximum; a broad plateau beside it gives the peak, as brute force over voxels says."""
    volume = np.random.default_rng(0).gamma(4, 0.3, SHAPE)
    volume[15, 20, 10] = 30
    volume[12:19, 15:26, 28:40] += 6
    mask = (np.abs(Z) < 12) & (np.abs(Y) < 12) & (np.abs(X) < 22)
    fine = np.stack(np.meshgrid(*[np.linspace(-6, 6, 49)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fine = fine[(fine**2).sum(1) <= 36]
    best = 0.0
    for at in np.argwhere(mask)[::3]:  # a third of the places, the plateau's middle among them
        reached = np.rint(at + fine / SPACING).astype(int)
        best = max(best, volume[tuple(reached.T)].mean())
    found = lesion(volume, mask, SPACING)
    assert found.max == 30
    assert found.peak == pytest.approx(best, rel=0.02)


def test_the_kernel_is_the_sphere_by_volume() -> None:
    """Sum 1, symmetric, and the voxel in the middle of coarse PET weighs its volume over that of 12 mm spheres."""
    kernel = sphere_kernel((3.27, 3.9, 3.9))
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1, ::-1])
    middle = tuple(n // 2 for n in kernel.shape)
    assert kernel[middle] == pytest.approx(3.27 * 3.9 * 3.9 / (4 / 3 * np.pi * 6**3), rel=0.01)


def test_at_the_border_only_what_is_there_counts() -> None:
    """A uniform image has its own value as peak in the first slice and corner too."""
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = True
    assert lesion(np.full(SHAPE, 3.0), mask, SPACING).peak == pytest.approx(3)


def test_real_lesions_equal_plain_numpy(shared_data: Path) -> None:
    """SUVmean, SUVmax and TLG of drawn tumours are numpy's own on the masked voxels; the peak lies between."""
    folders = sorted((shared_data / "pet_lesions").glob("STS_*"))[:6]
    assert folders
    for folder in folders:
        image, mask = (nib.load(folder / f"PET_{name}.nii.gz") for name in ("image", "mask"))
        suv, inside = np.asarray(image.dataobj, np.float64).T, np.asarray(mask.dataobj).T > 0
        spacing = tuple(float(mm) for mm in image.header.get_zooms()[2::-1])
        found = lesion(suv, inside, spacing)
        values = suv[inside]
        assert found.mean == pytest.approx(values.mean(), rel=1e-12)
        assert found.max == values.max()
        high = values[values >= MTV_SHARE * values.max()]
        assert found.mtv_ml == pytest.approx(high.size * np.prod(spacing) / 1000)
        assert found.tlg == pytest.approx(high.sum() * np.prod(spacing) / 1000)
        assert found.mean < found.peak < found.max


def test_a_disc_has_its_area_and_place() -> None:
    """Partial pixels sum to the area, off the grid and over the edge; the centroid is the centre."""
    weights = disc_weights((64, 80), (2.0, 1.5), (7.3, -11.1), 22)
    assert weights.sum() * 3 == pytest.approx(np.pi * 11**2, rel=2e-3)
    y, x = (np.arange(64) - 31.5) * 2.0, (np.arange(80) - 39.5) * 1.5
    assert (weights * x).sum() / weights.sum() == pytest.approx(7.3, abs=0.02)
    assert (weights * y[:, None]).sum() / weights.sum() == pytest.approx(-11.1, abs=0.02)


@pytest.mark.parametrize("diameter", [37, 28, 22, 17, 13, 10])
def test_exact_contrast_recovers_fully(diameter: float) -> None:
    """Discs of 4 and of 0 times the background have a recovery of 100 %; half of the contrast has 50 %."""
    hot = disc_weights((128, 128), (2.0, 2.0), (20, 10), diameter + 6)  # the rim of a disc lies within the sphere
    background = np.full(12, 2.0)
    for ratio, share in ((4.0, 1.0), (0.0, 1.0), (4.0, 0.5)):
        image = 2.0 * (1 + share * (ratio - 1) * (hot == 1))
        mean = disc_mean(image, (2.0, 2.0), (20, 10), diameter)
        assert contrast_recovery(mean, background, ratio) == pytest.approx(100 * share)


def test_background_variability_is_the_sample_deviation() -> None:
    """K - 1 in the denominator, as NEMA NU 2 has it."""
    assert background_variability(np.array([9.0, 10, 11])) == pytest.approx(10)


def test_bias_in_per_cent() -> None:
    """24 % lost is -24; a reference of nothing has no bias."""
    assert bias_percent(7.6, 10) == pytest.approx(-24)
    assert np.isnan(bias_percent(1, 0))


def test_the_udpet_weights_are_a_mean() -> None:
    """Equal figures stay what they are; the hardest dose counts 35 %, SSIM 40 %."""
    assert udpet_mean(dict.fromkeys((4, 10, 20, 50, 100), 7.0)) == pytest.approx(7)
    assert udpet_mean({4: 0, 10: 0, 20: 0, 50: 0, 100: 1}) == pytest.approx(0.35)
    assert udpet_score({"NRMSE": 0, "PSNR": 0, "SSIM": 1}) == pytest.approx(0.4)


def test_the_matched_filter_answers_a_gaussian_blob_as_in_closed_form() -> None:
    """A Gaussian blob of deviation s is (s^2 / (s^2 + t^2))^(3/2) high after a Gaussian of deviation t; even uptake
    gives 0, wherever the image ends."""
    width, s = 10.0, 4.0
    t = width / np.sqrt(8 * np.log(2))
    step = np.full(3, 1.6)
    axes = [(np.arange(61) - 30) * mm for mm in step]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    blob = 3 + 2 * np.exp(-(z**2 + y**2 + x**2) / (2 * s**2))
    found = matched_filter(blob, (1.6, 1.6, 1.6), width)
    high = [(s**2 / (s**2 + u**2)) ** 1.5 for u in (t, 2 * t)]
    assert found.max() == pytest.approx(2 * (high[0] - high[1]), rel=1e-3)
    assert np.unravel_index(found.argmax(), found.shape) == (30, 30, 30)
    np.testing.assert_allclose(matched_filter(np.full((5, 9, 9), 3.0), (4, 4, 4)), 0, atol=1e-12)


def test_foci_are_counted_once_where_they_are_asked_for() -> None:
    """Two blobs of many voxels above the threshold are two foci; one outside of the region is none."""
    grid = np.indices((24, 40, 40))
    volume = sum(
        np.exp(-sum((g - c) ** 2 for g, c in zip(grid, at, strict=True)) / 8) for at in ((12, 10, 10), (12, 30, 28))
    )
    filtered = matched_filter(volume, (4, 4, 4))
    everywhere = np.ones(volume.shape, bool)
    assert foci_above(filtered, everywhere, 0.05) == 2
    assert foci_above(filtered, grid[1] < 20, 0.05) == 1
    assert foci_above(filtered, everywhere, 1.0) == 0


def test_noise_exceeds_a_threshold_as_often_as_the_normal_distribution_says() -> None:
    """Of 10^5 filtered voxels of white noise 0.135 % lie above three standard deviations; a focus is one of these,
    so there are fewer foci than voxels, but some."""
    noise = np.random.default_rng(0).normal(size=(40, 50, 50))
    filtered = matched_filter(noise, (4, 4, 4))
    above = filtered > 3 * filtered.std()
    assert above.mean() == pytest.approx(0.00135, rel=0.4)
    assert 0 < foci_above(filtered, np.ones(noise.shape, bool), 3 * float(filtered.std())) < above.sum()
