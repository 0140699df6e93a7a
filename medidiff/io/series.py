"""Slices of one file each, or frames of one file, put together to the series they form.

PS3.3 C.7.3.1 (series), C.7.4.1 (frame of reference), C.7.6.2 (image plane). A SeriesInstanceUID may hold several
stacks: they are told apart by SOP class, image type, matrix, frame of reference, pixel spacing and orientation, and,
only where slices would lie on one another, by acquisition, tube voltage, kernel or phase. Slices are ordered by
their position along the normal, never by InstanceNumber.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage, generate_uid

from medidiff.io.headers import number, numbers, sop_class, sop_instance, text, texts
from medidiff.io.petheader import PetHeader, pet_header
from medidiff.io.suv import Suv
from medidiff.units import Unit
from medidiff.volume import Geometry

SAME_PLACE_MM = 0.01  # closer slices are one slice twice
SAME_PLANE = 1e-3  # orientation cosines and pixel spacing (mm) that differ by less are the same


@dataclass(frozen=True)
class Instance:
    """One slice: where its pixels are, where it lies, and what they mean.

    `frame` counts from 0, and is None in a classic file. A number is None, and a text "", where the header is silent.
    """

    path: Path
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    series_number: str
    modality: str
    transfer_syntax: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    thickness_mm: float | None
    frame_of_reference: str
    acquisition: str
    phase: str
    kernel: str
    kvp: float | None
    mas: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    real_world_unit: str
    reconstruction: str
    lossy: bool
    whole: bool  # False when the file ends before its pixel data do
    pet: PetHeader | None = None  # of a PET image, what its uptake values depend on

    @property
    def has_place(self) -> bool:
        return (len(self.position), len(self.orientation), len(self.pixel_spacing)) == (3, 6, 2)

    @cached_property
    def along_normal_mm(self) -> float:
        """Position along the normal, `right x down`."""
        return float(np.cross(self.orientation[:3], self.orientation[3:]) @ np.array(self.position))


@dataclass(frozen=True)
class Series:
    """A stack of slices sorted along +normal, what its headers say, and whether it can be processed.

    `reason` says why not, and is empty for a usable series; when missing slices are the only fault it equals `gaps`.
    `is_broken` tells a CT scan that cannot be used (duplicates, lost positions) from what is no CT scan at all.
    `spacing` is (slice, row, column) in mm, the first being the median step, 0 for a single slice. `mas` and `kvp`
    are medians over the slices. `suv` is what makes uptake values of a PET series, None where there are none.
    """

    uid: str
    modality: str
    sop_class_uid: str
    kernel: str
    kvp: float | None
    mas: float | None
    transfer_syntax: str
    n_slices: int
    rows: int
    columns: int
    spacing: tuple[float, float, float]
    tilt_degrees: float
    thickness_mm: float | None
    frame_of_reference: str | None
    instances: tuple[Instance, ...]
    reason: str = ""
    gaps: str = ""
    is_broken: bool = False
    warnings: tuple[str, ...] = ()
    suv: Suv | None = None

    @property
    def unit(self) -> Unit:
        """What its values are in once they are read."""
        return "SUV" if self.sop_class_uid == PositronEmissionTomographyImageStorage else "HU"

    @property
    def usable(self) -> bool:
        return not self.reason


def instance(path: Path, frame: int | None, header: Dataset, transfer_syntax: str, whole: bool) -> Instance:
    """What a classic (or flattened) header says about its slice."""
    rwv = [m for m in header.get("RealWorldValueMappingSequence") or () if "MeasurementUnitsCodeSequence" in m]
    units = [unit for m in rwv for unit in m.MeasurementUnitsCodeSequence]
    words = ("ConvolutionKernel", "SeriesDescription", "ReconstructionAlgorithm", "FilterType")
    return Instance(
        path=path,
        frame=frame,
        sop_class_uid=sop_class(header),
        sop_instance_uid=sop_instance(header),
        series_uid=text(header, "SeriesInstanceUID"),
        study_uid=text(header, "StudyInstanceUID"),
        series_number=text(header, "SeriesNumber"),
        modality=text(header, "Modality"),
        transfer_syntax=transfer_syntax,
        image_type=texts(header, "ImageType"),
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        samples=int(header.get("SamplesPerPixel") or 1),
        position=numbers(header, "ImagePositionPatient"),
        orientation=numbers(header, "ImageOrientationPatient"),
        pixel_spacing=numbers(header, "PixelSpacing"),
        thickness_mm=number(header, "SliceThickness"),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        acquisition=text(header, "AcquisitionNumber"),
        phase=text(header, "TemporalPositionIdentifier") or text(header, "NominalPercentageOfCardiacPhase"),
        kernel="-".join(filter(None, texts(header, "ConvolutionKernel"))),
        kvp=number(header, "KVP"),
        mas=_mas(header),
        slope=number(header, "RescaleSlope"),
        intercept=number(header, "RescaleIntercept"),
        rescale_type=text(header, "RescaleType").upper(),
        real_world_unit=text(units[0], "CodeValue") if units else "",
        reconstruction=" ".join(" ".join(texts(header, word)) for word in words),
        lossy=text(header, "LossyImageCompression") == "01",
        whole=whole,
        pet=pet_header(header) if sop_class(header) == PositronEmissionTomographyImageStorage else None,
    )


def stacks(instances: Iterable[Instance]) -> list[tuple[Instance, ...]]:
    """Instances of any series, parted into stacks; each sorted along its normal where it has positions."""
    found: list[list[Instance]] = []
    for of_series in _parted(instances, _series_key):
        key = _stack_key if _frames_of_reference_differ(of_series) else _stack_and_frame_key
        for alike in _parted(of_series, key):
            for plane in _parted_by_plane(alike):
                found += _parted_where_they_collide(plane)
    return [tuple(sorted(stack, key=_order)) for stack in found]


def series_uid(stack: tuple[Instance, ...]) -> str:
    """The SeriesInstanceUID; where it is empty, one that depends on the slices alone."""
    return stack[0].series_uid or str(generate_uid(entropy_srcs=sorted(i.sop_instance_uid for i in stack)))


def shared_frame_of_reference(stack: tuple[Instance, ...]) -> str | None:
    """The frame of reference all slices name; None when they name none or several."""
    named = {i.frame_of_reference for i in stack}
    return named.pop() or None if len(named) == 1 else None


def geometry(stack: tuple[Instance, ...]) -> Geometry:
    """Geometry of a sorted stack whose slices all have a place."""
    first = stack[0]
    right, down = _unit(first.orientation[:3]), _unit(first.orientation[3:])
    origins = np.array([i.position for i in stack], dtype=np.float64)
    spacing = (float(first.pixel_spacing[0]), float(first.pixel_spacing[1]))
    return Geometry(origins, right, down, spacing, (first.rows, first.columns))


def folder_name(index: int, modality: str, kernel: str) -> str:
    """`NNN_modality_kernel`: what a series is called in results; safe on every file system, and tells nobody's name."""
    safe = re.sub(r"[^A-Za-z0-9.+-]+", "-", kernel).strip("-.")[:40] or "unknown"
    return f"{index:03d}_{modality}_{safe}"


