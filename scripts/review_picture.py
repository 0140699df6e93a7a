"""Take the picture of the dashboard for the documents: the CT of a demo, in Chromium.

medidiff demo -o demo_output && python scripts/review_picture.py demo_output
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from dashboard.library import Library

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `medidiff demo` wrote")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "review.png")
    options = parser.parse_args()
    places = [options.demo, ROOT / "data_samples"]
    listed = Library(places)
    for place in places:
        listed.add(place)
    case = next(case for case in listed.cases() if case.record and case.main.modality == "CT")
    words = ["-c", "from medidiff.cli import main; main()", "review", *map(str, places), "--no-browser"]
    server = subprocess.Popen([sys.executable, *words, "--port", str(options.port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS).new_page(
                viewport={"width": 1200, "height": 1000}
            )
            page.goto(f"{address}viewer?case={case.key}")
            page.wait_for_selector('[data-state="ready"][data-plane]', timeout=120_000)
            page.get_by_role("button", name="lung", exact=True).wait_for()
            viewer = page.locator('[data-state="ready"][data-plane]')
            draw_circle(page, viewer)
            viewer.screenshot(path=options.picture)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
    print(options.picture)


def draw_circle(page: Page, viewer: Locator) -> None:
    """In the middle of the first image."""
    box = viewer.locator(".cell .body").first.bounding_box()
    assert box is not None
    x, y = box["x"] + 0.35 * box["width"], box["y"] + 0.45 * box["height"]
    viewer.press("o")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 15, y)
    page.mouse.move(x + 30, y)
    page.mouse.up()
    page.get_by_role("heading", name="Measurements").wait_for()
    viewer.press("Escape")
    viewer.press("Escape")


if __name__ == "__main__":
    main()
