"""A reviewer's day in a real browser: open, scroll, window, compare, measure, score ten blinded images, export.

In the middle of the scoring the server is killed and started again.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dashboard.library import Library
from dashboard.reading.design import DEFAULT_SCALES, designed
from medidiff import DISCLAIMER
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct
from medidiff.results.database import open_database
from medidiff.results.readings import create_study, read_events

ROOT = Path(__file__).resolve().parents[2]
CASES, ARMS = 5, ("model", "scan")
KILLED_AFTER = 6  # items of ten
WAIT_MS = 90_000
LINE, HEAD, MARK = 96, 36, 18  # pixels of the table: a line, its head, where a line is chosen
TABLE = '[data-testid="stDataFrame"]'
VIEWER = '[data-state="ready"][data-plane="axial"]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_nifti_scan: Callable[..., Path]) -> Path:
    """A CT with a result, and five small cases of two arms."""
    place = tmp_path_factory.mktemp("Doe_Jane")
    shutil.copytree(ROOT / "data_samples" / "ct" / "low_dose", place / "low_dose")
    reconstruct(place / "low_dose", place / "result", Options(method="gaussian", smoothing=1.5))
    for case in range(CASES):
        noise = np.random.default_rng(case).normal(0, 40, (6, 64, 64))
        body = np.where(np.indices(noise.shape)[1] < 8, -1000, 40)
        for k, arm in enumerate(ARMS):
            write_nifti_scan(place / "read" / str(case) / f"{arm}.nii.gz", body + noise / (k + 1))
    return place


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a study of ten single images."""
    found = f"sqlite:///{tmp_path_factory.mktemp('database') / 'readings.sqlite'}"
    listed = Library([folder])
    listed.add(folder / "read")
    by_case: dict[str, dict[str, str]] = {}
    for image in listed.images.values():
        by_case.setdefault(image.place.parent.name, {})[image.place.name.removesuffix(".nii.gz")] = image.key
    cases = [{"number": k, "images": images} for k, (_, images) in enumerate(sorted(by_case.items()), 1)]
    design = designed(
        name="ten", modality="CT", window=(-160, 240), arms=ARMS, cases=cases, scales=DEFAULT_SCALES, preference="",
        levels=(),
    )  # fmt: skip
    create_study(open_database(found), "ten", design.model_dump(mode="json"))
    return found


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1100}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    yield opened
    context.close()


def quiet(page: Any) -> None:
    """Until the page's script has ended."""
    page.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")


def open_case(page: Any, address: str, word: str) -> None:
    """From the worklist into the viewer, by the search and a click on the line."""
    page.goto(address)
    page.wait_for_selector(f"{TABLE} canvas")
    search = page.get_by_role("textbox", name="Search")
    search.fill(word)
    search.press("Enter")
    quiet(page)
    button = page.get_by_role("button", name="Open in the viewer")
    for _ in range(20):
        box = page.locator(TABLE).bounding_box()
        page.mouse.click(box["x"] + MARK, box["y"] + HEAD + LINE / 2)
        page.wait_for_timeout(1500)
        if button.is_enabled():
            break
    button.click()
    page.wait_for_selector(VIEWER)
    quiet(page)


def cell(page: Any, k: int = 0) -> Any:
    return page.locator(f"{VIEWER} .cell").nth(k)


def shown(page: Any, k: int = 0) -> tuple[int, int]:
    """Which image and which slice a pane shows."""
    return int(cell(page, k).get_attribute("data-image")), int(cell(page, k).get_attribute("data-slice"))