def _unit(vector: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array(vector, dtype=np.float64) / np.linalg.norm(vector)


def _mas(header: Dataset) -> float | None:
    """Exposure in mAs: as such, in uAs, or tube current (mA) x time (ms)."""
    exposure, micro = number(header, "Exposure"), number(header, "ExposureInuAs")
    current, time = number(header, "XRayTubeCurrent"), number(header, "ExposureTime")
    if exposure is not None:
        return exposure
    if micro is not None:
        return micro / 1000
    return None if current is None or time is None else current * time / 1000


def _series_key(i: Instance) -> tuple[Hashable, ...]:
    return (i.series_uid,) if i.series_uid else ("", i.path.parent, i.study_uid, i.series_number)


def _stack_key(i: Instance) -> tuple[Hashable, ...]:
    return (i.sop_class_uid, i.modality, i.image_type, i.rows, i.columns, i.samples, i.has_place)


def _stack_and_frame_key(i: Instance) -> tuple[Hashable, ...]:
    return (*_stack_key(i), i.frame_of_reference)


def _order(i: Instance) -> tuple[float, str, int]:
    return (i.along_normal_mm if i.has_place else 0.0, str(i.path), i.frame or 0)


def _parted(instances: Iterable[Instance], key: Callable[[Instance], Hashable]) -> list[list[Instance]]:
    parts: dict[Hashable, list[Instance]] = defaultdict(list)
    for i in instances:
        parts[key(i)].append(i)
    return list(parts.values())


def _frames_of_reference_differ(instances: list[Instance]) -> bool:
    """True when every slice names its own frame of reference: de-identification did that, not the scanner."""
    slices = {i.sop_instance_uid for i in instances}
    return len(slices) > 2 and len({i.frame_of_reference for i in instances}) == len(slices)


def _parted_by_plane(instances: list[Instance]) -> list[list[Instance]]:
    """By orientation and pixel spacing, within what rounding does to them."""
    parts: list[list[Instance]] = []
    for i in instances:
        plane = i.orientation + i.pixel_spacing
        for part in parts:
            other = part[0].orientation + part[0].pixel_spacing
            if len(plane) == len(other) and np.allclose(plane, other, rtol=0, atol=SAME_PLANE):
                part.append(i)
                break
        else:
            parts.append([i])
    return parts


def _parted_where_they_collide(instances: list[Instance]) -> list[list[Instance]]:
    if instances[0].pet is not None or not _collide(instances):  # time points of PET are no series of their own
        return [instances]
    keys: tuple[Callable[[Instance], Hashable], ...] = (
        lambda i: i.acquisition,
        lambda i: i.kvp,
        lambda i: i.kernel,
        lambda i: i.phase,
    )
    for key in keys:
        parts = _parted(instances, key)
        if all(len(part) > 1 and not _collide(part) for part in parts):
            return parts
    return [instances]


def _collide(instances: list[Instance]) -> bool:
    if len(instances) < 2 or not instances[0].has_place:
        return False
    steps = np.diff(np.sort([i.along_normal_mm for i in instances]))
    return bool(np.any(steps < SAME_PLACE_MM))
