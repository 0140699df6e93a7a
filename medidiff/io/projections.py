"""An open container for projections: sinograms, the geometry they were measured in, and where their slices lie (HDF5).

    /                    format "medidiff-projections-1", kind "CT" or "PET"
    /geometry            beam "fan" or "parallel", detector "curved" or "flat", bin_mm,
                         source_isocentre_mm, source_detector_mm (fan)
    /geometry/angles_rad (views,) rising
    /image               pixel_mm, rows, columns: the grid that is reconstructed, the isocentre in its middle
    /image/origins_mm    (slices, 3) centre of the first pixel of each slice, LPS
    /image/right, down   (3,) unit vectors along columns and rows
    CT   /counts         (slices, views, bins), attribute electronic_variance; with
         /air            what is counted without an object: (bins,), (views, bins) or (slices, views, bins)
      or /line_integrals (slices, views, bins), with /variance of the same shape where it is known
    PET  /counts         (slices, views, bins) prompts, attribute calibration (counts per SUV and mm); with
         /attenuation, /scatter, /randoms of the same shape: factors of the trues, and mean counts

Optional attributes of the root: `parameters` (JSON: how the data were simulated), `source_format` ("dicom": results are
written as such), `frame_of_reference`, `source_series_uid` (of the scan that was projected), `source_fingerprint` (of a
NIfTI file). Nothing else of a source is kept: no name, no date, no path. Lengths are mm, attenuation 1 / mm.

A file is checked as a whole before any of it is used; numbers are read some slices at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from medidiff import DISCLAIMER, __version__
from medidiff.errors import GeometryError, InputError
from medidiff.io.files import replacing
from medidiff.volume import Geometry

FORMAT = "medidiff-projections-1"
SUFFIXES = (".h5", ".hdf5")
CHUNK = 8  # slices that are checked at a time
MOST_ABOVE_AIR = 0.02  # of all rays; more count more than air does only if the air is another scan's
HIGHEST_INTEGRAL = 50.0  # no counts are left behind such an object
TAKEN_WITH: dict[str, dict[str, tuple[str, ...]]] = {
    "CT": {"counts": ("air",), "line_integrals": ()},
    "PET": {"counts": ("attenuation", "scatter", "randoms")},
}
OPTIONAL = ("source_format", "frame_of_reference", "source_series_uid", "source_fingerprint")

Array = NDArray[np.float32]
Kind = Literal["CT", "PET"]


@dataclass(frozen=True, eq=False)
class Scanner:
    """How slices were seen; the same words as in the container."""

    beam: Literal["fan", "parallel"]
    detector: Literal["curved", "flat"]
    angles_rad: NDArray[np.float64]
    n_bins: int
    bin_mm: float
    source_isocentre_mm: float = 0.0
    source_detector_mm: float = 0.0


@dataclass(frozen=True, eq=False)
class Header:
    """All of a container but its sinograms.

    electronic_variance  of CT counts, in counts
    calibration          of PET counts: counts per SUV and mm
    source               the optional attributes, those that there are
    """

    kind: Kind
    scanner: Scanner
    geometry: Geometry
    electronic_variance: float = 0.0
    calibration: float = 1.0
    source: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, views, bins)."""
        return self.geometry.n_slices, len(self.scanner.angles_rad), self.scanner.n_bins

    @property
    def pixel_mm(self) -> float:
        return self.geometry.pixel_spacing_mm[0]


@dataclass(frozen=True, eq=False)
class Projections:
    """A container that was checked; `names` are the sinograms in it."""

    path: Path
    header: Header
    names: tuple[str, ...]

    def read(self, name: str, indices: list[int]) -> Array:
        """(slices, views, bins) of the slices with these rising indices; `air` comes in that shape too."""
        with h5py.File(self.path) as file:
            data = file[name]
            if data.ndim == 3:
                return np.asarray(data[indices], np.float32)
            return np.broadcast_to(np.asarray(data, np.float32), (len(indices), *self.header.shape[1:]))


# ---------------------------------------------------------------- writing


