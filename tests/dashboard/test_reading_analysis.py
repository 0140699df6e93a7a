"""What a reader study finds, against numbers worked out by hand, by brute force, and by other programs' definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dashboard.reading.analysis import ALL, ALL_ARMS, Analysis, analyse, completion, located
from dashboard.reading.design import Design, Images, Lesion, designed
from dashboard.reading.order import items
from dashboard.reading.record import Read, finished, read, seconds
from dashboard.reading.session import DONE, MARKS, OPENED, PREFERENCE, Reading, latest
from dashboard.reading.truth import from_labels, from_table
from medidiff.errors import InputError
from medidiff.results.database import open_database
from medidiff.results.readings import Event, create_study, list_studies, read_events

SAMPLES = Path(__file__).resolve().parents[2] / "data_samples"
ARMS = ("full dose", "ours", "theirs")
SCALE = {"name": "noise", "anchors": ("1", "2", "3", "4", "5")}
CENTRE = (0.0, 0.0, 0.0)
Answer = Callable[[str, Any, Design], dict[str, Any]]


def design(cases: int = 12, **settings: Any) -> Design:
    """Every other case has a lesion at the origin."""
    ill = (Lesion(position_mm=CENTRE, radius_mm=10),)
    images = tuple(
        Images(number=10 * k, images=dict.fromkeys(ARMS, "key"), lesions=ill if k % 2 else ())
        for k in range(1, cases + 1)
    )
    asked = {"scales": (SCALE,), "preference": "Which?", "levels": ("1", "2", "3", "4")} | settings
    return designed(name="s", modality="CT", window=(0, 1), arms=ARMS, cases=images, **asked)


def readings(asked: Design, readers: list[str], answer: Answer) -> list[Read]:
    """What readers who answer as `answer(reader, item, design)` says have read, in their own orders."""
    return [
        Read(reader, k, asked.cases[item.case].number, tuple(asked.arms[arm] for arm in item.arms), item.is_repeat,
             answer(reader, item, asked) | {DONE: True}, 10.0)
        for reader in readers
        for k, item in enumerate(items(asked, reader))
    ]  # fmt: skip


def scored(score: Callable[[str, int, int], int]) -> Answer:
    """Scores by (reader, case, arm); the image with the higher score is preferred, A where they are equal."""

    def answer(reader: str, item: Any, asked: Design) -> dict[str, Any]:
        found = [score(reader, item.case, arm) for arm in item.arms]
        if len(item.arms) == 2:
            return {PREFERENCE: "A" if found[0] >= found[1] else "B"}
        return {"score/noise": found[0], MARKS: []}

    return answer


def line(table: pd.DataFrame, **facts: Any) -> dict[str, Any]:
    chosen = table
    for name, value in facts.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return dict(chosen.iloc[0])


TABLE = np.random.default_rng(5).integers(1, 6, (3, 12, 3))  # readers, cases, arms


def tabled(reader: str, case: int, arm: int) -> int:
    return int(TABLE[int(reader[1]), case, arm])


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    asked = design(repeats=0.5)
    return analyse(asked, readings(asked, ["r0", "r1", "r2"], scored(tabled)))


def test_scores_are_those_given(analysis: Analysis) -> None:
    for k, arm in enumerate(ARMS):
        together = line(analysis.scores, question="noise", arm=arm, reader=ALL)
        assert together["mean"] == pytest.approx(TABLE[:, :, k].mean())
        assert together["sd"] == pytest.approx(TABLE[:, :, k].mean(0).std(ddof=1))
        assert together["cases"] == 12
        assert [together[f"scored_{s}"] for s in range(1, 6)] == [(TABLE[:, :, k] == s).sum() for s in range(1, 6)]
        single = line(analysis.scores, question="noise", arm=arm, reader="r1")
        assert single["mean"] == pytest.approx(TABLE[1, :, k].mean())
        assert [single[f"scored_{s}"] for s in range(1, 6)] == [(TABLE[1, :, k] == s).sum() for s in range(1, 6)]


def test_differences_are_paired_by_case(analysis: Analysis) -> None:
    """Mean over readers of a case, against the first arm; p by all 2^12 sign patterns, and Holm's over the two arms."""
    found = []
    for k in (1, 2):
        differences = (TABLE[:, :, k] - TABLE[:, :, 0]).mean(0)
        told = line(analysis.differences, arm=ARMS[k], reader=ALL)
        assert told["difference"] == pytest.approx(differences.mean())
        signs = 1 - 2 * ((np.arange(2**12)[:, None] >> np.arange(12)) & 1)
        p = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
        assert told["p"] == pytest.approx(p)
        assert told["low"] < told["difference"] < told["high"]
        found.append(p)
        alone = line(analysis.differences, arm=ARMS[k], reader="r2")
        paired = (TABLE[2, :, k] - TABLE[2, :, 0]).astype(float)
        assert alone["difference"] == pytest.approx(paired.mean())
        assert alone["p_wilcoxon"] == pytest.approx(stats.wilcoxon(paired[paired != 0]).pvalue)
        assert math.isnan(alone["p_holm"])
    adjusted = sorted(line(analysis.differences, arm=ARMS[k], reader=ALL)["p_holm"] for k in (1, 2))
    assert adjusted == pytest.approx([min(1, 2 * min(found)), max(min(1, 2 * min(found)), max(found))])


