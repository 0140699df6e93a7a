"""Slices kept in a plain file while a case is worked on: written once, read by every method, never in memory.

Slice k lies at k * rows * columns * 4 bytes (float32), its padding at k * rows * columns bytes of a second file that
is there only when a pixel holds no measurement. Reads and writes are ordinary ones: on a full disk they raise
OSError, where a memory map would end the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource


@dataclass(frozen=True, eq=False)
class Spool:
    """A `SliceSource` in a file; slices may be written in any order."""

    path: Path
    geometry: Geometry
    unit: Unit
    padded: set[int] = field(default_factory=set)

    def write(self, index: int, values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> None:
        _put(self.path, index, np.ascontiguousarray(values, np.float32))
        if padding is not None:
            _put(self._mask, index, np.ascontiguousarray(padding))
            self.padded.add(index)

    def read(self, index: int) -> NDArray[np.float32]:
        return _get(self.path, index, self.geometry.matrix, np.dtype(np.float32))

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return _get(self._mask, index, self.geometry.matrix, np.dtype(bool)) if index in self.padded else None

    def remove(self) -> None:
        for path in (self.path, self._mask):
            path.unlink(missing_ok=True)

    @property
    def _mask(self) -> Path:
        return self.path.with_suffix(".padding")


def spool(source: SliceSource, path: Path, tick: Callable[[], None]) -> Spool:
    """A copy of `source` in a file; `tick` is called after each slice."""
    copy = Spool(path, source.geometry, source.unit)
    for index in range(source.geometry.n_slices):
        copy.write(index, source.read(index), source.padding(index))
        tick()
    return copy


def _put(path: Path, index: int, values: NDArray[np.generic]) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(index * values.nbytes)
        file.write(values.tobytes())


def _get(path: Path, index: int, matrix: tuple[int, int], dtype: np.dtype) -> NDArray[Any]:
    count = matrix[0] * matrix[1]
    return np.fromfile(path, dtype, count, offset=index * count * dtype.itemsize).reshape(matrix)
