"""A DICOM folder as series of CT slices in HU or PET slices in SUV, each at its place in the patient.

    HU = stored * RescaleSlope + RescaleIntercept      slope and intercept of each slice (PS3.3 C.11.1)
    SUV = factor * stored * RescaleSlope               PET, factor and slope of each slice (suv.py)

`scan` reads headers and judges every series; `open_series` gives one as a lazy `SliceSource`, one decoded slice in
memory at a time. Padding is what PixelPaddingValue (and its range limit) says, PS3.3 C.7.5.1.1.2, and, as the tag
may be missing or wrong, a constant minimum in the corners at or below -1500 HU, which no tissue has.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medidiff.errors import DicomError, GeometryError, InputError
from medidiff.io.decode import read_frame
from medidiff.io.enhanced import copied, flatten, is_multi_frame
from medidiff.io.headers import MALFORMED, quiet_parsing, read_header, sop_class, text
from medidiff.io.quality import CLASSES, PET_CLASS, assemble
from medidiff.io.series import Instance, Series, geometry, instance, stacks
from medidiff.progress import Progress, silent
from medidiff.units import Unit
from medidiff.volume import Geometry, Volume, collect

__all__ = ["DicomSource", "Folder", "Instance", "Series", "load_volume", "open_series", "scan"]

PADDING_HU = -1500.0  # without a tag, a constant below this is padding

KEYWORDS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID SeriesNumber SeriesDescription Modality ImageType
    Rows Columns SamplesPerPixel LossyImageCompression ImagePositionPatient ImageOrientationPatient PixelSpacing
    SliceThickness FrameOfReferenceUID AcquisitionNumber TemporalPositionIdentifier NominalPercentageOfCardiacPhase
    ConvolutionKernel FilterType ReconstructionAlgorithm KVP Exposure ExposureInuAs XRayTubeCurrent ExposureTime
    RescaleSlope RescaleIntercept RescaleType RealWorldValueMappingSequence
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
TAGS = [Tag(keyword) for keyword in KEYWORDS.split()]  # what `scan` reads; parsed once, not once per file


@dataclass(frozen=True)
class Folder:
    """What a path holds; `ignored` counts files that are not DICOM images, `damaged` names each file and its fault."""

    series: tuple[Series, ...]
    ignored: int
    damaged: tuple[tuple[Path, str], ...]

    @property
    def usable(self) -> tuple[Series, ...]:
        return tuple(series for series in self.series if series.usable)


def scan(path: Path, *, progress: Progress = silent) -> Folder:
    """List the series of a folder (any nesting, any file names) or of a single file; only headers are read.

    Raises InputError when the path does not exist.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(_files(path))
    found: list[Instance] = []
    damaged: list[tuple[Path, str]] = []
    unreadable: Counter[Path] = Counter()
    ignored = 0
    for done, file in enumerate(files, start=1):
        try:
            with quiet_parsing():
                instances = _read_instances(file)
        except (DicomError, OSError) as error:
            damaged.append((file, str(error)))
            unreadable[file.parent] += 1
        else:
            found += instances
            ignored += not instances
            if any(not i.whole for i in instances[:1]):
                damaged.append((file, f"{file}: cut short, the pixel data are missing or incomplete; copy it again"))
        progress(done, len(files))
    with quiet_parsing():
        series = tuple(_series(found, unreadable))
    return Folder(series, ignored, tuple(damaged))


def open_series(series: Series, *, allow_gaps: bool = False) -> DicomSource:
    """The slices of a usable series; with `allow_gaps` also of one whose only fault is missing slices.

    Raises GeometryError for missing slices, DicomError for any other fault, with the numbers.
    """
    if series.reason and series.reason != series.gaps:
        raise DicomError(f"{series.instances[0].path.parent}: {series.modality} series not usable: {series.reason}")
    if series.gaps and not allow_gaps:
        raise GeometryError(f"{series.instances[0].path.parent}: {series.gaps}")
    return DicomSource(series)


def load_volume(
    path: Path, *, series_uid: str | None = None, allow_gaps: bool = False, unit: Unit | None = None
) -> Volume:
    """The one usable series of a path (or the one named, or the one in `unit`) as a volume in memory.

    Raises DicomError when there is none, or more than one to choose from.
    """
    folder = scan(path)
    chosen = [s for s in folder.series if series_uid in (None, s.uid) and unit in (None, s.unit)]
    ready = [s for s in chosen if s.usable or (allow_gaps and s.reason == s.gaps)]
    if len(ready) > 1:
        raise DicomError(f"{path}: holds {len(ready)} usable series, expected one; name one by its series UID")
    if not ready and len(chosen) == 1:
        open_series(chosen[0])
    if not ready:
        raise DicomError(f"{path}: no usable CT or PET series among {len(chosen)}{_first_fault(folder, chosen)}")
    return replace(
        collect(open_series(ready[0], allow_gaps=allow_gaps)), frame_of_reference=ready[0].frame_of_reference
    )


