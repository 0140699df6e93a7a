"""The reader study as it is designed, read and unblinded on its page, with Streamlit's own test driver.

The viewer is one that only remembers what it was given; the real one is in test_reading_browser.py.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state
from dashboard.reading.design import DEFAULT_SCALES, LEVELS, Design, Images, Lesion, designed
from dashboard.reading.export import exported
from dashboard.reading.order import items
from dashboard.reading.record import read
from dashboard.reading.session import DONE, MARKS, OPENED, PREFERENCE, Reading
from dashboard.settings import VARIABLE, Review
from medidiff import DISCLAIMER, __version__
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct
from medidiff.results import readings
from medidiff.results.readings import create_study, list_studies, read_events, unblind

ROOT = Path(__file__).resolve().parents[2]
CT = ROOT / "data_samples" / "ct"
SECONDS = 60
CACHED: tuple[Any, ...] = (
    state.review, state.library, state.folder, state.volumes, state.jobs, state.database,
)  # fmt: skip
ARMS = ("full dose", "scan", "gaussian quantitative 100 %")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, its full dose and a result; the folder is named after a patient."""
    folder = tmp_path_factory.mktemp("Doe_John")
    for name in ("low_dose", "full_dose"):
        shutil.copytree(CT / name, folder / name)
    reconstruct(folder / "low_dose", folder / "result", Options(method="gaussian", smoothing=1.0))
    return folder


