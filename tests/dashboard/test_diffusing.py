"""What the diffusion page computes: the same as `medidiff reconstruct`, laws of the noise, and work in threads."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy.special import ndtr

from dashboard import diffusing
from dashboard.diffusing import Abilities, Lesion, Walk, Window, embedded_for, spread_of
from dashboard.filmstrip import Panel, Region, movie, png, sheet, short
from dashboard.library import Image, Library
from dashboard.work import KEPT, Task, Work
from medidiff import DISCLAIMER
from medidiff.diffusion.schedule import case_seed
from medidiff.diffusion.story import WAYS
from medidiff.errors import InputError, UsageError
from medidiff.figures import Placement
from medidiff.inference.methods import load_method
from medidiff.inference.restore import restore
from medidiff.io.nifti import write_nifti
from medidiff.progress import Progress
from medidiff.volume import Geometry, Volume

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data_samples"
ABDOMEN, SUV = Window(-160, 240), Window(0, 7, "SUV")
SQUARE = Placement((1.0, 1.0), ("R", "L"))
WAIT = 120


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Two small CT files on one grid, one with twice the noise of the other."""
    folder = tmp_path_factory.mktemp("ct")
    generator = np.random.default_rng(0)
    truth = np.full((5, 96, 80), -1000.0)
    truth[:, 8:88, 6:74] = 40
    truth[:, 40:56, 30:50] = 90
    for name, noise in (("low", 30.0), ("full", 15.0)):
        array = (truth + generator.normal(0, noise, truth.shape)).astype(np.float32)
        geometry = Geometry.from_affine(np.diag([3.0, 0.8, 0.8, 1.0]), array.shape)
        write_nifti(folder / name / f"{name}.nii", Volume(array, geometry, "HU"))
    return {image.place.parent.name: image for image in listed(folder).images.values()}


def listed(folder: Path) -> Library:
    library = Library([folder])
    library.add(folder)
    return library


def of_medidiff(image: Image, index: int, walk: Walk) -> NDArray[np.float32]:
    """The slice as `medidiff reconstruct --mode sample` makes it."""
    method = load_method(walk.options, unit=image.unit)
    restorer = method.for_case(diffusing.identity(image))
    with ThreadPoolExecutor(1) as files:
        (found,) = restore(restorer, image.open(), [index], files, {})
    return found.image


def of_page(image: Image, index: int, walk: Walk) -> NDArray[np.float32]:
    """The same by the steps that the page shows."""
    with torch.inference_mode():
        of = diffusing.given(image, index)
        *_, last = diffusing.steps(of, walk, case_seed(diffusing.identity(image), walk.seed), lambda: None)
        return diffusing.result(of, of.image(last.x), walk.strength)


# ------------------------------------------------------------------------------------------------------------- reverse


@pytest.mark.parametrize(
    "walk",
    [
        Walk(),
        Walk("ddim", 3, seed=5, strength=40.0),
        Walk("ddpm", 3, seed=1),
        Walk("heun", 2),
        Walk("plms", 3),
        Walk("euler_a", 1, cfg_scale=2.0),
    ],
    ids=lambda walk: walk.sampler,
)
def test_the_result_is_that_of_medidiffs_sample_mode(ct: dict[str, Image], walk: Walk) -> None:
    """At the ends of the stack and inside of it, where the slab differs."""
    for index in (0, 2):
        np.testing.assert_allclose(of_page(ct["low"], index, walk), of_medidiff(ct["low"], index, walk), atol=0.02)


@pytest.mark.parametrize(("place", "window", "steps"), [("ct/low_dose", ABDOMEN, 2), ("pet/low_count", SUV, 1)])
def test_it_is_so_on_whole_scans_and_in_the_pictures(place: str, window: Window, steps: int) -> None:
    """DICOM of both modalities, of PET by a block; a grey level is 1.6 HU or 0.03 SUV."""
    (image,) = listed(SAMPLES / place).images.values()
    index, walk = image.slices - 2, Walk(steps=steps, seed=3, strength=80.0)
    expected = of_medidiff(image, index, walk)
    np.testing.assert_allclose(of_page(image, index, walk), expected, atol=0.02 if image.unit == "HU" else 1e-4)
    made = diffusing.reverse(image, index, walk, window)
    shown = made.stages[-1].estimate.astype(int) - window.grey(expected)
    assert np.abs(shown).max() <= 1


