"""The ruler of benchmarks/pet_bars.py: regions, figures, strengths and verdicts are what they say."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.physics.pet_phantoms import Pasted, geometry, torso
from medidiff.volume import Volume

SHAPE, SPACING = (24, 40, 40), (4.0, 4.0, 4.0)
CENTRES, HOT = ((12, 12, 12), (12, 27, 26)), (8.0, 5.0)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benchmarks."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def ball(centre: tuple[int, ...], radius: float) -> np.ndarray:
    return sum((g - c) ** 2 for g, c in zip(np.indices(SHAPE), centre, strict=True)) <= radius**2


@pytest.fixture
def trial(bars: Any) -> Any:
    """A cylinder of SUV 1 along z with two hot balls, noise in the full scan and more in the low one."""
    trials = bars("petbars.trials")
    rng = np.random.default_rng(0)
    inside = np.broadcast_to(np.hypot(*(np.indices(SHAPE[1:]) - 19.5)) < 17, SHAPE)
    ideal = np.where(inside, 1.0, 0.0)
    labels = np.zeros(SHAPE, np.uint8)
    for number, (centre, suv) in enumerate(zip(CENTRES, HOT, strict=True), start=1):
        labels[ball(centre, 2.6)] = number
        ideal[labels == number] = suv
    full, low = (np.float32(ideal * (1 + sd * rng.normal(size=SHAPE))) for sd in (0.05, 0.2))
    targets = (trials.Target(1, "sphere 20 mm", 20.0), trials.Target(2, "sphere 10 mm", 10.0))
    suv = Volume(ideal.astype(np.float32), geometry(SHAPE, SPACING), "SUV")
    even = inside & (labels == 0)
    case = trials.Case("key", "torso", suv, suv.with_array(np.zeros(SHAPE, np.float32)), labels, targets, even)
    return trials.Trial(case, 20.0, low, full, ideal.astype(np.float32))


def test_a_scaled_full_scan_is_biased_by_its_factor(bars: Any, trial: Any) -> None:
    """1.1 times the full scan: every uptake and the activity are 10 % high; NRMSE is that of the definition."""
    row = bars("petbars.judge").judge(np.float32(1.1) * trial.full, trial)
    for lesion in row["lesions"].values():
        assert [lesion[key] for key in ("mean", "max", "peak")] == pytest.approx([10, 10, 10], abs=1e-3)
    assert (row["total"], row["body"]) == pytest.approx((10, 10), abs=1e-3)
    inside = trial.full[trial.body].astype(np.float64)
    error = 0.1 * np.sqrt(np.mean(inside**2)) / np.percentile(inside, 99.9)
    assert row["nrmse"] == pytest.approx(error, rel=1e-4)
    assert row["psnr"] == pytest.approx(-20 * np.log10(error), abs=1e-3)


def test_the_noise_free_image_has_the_full_scans_noise_as_its_error(bars: Any, trial: Any) -> None:
    """Against itself the noise-free image is without bias; its uptake differs from the full scan's by chance only."""
    row = bars("petbars.judge").judge(trial.ideal, trial)
    assert row["psnr_ideal"] == float("inf")
    for lesion in row["lesions"].values():
        assert lesion["ideal"] == 0
        assert abs(lesion["mean"]) < 3
    assert row["cov"] == 0


def test_foci_are_counted_in_the_full_scans_own_units(bars: Any, trial: Any) -> None:
    """In a cylinder without lesions: three times the full scan's noise has more foci, none at all has none."""
    judge, trials = bars("petbars.judge"), bars("petbars.trials")
    flat = np.where(trial.ideal > 0, 1, 0).astype(np.float32)
    noise = trial.full - trial.ideal
    noise[trial.case.labels > 0] = 0
    inner = trials.eroded(flat > 0, SPACING, trials.RIM_MM)
    case = replace(trial.case, kind="uniform", targets=(), even=inner)
    even = replace(trial, case=case, full=flat + noise, ideal=flat)
    counts = [judge.foci(image, even) for image in (flat, even.full, flat + 3 * noise)]
    assert counts[0] == {"3": 0, "5": 0}
    assert counts[1]["3"] < counts[2]["3"]
    assert counts[1]["5"] == 0 < counts[2]["5"]


def test_foci_of_a_scan_are_small_hot_and_whole(bars: Any) -> None:
    """Two small hot balls are found, the hotter first, as regions at 41 % of their smoothed maximum; a large organ and
    what reaches the first slice are left out."""
    trials = bars("petbars.trials")
    image = np.full(SHAPE, 0.5, np.float32)
    for centre, radius, suv in (
        (CENTRES[0], 2.6, 12),
        (CENTRES[1], 2.6, 9),
        ((12, 30, 8), 7, 20),
        ((0, 8, 30), 2.6, 30),
    ):
        image[ball(centre, radius)] = suv
    labels, targets = trials.foci(image, SPACING)
    assert [target.number for target in targets] == [1, 2]
    for number, centre in enumerate(CENTRES, start=1):
        np.testing.assert_allclose(np.argwhere(labels == number).mean(0), centre, atol=0.3)
        assert 0.5 < (labels == number).sum() / ball(centre, 2.6).sum() < 2