def forget() -> None:
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def start(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """The page of a server that was started with the study, with a database or without."""

    def open_page(*, has_database: bool = True) -> AppTest:
        url = f"sqlite:///{tmp_path / 'readings.sqlite'}" if has_database else None
        monkeypatch.setenv(VARIABLE, Review.of([study], [], database=url).environment()[VARIABLE])
        forget()
        return AppTest.from_function(page, default_timeout=SECONDS)

    yield open_page
    forget()


def page() -> None:
    from dashboard.views import reading

    reading.show()


class Viewer:
    """Remembers what it was asked to show, and answers with the marks that a test has set."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] | None = None

    def __call__(self, panes: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
        self.shown.append({"panes": panes, **settings})
        return {"view": None, "rois": [], "marks": settings["marks"] if self.marks is None else self.marks}


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Viewer:
    from dashboard.views import reading_item

    fake = Viewer()
    monkeypatch.setattr(reading_item, "viewer", fake)
    return fake


def keys() -> dict[str, str]:
    """Of the images by their folder's name."""
    named = {image.place.name: key for key, image in state.library().images.items()}
    made = next(case for case in state.library().cases() if case.record)
    return {ARMS[0]: named["full_dose"], ARMS[1]: named["low_dose"], ARMS[2]: made.main.key}


def made(**settings: Any) -> Design:
    """A design of two cases, which are the same images under two numbers, in the database as study 1."""
    lesions: tuple[Any, ...] = ((Lesion(position_mm=(0, 0, 0), radius_mm=9),), ())
    cases = tuple(Images(number=k, images=keys(), lesions=known) for k, known in enumerate(lesions, 1))
    asked = {"scales": DEFAULT_SCALES[:2], "preference": "Which?", "levels": LEVELS} | settings
    design = designed(name="noise", modality="CT", window=(-160, 240), arms=ARMS, cases=cases, **asked)
    engine = state.database()
    assert engine is not None
    create_study(engine, "noise", design.model_dump(mode="json"))
    return design


def labelled(elements: Any, label: str) -> Any:
    return next(element for element in elements if element.label == label)


def log_in(app: AppTest, name: str = "r1") -> AppTest:
    app.run()
    labelled(app.text_input, "Your code name").set_value(name)
    labelled(app.button, "Read").click().run()
    if app.warning:
        labelled(app.button, f"Begin as {name}").click().run()
    assert not app.exception
    return app


def answer(app: AppTest, value: int = 3) -> None:
    """Everything that is asked of the item on screen; A where two are compared."""
    for name in [radio.label for radio in app.radio]:
        radio = labelled(app.radio, name)
        radio.set_value("A" if "A" in radio.options else value).run()


def written(app: AppTest) -> str:
    """Everything that the page sends, as text."""

    def below(node: Any) -> Iterator[str]:
        yield str(node.proto)
        for child in getattr(node, "children", {}).values():
            yield from below(child)

    return " ".join(below(app.main))


def values(question: str, reader: str = "r1") -> list[Any]:
    engine = state.database()
    assert engine is not None
    return [event.value for event in read_events(engine, 1, reader) if event.question == question]


def test_without_a_database_the_page_says_how_to_start_with_one(start: Callable[..., AppTest]) -> None:
    app = start(has_database=False).run()
    assert "--database sqlite:///FILE" in app.info[0].value
    assert not app.exception


def test_a_study_is_made_from_the_library(start: Callable[..., AppTest]) -> None:
    """Scan and reconstruction are suggested as arms; the full dose is left out until it is named."""
    app = start().run()
    labelled(app.text_input, "Name of the study").set_value("noise").run()
    assert not app.exception
    assert labelled(app.multiselect, "Arms, the reference first").value == ["scan", "gaussian quantitative 100 %"]
    labelled(app.button, "Make the study").click().run()
    assert "Single images for each reader: 2, pairs: 1." in app.success[0].value
    engine = state.database()
    assert engine is not None
    design = Design(**list_studies(engine)[0].design)
    assert design.scales == DEFAULT_SCALES
    assert design.cases[0].images == {arm: keys()[arm] for arm in ARMS[1:]}
    labelled(app.button, "Make the study").click().run()
    assert "called 'noise' already" in app.error[0].value


def test_a_study_that_asks_nothing_is_told(start: Callable[..., AppTest]) -> None:
    app = start().run()
    labelled(app.multiselect, "Arms, the reference first").set_value([]).run()
    labelled(app.button, "Make the study").click().run()
    assert "a study needs a name, and one case at least" in app.error[0].value
    assert not app.exception


def test_folders_are_shown_to_the_owner_on_request_alone(start: Callable[..., AppTest]) -> None:
    app = start().run()
    assert "Doe" not in written(app)
    labelled(app.toggle, "Show folders").set_value(True).run()
    assert not app.exception
    assert "Doe_John" in written(app)


def test_names_of_people_are_refused_in_a_sentence(start: Callable[..., AppTest], viewer: Viewer) -> None:
    app = start()
    made()
    app.run()
    labelled(app.text_input, "Your code name").set_value("Jane Doe")
    labelled(app.button, "Read").click().run()
    assert "code name" in app.error[0].value
    assert viewer.shown == []


def test_a_whole_reading_is_blind_and_kept(start: Callable[..., AppTest], viewer: Viewer) -> None:
    """Every item of a reader: nothing sent names an arm, a model, a folder or an image's own key; all is kept."""
    app = start()
    design = made()
    log_in(app)
    secret = [*ARMS, "gaussian", "full_dose", "low_dose", "Doe", *keys().values()]
    order = items(design, "r1")
    names: list[str] = []
    for k, item in enumerate(order):
        texts = written(app) + json.dumps(viewer.shown[-1], default=str)
        assert not [word for word in secret if word in texts]
        assert f"Item {k + 1} of {len(order)}" in texts
        shown = viewer.shown[-1]
        assert [pane["title"] for pane in shown["panes"]] == (["A", "B"] if len(item.arms) == 2 else ["image"])
        assert (shown["is_blind"], tuple(shown["window"])) == (True, (-160, 240))
        assert shown["tools"] == (("mark",) if len(item.arms) == 1 else ())
        for pane, arm in zip(shown["panes"], item.arms, strict=True):
            volumes = state.volumes()
            assert volumes.whole(pane["volume"]) == volumes.whole(design.cases[item.case].images[design.arms[arm]])
            assert {name: pane[name] for name in ("slices", "kind", "unit")} == {
                "slices": 12, "kind": "image", "unit": "HU",
            }  # fmt: skip
        names += [pane["volume"] for pane in shown["panes"]]
        assert labelled(app.button, "Next").disabled
        answer(app, 1 + k % 5)
        labelled(app.button, "Next").click().run()
    assert len(set(names)) == len(names)  # a name that came back would tell a repeat
    assert "All 12 items are read" in app.success[0].value
    engine = state.database()
    assert engine is not None
    kept = read(engine, list_studies(engine)[0])
    assert all(item.is_done for item in kept)
    assert [item.answers["score/noise"] for item in kept[:6]] == [1, 2, 3, 4, 5, 1]
    assert all(item.answers[MARKS] == [] for item in kept[:6])
    assert [item.chosen for item in kept[6:]] == [design.arms[item.arms[0]] for item in order[6:]]


def test_each_click_is_kept_at_once_and_a_change_beside_the_first(
    start: Callable[..., AppTest], viewer: Viewer
) -> None:
    app = start()
    made()
    log_in(app)
    labelled(app.radio, "noise").set_value(2).run()
    assert values("score/noise") == [2]
    labelled(app.radio, "noise").set_value(4).run()
    assert values("score/noise") == [2, 4]
    assert values("score/sharpness") == []


def test_a_reader_goes_on_where_they_stopped(start: Callable[..., AppTest], viewer: Viewer) -> None:
    """In a session that knows nothing of the first: the same item, what was answered of it, and its marks."""
    app = start()
    made()
    log_in(app)
    answer(app)
    labelled(app.button, "Next").click().run()
    mark = {"id": "M1", "slice": 3, "plane": "axial", "position_mm": [1.0, 2.0, 3.0], "pane": 0, "confidence": 2}
    labelled(app.radio, "noise").set_value(5).run()
    viewer.marks = [mark]
    app.run()
    viewer.marks = None
    before = viewer.shown[-1]["panes"]
    again = log_in(AppTest.from_function(page, default_timeout=SECONDS))
    assert viewer.shown[-1]["panes"] == before
    assert viewer.shown[-1]["marks"] == [mark]
    assert [radio.value for radio in again.radio] == [5, None]
    assert values(MARKS) == [[], [mark]]


def test_marks_are_kept_when_they_change(start: Callable[..., AppTest], viewer: Viewer) -> None:
    """Set, rated otherwise, deleted: three answers, and no more however often the page runs."""
    app = start()
    made()
    log_in(app)
    mark = {"id": "M1", "slice": 3, "plane": "axial", "position_mm": [1.0, 2.0, 3.0], "pane": 0, "confidence": 2}
    for found in ([mark], [mark | {"confidence": 4}], []):
        viewer.marks = found
        app.run()
        viewer.marks = None  # as when the page was left and opened again
        app.run()
    assert values(MARKS) == [[mark], [mark | {"confidence": 4}], []]


def test_going_back_shows_and_keeps_answers(start: Callable[..., AppTest], viewer: Viewer) -> None:
    app = start()
    made()
    log_in(app)
    answer(app, 2)
    labelled(app.button, "Next").click().run()
    labelled(app.button, "Back").click().run()
    assert [radio.value for radio in app.radio] == [2, 2]
    labelled(app.radio, "noise").set_value(1).run()
    labelled(app.button, "Go on at item 2").click().run()
    assert [radio.value for radio in app.radio] == [None, None]
    assert values("score/noise") == [2, 1]
    assert values(DONE) == [True]
    assert len(values(OPENED)) == 4


def test_an_answer_that_cannot_be_kept_is_taken_back(
    start: Callable[..., AppTest], viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails: one sentence, and the question is open again."""
    app = start()
    made()
    log_in(app)
    labelled(app.radio, "noise").set_value(2).run()
    from medidiff.errors import OutputError

    def failing(*asked: object) -> None:
        raise OutputError("the database did not keep the answer; answer again")

    with monkeypatch.context() as broken:
        broken.setattr(readings, "save", failing)
        labelled(app.radio, "noise").set_value(5).run()
        assert "did not keep the answer" in app.error[0].value
        assert labelled(app.radio, "noise").value == 2
    app.run()
    assert not app.error
    assert values("score/noise") == [2]


def test_readers_see_their_own_progress_alone(start: Callable[..., AppTest], viewer: Viewer) -> None:
    app = start()
    made()
    log_in(app)
    answer(app)
    labelled(app.button, "Next").click().run()
    other = log_in(AppTest.from_function(page, default_timeout=SECONDS), "r2")
    assert "Item 1 of 12" in written(other)
    assert "r1" not in written(other)
    assert [radio.value for radio in other.radio] == [None, None]


def test_the_address_holds_the_number_of_the_study_alone(start: Callable[..., AppTest], viewer: Viewer) -> None:
    app = start()
    made()
    log_in(app)
    assert dict(app.query_params) == {"study": "1"}


def test_images_that_are_gone_are_told_without_their_names(start: Callable[..., AppTest], viewer: Viewer) -> None:
    app = start()
    made()
    state.library().images.clear()
    log_in(app)
    assert "not in the listed folders" in app.error[0].value
    assert not [arm for arm in ARMS if arm in written(app)]


def results(app: AppTest) -> AppTest:
    app.run()
    labelled(app.get("button_group"), "Part").set_value("Results").run()
    assert not app.exception
    return app


def read_all(reader: str, value: int = 3) -> None:
    """As a reader would, without the page."""
    engine = state.database()
    assert engine is not None
    reading = Reading.begin(engine, list_studies(engine)[0], reader)
    for k, item in enumerate(reading.items):
        reading.save(k, OPENED, 1)
        if len(item.arms) == 2:
            reading.save(k, PREFERENCE, "A")
        else:
            for scale in reading.design.scales:
                reading.save(k, f"score/{scale.name}", (value + item.arms[0] + k) % 5 + 1)
            reading.save(k, MARKS, [])
        reading.save(k, DONE, True)


def test_results_are_blind_until_they_are_unblinded(start: Callable[..., AppTest]) -> None:
    """Only how far everybody is; then, with a name and a word that reading is over, everything; and no more answers."""
    app = start()
    made()
    read_all("r1")
    read_all("r2", 1)
    results(app)
    assert list(app.dataframe[0].value["done"]) == [12, 12]
    assert not [arm for arm in ARMS if arm in written(app)]
    labelled(app.text_input, "Your code name").set_value("owner")
    labelled(app.button, "Unblind the study").click().run()
    assert "say that the reading is over" in app.error[0].value
    app.checkbox[0].check()
    labelled(app.button, "Unblind the study").click().run()
    assert not app.exception
    assert "Unblinded by owner" in " ".join(caption.value for caption in app.caption)
    assert {header.value for header in app.subheader} >= {"Scores", "Preferences", "Agreement"}
    assert set(app.dataframe[1].value["arm"]) == set(ARMS)
    labelled(app.get("button_group"), "Part").set_value("Read").run()
    assert "takes no more answers" in app.info[0].value


def unzipped(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_export_is_blind_as_long_as_the_study_is(start: Callable[..., AppTest]) -> None:
    """Neither arms nor keys nor truth; afterwards all of them; each file says its version and what it is not for."""
    start()
    design = made()
    read_all("r1")
    engine = state.database()
    assert engine is not None
    (study,) = list_studies(engine)
    blind = unzipped(exported(engine, study, read(engine, study), {"scores": pd.DataFrame({"arm": ARMS})}))
    assert set(blind) == {"answers.csv", "history.csv", "readers.csv", "study.json"}
    everything = "".join(blind.values())
    assert not [word for word in (*ARMS, *keys().values(), "position_mm") if word in everything]
    unblind(engine, study.id, "owner")
    (study,) = list_studies(engine)
    told = unzipped(exported(engine, study, read(engine, study), {"scores": pd.DataFrame({"arm": ARMS})}))
    assert Design(**json.loads(told["study.json"])["design"]) == design
    for texts in (blind, told):
        assert all(DISCLAIMER in text and __version__ in text for text in texts.values())
        assert not [name for name in texts for arm in ARMS if arm in name]
    answers = pd.read_csv(io.StringIO(told["answers.csv"]))
    assert len(answers) == 6 * 3 + 6
    assert set(answers["left"]) == set(ARMS)
    preferred = answers[answers["question"] == PREFERENCE]
    assert (preferred["preferred"] == preferred["left"]).all()
    history = pd.read_csv(io.StringIO(blind["history.csv"]))
    assert len(history) == len(read_events(engine, study.id))
    assert exported(engine, study, read(engine, study), {}) == exported(engine, study, read(engine, study), {})