def test_the_steps_are_as_many_as_were_asked_for_and_fall_to_nothing(ct: dict[str, Image]) -> None:
    """One stage a step and the end; evaluations are counted as they are made, and end as they were announced."""
    for walk in (Walk(), Walk("heun", 3), Walk("ddim", 4, ladder="aggressive", cfg_scale=2.0), Walk(steps=1)):
        told: list[tuple[int, int]] = []
        made = diffusing.reverse(ct["low"], 2, walk, ABDOMEN, tell=lambda *now: told.append(now))  # noqa: B023
        assert len(made.stages) == walk.steps + 1
        levels = [stage.sigma for stage in made.stages]
        np.testing.assert_allclose(levels[:-1], walk.levels, rtol=1e-4)
        assert levels == sorted(levels, reverse=True)
        assert levels[-1] == 0
        assert told == [(k, walk.evaluations) for k in range(walk.evaluations)]
        assert made.stages[-1].evaluations == walk.evaluations


def test_the_state_begins_as_noisy_as_its_level_says_and_strength_0_is_the_scan(ct: dict[str, Image]) -> None:
    """The spread of state less mean in an even region; `level` is the noise of 30 HU that was put in."""
    wide = Window(-255, 255)  # 2 HU a grey level
    made = diffusing.reverse(ct["low"], 2, Walk(strength=0.0), wide)
    even = np.s_[12:36, 10:70]
    change = (made.stages[0].state[even].astype(float) - made.mean[even]) * 2
    assert made.level == pytest.approx(30, rel=0.15)
    assert change.std() == pytest.approx(1.5 * made.level, rel=0.06)
    np.testing.assert_array_equal(made.stages[-1].estimate, made.scan)


def test_scores_are_those_of_the_metrics(ct: dict[str, Image]) -> None:
    """Of the scan against another scan: RMSE over all values, known from the noise of 30 and 15 HU."""
    made = diffusing.reverse(ct["low"], 2, Walk(steps=1), ABDOMEN, ct["full"])
    assert set(made.scores) == {"scan", "mean", "sample", "result"}
    assert made.scores["scan"].rmse == pytest.approx(np.hypot(30, 15), rel=0.03)
    assert made.scores["mean"].rmse < made.scores["scan"].rmse
    assert made.scores["mean"].ssim > made.scores["scan"].ssim
    own = diffusing.reverse(ct["low"], 2, Walk(steps=1), ABDOMEN, ct["low"]).scores["scan"]
    assert (own.rmse, own.ssim) == (0, pytest.approx(1))


def test_what_models_can_do_is_on_their_cards() -> None:
    ct, pet = (Abilities.of(embedded_for(unit)) for unit in ("HU", "SUV"))
    assert (ct.can_sample, pet.can_sample) == (True, True)
    assert (ct.guided, pet.guided) == (True, False)  # the one for PET never had its condition taken away
    for able in (ct, pet):
        assert able.trained == pytest.approx((np.exp(-1 - 1.96 * 1.1), np.exp(-1 + 1.96 * 1.1)))
        assert able.mean == 0.9


def test_options_that_medidiff_refuses_are_refused() -> None:
    with pytest.raises(UsageError, match="steps"):
        _ = Walk(steps=0).options
    with pytest.raises(UsageError, match="sampler"):
        _ = Walk("no such").options


# ------------------------------------------------------------------------------------------------------------ compared


def test_a_comparison_varies_one_choice_a_row(ct: dict[str, Image]) -> None:
    """Each cell is the result of its own walk; what several rows share is drawn once, and the cost is told before."""
    base, names = Walk(steps=2, seed=4), ("steps", "strength", "seed")
    told: list[tuple[int, int]] = []
    made = diffusing.compared(ct["low"], 2, base, names, ABDOMEN, ct["full"], lambda *now: told.append(now))
    assert list(made.rows) == list(names)
    assert [cell.label for cell in made.rows["steps"]] == ["1 step", "2 steps", "4 steps", "8 steps"]
    assert [cell.evaluations for cell in made.rows["steps"]] == [2, 3, 5, 9]
    assert len(told) == diffusing.cost(base, names) == 1 + (1 + 2 + 4 + 8) + 3 * 2
    for name in names:
        for cell, walk in zip(made.rows[name], diffusing.varied(base, name).values(), strict=True):
            expected = ABDOMEN.grey(of_page(ct["low"], 2, walk)).astype(int)
            assert np.abs(cell.grey - expected).max() <= 1
            assert cell.scores is not None
    assert [cell.label for cell in made.first] == ["scan", "mean, no sampling", "reference"]


