"""Where restored slices go: a hidden working folder, renamed into place when every slice is there.

    OUT/.unfinished/NNN_modality_kernel/...   while the run goes on, slice files whole or absent
    OUT/NNN_modality_kernel/...               finished; a folder of this name is never partial

Which slices are there *is* the state from which an interrupted run goes on.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medidiff.io.derived import DerivedWriter
from medidiff.io.files import write_whole
from medidiff.io.nifti import NiftiSource, write_nifti
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

UNFINISHED = ".unfinished"
NIFTI_NAME, MAP_NAME = "reconstruction.nii.gz", "uncertainty.nii.gz"


@dataclass(frozen=True)
class Place:
    """The folder of one result: `name` inside `out`, and its working folder."""

    out: Path
    name: str

    @property
    def final(self) -> Path:
        return self.out / self.name

    @property
    def work(self) -> Path:
        return self.out / UNFINISHED / self.name

    def settle(self, source: Path | None = None) -> None:
        """Move the working folder (or the `source` inside it) into place, all at once."""
        if not self.final.exists():
            os.replace(source or self.work, self.final)

    def clean(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self.work, ignore_errors=True)


class Sink(Protocol):
    """Takes the slices of one series in any order; `warnings` fills up on the way."""

    @property
    def place(self) -> Place: ...

    @property
    def series_uid(self) -> str | None: ...

    @property
    def warnings(self) -> list[str]: ...

    def has(self, index: int) -> bool:
        """True when the slice was written, now or in an earlier run."""

    def write(self, index: int, values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> None: ...

    def finish(self) -> None:
        """Move the complete series into place."""


@dataclass(frozen=True, eq=False)
class DicomSink:
    """A derived series, one file a slice."""

    place: Place
    writer: DerivedWriter

    @property
    def series_uid(self) -> str:
        return self.writer.series_uid

    @property
    def warnings(self) -> list[str]:
        return self.writer.warnings

    def has(self, index: int) -> bool:
        return self.place.final.exists() or (self.place.work / f"{index + 1:04d}.dcm").exists()

    def write(self, index: int, values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> None:
        self.writer.write(index, values, padding)

    def finish(self) -> None:
        self.place.settle()


class NiftiSink:
    """One NIfTI file, put together from slices on disk: memory does not grow with the scan.

    Of a NIfTI source the header, data type and padding are kept; of another one only where its slices lie.
    """

    series_uid = None

    def __init__(self, place: Place, source: SliceSource, *, is_map: bool = False) -> None:
        self.place, self.warnings = place, list[str]()
        self._source = source
        self._like = source if isinstance(source, NiftiSource) and not is_map else None
        self._name = MAP_NAME if is_map else NIFTI_NAME

    @property
    def geometry(self) -> Geometry:
        return self._source.geometry

    @property
    def unit(self) -> Unit:
        return self._source.unit

    def read(self, index: int) -> NDArray[np.float32]:
        return np.asarray(np.load(self._slice(index)), dtype=np.float32)

    def padding(self, index: int) -> None:
        return None

    def has(self, index: int) -> bool:
        return self.place.final.exists() or self._slice(index).exists()

    def write(self, index: int, values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> None:
        buffer = BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_whole(self._slice(index), buffer.getbuffer())

    def finish(self) -> None:
        if self.place.final.exists():
            return
        folder = self.place.work / "result"
        folder.mkdir(parents=True, exist_ok=True)
        self.warnings += write_nifti(folder / self._name, self, self._like, allow_uneven=True)
        self.place.settle(folder)
        self.place.clean()

    def _slice(self, index: int) -> Path:
        return self.place.work / f"{index + 1:04d}.npy"
