"""The page around the viewer: what lies on what, and what becomes of what was drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state
from dashboard.library import Case
from dashboard.settings import VARIABLE, Review
from dashboard.viewer import viewer
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct

ROOT = Path(__file__).resolve().parents[2]
CT, PET = ROOT / "data_samples" / "ct" / "low_dose", ROOT / "data_samples" / "pet" / "low_count"
SECONDS, WAIT_MS = 60, 60_000
CACHED: tuple[Callable[..., object], ...] = (
    state.review, state.library, state.folder, state.volumes, state.jobs, state.database,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT with a result, and a PET in the same frame of reference."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(CT, folder / "ct")
    reconstruct(folder / "ct", folder / "result", Options(method="gaussian", smoothing=1.0))
    frame = pydicom.dcmread(CT / "0001.dcm").FrameOfReferenceUID
    (folder / "pet").mkdir()
    for path in PET.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.FrameOfReferenceUID = frame
        header.save_as(folder / "pet" / path.name)
    return folder


def forget() -> None:
    for function in CACHED:
        function.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture
def cases(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Case]]:
    """Of a server that was started with the study, by modality."""
    monkeypatch.setenv(VARIABLE, Review.of([study], []).environment()[VARIABLE])
    forget()
    yield {case.main.modality: case for case in state.library().cases()}
    forget()


def viewer_page() -> None:
    from dashboard.views import viewer

    viewer.show()


def panes(case: Case) -> dict[str, dict[str, object]]:
    from dashboard.views.viewer import _panes

    return {str(pane["title"]): pane for pane in _panes(case)}


def test_what_lies_on_what(cases: dict[str, Case]) -> None:
    """The scan under its result, the PET on the CT, by their keys, whichever of the two the case is."""
    ct, pet = cases["CT"], cases["PT"]
    assert ct.scan is not None
    found = panes(ct)
    assert found["reconstruction"]["base"] == ct.scan.key
    assert "overlay" not in found["reconstruction"]
    assert [found["PET on CT"][name] for name in ("volume", "fused", "unit")] == [ct.main.key, pet.main.key, "HU"]
    fused = panes(pet)["PET on CT"]
    assert [fused[name] for name in ("volume", "fused", "unit")] == [ct.scan.key, pet.main.key, "HU"]


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_the_page_shows_the_case(cases: dict[str, Case], modality: str) -> None:
    """Without a word from the browser; where a PET has a CT and its result, the reader chooses which."""
    page = AppTest.from_function(viewer_page, default_timeout=SECONDS)
    page.session_state["case"] = cases[modality].key
    page.run()
    assert not page.exception
    assert [box.label for box in page.selectbox if box.label == "Fuse with"] == ["Fuse with"] * (modality == "PT")


def test_what_there_is_not_is_refused() -> None:
    for wrong in ({"layout": 3}, {"plane": "oblique"}, {"tools": ("lasso",)}):
        with pytest.raises(ValueError, match="expected"):
            viewer([{"title": "scan"}], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 6 panes"):
        viewer([])


@pytest.fixture
def address(study: Path, reviewing: Callable[..., Any]) -> Iterator[str]:
    server = reviewing(str(study))
    yield server.start()
    server.stop()


def test_what_was_drawn_is_measured_and_there_again(browser: Any, address: str, cases: dict[str, Case]) -> None:
    """In a real browser: a region reaches the page, which measures it; after another page it is drawn as before."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{address}viewer?case={cases['CT'].key}")
    page.wait_for_selector('[data-state="ready"][data-plane]')
    page.get_by_role("button", name="circle", exact=True).click()
    box = page.locator(".medidiff-viewer .body").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 10)
    page.mouse.move(x + 40, y + 30)
    page.mouse.up()
    page.get_by_role("heading", name="Measurements").wait_for()
    drawn = page.locator(".sheet g[data-id='R1'] path.edge")
    before = drawn.first.get_attribute("d")
    page.get_by_text("Worklist", exact=True).click()
    page.get_by_text("Add a folder").wait_for()
    page.get_by_text("Viewer", exact=True).click()
    page.wait_for_selector('[data-state="ready"][data-plane]')
    page.get_by_role("heading", name="Measurements").wait_for()
    drawn.first.wait_for(state="attached")
    assert drawn.count() == 2
    assert drawn.first.get_attribute("d") == before
    context.close()
