"""The diffusion page, run by Streamlit's own test driver on real folders."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state, work
from dashboard.settings import VARIABLE, Review
from dashboard.work import Task

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data_samples"
SECONDS = 120
CACHED: tuple[Callable[..., object], ...] = (
    state.review, state.library, state.folder, state.volumes, state.jobs, state.database,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT at low and full dose and a PET; the name of the folder is a patient's."""
    folder = tmp_path_factory.mktemp("Doe_John")
    for place in ("ct/low_dose", "ct/full_dose", "pet/low_count"):
        shutil.copytree(SAMPLES / place, folder / place)
    return folder


def forget() -> None:
    for function in CACHED:
        function.cache_clear()  # type: ignore[attr-defined]


def diffusion_page() -> None:
    from dashboard.views import diffusion

    diffusion.show()


@pytest.fixture
def app(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The page of a server that was started with the study, at its noisier CT."""
    monkeypatch.setenv(VARIABLE, Review.of([study], []).environment()[VARIABLE])
    forget()
    page = AppTest.from_function(diffusion_page, default_timeout=SECONDS)
    page.query_params["case"] = key_of("low_dose")
    yield page.run()
    work.work().stop()
    work.work.cache_clear()
    forget()


def key_of(folder: str) -> str:
    return next(case.key for case in state.library().cases() if case.scan and case.scan.place.name == folder)


def show(app: AppTest, kind: str) -> AppTest:
    next(group for group in app.button_group if group.label == "Show").set_value(kind)
    return app.run()


def named(elements: Any, label: str) -> Any:
    return next(element for element in elements if element.label.startswith(label))


def task() -> Task:
    """The one asked for last."""
    return list(work.work()._tasks.values())[-1]


def compute(app: AppTest, label: str) -> AppTest:
    """Press the button, wait for the thread, and look again."""
    named(app.button, label).click().run()
    assert task().wait(SECONDS)
    assert task().told == ""
    return app.run()


def downloads(app: AppTest) -> list[str]:
    return [element.proto.label for element in app.get("download_button")]


def words(app: AppTest) -> str:
    """All text of the page."""
    parts = [*app.caption, *app.markdown, *app.info, *app.warning, *app.error]
    return " ".join(str(part.value) for part in parts)


def test_the_page_opens_with_the_forward_process_of_the_case_in_the_address(app: AppTest) -> None:
    """Of the schedules; keys in the address, and nothing that says who it is."""
    assert not app.exception
    assert app.query_params["case"] in (key_of("low_dose"), [key_of("low_dose")])
    assert len(app.get("image")) == 1
    assert downloads(app) == ["Filmstrip (PNG)"]
    assert "medidiff walks back from" in words(app)
    shown = words(app) + str(app.query_params) + "".join(str(box.options) for box in app.selectbox)
    assert "Doe" not in shown
    assert "low_dose" not in shown


def test_the_movie_of_the_forward_process_can_be_asked_for(app: AppTest) -> None:
    named(app.selectbox, "Region").set_value(128)
    named(app.toggle, "Movie").set_value(True).run()
    assert not app.exception
    assert len(app.get("image")) == 2
    assert downloads(app) == ["Filmstrip (PNG)", "Movie (GIF)"]


def test_what_is_recognisable_is_a_table_of_half_way_values(app: AppTest) -> None:
    """A line a schedule; the cosine schedule keeps most half-way, the aggressive one least."""
    show(app, "Still recognisable")
    assert not app.dataframe
    compute(app, "Measure")
    assert not app.exception
    table = app.dataframe[0].value.set_index("Schedule")
    assert list(table.index) == ["linear", "cosine", "aggressive", "karras"]
    half = table["Lesion half-way"]
    assert half.idxmax() == "cosine"
    assert half.idxmin() == "aggressive"
    assert table["Structure half-way"].between(0, 1).all()
    assert table["Noise, HU"]["cosine"] == pytest.approx(table["σ half-way"]["cosine"] * 504, rel=0.01)
    assert len(app.get("vega_lite_chart")) == 3


def test_the_reverse_process_is_computed_on_demand_and_then_there_at_once(app: AppTest) -> None:
    """Button, pictures, scores against the full dose; back at an earlier choice nothing is computed again."""
    show(app, "Reverse")
    named(app.number_input, "Steps").set_value(2).run()
    assert not app.get("image")
    compute(app, "Compute, 3 evaluations")
    assert not app.exception
    assert len(app.get("image")) == 2
    assert downloads(app) == ["Filmstrip (PNG)", "Movie (GIF)"]
    scores = app.dataframe[0].value.set_index("")
    assert list(scores.index) == ["scan", "mean", "sample", "result"]
    assert scores["RMSE, HU"]["mean"] < scores["RMSE, HU"]["scan"]
    assert "3 network evaluations" in words(app)
    named(app.number_input, "Steps").set_value(3).run()
    assert not app.get("image")
    began = time.monotonic()
    named(app.number_input, "Steps").set_value(2).run()
    assert len(app.get("image")) == 2
    assert time.monotonic() - began < 10


def test_a_computation_can_be_stopped(app: AppTest) -> None:
    show(app, "Side by side")
    named(app.button, "Compute").click().run()
    assert named(app.button, "Stop")
    named(app.button, "Stop").click().run()
    assert task().wait(SECONDS)
    assert task().state == "stopped"
    app.run()
    assert named(app.button, "Compute")
    assert not app.exception


def test_seeds_side_by_side_differ_and_cost_is_told(app: AppTest) -> None:
    """Scores of each, evaluations of each, and how far seeds lie apart."""
    show(app, "Side by side")
    next(group for group in app.button_group if group.label == "Vary").set_value(["seed"])
    named(app.number_input, "Steps").set_value(1).run()
    compute(app, "Compute, 5 evaluations")
    assert not app.exception
    table = app.dataframe[0].value
    seeds = table[table["Varied"] == "seed"]
    assert list(seeds["Evaluations"]) == [2] * 4
    assert (seeds["Seconds"] > 0).all()
    assert len(np.unique(seeds["RMSE, HU"])) == 4
    assert "Where seeds differ" in words(app)
    assert downloads(app) == ["Grid (PNG)"]


def test_a_noisier_reference_is_told(app: AppTest) -> None:
    """The full dose is not scored against the low dose unless asked for, and then with a warning."""
    named(app.selectbox, "Case").set_value(key_of("full_dose")).run()
    show(app, "Reverse")
    against = named(app.selectbox, "Score against")
    assert against.value is None
    assert not app.warning
    against.set_value(key_of("low_dose")).run()
    assert "noisier than the scan" in app.warning[0].value


def test_pet_has_its_unit_and_no_guidance(app: AppTest) -> None:
    """Its model was never trained without the scan, and says so."""
    named(app.selectbox, "Case").set_value(key_of("low_count")).run()
    assert not app.exception
    assert named(app.selectbox, "Window, SUV")
    show(app, "Reverse")
    assert named(app.number_input, "Guidance").disabled
    show(app, "Side by side")
    assert "No row for guidance" in words(app)
    assert not app.exception


def test_a_scan_that_is_gone_is_told_in_a_sentence(app: AppTest, study: Path) -> None:
    """Its files were moved while it was listed."""
    away = study / "away"
    (study / "ct" / "low_dose").rename(away)
    try:
        named(app.slider, "Slice").set_value(3).run()
        assert not app.exception
        assert len(app.error) == 1
        assert "\n" not in app.error[0].value
        assert "Doe" not in app.error[0].value
        assert "low_dose" not in app.error[0].value
    finally:
        away.rename(study / "ct" / "low_dose")


def test_without_a_scan_the_page_says_where_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, Review.of([tmp_path], []).environment()[VARIABLE])
    forget()
    app = AppTest.from_function(diffusion_page, default_timeout=SECONDS).run()
    assert not app.exception
    assert "add a folder in the worklist" in app.info[0].value
    forget()
