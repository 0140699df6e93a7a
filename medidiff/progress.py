"""How long work tells how far it is: a callback, so that only the command line and the dashboard draw bars."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) after each unit of work."""


def silent(done: int, total: int) -> None:
    """The default: report nothing."""