def test_preferences_are_counted_by_arm_not_by_side() -> None:
    """One reader always prefers ours to the full dose: 12 of 12, p = 2 / 2^12, interval of Clopper and Pearson."""
    asked = design()
    found = analyse(asked, readings(asked, ["r0"], scored(lambda reader, case, arm: 1 + arm))).preferences
    told = line(found, arm="ours", other="full dose", reader="r0")
    assert (told["preferred"], told["cases"], told["share"], told["high"]) == (12, 12, 1.0, 1.0)
    assert told["low"] == pytest.approx(0.025 ** (1 / 12))
    assert told["p"] == pytest.approx(2 / 2**12)


def test_preferences_of_several_readers_are_shares_of_cases() -> None:
    """Three readers who all see the same make no 36 trials: p is that of 12 cases, as of one of them."""
    asked = design()

    def same(reader: str, case: int, arm: int) -> int:
        return (1 + arm) if case < 9 else (5 - arm)

    found = analyse(asked, readings(asked, ["r0", "r1", "r2"], scored(same))).preferences
    told = line(found, arm="theirs", other="ours", reader=ALL)
    assert (told["share"], told["cases"]) == (9 / 12, 12)
    assert told["p"] == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert told["low"] < 9 / 12 < told["high"]


def test_agreement_between_and_within_readers(analysis: Analysis) -> None:
    """Readers repeat themselves perfectly here, and agree by chance alone with each other."""
    between = line(analysis.agreement, question="noise", arm=ALL_ARMS, readers="between r0, r1, r2")
    assert between["images"] == 36
    assert abs(between["kappa_quadratic"]) < 0.35
    assert between["kappa_quadratic_low"] < between["kappa_quadratic"] < between["kappa_quadratic_high"]
    assert abs(between["icc"]) < 0.35
    whole = TABLE.reshape(3, -1)
    assert between["equal"] == pytest.approx((whole == whole[0]).all(0).mean())
    for reader in ("r0", "r1", "r2"):
        within = line(analysis.agreement, question="noise", readers=f"within {reader}")
        assert (within["images"], within["equal"], within["kappa_linear"]) == (18, 1.0, 1.0)


def test_a_reader_who_always_says_left_disagrees_with_herself() -> None:
    """A repeated pair has its sides exchanged: the preference within the reader is reversed every time."""
    asked = design(repeats=1.0, scales=(), levels=())
    found = analyse(asked, readings(asked, ["r0"], lambda *_: {PREFERENCE: "A"})).agreement
    assert set(found["question"]) == {PREFERENCE}
    assert (found["equal"] == 0).all()


def marked(confidence: Callable[[str, int, int], tuple[int, int]]) -> Answer:
    """Marks by (reader, case, arm): (on the lesion's place, 50 mm away), 0 for none."""

    def answer(reader: str, item: Any, asked: Design) -> dict[str, Any]:
        if len(item.arms) == 2:
            return {PREFERENCE: "A"}
        levels = confidence(reader, item.case, item.arms[0])
        places = ([1.0, 2.0, 3.0], [50.0, 0.0, 0.0])
        found = [{"position_mm": p, "confidence": c} for p, c in zip(places, levels, strict=True) if c]
        return {"score/noise": 3, MARKS: found}

    return answer


