"""NIfTI in and out: a file is a stack of slices along its third axis, with an RAS affine.

NIfTI-1/2 stores array[i, j, k] with world_RAS = A (i, j, k, 1). Here i is the column, j the row and k the
slice, and the world is DICOM's LPS, so

    affine_LPS(slice, row, column) = diag(-1, -1, 1, 1) A P        P swaps the first and third axis
    value = stored * scl_slope + scl_inter

NIfTI has no code for Hounsfield units: they are assumed, and data that cannot be HU are refused. Whoever opens a file
says so where it holds SUV.
A file is written slice by slice, so that memory does not grow with the scan.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file
from numpy.typing import NDArray

from medidiff import DISCLAIMER, __version__
from medidiff.errors import GeometryError, InputError, OutputError, UnitError
from medidiff.io.files import replacing
from medidiff.progress import Progress, silent
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HIGHEST_MINIMUM_HU = -200.0  # a CT holds air, or at least fat
NIFTI_MM = 0.05  # headers of NIfTI are float32
PADDING_BELOW_HU = -1500.0  # no noise reaches it: a constant minimum below is padding
AIR = {"HU": -1000.0, "SUV": 0.0}  # what stands in for values that are not numbers


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """The slices of a NIfTI file, read when asked for (`volume.SliceSource`)."""

    path: Path
    header: Any = field(repr=False)
    raw: NDArray[Any] = field(repr=False)
    affine_ras: NDArray[np.float64]
    slope: float
    intercept: float
    unit: Unit = "HU"

    @cached_property
    def geometry(self) -> Geometry:
        columns, rows, slices = self.raw.shape
        affine = (LPS_TO_RAS @ self.affine_ras)[:, [2, 1, 0, 3]]
        return Geometry.from_affine(affine, (slices, rows, columns))

    def stored(self, index: int) -> NDArray[Any]:
        """(rows, columns) numbers as they are in the file, before scl_slope."""
        return np.asarray(self.raw[:, :, index]).T

    def read(self, index: int) -> NDArray[np.float32]:
        values = self._values(index)
        return np.where(np.isfinite(values), values, np.float32(AIR[self.unit]))

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        values = self._values(index)
        mask = ~np.isfinite(values)
        if self.unit == "HU" and self.limits[0] <= PADDING_BELOW_HU:
            mask |= values == np.float32(self.limits[0])
        return mask if mask.any() else None

    @property
    def is_oriented(self) -> bool:
        """False when the file does not say where left and right are (both form codes 0)."""
        return int(self.header["qform_code"]) > 0 or int(self.header["sform_code"]) > 0

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest finite value of the file."""
        ranges = [_finite_range(self._values(k)) for k in range(self.raw.shape[2])]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @cached_property
    def has_holes(self) -> bool:
        """True where some values of the file are not numbers."""
        return self.raw.dtype.kind == "f" and not all(
            np.isfinite(self.stored(k)).all() for k in range(self.raw.shape[2])
        )

    def _values(self, index: int) -> NDArray[np.float32]:
        stored = self.stored(index)
        return (stored.astype(np.float64) * self.slope + self.intercept).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Flipped:
    """A slice source read backwards along some of its axes (slice, row, column); voxels stay where they are."""

    source: SliceSource
    axes: tuple[bool, bool, bool]

    @property
    def unit(self) -> Unit:
        return self.source.unit

    @cached_property
    def geometry(self) -> Geometry:
        return _flipped(self.source.geometry, self.axes)

    def read(self, index: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.source.read(self._there(index))[self._in_plane])

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        mask = self.source.padding(self._there(index))
        return None if mask is None else mask[self._in_plane]

    def _there(self, index: int) -> int:
        return self.geometry.n_slices - 1 - index if self.axes[0] else index

    @property
    def _in_plane(self) -> tuple[slice, slice]:
        return slice(None, None, -1 if self.axes[1] else 1), slice(None, None, -1 if self.axes[2] else 1)


@dataclass(frozen=True, eq=False)
class Placed:
    """A slice source that was found to lie on `geometry`, which says it more exactly than its own header."""

    source: SliceSource
    geometry: Geometry

    @property
    def unit(self) -> Unit:
        return self.source.unit

    def read(self, index: int) -> NDArray[np.float32]:
        return self.source.read(index)

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return self.source.padding(index)


def on_grid(source: SliceSource, wanted: Geometry, *, even: bool = False) -> SliceSource:
    """`source` with its axes turned into the order of `wanted` (other programs flip rows or slices).

    Raises GeometryError, saying what differs, where the two are not the same grid (`grid_difference`).
    """
    if source.geometry.difference(wanted) is None:
        return source
    if difference := grid_difference(source.geometry, wanted, even=even):
        raise GeometryError(difference)
    return Placed(Flipped(source, _backwards(source.geometry, wanted)), wanted)


def grid_difference(here: Geometry, wanted: Geometry, *, even: bool = False) -> str | None:
    """What differs between two grids, whatever the directions of their axes; None when nothing does.

    `even` where one of the two is NIfTI: its headers are float32, and slices are taken as it must have stored
    them, evenly.
    """
    turned = _flipped(here, _backwards(here, wanted))
    return _even(turned).difference(_even(wanted), tolerance_mm=NIFTI_MM) if even else turned.difference(wanted)