def test_the_deviation_over_seeds_is_that_of_their_samples(ct: dict[str, Image]) -> None:
    base = Walk(steps=2, strength=30.0)
    made = diffusing.compared(ct["low"], 2, base, ["seed"], ABDOMEN)
    drawn = [of_page(ct["low"], 2, Walk(steps=2, seed=seed)) for seed in range(4)]
    deviation = np.stack(drawn).std(0, ddof=1)
    assert made.deviation_rms == pytest.approx(np.sqrt((deviation**2).mean()), rel=1e-3)
    assert made.deviation is not None
    shown = made.deviation.astype(float) * made.reach / 255
    np.testing.assert_allclose(shown, np.minimum(deviation, made.reach), atol=0.2)


# ------------------------------------------------------------------------------------------------------------- forward


def test_the_forward_process_adds_one_realisation_in_all_rows(ct: dict[str, Image]) -> None:
    """x + sigma n: what is added is sigma times the same field, for every schedule and place."""
    scan, ts = ct["low"], [0.1, 0.5, 0.9]
    x, deviation = scan.open().read(2), spread_of(scan).deviation
    fields = [
        (one.plane - x) / (one.sigma * deviation) for one in diffusing.forward(scan, 2, ts, seed=3, preserving=False)
    ]
    assert len(fields) == 4 * len(ts)
    for field in fields:
        np.testing.assert_allclose(field, fields[0], atol=2e-2)
    assert fields[0].std() == pytest.approx(1, abs=0.03)
    other = next(iter(diffusing.forward(scan, 2, [0.5], seed=4, preserving=False)))
    assert abs(np.corrcoef((other.plane - x).ravel(), fields[0].ravel())[0, 1]) < 0.05


def test_the_shown_forward_process_keeps_its_spread(ct: dict[str, Image]) -> None:
    """Variance preserving: alpha_bar is its share of the image, and nothing of it is left at the end."""
    scan = ct["low"]
    x, spread = scan.open().read(2), spread_of(scan)
    for one in diffusing.forward(scan, 2, [0.0, 0.5, 1.0]):
        assert one.alpha_bar == pytest.approx(1 / (1 + one.sigma**2))
        if one.t == 0:
            np.testing.assert_allclose(one.plane, x, atol=10)
        if one.t == 1:
            assert abs(np.corrcoef(one.plane.ravel(), x.ravel())[0, 1]) < 0.05
            assert one.plane.std() == pytest.approx(spread.deviation, rel=0.05)