def test_detection_is_that_of_every_pair() -> None:
    """AUC by the highest mark of each case, JAFROC by the lesions against false marks of normal cases: pair by pair."""
    random = np.random.default_rng(7)
    near, far = random.integers(0, 5, (2, 20, 3)), random.integers(0, 4, (2, 20, 3))
    asked = design(20)
    ill = np.array([bool(case.lesions) for case in asked.cases])

    def confidence(reader: str, case: int, arm: int) -> tuple[int, int]:
        r = int(reader[1])
        return int(near[r, case, arm]) if ill[case] else 0, int(far[r, case, arm])

    found = analyse(asked, readings(asked, ["r0", "r1"], marked(confidence)))

    def over_pairs(positive: Any, negative: Any) -> float:
        return float(np.mean([(x > y) + 0.5 * (x == y) for x in positive for y in negative]))

    areas, merits = np.zeros((2, 3)), np.zeros((2, 3))
    for r in range(2):
        for k, arm in enumerate(ARMS):
            highest = np.where(ill, np.maximum(near[r, :, k], far[r, :, k]), far[r, :, k])
            areas[r, k] = over_pairs(highest[ill], highest[~ill])
            merits[r, k] = over_pairs(near[r, ill, k], far[r, ~ill, k])
            told = line(found.detection, arm=arm, reader=f"r{r}")
            assert told["auc"] == pytest.approx(areas[r, k])
            assert told["figure_of_merit"] == pytest.approx(merits[r, k])
            assert told["found"] == pytest.approx((near[r, ill, k] > 0).mean())
            assert told["false_marks_per_image"] == pytest.approx((far[r, :, k] > 0).mean())
            assert (told["normal"], told["abnormal"], told["figure"]) == (10, 10, "JAFROC")
    for k in (1, 2):
        told = line(found.detection, arm=ARMS[k], reader=ALL)
        assert told["auc"] == pytest.approx(areas[:, k].mean())
        assert told["auc_difference"] == pytest.approx((areas[:, k] - areas[:, 0]).mean())
        assert told["figure_difference"] == pytest.approx((merits[:, k] - merits[:, 0]).mean())
        assert told["figure_difference_low"] <= told["figure_difference"] <= told["figure_difference_high"]
    curves = analyse(asked, readings(asked, ["r0"], marked(confidence))).curves
    for kind, values in (("ROC", areas), ("AFROC", merits)):
        for k, arm in enumerate(ARMS):
            points = curves[(curves["curve"] == kind) & (curves["arm"] == arm)]
            assert np.trapezoid(points["y"], points["x"]) == pytest.approx(values[0, k])


def test_a_perfect_reader_finds_everything_and_a_guesser_nothing() -> None:
    asked = design(20)
    ill = [bool(case.lesions) for case in asked.cases]
    perfect = analyse(asked, readings(asked, ["r0"], marked(lambda r, case, arm: (4 if ill[case] else 0, 0))))
    blind = analyse(asked, readings(asked, ["r0"], marked(lambda r, case, arm: (0, 0))))
    assert set(perfect.detection["auc"]) == set(perfect.detection["figure_of_merit"]) == {1.0}
    assert set(blind.detection["auc"]) == set(blind.detection["figure_of_merit"]) == {0.5}


def test_without_normal_cases_false_marks_of_all_cases_count() -> None:
    """JAFROC1: the lesion is rated 3 everywhere, and a false mark 4 stands in half of the images."""
    ill = (Lesion(position_mm=CENTRE, radius_mm=10),)
    images = tuple(Images(number=k, images=dict.fromkeys(ARMS, "key"), lesions=ill) for k in range(8))
    asked = designed(name="s", modality="CT", window=(0, 1), arms=ARMS, cases=images, levels=("1", "2", "3", "4"))
    found = analyse(asked, readings(asked, ["r0"], marked(lambda r, case, arm: (3, 4 * (case % 2))))).detection
    assert set(found["figure"]) == {"JAFROC1"}
    assert set(found["figure_of_merit"]) == {0.5}
    assert "auc" not in found


def test_cases_whose_lesions_are_unknown_count_for_nothing() -> None:
    asked = design(20)
    unknown = asked.model_copy(
        update={"cases": tuple(case.model_copy(update={"lesions": None}) for case in asked.cases)}
    )
    assert analyse(unknown, readings(unknown, ["r0"], marked(lambda *_: (1, 1)))).detection.empty


def test_a_mark_is_on_the_nearest_lesion_within_its_radius() -> None:
    lesions = [Lesion(position_mm=CENTRE, radius_mm=10), Lesion(position_mm=(12, 0, 0), radius_mm=10)]
    marks = [((float(x), 0.0, 0.0), 1) for x in (0, 5, 7, 12, 22, 22.1, -10, -10.1)]
    assert located(marks, lesions) == [0, 0, 1, 1, 1, None, 0, None]


def test_readers_who_have_not_finished_are_told_apart() -> None:
    """They have lines of their own; the lines of all are those of the readers who have finished."""
    asked = design()
    shown = readings(asked, ["r0", "r1"], scored(tabled))
    shown = [one for one in shown if not (one.reader == "r1" and one.position > 20)] + [
        Read(one.reader, one.position, one.case, one.arms, one.is_repeat, {}, 0.0)
        for one in shown if one.reader == "r1" and one.position > 20
    ]  # fmt: skip
    assert finished(shown) == ["r0"]
    found = analyse(asked, shown)
    for arm in ARMS:
        both = [line(found.scores, arm=arm, reader=reader) for reader in (ALL, "r0")]
        assert both[0]["mean"] == both[1]["mean"]
    assert line(found.scores, arm=ARMS[0], reader="r1")["cases"] < 12
    counted = completion(shown).set_index("reader")
    assert list(counted["done"]) == [len(items(asked, "r0")), 21]
    assert analyse(asked, [one for one in shown if one.reader == "r1"]).scores["reader"].unique().tolist() == ["r1"]
    assert analyse(asked, []).tables() == {}


