"""What a path holds that can be reconstructed: DICOM series, or one NIfTI file.

A case knows its name, what its noise is seeded by, and how to open its slices and the sinks for its results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from medidiff.errors import InputError, UnitError
from medidiff.inference.sinks import DicomSink, NiftiSink, Place, Sink
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import DicomSource, Folder, Series, open_series, scan
from medidiff.io.files import file_hash
from medidiff.io.nifti import NiftiSource, is_nifti_name, open_nifti
from medidiff.io.series import folder_name
from medidiff.seen import Facts
from medidiff.units import Unit
from medidiff.volume import SliceSource

MAP_SLOPE_HU = 0.1  # an uncertainty map resolves a tenth of an HU, up to 3,276 HU
MAP_WINDOW_HU = (25.0, 50.0)
MAP_NAMED = "medidiff uncertainty (SD)"  # end of its SeriesDescription
SERIES_NUMBER_OFFSETS = (1000, 2000)
REASONS_SHOWN = 3


@dataclass(frozen=True)
class Writing:
    """How the results of one case are written; the second place is that of the uncertainty map."""

    places: tuple[Place, ...]
    series_uids: tuple[str | None, ...]
    derivation: Derivation
    transfer_syntax: str
    deterministic_uids: bool


class Case(Protocol):
    """One scan of the input."""

    @property
    def index(self) -> int: ...
    @property
    def folder(self) -> str:
        """Name of the result's folder, NNN_modality_kernel."""

    @property
    def modality(self) -> str: ...
    @property
    def kernel(self) -> str: ...
    @property
    def series_uid(self) -> str | None: ...
    @property
    def fingerprint(self) -> str:
        """Changes when the input does."""

    @property
    def identity(self) -> str:
        """What noise is seeded by, together with the user's seed."""

    @property
    def n_slices(self) -> int: ...
    @property
    def voxels_per_slice(self) -> int: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def facts(self) -> Facts:
        """What its headers say, to be held against what a model has seen."""

    def open(self) -> SliceSource: ...
    def sinks(self, source: SliceSource, writing: Writing) -> list[Sink]: ...
    def study_ct(self) -> SliceSource | None:
        """The CT of the same study that lies on it."""


@dataclass(frozen=True)
class Found:
    """The cases of a path, in order.

    set_aside   why a series is none of them (a localizer, another modality)
    damaged     what is wrong with files that may have been a series of their own
    unit        of the cases
    """

    cases: tuple[Case, ...]
    set_aside: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    unit: Unit = "HU"


@dataclass(frozen=True, eq=False)
class DicomCase:
    """A series; `ct` is the CT of its study that lies on it, where there is one."""

    index: int
    series: Series
    allow_gaps: bool
    ct: Series | None = None

    @property
    def modality(self) -> str:
        return self.series.modality

    @property
    def kernel(self) -> str:
        return self.series.kernel or ""

    @property
    def folder(self) -> str:
        return folder_name(self.index, self.modality, self.kernel)

    @property
    def series_uid(self) -> str:
        return self.series.uid

    @property
    def identity(self) -> str:
        return self.series.uid

    @property
    def fingerprint(self) -> str:
        slices = [(i.sop_instance_uid, i.frame, *_state(i.path)) for i in self.series.instances]
        return hashlib.sha256(repr((self.series.uid, slices)).encode()).hexdigest()

    @property
    def n_slices(self) -> int:
        return self.series.n_slices

    @property
    def voxels_per_slice(self) -> int:
        return self.series.rows * self.series.columns

    @property
    def warnings(self) -> Sequence[str]:
        return self.series.warnings

    @property
    def facts(self) -> Facts:
        spacing_mm, _, pixel_mm = self.series.spacing
        return Facts(pixel_mm, spacing_mm, self.series.thickness_mm, self.kernel)

    def open(self) -> DicomSource:
        return open_series(self.series, allow_gaps=self.allow_gaps)

    def study_ct(self) -> DicomSource | None:
        return None if self.ct is None else open_series(self.ct)

    def sinks(self, source: SliceSource, writing: Writing) -> list[Sink]:
        assert isinstance(source, DicomSource)
        return [self._sink(source, writing, k) for k in range(len(writing.places))]

    def _sink(self, source: DicomSource, writing: Writing, k: int) -> DicomSink:
        is_map = k == 1
        writer = DerivedWriter(
            source,
            writing.places[k].work,
            of_map(writing.derivation, source.unit) if is_map else writing.derivation,
            series_number_offset=SERIES_NUMBER_OFFSETS[k],
            transfer_syntax=writing.transfer_syntax,
            deterministic_uids=source.series.instances[0].sop_instance_uid if writing.deterministic_uids else None,
            series_uid=writing.series_uids[k],
            rescale=(MAP_SLOPE_HU, 0.0) if is_map and source.unit == "HU" else None,
        )
        return DicomSink(writing.places[k], writer)


def of_map(derivation: Derivation, unit: Unit) -> Derivation:
    """What is said of the uncertainty map that belongs to an image."""
    return replace(
        derivation,
        description=f"{derivation.description}, standard deviation map",
        series_description_suffix=MAP_NAMED,
        comments=f"Standard deviation in {unit if unit == 'HU' else 'the unit of the scan'}",
        window=MAP_WINDOW_HU if unit == "HU" else None,
    )


