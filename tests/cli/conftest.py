"""Running the command line: in this process for speed, through the same `main` that the installed program calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `medidiff ARGUMENTS` and returns (exit code, standard output, standard error)."""
    from medidiff.cli import main

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["medidiff", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Ended(int(stop.value.code or 0), *capfd.readouterr())

    return run
