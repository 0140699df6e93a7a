"""What can be looked at: every CT and PET series in the given folders, and which of them belong together.

A series has a key, a digest of where it lies, when it was written and of its UID: keys go into addresses, paths and
identifiers never do. A run of `medidiff reconstruct` is a folder with a run.json; its series are set beside the one
they were made from, which is found by its UID among everything that is listed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.roots import inside, permitted
from medidiff.errors import MedidiffError
from medidiff.evaluate.images import digest
from medidiff.io.dicom import open_series, scan
from medidiff.io.files import file_hash
from medidiff.io.nifti import is_nifti_name, open_nifti
from medidiff.io.series import Series
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

RUN = "run.json"
SAMPLED = 5  # slices of a NIfTI file


@dataclass(frozen=True, eq=False)
class Image:
    """One series or NIfTI file. `place` is its folder or file; `group` a digest of the study, for sorting.

    reason   why it cannot be shown, "" where it can
    """

    key: str
    place: Path
    modality: str
    unit: Unit
    slices: int
    matrix: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    kernel: str
    group: str
    series: Series | None = None
    reason: str = ""

    def open(self) -> SliceSource:
        """Its slices. Raises MedidiffError where it cannot be read."""
        return open_nifti(self.place, self.unit) if self.series is None else open_series(self.series, allow_gaps=True)

    @property
    def uid(self) -> str:
        return "" if self.series is None else self.series.uid

    @cached_property
    def digest(self) -> str:
        """What results call it by (medidiff.evaluate.images); of a NIfTI file all of it is read, once."""
        return digest(self.uid or self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Of a NIfTI file, which has no UID, what a run writes down of it."""
        return file_hash(self.place) if self.series is None else ""