def test_the_spread_of_a_case_leaves_padding_out(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(40, 50, (4, 64, 64)).astype(np.float32)
    array[:, 0, 0] = -500  # below water, so that it counts as CT
    write_nifti(tmp_path / "a.nii", Volume(array, Geometry.from_affine(np.eye(4), array.shape), "HU"))
    (image,) = listed(tmp_path).images.values()
    assert spread_of(image).mean == pytest.approx(array.mean(), abs=1)
    assert spread_of(image).deviation == pytest.approx(array.std(), rel=0.03)
    assert diffusing.sampled(4) == [0, 1, 2, 3]
    assert diffusing.sampled(100) == [10, 30, 50, 70, 90]


def test_what_is_recognisable_is_measured_by_known_answers(ct: dict[str, Image]) -> None:
    """Half-way values are measured, not interpolated; the lesion's is the analytic one of the ideal observer."""
    lesion = Lesion(10.0, 50.0)
    found = diffusing.measured(ct["low"], ABDOMEN, lesion)
    deviation = spread_of(ct["low"]).deviation
    for schedule, way in WAYS.items():
        sigma = float(way(np.array(0.5)))
        (at,) = np.flatnonzero(np.isclose(found.levels, sigma))
        half = found.along(schedule, [0.5])
        assert half["structure"][0] == pytest.approx(found.structure[at])
        assert half["window"][0] == pytest.approx(found.window[at])
        area = np.pi * 5.0**2 / 0.8**2
        d_prime = 50 * np.sqrt(area) / (sigma * deviation)
        assert half["lesion"][0] == pytest.approx(ndtr(d_prime / np.sqrt(2)), abs=0.01)
        beginning = found.along(schedule, [0.0])
        assert beginning["structure"][0] == pytest.approx(1, abs=1e-3)
        assert beginning["lesion"][0] == pytest.approx(1, abs=1e-3)
    halves = {schedule: found.halves(schedule)["lesion"] for schedule in WAYS}
    assert halves["aggressive"] == min(halves.values())  # type: ignore[type-var]
    assert halves["cosine"] == max(halves.values())  # type: ignore[type-var]


def test_a_measure_that_never_falls_to_half_says_so(ct: dict[str, Image]) -> None:
    """A lesion that outshines all noise."""
    found = diffusing.measured(ct["low"], ABDOMEN, Lesion(60.0, 1e9))
    assert found.halves("linear")["lesion"] is None


def test_a_window_maps_as_it_says_and_pet_is_inverted() -> None:
    plane = np.array([[-200, -160, 40, 240, 900]], np.float32)
    assert ABDOMEN.grey(plane).tolist() == [[0, 0, 128, 255, 255]]
    assert SUV.grey(np.array([[0, 7, 20]], np.float32)).tolist() == [[255, 0, 0]]


# ------------------------------------------------------------------------------------------------------------ pictures


def test_a_movie_has_a_frame_a_step_and_the_grey_levels_that_went_in() -> None:
    """Read back by Pillow: nothing is lost, it goes round, and each frame stands as long as was said."""
    generator = np.random.default_rng(0)
    frames = [sheet([[Panel(generator.integers(0, 256, (64, 64), np.uint8))]], SQUARE, str(k)) for k in range(7)]
    film = Picture.open(io.BytesIO(movie(frames, [2.0, *[0.5] * 5, 2.0])))
    assert film.n_frames == 7  # type: ignore[attr-defined]
    assert film.info["loop"] == 0
    assert DISCLAIMER in film.info["comment"].decode()
    durations = []
    for k, frame in enumerate(frames):
        film.seek(k)
        durations.append(film.info["duration"])
        np.testing.assert_array_equal(np.asarray(film.convert("L")), np.asarray(frame))
    assert durations == [2000, *[500] * 5, 2000]


def test_a_picture_carries_the_disclaimer_and_is_no_wider_than_a_page() -> None:
    grey = np.zeros((64, 64), np.uint8)
    for columns in (1, 3, 8):
        page = sheet([[Panel(grey, ("line",))] * columns], SQUARE, "note")
        assert page.width <= 1440
    assert DISCLAIMER in str(Picture.open(io.BytesIO(png(page))).info["Description"])
    bottom = np.asarray(page)[-17:]
    assert (bottom > 150).sum() > 200  # it is written in it as well


def test_a_slice_larger_than_its_place_is_thinned_not_averaged() -> None:
    """The noise that is to be seen stays as strong as it is."""
    noise = np.random.default_rng(0).normal(128, 30, (512, 512)).clip(0, 255).astype(np.uint8)
    page = np.asarray(sheet([[Panel(noise)] * 8], SQUARE, ""))
    assert page[10:80, 40:150].std() == pytest.approx(30, rel=0.05)


def test_pictures_have_the_proportions_of_the_patient() -> None:
    grey = np.full((50, 100), 90, np.uint8)
    page = np.asarray(sheet([[Panel(grey)]], Placement((2.0, 1.0), ("R", "L")), "", widest=200))
    rows, columns = (np.flatnonzero((page == 90).sum(axis) > 100) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == 200


def test_a_region_stays_inside_of_the_slice() -> None:
    plane = np.arange(100, dtype=np.uint8).reshape(10, 10)
    np.testing.assert_array_equal(Region().of(plane), plane)
    np.testing.assert_array_equal(Region(5, 5, 4).of(plane), plane[3:7, 3:7])
    np.testing.assert_array_equal(Region(0, 9, 4).of(plane), plane[:4, 6:])


def test_numbers_in_captions_are_short() -> None:
    assert [short(v) for v in (0.17299, 13.14, 171.4, 1724.79, 1.02e7)] == ["0.173", "13.1", "171", "1725", "1e+07"]


# ---------------------------------------------------------------------------------------------------------------- work


class Bytes:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@pytest.fixture
def work() -> Iterator[Work]:
    started = Work(limit_bytes=1000)
    yield started
    started.stop()


def quick(size: int = 1) -> Callable[[Progress], Bytes]:
    return lambda tell: Bytes(size)


class Slow:
    """Goes on until it is let go; counts how often it was started."""

    def __init__(self) -> None:
        self.started, self.go, self.count = threading.Event(), threading.Event(), 0

    def __call__(self, tell: Progress) -> Bytes:
        self.count += 1
        self.started.set()
        while not self.go.wait(0.01):
            tell(1, 2)
        return Bytes(1)


def finished(task: Task) -> Task:
    assert task.wait(WAIT)
    return task


def test_what_was_computed_is_not_computed_again(work: Work) -> None:
    slow = Slow()
    slow.go.set()
    first = finished(work.ask("key", slow, "reader"))
    again = work.ask("key", slow, "another")
    assert (again, again.state, slow.count) == (first, "finished", 1)


def test_a_reader_who_asks_for_something_else_gives_up_the_first(work: Work) -> None:
    slow = Slow()
    task = work.ask("slow", slow, "reader")
    assert slow.started.wait(WAIT)
    assert finished(work.ask("quick", quick(), "reader")).state == "finished"
    assert finished(task).state == "stopped"
    assert task.result is None


def test_what_two_readers_wait_for_goes_on_when_one_leaves(work: Work) -> None:
    slow = Slow()
    task = work.ask("slow", slow, "one")
    assert work.ask("slow", slow, "two") is task
    assert slow.started.wait(WAIT)
    work.give_up("one")
    assert task.is_active
    slow.go.set()
    assert finished(task).state == "finished"
    assert slow.count == 1


def test_what_was_stopped_can_be_asked_for_again(work: Work) -> None:
    slow = Slow()
    task = work.ask("slow", slow, "reader")
    work.give_up("reader")
    assert finished(task).state == "stopped"
    slow.go.set()
    assert finished(work.ask("slow", slow, "reader")).state == "finished"


def test_one_readers_work_does_not_hold_up_anothers(work: Work) -> None:
    slow = Slow()
    task = work.ask("slow", slow, "one")
    assert slow.started.wait(WAIT)
    assert finished(work.ask("quick", quick(), "two")).state == "finished"
    assert task.is_active


def test_only_the_last_results_are_kept(work: Work) -> None:
    """By number, and by size."""
    for k in range(KEPT + 4):
        finished(work.ask(k, quick(), "reader"))
    assert [k for k in range(KEPT + 4) if work.known(k)] == list(range(4, KEPT + 4))
    for name in ("a", "b", "c"):
        finished(work.ask(name, quick(400), "reader"))
    finished(work.ask("d", quick(), "reader"))
    assert work.known("a") is None
    assert work.known("c") is not None


def test_a_failure_is_told_in_a_sentence(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """In its own words where it is ours, without a traceback where it is not."""

    def ours(tell: Progress) -> Bytes:
        raise InputError("the slice cannot be read; copy it again")

    def theirs(tell: Progress) -> Bytes:
        raise ZeroDivisionError("/home/doe/scan")

    assert finished(work.ask("ours", ours, "reader")).told == "the slice cannot be read; copy it again"
    failed = finished(work.ask("theirs", theirs, "reader"))
    assert failed.state == "failed"
    assert "ZeroDivisionError" in failed.told
    assert "doe" not in failed.told
    assert "/home/doe/scan" in caplog.text
    assert finished(work.ask("ours", quick(), "reader")).state == "finished"


def test_stopping_all_ends_what_is_under_way() -> None:
    started, slow = Work(), Slow()
    task = started.ask("slow", slow, "reader")
    assert slow.started.wait(WAIT)
    started.stop()
    assert task.state == "stopped"