def write_projections(path: Path, header: Header, blocks: Iterator[Mapping[str, Array]]) -> None:
    """Write a container, whole or not at all; blocks hold some slices of each sinogram, (slices, views, bins) in order,
    or (bins,), the same in each block. Raises OutputError."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        _write_header(file, header)
        start = 0
        for block in blocks:
            stop = start + max(len(part) for part in block.values() if part.ndim == 3)
            for name, part in block.items():
                if part.ndim == 3:
                    chunks = (1, *header.shape[1:])
                    file.require_dataset(name, header.shape, np.float32, chunks=chunks)[start:stop] = part
                elif name not in file:
                    file[name] = part.astype(np.float32)
            start = stop
        counts = file.get("counts")
        if counts is not None:
            name, value = (
                ("electronic_variance", header.electronic_variance)
                if header.kind == "CT"
                else ("calibration", header.calibration)
            )
            counts.attrs[name] = value


def _write_header(file: h5py.File, header: Header) -> None:
    scanner, geometry = header.scanner, header.geometry
    file.attrs.update({"format": FORMAT, "kind": header.kind, "medidiff": __version__, "note": DISCLAIMER})
    file.attrs.update(header.source)
    file.attrs["parameters"] = json.dumps(header.parameters)
    group = file.create_group("geometry")
    group.attrs.update({"beam": scanner.beam, "detector": scanner.detector, "bin_mm": scanner.bin_mm})
    if scanner.beam == "fan":
        group.attrs["source_isocentre_mm"] = scanner.source_isocentre_mm
        group.attrs["source_detector_mm"] = scanner.source_detector_mm
    group["angles_rad"] = scanner.angles_rad
    image = file.create_group("image")
    image.attrs.update({"pixel_mm": header.pixel_mm, "rows": geometry.matrix[0], "columns": geometry.matrix[1]})
    image["origins_mm"], image["right"], image["down"] = geometry.origins_mm, geometry.right, geometry.down


# ---------------------------------------------------------------- reading


def is_projections_name(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def open_projections(path: Path) -> Projections:
    """Open a container and check all of it. Raises InputError, or GeometryError where parts do not fit together."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: not an HDF5 file; medidiff project makes one")
    try:
        with h5py.File(path) as file:
            return _opened(path, file)
    except OSError as error:
        raise InputError(f"{path}: cut short or damaged ({' '.join(str(error).split())}); copy it again") from None


def _opened(path: Path, file: h5py.File) -> Projections:
    found = _Reading(path, file)
    if (version := found.text("/", "format")) != FORMAT:
        raise InputError(f"{path}: its format is '{version}', expected '{FORMAT}'")
    kind = found.one_of("/", "kind", ("CT", "PET"))
    main, names = _sinograms(path, file, kind)
    shape = file[main].shape
    if len(shape) != 3 or 0 in shape:
        raise GeometryError(f"{path}: /{main} has the shape {shape}, expected (slices, views, bins)")
    header = _header(found, kind, main, shape)
    _require_shapes(path, file, names, shape)
    projections = Projections(path, header, names)
    _check_numbers(path, file, names, kind)
    return projections


