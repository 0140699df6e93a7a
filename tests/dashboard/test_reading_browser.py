"""A reader study in a real browser, on a server that is killed between two answers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dashboard.library import Library
from dashboard.reading.design import DEFAULT_SCALES, LEVELS, designed
from dashboard.reading.order import items
from medidiff.results.database import open_database
from medidiff.results.readings import create_study, read_events

ROOT = Path(__file__).resolve().parents[2]
WAIT_MS = 60_000
ARMS = ("full dose", "scan", "tv")
READY = '[data-state="ready"][data-plane="axial"]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_nifti_scan: Callable[..., Path]) -> Path:
    """Four cases of three arms, small; the folder is a patient's, and the files are named after the arms."""
    place = tmp_path_factory.mktemp("Doe_Jane")
    for case in range(4):
        noise = np.random.default_rng(case).normal(0, 40, (6, 64, 64))
        body = np.where(np.indices(noise.shape)[1] < 8, -1000, 40)
        for k, arm in enumerate(ARMS):
            write_nifti_scan(place / f"case {case}" / f"{arm}.nii.gz", body + noise / (k + 1))
    return place


@pytest.fixture
def server(folder: Path, tmp_path: Path, reviewing: Callable[..., Any]) -> Iterator[Any]:
    """With a study in its database; not started."""
    listed = Library([folder])
    listed.add(folder)
    by_case: dict[str, dict[str, str]] = {}
    for image in listed.images.values():
        by_case.setdefault(image.place.parent.name, {})[image.place.name.removesuffix(".nii.gz")] = image.key
    cases = [{"number": k, "images": images} for k, (_, images) in enumerate(sorted(by_case.items()), 1)]
    design = designed(
        name="noise", modality="CT", window=(-160, 240), arms=ARMS, cases=cases, scales=DEFAULT_SCALES,
        preference="Which?", levels=LEVELS,
    )  # fmt: skip
    url = f"sqlite:///{tmp_path / 'readings.sqlite'}"
    found = reviewing(str(folder), "--database", url)
    create_study(open_database(url), "noise", design.model_dump(mode="json"))
    found.design, found.url = design, url
    yield found
    found.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    yield opened
    context.close()


def log_in(page: Any, address: str, *, is_new: bool) -> None:
    page.goto(f"{address}reading")
    page.get_by_role("textbox", name="Your code name").fill("r1")
    page.get_by_role("button", name="Read", exact=True).last.click()
    if is_new:
        page.get_by_role("button", name="Begin as r1").click()
    page.wait_for_selector(READY)


def score(page: Any, question: str, value: int) -> None:
    page.get_by_role("radiogroup", name=question).locator("label").nth(value - 1).click()


def scores(page: Any) -> dict[str, int]:
    """The scores on screen that are given."""
    found = {}
    for scale in DEFAULT_SCALES:
        group = page.get_by_role("radiogroup", name=scale.name)
        given = group.locator("input").evaluate_all("all => all.findIndex((one) => one.checked)")
        found |= {scale.name: given + 1} if given >= 0 else {}
    return found


def mark(page: Any, across: float) -> None:
    """A mark in the middle row of the picture, with the confidence that is set first."""
    page.get_by_role("button", name="mark", exact=True).click()
    box = page.locator(READY).bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + 0.5 * box["height"])


def kept(server: Any, question: str) -> list[Any]:
    events = read_events(open_database(server.url), 1, "r1")
    return [(event.item, event.value) for event in events if event.question == question]


def until(page: Any, found: Callable[[], bool]) -> None:
    """Waits for the database, which the page writes to before it answers."""
    for _ in range(WAIT_MS // 100):
        if found():
            return
        page.wait_for_timeout(100)
    raise TimeoutError


def test_nothing_is_lost_when_the_server_is_killed(page: Any, server: Any, tmp_path: Path) -> None:
    """Two answers of the second item and a mark are given when every process is killed; the next server shows them.

    All that was asked for names no arm, no folder and no image; the export holds every answer.
    """
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    address = server.start()
    log_in(page, address, is_new=True)
    for scale in DEFAULT_SCALES:
        score(page, scale.name, 2)
    next_item = page.get_by_role("button", name=re.compile("^Next"))
    next_item.click()
    page.get_by_text("Item 2 of 24").wait_for()
    page.wait_for_selector(READY)
    score(page, "noise", 4)
    score(page, "artefacts", 5)
    mark(page, 0.4)
    until(page, lambda: bool(kept(server, "marks")[1:]) and bool(kept(server, "score/artefacts")[1:]))
    server.kill()
    until(page, lambda: not server.answers())  # the processes are gone when the port is

    log_in(page, server.start(), is_new=False)
    page.get_by_text("Item 2 of 24").wait_for()
    page.wait_for_function("document.querySelectorAll('input[type=radio]:checked').length === 2")
    assert scores(page) == {"noise": 4, "artefacts": 5}
    page.get_by_text("Kept: 1.").wait_for()
    assert kept(server, "score/noise") == [(0, 2), (1, 4)]
    assert [value for _, value in kept(server, "done")] == [True]
    (_, none), (_, (one,)) = kept(server, "marks")
    assert none == []
    assert 1 <= one["confidence"] <= len(LEVELS)

    score(page, "sharpness", 1)
    score(page, "diagnostic confidence", 3)
    until(page, next_item.is_enabled)
    mark(page, 0.6)
    next_item.click()  # without a pause: the mark must not be lost on the way
    page.get_by_text("Item 3 of 24").wait_for()
    assert kept(server, "marks")[-1][1][0] == one
    assert len(kept(server, "marks")[-1][1]) == 2
    page.wait_for_selector(READY)
    page.wait_for_timeout(1500)
    assert scores(page) == {}  # nothing of an item is carried to the next
    assert {event.question for event in read_events(open_database(server.url), 1, "r1") if event.item == 2} == {
        "opened"
    }
    page.get_by_role("button", name="Leave").click()
    page.get_by_role("radiogroup").or_(page.get_by_text("Results", exact=True)).last.wait_for()
    page.get_by_text("Results", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export (ZIP)").click()
    assert download.value.suggested_filename == "reader_study_1.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        answers = pd.read_csv(archive.open("answers.csv"))
        assert len(pd.read_csv(archive.open("marks.csv"))) == 2
    assert len(answers) == 10
    assert list(answers[answers["item"] == 2]["value"]) == [4, 5, 2, 1, 3]
    secret = [
        "Doe",
        "dose",
        "scan",
        "/tv",
        "nii.gz",
        *(key for case in server.design.cases for key in case.images.values()),
    ]
    told = [url for url in asked if not url.startswith("blob:")]
    assert any("/review/volumes/" in url for url in told)
    assert not [url for url in (*told, page.url, page.title()) for word in secret if word in url]


def test_items_that_are_compared_are_side_by_side(page: Any, server: Any) -> None:
    """A pair has two panes named A and B and one question; what is clicked is kept with its side."""
    engine = open_database(server.url)
    from dashboard.reading.session import DONE, Reading
    from medidiff.results.readings import list_studies

    reading = Reading.begin(engine, list_studies(engine)[0], "r1")
    singles = sum(len(item.arms) == 1 for item in items(server.design, "r1"))
    for k in range(singles):
        reading.save(k, DONE, True)
    log_in(page, server.start(), is_new=False)
    page.get_by_text(f"Item {singles + 1} of 24").wait_for()
    page.get_by_role("radiogroup", name="Which?").locator("label").nth(1).click()
    until(page, lambda: kept(server, "preference") == [(singles, "B")])
    assert page.get_by_role("radiogroup").count() == 1