@dataclass(frozen=True, eq=False)
class NiftiCase:
    source: NiftiSource
    fingerprint: str
    index: int = 1
    modality: str = "CT"
    kernel: str = "nifti"
    series_uid: None = None
    folder: str = folder_name(1, "CT", "nifti")

    @property
    def identity(self) -> str:
        return self.fingerprint

    @property
    def n_slices(self) -> int:
        return self.source.geometry.n_slices

    @property
    def voxels_per_slice(self) -> int:
        rows, columns = self.source.geometry.matrix
        return rows * columns

    @property
    def warnings(self) -> Sequence[str]:
        if self.source.is_oriented:
            return ()
        return ("the file does not say where left and right are (its form codes are 0)",)

    @property
    def facts(self) -> Facts:
        geometry = self.source.geometry
        return Facts(geometry.pixel_spacing_mm[1], geometry.slice_spacing_mm)

    def open(self) -> NiftiSource:
        return self.source

    def study_ct(self) -> None:
        """A file knows of no other."""

    def sinks(self, source: SliceSource, writing: Writing) -> list[Sink]:
        return [NiftiSink(place, self.source, is_map=k == 1) for k, place in enumerate(writing.places)]


def find_cases(
    path: Path, *, series: str | None = None, allow_gaps: bool = False, unit: Unit | tuple[Unit, ...] = "HU"
) -> Found:
    """Every usable series of `path` in a unit, or the one named; series in another unit are set aside.

    Of several units the first one that there is; a NIfTI file does not say its own, and is in the last of them.

    Raises InputError, with the reasons, where there is none, UnitError where all that could be used is in another unit.
    """
    if path.is_file() and is_nifti_name(path):
        if series is not None:
            raise InputError(f"{path}: a NIfTI file has no series to choose from: leave --series out")
        unit = unit if isinstance(unit, str) else unit[-1]
        modality = "CT" if unit == "HU" else "PT"
        folder_ = folder_name(1, modality, "nifti")
        case = NiftiCase(open_nifti(path, unit), file_hash(path), modality=modality, folder=folder_)
        return Found((case,), unit=unit)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    folder = scan(path)
    wanted = unit if isinstance(unit, str) else _first_of(unit, folder, series)
    return _dicom_cases(path, folder, series, allow_gaps, wanted)


def _first_of(units: tuple[Unit, ...], folder: Folder, uid: str | None) -> Unit:
    found = {series.unit for series in folder.series if uid in (None, series.uid) and series.usable}
    return next((unit for unit in units if unit in found), units[-1])


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _dicom_cases(path: Path, folder: Folder, uid: str | None, allow_gaps: bool, unit: Unit) -> Found:
    """A scan with missing or duplicate slices was asked for as well: it fails by name, the others are done."""
    chosen = [_in_unit(_no_map(series), unit) for series in folder.series if uid in (None, series.uid)]
    if not any(series.usable or series.reason == series.gaps for series in chosen):
        others = {series.unit for series in folder.series if uid in (None, series.uid) and series.usable} - {unit}
        refused = UnitError if others else InputError
        raise refused(_nothing(path, folder, chosen, uid, unit))
    wanted = [series for series in chosen if series.usable or series.reason == series.gaps or series.is_broken]
    cases = tuple(DicomCase(k, series, allow_gaps, _ct_of(series, folder)) for k, series in enumerate(wanted, start=1))
    beside = {i.path.parent for series in wanted for i in series.instances}  # those count as gaps of the series
    damaged = tuple(reason for file, reason in folder.damaged if uid is None and file.parent not in beside)
    return Found(cases, tuple(_label(series) for series in chosen if series not in wanted), damaged, unit)


def _ct_of(series: Series, folder: Folder) -> Series | None:
    """Of a PET series: the CT with the most slices among those in its frame of reference."""
    if series.unit != "SUV" or not series.frame_of_reference:
        return None
    beside = [s for s in folder.usable if s.unit == "HU" and s.frame_of_reference == series.frame_of_reference]
    return max(beside, key=lambda ct: ct.n_slices, default=None)


def _no_map(series: Series) -> Series:
    """The series, set aside if it is an uncertainty map of ours: CT in HU by its headers, yet no scan."""
    is_map = series.usable and MAP_NAMED in series.instances[0].reconstruction
    return replace(series, reason="an uncertainty map of medidiff, not a scan") if is_map else series


def _in_unit(series: Series, unit: Unit) -> Series:
    """The series, set aside if its values are in another unit than the one wanted."""
    if series.unit == unit or not (series.usable or series.reason == series.gaps or series.is_broken):
        return series
    reason = f"in {series.unit}, expected {unit}: choose a model made for {series.unit}"
    return replace(series, reason=reason, gaps="", is_broken=False)


def _nothing(path: Path, folder: Folder, chosen: Sequence[Series], uid: str | None, unit: Unit) -> str:
    if uid is not None and not chosen:
        return f"{path}: none of its {len(folder.series)} series has the UID of --series; see medidiff inspect"
    reasons = [_label(series) for series in chosen] + [reason for _, reason in folder.damaged]
    if reasons:
        more = f"; and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
        return f"{path}: no usable {_scan(unit)}: {'; '.join(reasons[:REASONS_SHOWN])}{more}"
    if folder.ignored:
        return (
            f"{path}: no {_scan(unit)}, its {folder.ignored} files are not DICOM images; give a DICOM folder or a NIfTI"
        )
    return f"{path}: holds no files; give a DICOM folder or a NIfTI file"


def _scan(unit: Unit) -> str:
    return "CT series" if unit == "HU" else "PET series"


def _label(series: Series) -> str:
    return f"{series.modality} series of {series.n_slices} slices: {series.reason}"
