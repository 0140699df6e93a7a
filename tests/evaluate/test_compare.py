"""Comparing volumes: known answers, padding, and refusals."""

import dataclasses
import math

import numpy as np
import pytest

from medidiff.errors import GeometryError, UnitError
from medidiff.evaluate import compare
from medidiff.volume import Geometry, Volume


def volume(array: np.ndarray, spacing: float = 0.8, **kwargs) -> Volume:
    affine = np.array([[0, 0, spacing, -20], [0, spacing, 0, -20], [3, 0, 0, 5], [0, 0, 0, 1.0]])
    return Volume(array.astype(np.float32), Geometry.from_affine(affine, array.shape), "HU", **kwargs)


def values(rows) -> dict[tuple[str, str], float]:
    return {(row.metric, row.preset): row.value for row in rows}


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).normal(40, 30, (3, 24, 20))


def test_rmse_pools_voxels_and_psnr_averages_slices(truth):
    """Errors of 1, 2 and 4 HU on three slices: RMSE sqrt(21 / 3) HU, PSNR the mean of three closed forms."""
    offsets = np.array([1.0, 2.0, 4.0])
    found = values(compare(volume(truth + offsets[:, None, None]), volume(truth), presets=("hu",)))
    assert found["RMSE", "hu"] == pytest.approx(math.sqrt(7), rel=1e-5)
    assert found["PSNR", "hu"] == pytest.approx(np.mean(20 * np.log10(4095 / offsets)), rel=1e-6)
    assert found["bias", "hu"] == pytest.approx(7 / 3, rel=1e-5)


def test_rows_say_what_was_measured(truth):
    """Every row names case, method, reference, region, range and unit."""
    rows = compare(volume(truth), volume(truth), case="A", method="m", presets=("lung",))
    assert {(r.case, r.method, r.region) for r in rows} == {("A", "m", "all")}
    assert [(r.metric, r.preset, r.unit) for r in rows] == [
        ("RMSE", "lung", "HU"), ("PSNR", "lung", "dB"), ("SSIM", "lung", "1"), ("bias", "hu", "HU"),
    ]  # fmt: skip
    assert values(rows)["SSIM", "lung"] == 1


def test_padding_does_not_count(truth):
    """Padding of either volume hides an error of any size; a slice of padding alone is left out."""
    mask = np.zeros(truth.shape, bool)
    mask[0, :, :5] = mask[2] = True
    wrong = truth + 2
    wrong[mask] = -2000
    for a, b in ((volume(wrong, mask=mask), volume(truth)), (volume(wrong), volume(truth, mask=mask))):
        found = values(compare(a, b, presets=("hu",)))
        assert found["RMSE", "hu"] == pytest.approx(2, rel=1e-5)
        assert found["PSNR", "hu"] == pytest.approx(20 * math.log10(4095 / 2), rel=1e-5)


def test_volumes_that_do_not_belong_together_are_refused(truth):
    """Another shape, spacing or unit, or nothing but padding, is one sentence with both values."""
    with pytest.raises(GeometryError, match=r"shape \(3, 24, 20\) against \(2, 24, 20\)"):
        compare(volume(truth), volume(truth[:2]))
    with pytest.raises(GeometryError, match=r"pixel spacing \(0.8, 0.8\) mm against \(0.7, 0.7\) mm"):
        compare(volume(truth), volume(truth, spacing=0.7))
    with pytest.raises(UnitError, match="HU with SUV"):
        compare(volume(truth), dataclasses.replace(volume(truth), unit="SUV"))
    with pytest.raises(GeometryError, match="without one voxel"):
        compare(volume(truth, mask=np.ones(truth.shape, bool)), volume(truth))