@dataclass(frozen=True, eq=False)
class Case:
    """What is reviewed together: a scan, and what was made of it.

    record   of the series in run.json, empty for a scan that nothing was made of
    """

    scan: Image | None
    reconstruction: Image | None = None
    deviation: Image | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Image:
        """The image that names the case."""
        found = self.reconstruction or self.scan
        assert found is not None
        return found

    @property
    def key(self) -> str:
        return self.main.key

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reviewer should know before trusting it, in words."""
        if not self.record:
            return ()
        change = self.record.get("change") or {}
        held = [f"changed less: {change['min']:.0%} of what the model would"] if change.get("min", 1.0) < 1 else []
        orphan = [] if self.scan else ["its source is not in the listed folders"]
        return (*self.record.get("warnings", ()), *held, *orphan)


class Library:
    """Everything that is listed; folders may be added while it is in use, from several threads."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [Path(root) for root in roots]
        self.images: dict[str, Image] = {}
        self.problems: list[str] = []
        self.places: list[Path] = []
        self._records: dict[Path, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def add(self, path: Path) -> int:
        """List a folder or a file, as it is now; the number of images that are new.

        What was listed below it before and is gone, or was written anew, goes. Raises InputError outside of the roots.
        """
        place = permitted(path, self.roots)
        found = {image.key: image for image in _images(place) if inside(image.place, self.roots)}
        records, problems = _records(place) if place.is_dir() else ({}, [])
        with self._lock:
            new = found.keys() - self.images.keys()
            elsewhere = {key: one for key, one in self.images.items() if not one.place.is_relative_to(place)}
            self.images = elsewhere | found
            self._records |= records
            self.places = list(dict.fromkeys([*self.places, place]))
            self.problems = list(dict.fromkeys([*self.problems, *problems]))
        return len(new)

    def cases(self) -> list[Case]:
        """One a reconstruction, and one a scan that nothing was made of; in a steady order."""
        with self._lock:
            images, records = list(self.images.values()), list(self._records.items())
        made = [case for folder, record in records for case in _runs(folder, record, images)]
        used = {image.key for case in made for image in (case.scan, case.reconstruction, case.deviation) if image}
        alone = [Case(image) for image in images if image.key not in used]
        return sorted([*made, *alone], key=lambda case: (case.main.group, str(case.main.place)))

    def case(self, key: str) -> Case | None:
        return next((case for case in self.cases() if case.key == key), None)

    def beside(self, image: Image) -> list[Image]:
        """Others of the same grid, which may be shown and subtracted voxel by voxel."""
        grid = _grid(image)
        return [
            other for other in list(self.images.values())
            if other.key != image.key and not other.reason and other.unit == image.unit
            and grid is not None and (there := _grid(other)) is not None and grid.difference(there) is None
        ]  # fmt: skip

    def fusable(self, image: Image) -> list[Image]:
        """PET for a CT, CT for a PET: what lies over it in the same space of the patient, scans first.

        That is the same FrameOfReferenceUID (PS3.3 C.7.4.1); for NIfTI files, which have none, the same folder.
        """
        cases = self.cases()
        deviations = {case.deviation.key for case in cases if case.deviation}
        made = {case.reconstruction.key for case in cases if case.reconstruction}
        found = [
            other for other in list(self.images.values())
            if other.unit != image.unit and not other.reason and other.key not in deviations
            and _are_in_one_space(image, other) and _overlap(image, other)
        ]  # fmt: skip
        return sorted(found, key=lambda other: (other.key in made, str(other.place)))


def _are_in_one_space(one: Image, other: Image) -> bool:
    if one.series is None or other.series is None:
        return one.series is other.series and one.place.parent == other.place.parent
    frame = one.series.frame_of_reference
    return bool(frame) and frame == other.series.frame_of_reference


def _overlap(one: Image, other: Image) -> bool:
    """Whether the boxes around both have something in common; their sides are along x, y and z."""
    boxes = [None if (grid := _grid(image)) is None else _box(grid) for image in (one, other)]
    if boxes[0] is None or boxes[1] is None:
        return False
    (low, high), (lower, higher) = boxes[0], boxes[1]
    return bool(np.all(low <= higher) and np.all(lower <= high))


def _box(grid: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest x, y, z in mm (LPS) of the voxels' centres."""
    ends = [(0, n - 1) for n in grid.shape]
    corners = grid.world(np.array(list(product(*ends))))
    return corners.min(axis=0), corners.max(axis=0)


def _grid(image: Image) -> Geometry | None:
    try:
        return image.open().geometry
    except MedidiffError:
        return None


def _images(place: Path) -> list[Image]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if is_nifti_name(path))
    nifti = [image for path in files if is_nifti_name(path) for image in _nifti(path)]
    series = () if place.is_file() and is_nifti_name(place) else scan(place).series
    return [*(_dicom(one) for one in series), *nifti]


def _dicom(series: Series) -> Image:
    first = series.instances[0]
    return Image(
        _key(str(first.path.parent), series.uid, str(series.n_slices), _written(first.path)),
        first.path.parent,
        series.modality,
        series.unit,
        series.n_slices,
        (series.rows, series.columns),
        series.spacing,
        series.kernel,
        _key(first.study_uid),
        series,
        "" if series.reason == series.gaps else series.reason,
    )


def _nifti(path: Path) -> list[Image]:
    """None where it is no image of a scan: HU have air near -1000, SUV are real numbers, a label map has whole ones."""
    unit: Unit
    for unit in ("HU", "SUV"):
        try:
            source = open_nifti(path, unit)
            geometry = source.geometry
            sampled = np.linspace(0, geometry.n_slices - 1, SAMPLED).astype(int)
            is_whole = all(bool((plane == np.rint(plane)).all()) for plane in map(source.read, sampled))
        except MedidiffError:
            continue
        if unit == "SUV" and is_whole:
            continue
        spacing = (geometry.slice_spacing_mm, *geometry.pixel_spacing_mm)
        modality = {"HU": "CT", "SUV": "PT"}[unit]
        where = _key(str(path.parent))
        n, rows, columns = geometry.shape
        return [Image(_key(str(path), _written(path)), path, modality, unit, n, (rows, columns), spacing, "", where)]
    return []


def _records(place: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """What every run.json below a folder says, by its folder; and what is wrong with others."""
    found, problems = {}, []
    for path in sorted(place.rglob(RUN)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            problems.append("a run.json could not be read; run it again")
            continue
        if isinstance(record, dict) and str(record.get("format", "")).startswith("medidiff-run"):
            found[path.parent] = record
    return found, problems


def _runs(folder: Path, record: dict[str, Any], images: Sequence[Image]) -> list[Case]:
    """The finished series of a run, each with the scan that it was made from."""
    by_uid = {image.uid: image for image in images if image.uid}

    def of(uid: str | None, name: str | None) -> Image | None:
        """By its UID; a NIfTI file, which has none, by the folder that it lies alone in."""
        placed = [image for image in images if name and not image.uid and image.place.parent == folder / name]
        return by_uid.get(uid or "") or next(iter(placed), None)

    cases = []
    for series in record.get("series", []):
        result = of(series.get("output_series_uid"), series.get("folder"))
        if result is None:
            continue
        deviation = of(series.get("uncertainty_series_uid"), series.get("uncertainty_folder"))
        if deviation and not deviation.uid:  # a file does not say what its numbers are
            deviation = replace(deviation, unit=result.unit, modality=result.modality)
        cases.append(Case(_source(series, by_uid, images), result, deviation, series))
    return cases


def _source(series: dict[str, Any], by_uid: dict[str, Image], images: Sequence[Image]) -> Image | None:
    """What a series of a run was made from."""
    uid, wanted = series.get("input_series_uid"), series.get("input_fingerprint")
    if uid:
        return by_uid.get(uid)
    alike = [image for image in images if not image.uid and image.slices == series.get("n_slices")]
    return next((image for image in alike if image.fingerprint == wanted), None)


def _written(path: Path) -> str:
    """When: what was written anew is another image, and no old picture of it is shown."""
    return str(path.stat().st_mtime_ns)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
