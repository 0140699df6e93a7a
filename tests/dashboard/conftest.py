"""A real browser for the tests of the dashboard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser(system_tool: Callable[[str], str]) -> Iterator[Any]:
    """Chromium without a window, drawing by software."""
    executable = system_tool("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        message = "THE PYTHON PACKAGE playwright IS MISSING: pip install -e '.[test]'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()
