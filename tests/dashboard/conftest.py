"""A real browser for the tests of the dashboard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

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


class Reviewing:
    """`medidiff review` with its own processes, which can be killed with all of them and started again."""

    def __init__(self, *words: str) -> None:
        self.words = words
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    def start(self) -> str:
        """The address, once it answers; ends with a slash."""
        command = ["-c", "from medidiff.cli import main; main()", "review", *self.words, "--no-browser"]
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", str(self.port)], text=True, stdout=subprocess.PIPE, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]

    def kill(self) -> None:
        """At once, the command and the dashboard's own process: neither can write another byte."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=30)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.communicate(timeout=60)


@pytest.fixture(scope="session")
def reviewing() -> Iterator[Callable[..., Reviewing]]:
    """Makes servers of the words of a command line; those that still run at the end are stopped."""
    made: list[Reviewing] = []

    def make(*words: str) -> Reviewing:
        made.append(Reviewing(*words))
        return made[-1]

    yield make
    for server in made:
        if hasattr(server, "process"):
            server.stop()