def test_time_is_that_of_the_visits_until_an_item_was_finished() -> None:
    """Opened and left for an hour between, and changed a day later: 5 + 7 seconds."""

    def event(second: float, question: str) -> Event:
        return Event(
            0, "r1", 0, question, 1, pd.Timestamp(2025, 1, 1, tz="UTC").to_pydatetime() + pd.Timedelta(second, "s")
        )

    events = [
        event(0, OPENED), event(3, "score/noise"), event(5, MARKS), event(3600, OPENED), event(3607, DONE),
        event(90_000, OPENED), event(90_009, "score/noise"),
    ]  # fmt: skip
    assert seconds(events) == pytest.approx(12)
    assert seconds(events[:3]) == pytest.approx(5)
    assert seconds([]) == 0


def test_a_reading_is_resumed_from_the_database(tmp_path: Path) -> None:
    """Another connection finds the same items, the answers that stand, and the item that is next."""
    asked = design()
    url = f"sqlite:///{tmp_path / 'r.sqlite'}"
    create_study(open_database(url), "s", asked.model_dump(mode="json"))
    first = Reading.begin(open_database(url), list_studies(open_database(url))[0], "r1")
    assert first.next(first.answers()) == 0
    for value in (2, 5):
        first.save(0, "score/noise", value)
    first.save(0, DONE, True)
    again = Reading.begin(open_database(url), list_studies(open_database(url))[0], "r1")
    assert again.items == first.items == tuple(items(asked, "r1"))
    assert again.answers() == {0: {"score/noise": 5, DONE: True}}
    assert again.next(again.answers()) == 1
    assert latest(read_events(again.engine, 1, "r2")) == {}
    kept = read(again.engine, list_studies(again.engine)[0])
    assert [one.answers for one in kept[:2]] == [{"score/noise": 5, DONE: True}, {}]


def test_lesions_of_the_pet_sample_are_where_it_says() -> None:
    """Six of them, each a value of the label map; centroids as in its study.json to half a voxel, and sizes, too."""
    told = json.loads((SAMPLES / "pet" / "study.json").read_text())["lesions"]
    found = from_labels(SAMPLES / "pet" / "lesions.nii.gz")
    assert len(found) == len(told) == 6
    for lesion, known in zip(found, told, strict=True):
        assert math.dist(lesion.position_mm, known["centre_mm"]) < 2.0
        assert max(5, known["diameter_mm"] / 2 - 2) <= lesion.radius_mm <= max(5, known["diameter_mm"] / 2 + 2)


def test_parts_of_a_map_of_one_value_are_lesions(tmp_path: Path) -> None:
    """Two balls of 1 are two lesions; positions are LPS, although a NIfTI file is RAS."""
    array = np.zeros((40, 30, 20), np.int16)
    i, j, k = np.indices(array.shape)
    for centre in ((10, 10, 10), (30, 20, 5)):
        array[(i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2 <= 9] = 1
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / "map.nii.gz")
    found = sorted(from_labels(tmp_path / "map.nii.gz"), key=lambda lesion: lesion.position_mm)
    assert [lesion.position_mm for lesion in found] == [(20, 20, 30), (60, 40, 15)]
    assert [lesion.radius_mm for lesion in found] == [9, 9]


def test_an_image_is_no_label_map(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "image.nii")
    with pytest.raises(InputError, match="expected a label map"):
        from_labels(tmp_path / "image.nii")


def test_a_table_of_lesions_names_its_cases() -> None:
    """Cases that it does not name are normal; columns in any order."""
    found = from_table(b"case,radius_mm,x_mm,y_mm,z_mm\n2,5,1,2.5,-3\n2,4,0,0,0\n", [1, 2])
    assert found[1] == ()
    assert [lesion.position_mm for lesion in found[2]] == [(1, 2.5, -3), (0, 0, 0)]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (b"case,x_mm,y_mm,z_mm\n1,2,3,4\n", "no column radius_mm"),
        (b"case,x_mm,y_mm,z_mm,radius_mm\n1,2,3,4,5\n1,2,3,x,5\n", "line 3 .* expected numbers"),
        (b"case,x_mm,y_mm,z_mm,radius_mm\n7,2,3,4,5\n", "expected one of the cases 1, 2, found 7"),
        (b"case,x_mm,y_mm,z_mm,radius_mm\n1,2,3,4,0\n", "radius above 0"),
        (b"case,x_mm,y_mm,z_mm,radius_mm\n1,2,3,4\n", "expected numbers"),
        (b"\xff\xfe\x00", "not readable as CSV"),
    ],
)
def test_faults_of_the_table_are_told(table: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        from_table(table, [1, 2])