def match_grid(source: NiftiSource, wanted: Geometry) -> SliceSource:
    """`on_grid` for a NIfTI file and the geometry of a DICOM series; the error names the file."""
    try:
        return on_grid(source, wanted, even=True)
    except GeometryError as error:
        raise GeometryError(f"{source.path}: not the grid of the DICOM series: {error}") from None


def _backwards(here: Geometry, wanted: Geometry) -> tuple[bool, bool, bool]:
    """Which axes (slice, row, column) of two grids run against each other."""
    pairs = ((here.slice_vector_mm, wanted.slice_vector_mm), (here.down, wanted.down), (here.right, wanted.right))
    back_slice, back_row, back_column = (bool(a @ b < 0) for a, b in pairs)
    return back_slice, back_row, back_column


def _flipped(there: Geometry, axes: tuple[bool, bool, bool]) -> Geometry:
    """The geometry of the same voxels, counted backwards along some axes."""
    back_slice, back_row, back_column = axes
    down = there.pixel_spacing_mm[0] * there.down * (there.matrix[0] - 1) * back_row
    right = there.pixel_spacing_mm[1] * there.right * (there.matrix[1] - 1) * back_column
    return replace(
        there,
        origins_mm=there.origins_mm[:: -1 if back_slice else 1] + down + right,
        down=-there.down if back_row else there.down,
        right=-there.right if back_column else there.right,
    )


def _even(geometry: Geometry) -> Geometry:
    return Geometry.from_affine(geometry.affine, geometry.shape)


def open_nifti(path: Path, unit: Unit = "HU") -> NiftiSource:
    """Open a 3-D .nii or .nii.gz file of CT numbers, or of what the caller knows it to hold.

    Raises InputError for what is not such a file, UnitError where the values cannot be HU, and GeometryError
    where rows and columns are not perpendicular.
    """
    source = open_labels(path, unit)
    if unit == "HU":
        _require_hu(source)
    return source


def open_labels(path: Path, unit: Unit = "HU") -> NiftiSource:
    """Open a 3-D NIfTI file of any numbers, such as a mask; raises what `open_nifti` raises but for their unit."""
    path = Path(path)
    image = _load(path)
    if image.shape[3:] not in ((), (1,), (1, 1)) or len(image.shape) < 3 or 0 in image.shape:
        raise InputError(f"{path}: expected one 3-D volume, found an array of {image.shape}; split the file first")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: expected whole or real numbers, found {image.get_data_dtype()} data")
    header, proxy = image.header, image.dataobj
    raw = _unscaled(path, proxy).reshape(image.shape[:3], order="F")
    source = NiftiSource(path, header, raw, image.affine, float(proxy.slope), float(proxy.inter), unit)
    source.geometry  # noqa: B018  an unusable affine is refused here, not in the middle of a run
    return source


def write_nifti(
    path: Path,
    volume: SliceSource,
    like: NiftiSource | None = None,
    *,
    allow_uneven: bool = False,
    progress: Progress = silent,
) -> list[str]:
    """Write slices as .nii or .nii.gz and return warnings.

    With `like` the header is that of `like`: affine, form codes, units, scaling and data type are kept (whole
    numbers are rounded; a type that cannot hold the values is widened, with a warning) and its padding comes
    back untouched. Without, the data type is int16 for whole numbers that fit it and float32 otherwise.
    The slices are read twice, once for their range.

    Raises GeometryError for slices that no affine describes (unless `allow_uneven`), OutputError where the
    file cannot be written.
    """
    path = Path(path)
    if not is_nifti_name(path):
        raise OutputError(f"{path}: expected a name that ends in .nii or .nii.gz")
    geometry = volume.geometry
    if like is None:
        _require_even(geometry, allow_uneven)
    elif difference := like.geometry.difference(geometry):
        raise GeometryError(f"{path}: not the grid of {like.path.name}: {difference}")
    low, high, is_whole = _statistics(volume)
    header = _new_header(geometry) if like is None else like.header.copy()
    slope, intercept = (1.0, 0.0) if like is None else (like.slope, like.intercept)
    wanted = np.dtype(np.int16 if is_whole else np.float32) if like is None else header.get_data_dtype()
    dtype = _holding(wanted, (low - intercept) / slope, (high - intercept) / slope)
    _set_layout(header, dtype, slope, intercept)
    dtype = header.get_data_dtype()  # in the header's byte order
    with replacing(path) as temporary, _opened(temporary, path) as file:
        header.write_to(file)
        file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
        for index in range(geometry.n_slices):
            file.write(_encoded(volume, index, like, dtype, slope, intercept).tobytes())
            progress(index + 1, geometry.n_slices)
    if like is None or dtype == wanted:
        return []
    values = f"values of {low:g} to {high:g} {volume.unit}"
    return [f"{values} do not fit the data type {wanted} of the source: written as {dtype}"]


