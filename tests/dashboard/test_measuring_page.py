"""The measurements below the viewer, run by Streamlit's own test driver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state
from dashboard.settings import VARIABLE, Review
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct

ROOT = Path(__file__).resolve().parents[2]
CACHED = (state.review, state.library, state.folder, state.volumes, state.jobs, state.database)


def page() -> None:
    import streamlit as st

    from dashboard import state
    from dashboard.views import measuring
    from dashboard.views.viewer import _panes

    case = next(case for case in state.library().cases() if case.record)
    panes = _panes(case) + st.session_state["more"](case)
    measuring.show(case, panes, st.session_state["told"])


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """A CT and its result; nothing is drawn yet."""
    shutil.copytree(ROOT / "data_samples" / "ct" / "low_dose", tmp_path / "ct")
    reconstruct(tmp_path / "ct", tmp_path / "result", Options(method="gaussian", smoothing=1.5))
    monkeypatch.setenv(VARIABLE, Review.of([tmp_path], []).environment()[VARIABLE])
    for function in CACHED:
        function.cache_clear()  # type: ignore[attr-defined]
    made = AppTest.from_function(page, default_timeout=60)
    made.session_state["told"] = {"view": None, "rois": [], "marks": []}
    made.session_state["more"] = lambda case: []
    yield made
    for function in CACHED:
        function.cache_clear()  # type: ignore[attr-defined]


def drawn(kind: str, name: str) -> dict[str, object]:
    """Around the middle of the bundled study."""
    case = next(case for case in state.library().cases() if case.record)
    geometry = case.main.open().geometry
    middle = geometry.affine @ [*(n // 2 for n in geometry.shape), 1]
    rim = middle[:3] + np.array([20.0, 0, 0])
    return {"id": name, "kind": kind, "plane": "axial", "slice": 6, "points_mm": [middle[:3].tolist(), rim.tolist()]}


def test_without_a_drawing_it_says_how_to_draw(app: AppTest) -> None:
    app.run()
    assert not app.exception
    assert "Draw with a tool" in app.caption[0].value


def test_regions_and_lines_are_measured_in_every_image(app: AppTest) -> None:
    """The bias follows the chosen image; a blend is measured as it is shown, between its two ends."""
    app.session_state["told"] = {"view": None, "rois": [drawn("circle", "R1"), drawn("line", "R2")]}
    app.run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table["Image"]) == ["scan", "reconstruction"]
    assert set(table["Region"]) == {"R1"}
    assert table["Bias"][0] == 0
    app.selectbox(key="bias against").set_value("reconstruction").run()
    again = app.dataframe[0].value
    assert again["Bias"][1] == 0
    assert again["Bias"][0] == pytest.approx(-table["Bias"][1])
    app.session_state["told"] = {"view": {"strength": 50, "window": [-160, 240]}, "rois": [drawn("circle", "R1")]}
    app.run()
    half = app.dataframe[0].value
    assert list(half["Image"]) == ["scan", "reconstruction, 50 %"]
    assert half["Mean"][1] == pytest.approx(table["Mean"].mean())


def test_an_image_that_is_shown_twice_is_measured_once(app: AppTest) -> None:
    """A pane of PET on CT adds the PET, and no second CT."""
    fused = {"title": "PET on CT", "kind": "image", "unit": "HU", "slices": 12}
    app.session_state["more"] = lambda case: [fused | {"volume": case.scan.key, "fused": case.main.key}]
    app.session_state["told"] = {"rois": [drawn("circle", "R1")]}
    app.run()
    assert not app.exception
    assert list(app.dataframe[0].value["Image"]) == ["scan", "reconstruction"]


def test_what_is_no_region_is_told(app: AppTest) -> None:
    app.session_state["told"] = {"rois": [{"id": "R1", "kind": "star"}]}
    app.run()
    assert not app.exception
    assert "draw it again" in app.warning[0].value