@dataclass(frozen=True)
class _Reading:
    """Attributes and small arrays of a file, with errors that name them."""

    path: Path
    file: h5py.File

    def text(self, group: str, name: str) -> str:
        value = self._attribute(group, name)
        return value.decode() if isinstance(value, bytes) else str(value)

    def one_of(self, group: str, name: str, known: tuple[str, ...]) -> Any:
        value = self.text(group, name)
        if value not in known:
            raise InputError(f"{self.path}: {name} of {group} is '{value}', expected {' or '.join(known)}")
        return value

    def number(self, group: str, name: str, *, least: float = 0.0, zero: bool = False) -> float:
        value = self._attribute(group, name)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number) or number < least or (number == 0 and not zero):
            wanted = "0 or more" if zero else "above 0"
            raise GeometryError(f"{self.path}: {name} of {group} is {value}, expected a number {wanted}")
        return number

    def array(self, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
        if name not in self.file:
            raise InputError(f"{self.path}: has no /{name}; see docs/projections.md for the layout")
        values = np.asarray(self.file[name], np.float64)
        fits = len(shape) == values.ndim and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
        if not fits or not np.isfinite(values).all():
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            fault = f"the shape {values.shape}" if not fits else "values that are not numbers"
            raise GeometryError(f"{self.path}: /{name} has {fault}, expected numbers of ({wanted})")
        return values

    def _attribute(self, group: str, name: str) -> Any:
        if group not in self.file or name not in self.file[group].attrs:
            raise InputError(f"{self.path}: {group} has no attribute {name}; see docs/projections.md for the layout")
        return self.file[group].attrs[name]


def _sinograms(path: Path, file: h5py.File, kind: str) -> tuple[str, tuple[str, ...]]:
    """The main sinogram and all those that are used."""
    choices = TAKEN_WITH[kind]
    main = next((name for name in choices if name in file), None)
    if main is None:
        raise InputError(f"{path}: {kind} without data, expected /{' or /'.join(choices)}")
    missing = [name for name in choices[main] if name not in file]
    if "air" in missing:
        raise InputError(
            f"{path}: counts without an air scan; add /air, what each bin counts without an object, or give "
            "/line_integrals in place of /counts"
        )
    if missing:
        raise InputError(f"{path}: PET counts without /{missing[0]}; see docs/projections.md for the layout")
    optional = ("variance",) if main == "line_integrals" and "variance" in file else ()
    return main, (main, *choices[main], *optional)


def _header(found: _Reading, kind: Kind, main: str, shape: tuple[int, int, int]) -> Header:
    geometry = _geometry(found, shape[0])
    scanner = _scanner(found, shape)
    if kind == "PET" and scanner.beam != "parallel":
        raise GeometryError(f"{found.path}: PET in a fan, expected beam parallel: rebin it")
    _require_sight(found.path, scanner, geometry)
    attributes = found.file.attrs
    variance = calibration = 0.0
    if main == "counts":
        variance = found.number("/counts", "electronic_variance", zero=True) if kind == "CT" else 0.0
        calibration = found.number("/counts", "calibration") if kind == "PET" else 0.0
    source = {name: found.text("/", name) for name in OPTIONAL if name in attributes}
    try:
        parameters = json.loads(found.text("/", "parameters")) if "parameters" in attributes else {}
    except ValueError:
        raise InputError(f"{found.path}: parameters is not JSON; leave it out or mend it") from None
    return Header(kind, scanner, geometry, variance, calibration, source, parameters)


def _geometry(found: _Reading, n_slices: int) -> Geometry:
    pixel = found.number("/image", "pixel_mm")
    rows, columns = (int(found.number("/image", name)) for name in ("rows", "columns"))
    origins = found.array("image/origins_mm", (None, 3))
    right, down = found.array("image/right", (3,)), found.array("image/down", (3,))
    if len(origins) != n_slices:
        raise GeometryError(f"{found.path}: {n_slices} slices of projections for {len(origins)} in /image/origins_mm")
    if not np.allclose([right @ right, down @ down, right @ down], [1, 1, 0], atol=1e-3):
        raise GeometryError(f"{found.path}: right and down of /image are not perpendicular unit vectors")
    return Geometry(origins, right, down, (pixel, pixel), (rows, columns))


def _scanner(found: _Reading, shape: tuple[int, int, int]) -> Scanner:
    beam = found.one_of("/geometry", "beam", ("fan", "parallel"))
    angles = found.array("geometry/angles_rad", (None,))
    if len(angles) != shape[1]:
        raise GeometryError(f"{found.path}: {shape[1]} views of projections for {len(angles)} in /geometry/angles_rad")
    if np.any(np.diff(angles) <= 0):
        raise GeometryError(f"{found.path}: /geometry/angles_rad do not rise; sort the views by their angle")
    if (arc := np.ptp(angles)) > 2 * np.pi:
        hint = "they look like degrees" if arc > 20 else "keep one turn"
        raise GeometryError(f"{found.path}: /geometry/angles_rad span {arc:.4g}, expected one turn (6.283): {hint}")
    bin_mm = found.number("/geometry", "bin_mm")
    if beam == "parallel":
        return Scanner("parallel", "flat", angles, shape[2], bin_mm)
    detector = found.one_of("/geometry", "detector", ("curved", "flat"))
    near, far = (found.number("/geometry", f"source_{end}_mm") for end in ("isocentre", "detector"))
    if far <= near:
        raise GeometryError(
            f"{found.path}: source_detector_mm is {far:g} and source_isocentre_mm {near:g}: the detector lies behind "
            "the isocentre, so the first is the longer one"
        )
    return Scanner(beam, detector, angles, shape[2], bin_mm, near, far)


def _require_sight(path: Path, scanner: Scanner, geometry: Geometry) -> None:
    """Raise GeometryError where the source stands in the image, or the detector sees little of it."""
    half = np.array(geometry.matrix) * geometry.pixel_spacing_mm[0] / 2
    edge = scanner.n_bins * scanner.bin_mm / 2
    if scanner.beam == "fan":
        if scanner.source_isocentre_mm <= float(np.hypot(*half)):
            raise GeometryError(
                f"{path}: the source is {scanner.source_isocentre_mm:g} mm from the isocentre and the image reaches "
                f"{np.hypot(*half):.0f} mm: check source_isocentre_mm, pixel_mm, rows and columns"
            )
        turn = edge / scanner.source_detector_mm
        gamma = turn if scanner.detector == "curved" else float(np.arctan(turn))
        if gamma >= np.pi / 2:
            raise GeometryError(f"{path}: the fan is {np.degrees(2 * gamma):.0f} degrees wide: check bin_mm (in mm)")
        edge = scanner.source_isocentre_mm * float(np.sin(gamma))
    if edge < 0.25 * half.max() or edge > 20 * half.max():
        raise GeometryError(
            f"{path}: the detector sees {edge:.3g} mm around the isocentre, the image reaches {half.max():.3g} mm: "
            "check bin_mm and pixel_mm (both in mm)"
        )


def _require_shapes(path: Path, file: h5py.File, names: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    for name in names:
        allowed = (shape, shape[1:], shape[2:]) if name == "air" else (shape,)
        if file[name].shape not in allowed:
            raise GeometryError(f"{path}: /{name} has the shape {file[name].shape}, expected {allowed[-1]}")
        if file[name].dtype.kind not in "iuf":
            raise InputError(f"{path}: /{name} holds {file[name].dtype} data, expected numbers")


def _check_numbers(path: Path, file: h5py.File, names: tuple[str, ...], kind: str) -> None:
    """Raise InputError for what cannot have been measured, naming the slice."""
    n_slices, excess, rays = file[names[0]].shape[0], 0, 0
    for start in range(0, n_slices, CHUNK):
        for name in names:
            data = file[name]
            values = np.asarray(data[start : start + CHUNK] if data.ndim == 3 else data)
            _check_part(path, name, values, start if data.ndim == 3 else None)
        if names[:2] == ("counts", "air"):
            counts, air = (file[name] for name in names[:2])
            scale = np.asarray(air[start : start + CHUNK] if air.ndim == 3 else air, np.float64)
            above = np.asarray(counts[start : start + CHUNK]) > 1.1 * scale + 6 * np.sqrt(scale)
            excess, rays = excess + int(above.sum()), rays + above.size
    if excess > MOST_ABOVE_AIR * max(rays, 1):
        raise InputError(
            f"{path}: {excess / rays:.0%} of the rays count more than /air does without an object: that air scan is "
            "not of these counts (another dose, or already divided)"
        )


def _check_part(path: Path, name: str, values: NDArray[Any], start: int | None) -> None:
    """`start` is the first slice, None for what all slices share."""
    faults = {
        "are not numbers": ~np.isfinite(values),
        "are below 0": values < 0 if name != "line_integrals" else np.zeros(1, bool),
        "are 0": values == 0 if name in ("air", "attenuation", "variance") else np.zeros(1, bool),
        f"are above {HIGHEST_INTEGRAL:g}, as counts are: give those as /counts with /air": (
            values > HIGHEST_INTEGRAL if name == "line_integrals" else np.zeros(1, bool)
        ),
        "are above 1: factors of attenuation are exp(-line integral)": (
            values > 1 + 1e-4 if name == "attenuation" else np.zeros(1, bool)
        ),
    }
    for fault, where in faults.items():
        if where.any():
            at = np.argwhere(where)[0]
            place = "" if start is None else f", the first in slice {start + int(at[0]) + 1}"
            raise InputError(f"{path}: {int(where.sum())} values of /{name} {fault}{place}")