def is_nifti_name(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable as NIfTI ({' '.join(str(error).split())})") from None
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 is a subclass
        raise InputError(f"{path}: expected a NIfTI file, found {type(image).__name__}")
    return image


def _unscaled(path: Path, proxy: Any) -> NDArray[Any]:
    """The stored numbers: a memory map for .nii, in memory (in the file's own type) for .nii.gz."""
    try:
        return (
            _unpacked(path, proxy) if path.name.lower().endswith(".gz") else cast("NDArray[Any]", proxy.get_unscaled())
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: the image data are cut short or damaged ({' '.join(str(error).split())})") from None


def _unpacked(path: Path, proxy: Any) -> NDArray[Any]:
    """Read to the very end, where gzip keeps its checksum: damage would else be taken for image."""
    with gzip.open(path) as packed:
        stored = cast("NDArray[Any]", array_from_file(proxy.shape, proxy.dtype, packed, proxy.offset, mmap=False))
        while packed.read(1 << 20):
            pass
    return stored


def _require_hu(source: NiftiSource) -> None:
    low, high = source.limits
    if low > high:
        raise InputError(f"{source.path}: holds no number at all (nan or infinite everywhere)")
    if low > HIGHEST_MINIMUM_HU:
        hint = "normalised values" if low >= -1 and high <= 1 else "shifted or other values"
        raise UnitError(
            f"{source.path}: expected HU with air near -1000, found {low:g} to {high:g} ({hint}); convert it first"
        )


def _finite_range(values: NDArray[np.floating]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)


def _require_even(geometry: Geometry, allow_uneven: bool) -> None:
    """NIfTI has one affine: every slice must lie within half a step of where it says."""
    if allow_uneven or geometry.n_slices < 3:
        return
    stacked = geometry.origins_mm[0] + np.arange(geometry.n_slices)[:, None] * geometry.slice_vector_mm
    off = float(np.linalg.norm(geometry.origins_mm - stacked, axis=1).max())
    if geometry.is_even and off <= geometry.slice_spacing_mm / 2:
        return
    steps = np.abs(geometry.steps_mm)
    raise GeometryError(
        f"the slices are {steps.min():.2f} to {steps.max():.2f} mm apart and NIfTI knows one distance only, so some "
        f"would be off by {off:.1f} mm; keep DICOM, or accept it with --allow-gaps"
    )


def _statistics(volume: SliceSource) -> tuple[float, float, bool]:
    """(minimum, maximum, whether all values are whole numbers)."""
    low, high, is_whole = np.inf, -np.inf, True
    for index in range(volume.geometry.n_slices):
        values = volume.read(index)
        lowest, highest = _finite_range(values)
        low, high = min(low, lowest), max(high, highest)
        is_whole = is_whole and bool(np.all(values == np.rint(values)))
    return low, high, is_whole


def _new_header(geometry: Geometry) -> Any:
    slices, rows, columns = geometry.shape
    header = nib.Nifti1Header()
    header.set_data_shape((columns, rows, slices))
    affine = (LPS_TO_RAS @ geometry.affine)[:, [2, 1, 0, 3]]
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, code="scanner")
    if geometry.tilt_degrees < 0.1:  # a quaternion cannot hold the shear of a tilted gantry
        header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["descrip"] = f"medidiff {__version__}: {DISCLAIMER}".encode()[:79]
    return header


def _holding(wanted: np.dtype, low: float, high: float) -> np.dtype:
    """`wanted`, or the next wider type that holds low .. high."""
    if wanted.kind == "f" or not np.isfinite([low, high]).all():
        return wanted
    candidates = [wanted, np.dtype(np.int16), np.dtype(np.int32)]
    fitting = [t for t in candidates if np.iinfo(t).min <= np.rint(low) and np.rint(high) <= np.iinfo(t).max]
    return fitting[0] if fitting else np.dtype(np.float32)


def _set_layout(header: Any, dtype: np.dtype, slope: float, intercept: float) -> None:
    header.set_data_dtype(dtype)
    header.set_slope_inter(slope, intercept)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()


def _encoded(
    volume: SliceSource, index: int, like: NiftiSource | None, dtype: np.dtype, slope: float, intercept: float
) -> NDArray[Any]:
    """(rows, columns) stored numbers; in C order these are the bytes of NIfTI's array[:, :, index]."""
    numbers = (volume.read(index).astype(np.float64) - intercept) / slope
    if dtype.kind != "f":
        numbers = np.rint(np.where(np.isfinite(numbers), numbers, (AIR[volume.unit] - intercept) / slope))
    encoded = numbers.astype(dtype)
    mask = None if like is None else like.padding(index)
    if like is not None and mask is not None:
        encoded[mask] = like.stored(index)[mask]
    return encoded


@contextmanager
def _opened(temporary: Path, path: Path) -> Iterator[BinaryIO]:
    with temporary.open("wb") as plain:
        if not path.name.lower().endswith(".gz"):
            yield plain
            return
        # no name and no time in the header, so that the same scan gives the same bytes
        with gzip.GzipFile("", "wb", compresslevel=4, fileobj=plain, mtime=0) as packed:
            yield cast("BinaryIO", packed)