def drag(page: Any, dx: float, dy: float) -> None:
    """From the middle of the first pane."""
    box = cell(page).locator(".body").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def wait_for(page: Any, found: Callable[[], bool]) -> None:
    for _ in range(WAIT_MS // 100):
        if found():
            return
        page.wait_for_timeout(100)
    raise TimeoutError


def test_looking_and_measuring(page: Any, folder: Path, reviewing: Callable[..., Any]) -> None:
    """Scroll, window, compare; a circle is measured in scan and reconstruction, and the table comes as a file."""
    server = reviewing(str(folder))
    open_case(page, server.start(), "gaussian")
    viewer = page.locator(VIEWER)
    first = shown(page)
    page.mouse.move(*[cell(page).locator(".body").bounding_box()[k] + 100 for k in ("x", "y")])
    page.mouse.wheel(0, 120)
    wait_for(page, lambda: abs(shown(page)[1] - first[1]) == 1)
    assert shown(page)[1] == shown(page, 1)[1]  # the panes are linked

    viewer.press("Shift+Digit2")
    wait_for(page, lambda: viewer.get_attribute("data-window") == "-1350,150")
    drag(page, 60, 0)
    wait_for(page, lambda: viewer.get_attribute("data-window") != "-1350,150")
    viewer.press("Shift+Digit1")

    viewer.press("Space")
    wait_for(page, lambda: (shown(page)[0], shown(page, 1)[0]) == (1, 0))
    viewer.press("Space")

    viewer.press("o")
    drag(page, 20, 0)
    page.get_by_role("heading", name="Measurements").wait_for()
    quiet(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Table (CSV)").click()
    table = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert list(table["Image"]) == ["scan", "reconstruction"]
    assert table["Pixels"].nunique() == 1
    assert table["SD"][1] < table["SD"][0]
    assert table["Bias"][0] == 0
    assert set(table["note"]) == {DISCLAIMER}
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture (PNG)").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    server.stop()


def read_item(page: Any, number: int) -> None:
    """Scores of one image that tell where they belong."""
    page.get_by_text(f"Item {number + 1} of {CASES * len(ARMS)}").wait_for()
    page.wait_for_selector(VIEWER)
    for k, scale in enumerate(DEFAULT_SCALES):
        page.get_by_role("radiogroup", name=scale.name).locator("label").nth((number + k) % 5).click()
    page.get_by_role("button", name=re.compile("^(Next|Finish)")).click()


def log_in(page: Any, address: str, *, is_new: bool) -> None:
    page.goto(f"{address}reading")
    page.get_by_role("textbox", name="Your code name").fill("r1")
    page.get_by_role("button", name="Read", exact=True).last.click()
    if is_new:
        page.get_by_role("button", name="Begin as r1").click()


def test_ten_blinded_images_are_scored_through_a_kill(
    page: Any, folder: Path, url: str, reviewing: Callable[..., Any]
) -> None:
    """Forty scores, none lost and none twice, in the order they were given; the export has them all."""
    server = reviewing(str(folder), "--database", url)
    log_in(page, server.start(), is_new=True)
    for number in range(KILLED_AFTER):
        read_item(page, number)
    page.get_by_text(f"Item {KILLED_AFTER + 1} of").wait_for()
    server.kill()
    wait_for(page, lambda: not server.answers())
    log_in(page, server.start(), is_new=False)
    for number in range(KILLED_AFTER, CASES * len(ARMS)):
        read_item(page, number)
    events = [one for one in read_events(open_database(url), 1, "r1") if one.question.startswith("score/")]
    assert [(one.item, one.value) for one in events] == [(n, (n + k) % 5 + 1) for n in range(10) for k in range(4)]
    page.get_by_text("All 10 items are read and kept").wait_for()
    quiet(page)
    page.get_by_role("button", name="Leave").click()
    page.get_by_text("Results", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export (ZIP)").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        answers = pd.read_csv(archive.open("answers.csv"))
        everything = " ".join(name + archive.read(name).decode() for name in archive.namelist())
    assert len(answers) == 40
    assert "Doe" not in everything
    assert not [arm for arm in ARMS if re.search(rf"\b{arm}\b", " ".join(map(str, answers.to_numpy().ravel())))]
    server.stop()
