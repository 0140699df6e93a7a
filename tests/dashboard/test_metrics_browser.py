"""From a point of a chart to the slice it is of, in a real browser; what the address says of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from medidiff.evaluate.folder import evaluate
from medidiff.evaluate.plan import Evaluation, make_plan
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct
from medidiff.io.dicom import load_volume

ROOT = Path(__file__).resolve().parents[2]
CT = ROOT / "data_samples" / "ct"
WAIT_MS = 60_000
CHART = '[data-testid="stVegaLiteChart"]'
STEP = 6  # pixels between two looks for a point


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Doe_Jane")
    for name in ("low_dose", "noise_free"):
        shutil.copytree(CT / name, folder / name)
    reconstruct(folder / "low_dose", folder / "result", Options(method="gaussian", smoothing=3.0))
    evaluate(make_plan(Evaluation(folder / "noise_free", {"blurred": folder / "result"})), folder / "numbers")
    return folder


@pytest.fixture(scope="module")
def address(study: Path, reviewing: Callable[..., Any]) -> Iterator[str]:
    server = reviewing(str(study))
    yield server.start()
    server.stop()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.goto(f"{address.rstrip('/')}/metrics")
    opened.wait_for_selector(f"{CHART} canvas, {CHART} svg")
    opened.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")
    yield opened
    context.close()


def find_point(page: Any) -> str:
    """Moves the mouse onto the one point there is, which lies half-way up; what it says of itself."""
    chart = page.locator(CHART).first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    for y in range(int(0.3 * box["height"]), int(0.7 * box["height"]), STEP):
        for x in range(int(0.3 * box["width"]), int(0.8 * box["width"]), STEP):
            page.mouse.move(box["x"] + x, box["y"] + y)
            hint = page.locator("#vg-tooltip-element.visible")
            if hint.count():
                return str(hint.inner_text())
    raise AssertionError("no point was found in the chart")


def test_a_click_on_a_point_lands_on_its_case_and_worst_slice(page: Any, study: Path) -> None:
    """The slice is the one of the greatest error by plain numpy; addresses and titles say nothing of the patient."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hint = find_point(page)
    assert all(word in hint for word in ("blurred", "001_CT_HANN", "P001"))
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector('[data-state="ready"][data-plane="axial"]')
    made, truth = (load_volume(study / name).array for name in ("result", "noise_free"))
    worst = int(((made - truth) ** 2).mean(axis=(1, 2)).argmax())
    assert worst != len(truth) // 2  # where the viewer would open anyway
    found = parse_qs(urlparse(page.url).query)
    assert found["slice"] == [str(worst)]
    assert re.fullmatch("[0-9a-f]{16}", found["case"][0])
    page.wait_for_selector(f'[data-slice="{worst}"]')
    page.get_by_text(f"slice {worst + 1}/{len(truth)}").first.wait_for()
    shown = page.locator("[data-image] select").first.evaluate("list => [...list.options].map(o => o.textContent)")
    assert "reconstruction" in shown
    assert not [text for text in (*asked, page.url, page.title()) if "Doe" in text or "blurred" in text]
