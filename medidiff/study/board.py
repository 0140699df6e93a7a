"""How far every task is, and whether to stop: a few numbers in a file that all processes of a study map.

Number 0 is the wish to stop, number 1 + k counts the slices of task k. Only the process that works on a task writes its
number, so there is nothing to lock, and a process that is killed leaves nothing locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Stopped(Exception):
    """The user wants the work to end after the slice under way."""


@dataclass(frozen=True)
class Board:
    """The numbers in the file `path`, which `make` writes."""

    path: Path

    @classmethod
    def make(cls, path: Path, tasks: int) -> Board:
        path.write_bytes(np.zeros(1 + tasks, np.int64).tobytes())
        return cls(path)

    def done(self) -> int:
        """Slices so far, of all tasks."""
        return int(self._numbers()[1:].sum())

    def stop(self) -> None:
        self._numbers()[0] = 1

    def check(self) -> None:
        """Raise Stopped when that is wanted."""
        if self._numbers()[0]:
            raise Stopped

    def tick(self, task: int, slices: int = 1) -> None:
        """Count slices of a task; raises Stopped when that is wanted."""
        self._numbers()[1 + task] += slices
        self.check()

    def _numbers(self) -> NDArray[np.int64]:
        return np.memmap(self.path, np.int64, "r+")
