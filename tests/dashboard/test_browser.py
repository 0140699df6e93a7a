"""The whole dashboard as a reader uses it: started by its command, in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct

ROOT = Path(__file__).resolve().parents[2]
WAIT_MS = 60_000
LINE, HEAD, MARK = 96, 36, 18  # pixels of the table: a line, its head, where a line is chosen
TABLE = '[data-testid="stDataFrame"]'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Doe_Jane")
    shutil.copytree(ROOT / "data_samples" / "ct" / "low_dose", folder / "low_dose")
    reconstruct(folder / "low_dose", folder / "result", Options(method="gaussian", smoothing=1.0))
    return folder


@pytest.fixture(scope="module")
def address(study: Path, reviewing: Callable[..., Any]) -> Iterator[str]:
    server = reviewing(str(study))
    yield server.start()
    server.stop()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The worklist, drawn."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.goto(address)
    opened.wait_for_selector(f"{TABLE} canvas")
    opened.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")
    yield opened
    context.close()


def choose(page: Any, line: int) -> None:
    """Marks a line of the table, and waits until the page knows."""
    button = page.get_by_role("button", name="Open in the viewer")
    end = time.monotonic() + WAIT_MS / 1000
    while button.is_disabled() and time.monotonic() < end:
        box = page.locator(TABLE).bounding_box()
        page.mouse.click(box["x"] + MARK, box["y"] + HEAD + line * LINE + LINE / 2)
        page.wait_for_timeout(1500)


def test_from_the_worklist_to_the_reconstruction(page: Any, study: Path) -> None:
    """A chosen case opens with scan, result and difference; addresses and titles say nothing of the patient."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    choose(page, 0)
    page.get_by_role("button", name="Open in the viewer").click()
    page.wait_for_selector('[data-state="ready"][data-plane="axial"]')
    shown = page.locator("[data-image] select").first.evaluate("list => [...list.options].map(o => o.textContent)")
    assert shown == ["scan", "reconstruction", "reconstruction - scan"]
    assert any("/review/volumes/" in url for url in asked)
    assert not [text for text in (*asked, page.url, page.title()) if "Doe" in text or study.name in text]
    page.reload()
    page.wait_for_selector('[data-state="ready"][data-plane="axial"]')


def test_a_reconstruction_started_from_the_page_survives_a_reload(page: Any, study: Path) -> None:
    """Started, the page loaded again, finished, and listed beside its scan."""
    choose(page, 0)
    page.get_by_role("button", name="Reconstruct").click()
    out = page.get_by_label("New folder for the result")
    out.fill(str(study / "again"))
    out.press("Tab")
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile(r"^(starting|running|finished), ")).first.wait_for()
    page.reload()
    page.get_by_text("finished, 12 of 12 slices").wait_for(timeout=3 * WAIT_MS)
    assert (study / "again" / "run.json").exists()
