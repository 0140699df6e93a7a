"""The pages, run by Streamlit's own test driver on real folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state
from dashboard.settings import VARIABLE, Review
from medidiff import DISCLAIMER
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "dashboard" / "app.py"
CT, PET = ROOT / "data_samples" / "ct" / "low_dose", ROOT / "data_samples" / "pet" / "low_count"
SECONDS = 60
CACHED: tuple[Callable[..., object], ...] = (state.review, state.library, state.folder, state.volumes, state.jobs)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT with a result, and a PET scan; the name of the folder is a patient's."""
    folder = tmp_path_factory.mktemp("Doe_John")
    shutil.copytree(CT, folder / "ct")
    shutil.copytree(PET, folder / "pet")
    reconstruct(folder / "ct", folder / "result", Options(method="gaussian", smoothing=1.0))
    return folder


def forget() -> None:
    for function in CACHED:
        function.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture
def app(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The app of a server that was started with the study."""
    monkeypatch.setenv(VARIABLE, Review.of([study], []).environment()[VARIABLE])
    forget()
    yield AppTest.from_file(str(APP), default_timeout=SECONDS).run()
    state.jobs().stop()
    forget()


def column(app: AppTest, name: str) -> list[object]:
    return list(app.dataframe[0].value[name])


def test_the_worklist_has_a_line_a_case_and_hides_who_it_is(app: AppTest) -> None:
    """A reconstruction and a PET scan; no folder, no path, no name, until they are asked for."""
    assert not app.exception
    assert sorted(column(app, "Image")) == ["reconstruction", "scan"]
    assert sorted(column(app, "Modality")) == ["CT", "PT"]
    shown = app.dataframe[0].value.drop(columns=[""]).to_string() + "".join(str(e.value) for e in app.caption)
    assert "Doe" not in shown
    assert "Folder" not in app.dataframe[0].value
    next(t for t in app.toggle if t.label == "Show folders").set_value(True).run()
    assert any("Doe_John" in str(folder) for folder in column(app, "Folder"))


def test_every_page_says_what_it_is_for(app: AppTest) -> None:
    assert any(DISCLAIMER in caption.value.lower() for caption in app.caption)


def test_thumbnails_are_pictures(app: AppTest) -> None:
    assert all(str(picture).startswith("data:image/png;base64,") for picture in column(app, ""))


def test_the_search_and_the_filters_leave_what_fits(app: AppTest) -> None:
    search = next(box for box in app.text_input if box.label == "Search")
    search.set_value("gaussian").run()
    assert column(app, "Image") == ["reconstruction"]
    search.set_value("no such word").run()
    assert not app.dataframe
    assert "Nothing to show" in app.info[0].value


def test_a_folder_outside_of_the_roots_is_refused_in_a_sentence(app: AppTest, tmp_path: Path) -> None:
    next(box for box in app.text_input if box.label == "Add a folder").set_value(str(tmp_path))
    next(button for button in app.button if button.label == "Add").click().run()
    assert "not found among the folders that this dashboard may read" in app.error[0].value
    assert len(app.dataframe[0].value) == 2


def test_a_folder_of_the_roots_can_be_added(app: AppTest, study: Path) -> None:
    shutil.copytree(study / "pet", study / "more" / "pet")
    next(box for box in app.text_input if box.label == "Add a folder").set_value(str(study / "more"))
    next(button for button in app.button if button.label == "Add").click().run()
    shutil.rmtree(study / "more")
    assert app.success
    assert len(app.dataframe[0].value) == 3


def viewer_page() -> None:
    from dashboard.views import viewer

    viewer.show()


def test_the_viewer_has_scan_result_and_difference(app: AppTest) -> None:
    """Of the case in the session, by its key; the names of the volumes are keys too."""
    case = next(case for case in state.library().cases() if case.record)
    page = AppTest.from_function(viewer_page, default_timeout=SECONDS)
    page.session_state["case"] = case.key
    page.run()
    assert not page.exception
    from dashboard.views.viewer import _panes

    panes = _panes(case)
    assert [pane["title"] for pane in panes] == ["scan", "reconstruction", "reconstruction - scan"]
    assert [pane["kind"] for pane in panes] == ["image", "image", "difference"]
    assert all(set(str(pane["volume"])) <= set("0123456789abcdef-") for pane in panes)