class DicomSource:
    """The slices of a series, read one at a time (a `SliceSource`), with their headers for writing a derived series."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self.unit: Unit = series.unit
        self.geometry: Geometry = geometry(series.instances)
        self._last: tuple[int, NDArray[np.integer]] | None = None

    def read(self, index: int) -> NDArray[np.float32]:
        """(rows, columns) HU or SUV; padding comes as its stored number, rescaled like the rest."""
        here = self.series.instances[index]
        if self.unit == "SUV":
            return (self.stored(index) * (_given(here.slope) * self.suv_factor(index))).astype(np.float32)
        return (self.stored(index) * _given(here.slope) + _given(here.intercept)).astype(np.float32)

    def suv_factor(self, index: int) -> float:
        """SUV = factor * stored number * RescaleSlope, for slice `index` of a PET series."""
        assert self.series.suv is not None  # a PET series without is not usable, and never opened
        return self.series.suv.factors[index]

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        """(rows, columns) True where the scanner wrote no measurement; None when there is no such pixel."""
        stored, here = self.stored(index), self.series.instances[index]
        limits = _padding_limits(self.header(index))
        mask = np.zeros(stored.shape, dtype=bool)
        if self.unit == "HU":
            mask |= _constant_outside(stored, _given(here.slope), _given(here.intercept))
        if limits is not None:
            mask |= (stored >= limits[0]) & (stored <= limits[1])
        return mask if mask.any() else None

    def header(self, index: int) -> Dataset:
        """The header of slice `index` without pixel data; a frame of a multi-frame file reads like a classic slice."""
        here = self.series.instances[index]
        header = copied(_headers(here.path, here.path.stat().st_mtime_ns)[here.frame or 0])
        for keyword, value in (("SOPClassUID", here.sop_class_uid), ("SOPInstanceUID", here.sop_instance_uid)):
            if not text(header, keyword):
                setattr(header, keyword, value)
        if not text(header, "SeriesInstanceUID"):
            header.SeriesInstanceUID = self.series.uid
        return header

    def stored(self, index: int) -> NDArray[np.integer]:
        """(rows, columns) integers as stored in the file; raises DecodeError naming the file."""
        if self._last is None or self._last[0] != index:
            here = self.series.instances[index]
            array = read_frame(here.path, here.frame)
            if array.shape != (here.rows, here.columns):
                raise DicomError(f"{here.path}: pixels of {array.shape}, the header says {(here.rows, here.columns)}")
            self._last = (index, array)
        return self._last[1]

    def source_reference(self, index: int) -> tuple[str, str, int | None]:
        """(SOPClassUID, SOPInstanceUID, frame number from 1, or None for a classic file) of slice `index`."""
        here = self.series.instances[index]
        return here.sop_class_uid, here.sop_instance_uid, None if here.frame is None else here.frame + 1


def _given(value: float | None) -> float:
    assert value is not None  # a series without rescale is not usable, and never opened
    return value


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (file for name in names if (file := Path(parent, name)).is_file())


def _read_instances(file: Path) -> list[Instance]:
    """One instance per slice of a file; [] when it is not DICOM. Raises DicomError for a malformed header."""
    header = read_header(file, TAGS)
    if header is None:
        return []
    dataset: Dataset = header.dataset
    syntax = str(header.transfer_syntax)
    try:
        if sop_class(dataset) not in CLASSES:
            return [instance(file, None, dataset, syntax, whole=True)]
        if sop_class(dataset) == PET_CLASS:
            dataset = _all_of(file)  # private elements have no fixed tags
        whole = header.whole and (header.pixels is not None or header.is_deflated)
        if not whole and not text(dataset, "SeriesInstanceUID"):
            raise DicomError(f"{file}: cut short; copy it again")
        if not is_multi_frame(dataset):
            return [instance(file, None, dataset, syntax, whole)]
        return [instance(file, k, frame, syntax, whole) for k, frame in enumerate(flatten(dataset))]
    except MALFORMED as error:
        raise DicomError(f"{file}: its header is malformed; copy it again") from error  # no header text in messages


def _all_of(file: Path) -> Dataset:
    header = read_header(file)
    if header is None:
        raise DicomError(f"{file}: no longer a DICOM file")
    return header.dataset


def _series(found: list[Instance], unreadable: Counter[Path]) -> Iterator[Series]:
    """The series of all instances; files that cannot be read count against every stack of their series.

    Where a file does not even tell its series, it counts against every series that has a file beside it.
    """
    cut: dict[str, set[Path]] = defaultdict(set)
    for i in found:
        if not i.whole:
            cut[i.series_uid].add(i.path)
    whole = stacks(i for i in found if i.whole)
    for stack in whole:
        beside = sum(unreadable[parent] for parent in {i.path.parent for i in stack})
        yield assemble(stack, len(cut.get(stack[0].series_uid, ())) + beside)
    listed = {stack[0].series_uid for stack in whole}
    yield from map(assemble, stacks(i for i in found if i.series_uid in cut.keys() - listed))


def _first_fault(folder: Folder, chosen: list[Series]) -> str:
    reasons = [reason for _, reason in folder.damaged] + [s.reason for s in chosen]
    return f" ({reasons[0]})" if reasons else f" ({folder.ignored} other files were ignored)"


@lru_cache(maxsize=2)
def _headers(path: Path, modified: int) -> list[Dataset]:
    header = read_header(path)
    if header is None:
        raise DicomError(f"{path}: no longer a DICOM file")
    dataset = header.dataset
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        dataset.pop(keyword, None)
    with quiet_parsing():
        return flatten(dataset)


def _padding_limits(header: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that mean padding; a signed number may have been sent as unsigned."""
    values = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    found = [_signed(int(v), header) for v in values if isinstance(v, int)]
    return (min(found), max(found)) if found and isinstance(values[0], int) else None


def _signed(value: int, header: Dataset) -> int:
    return value - 0x10000 if header.get("PixelRepresentation") == 1 and value >= 0x8000 else value


def _constant_outside(stored: NDArray[np.integer], slope: float, intercept: float) -> NDArray[np.bool_]:
    low = stored.min()
    if low * slope + intercept > PADDING_HU or low not in (stored[0, 0], stored[0, -1], stored[-1, 0], stored[-1, -1]):
        return np.zeros(stored.shape, dtype=bool)
    return stored == low