def test_every_cut_lesion_is_used_and_no_torso_goes_without(bars: Any) -> None:
    """Six lesions in four torsos and two in four; one torso holds no more than two."""
    shares = bars("petbars.trials").shares
    assert shares([1, 2, 3, 4, 5, 6], 4) == [[1, 5], [2, 6], [3], [4]]
    assert shares([1, 2], 4) == [[1], [2], [1], [2]]
    assert shares([1, 2, 3], 1) == [[1, 2]]
    assert shares([], 2) == [[], []]


def test_spheres_lie_in_the_part_and_are_hotter_than_what_lies_around(bars: Any) -> None:
    """All diameters are there, whole, at least 3 times their surroundings or the least uptake; nothing is in the
    bladder or the renal pelvis. A lesion cut from a scan is beside them."""
    trials = bars("petbars.trials")
    rng = np.random.default_rng(1)
    trunk = trials.part(torso(rng), 0.0, 160.0)
    cut = Pasted.cut("cut", np.full((8, 8, 8), 5, np.float32), np.ones((8, 8, 8), bool), SPACING)
    before = trials.with_pasted(trunk, [cut], rng)
    phantom = trials.with_spheres(before, rng)
    spheres = phantom.lesions[1:]
    assert tuple(2 * sphere.axes[0] for sphere in spheres) == trials.SPHERES_MM
    for sphere in spheres:
        around = trials.uptake(trunk, sphere.centre)
        assert abs(sphere.centre[2]) + sphere.axes[2] <= 80
        assert around <= trials.HOTTEST
        assert 3 <= sphere.suv / max(around, trials.LEAST_AROUND) <= 8
    diameters = [trials.target(k, lesion).diameter_mm for k, lesion in enumerate(phantom.lesions, start=1)]
    assert diameters[1:] == pytest.approx(trials.SPHERES_MM)
    assert diameters[0] == pytest.approx(10 * (6 * 3.2**3 / np.pi) ** (1 / 3))


def test_a_climb_ends_at_the_least_value(bars: Any) -> None:
    """A parabola of the logarithm is solved exactly, from either side; one that always falls is told apart."""
    climb = bars("petbars.tuned").climb
    for start in (0.4, 9.0):
        value, least, at_end = climb(lambda s: 2 + np.log(s / 3) ** 2, start, 1.5)
        assert value == pytest.approx(3)
        assert 2 <= least < 2.05
        assert not at_end
    assert climb(lambda s: 1 / s, 1.0, 2.0)[2]


def test_strengths_come_back_from_their_file_and_others_stay(bars: Any, tmp_path: Path) -> None:
    """A search of one method keeps what the file knows of another; what lacks is named."""
    tuned = bars("petbars.tuned")
    strength = tuned.Strength(value=0.13, filter_mm=5.0, nrmse=0.02, nrmse_input=0.06)
    first = tuned.TunedPet(torsos=4, slices=16, methods={"map_rdp": {20.0: strength}})
    second = tuned.TunedPet(torsos=4, slices=16, methods={"gaussian": {4.0: strength, 20.0: strength}})
    tuned.save_tuned(tmp_path / "tuned.yaml", second.added_to(first))
    read = tuned.load_tuned(tmp_path / "tuned.yaml")
    assert read.methods["map_rdp"][20.0] == strength
    assert tuned.absent(read, ["gaussian", "map_rdp", "nlm"], [4.0, 20.0]) == ["map_rdp", "nlm"]
    assert tuned.absent(None, ["nlm"], [4.0]) == ["nlm"]


def test_the_bar_of_psnr_is_against_the_best_classical_method(bars: Any) -> None:
    """2.5 dB above the better of two filters is met; the lesions then have to be no worse than that filter's."""
    pet_bars = bars("pet_bars")

    def row(psnr: float, bias: float) -> dict[str, Any]:
        lesion = {"diameter_mm": 20.0, "pasted": False, "mean": bias}
        return {"psnr": psnr, "total": 0.5, "lesions": {"1": lesion}}

    rows = {"gaussian": row(30, -30), "nlm": row(31, -4), "model": row(33.5, -4.5), pet_bars.IDEAL: row(36, 0)}
    scores = pet_bars.Scores({("torso", 20.0, name): [one] for name, one in rows.items()})
    report = bars("bars.report").Report()
    pet_bars._psnr_bar(scores, "torso", 20.0, "model", ["gaussian", "nlm"], report)
    pet_bars._lesion_bars(scores, "torso", 20.0, "model", report)
    assert [bar["met"] for bar in report.bars] == [True, False, True]
    assert report.bars[0]["value"] == 2.5
    assert "5.00" in report.bars[0]["at"]


def test_a_ball_of_a_false_ct_takes_up_nothing_and_keeps_off_lesions(bars: Any, trial: Any) -> None:
    """The altered CT differs from the true one exactly in the balls, which lie in the body and away from lesions."""
    false = bars("petbars.invented")
    ct, balls = false.with_balls(trial)
    changed = ct.array != trial.case.ct.array
    np.testing.assert_array_equal(changed, balls)
    assert balls.sum() >= 4 / 3 * np.pi * 2**3
    assert not np.any(balls & (trial.case.labels > 0))
    assert trial.body[balls].mean() > 0.99
