"""Image measures over volumes: how slices are pooled, what padding and regions do, and what a protocol changes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import UsageError
from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.image import MEASURES
from medidiff.evaluate.view import Context, View
from medidiff.metrics.image import PRESETS, psnr, rmse
from medidiff.metrics.ssim import ssim

GOLDEN = Path(__file__).parents[2] / "metrics" / "golden"
SCENE = np.random.default_rng(0).normal(40, 20, (3, 48, 44)).astype(np.float32)


def look(candidate, reference=SCENE, measured=None, **kwargs) -> list[View]:
    measured = np.ones(reference.shape, bool) if measured is None else measured
    slices = enumerate(zip(candidate.astype(np.float32), reference, measured, strict=True))
    return [View(index, c, r, m, **kwargs) for index, (c, r, m) in slices]


def figures(name: str, views: list[View], **context) -> dict[tuple[str, str], float]:
    """(preset, region) -> value."""
    values, curves = judge(views, [MEASURES[name](Context(**context))])
    assert not curves
    return {(value.preset, value.region): value.value for value in values}


def test_rmse_pools_voxels_and_indices_average_slices():
    """Errors of 1, 2 and 4 HU: RMSE sqrt(7), NRMSE that of 4095, PSNR the mean of three closed forms, bias 7 / 3."""
    offsets = np.array([1.0, 2, 4])
    views = look(SCENE + offsets[:, None, None])
    assert figures("rmse", views)["hu", "all"] == pytest.approx(math.sqrt(7), rel=1e-5)
    assert figures("nrmse", views)["hu", "all"] == pytest.approx(math.sqrt(7) / 4095, rel=1e-5)
    assert figures("psnr", views)["hu", "all"] == pytest.approx(np.mean(20 * np.log10(4095 / offsets)), rel=1e-6)
    assert figures("bias", views)["hu", "all"] == pytest.approx(7 / 3, rel=1e-5)
    similar = [ssim(view.candidate, view.reference, PRESETS["abdomen"]) for view in views]
    assert figures("ssim", views)["abdomen", "all"] == pytest.approx(np.mean(similar))


def test_every_row_says_its_unit():
    views = look(SCENE + 1)
    units = {value.metric: value.unit for name in MEASURES for value in _values(name, views)}
    assert units == {
        "RMSE": "HU", "NRMSE": "1", "PSNR": "dB", "SSIM": "1", "VIF": "1", "GMSD": "1", "HaarPSI": "1", "bias": "HU",
    }  # fmt: skip


def _values(name: str, views: list[View]):
    return judge(views, [MEASURES[name](Context())])[0]


def test_slices_that_are_too_small_leave_the_metric_out():
    """48 x 44 pixels: no MS-SSIM at all (it needs 176), but VIF (41)."""
    views = look(SCENE + 1)
    assert figures("ms-ssim", views) == {}
    assert ("hu", "all") in figures("vif", views)


def test_equal_volumes_have_infinite_psnr_and_it_is_said():
    assert figures("psnr", look(SCENE))["hu", "all"] == math.inf


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "ms-ssim"])
def test_padding_does_not_count(name):
    """Whatever the padding holds, every number is the same; a slice of padding alone is left out."""
    candidate = SCENE + np.random.default_rng(1).normal(0, 10, SCENE.shape)
    measured = np.ones(SCENE.shape, bool)
    measured[:, :, :5] = measured[2] = False
    wild = np.where(measured, candidate, 3000)
    found = figures(name, look(wild, measured=measured))
    assert found == figures(name, look(candidate, measured=measured))
    assert found["abdomen" if name != "bias" else "hu", "all"] == pytest.approx(
        figures(name, look(candidate[:2], SCENE[:2], measured[:2]))["abdomen" if name != "bias" else "hu", "all"]
    )


def test_regions_and_tissues_have_rows_of_their_own():
    """An error of 6 HU in one region only; soft tissue is what the truth says it is."""
    truth = np.full(SCENE.shape, -900, np.float32)
    truth[:, 24:] = 50
    region = np.zeros(truth.shape[1:], bool)
    region[30:40, 10:20] = True
    candidate = truth + 6 * region
    views = look(candidate, truth, truth=truth[0], regions={"lesion": region})
    soft = views[0].tissues["soft"].sum()
    bias, error = figures("bias", views), figures("rmse", views)
    assert [bias["hu", "lesion"], error["hu", "lesion"], error["abdomen", "lesion"]] == pytest.approx([6, 6, 6])
    assert bias["hu", "lung"] == error["hu", "lung"] == 0
    assert bias["hu", "soft"] == pytest.approx(6 * 100 / soft)
    assert error["hu", "soft"] == pytest.approx(6 * math.sqrt(100 / soft))
    assert ("hu", "bone") not in bias
    assert {region for _, region in figures("psnr", views)} == {"all"}


def test_ldct_benchmark_rows_follow_that_protocol():
    """RMSE is the mean over slices in [-1024, 1900] HU, padding counts, and there are no regions; numbers of theirs."""
    with np.load(GOLDEN / "pair.npz") as file:
        low, full = file["low"], file["full"]
    expected = json.loads((GOLDEN / "golden.json").read_text())["ldct-benchmark"]["abdomen"]
    candidate, reference = np.stack([low, full + 3000]), np.stack([full, full])
    measured = np.ones(reference.shape, bool)
    measured[:, :20] = False
    views, name = look(candidate, reference, measured), "ldct-benchmark-abdomen"
    second = rmse(full + 3000, full, PRESETS[name])
    assert figures("rmse", views, presets=(name,)) == {
        (name, "all"): pytest.approx((expected["RMSE"] + second) / 2, rel=1e-6)
    }
    assert second == pytest.approx(np.sqrt(np.mean((1900 - full.clip(-1024, 1900).astype(float)) ** 2)), rel=1e-6)
    found = figures("psnr", views, presets=(name,))[name, "all"]
    assert found == pytest.approx((expected["PSNR"] + psnr(full + 3000, full, PRESETS[name])) / 2, rel=1e-6)
    assert figures("ssim", views[:1], presets=(name,))[name, "all"] == pytest.approx(expected["SSIM"], rel=1e-6)
    assert figures("vif", views[:1], presets=(name,))[name, "all"] == pytest.approx(expected["VIF"], abs=5e-5)


def test_a_preset_of_another_unit_says_nothing():
    """In SUV only `suv` applies, nothing is a CT tissue, and the rows say SUV."""
    views = look(np.full((1, 20, 20), 5.0), np.full((1, 20, 20), 4.0, np.float32))
    context = {"unit": "SUV", "presets": ("hu", "abdomen", "suv")}
    assert figures("rmse", views, **context) == {("suv", "all"): pytest.approx(1)}
    assert figures("nrmse", views, **context) == {("suv", "all"): pytest.approx(1 / 20)}
    assert figures("bias", views, **context) == {("suv", "all"): 1.0}
    assert figures("psnr", views, **context) == {("suv", "all"): pytest.approx(20 * math.log10(20))}


def test_an_unknown_preset_is_named():
    with pytest.raises(UsageError, match=r"presets: brain, liver unknown; choose from hu, abdomen"):
        MEASURES["rmse"](Context(presets=("hu", "brain", "liver")))
