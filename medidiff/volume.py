"""A volume: numbers on a stack of slices, and where each slice lies in the patient.

Index order is (slice, row, column); the world is DICOM's LPS in millimetres (PS3.3 C.7.6.2.1.1).
A stack keeps the position of *every* slice, not one spacing: gantry tilt (slices displaced within
their own plane) and uneven spacing are then exact, and the affine is a reading of it where one exists:

    world(k, r, c) = origins[k] + r * spacing_row * down + c * spacing_column * right
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError
from medidiff.units import Unit

UNEVEN_TOLERANCE = 0.05  # relative; 3-D models need steps within it (DICOM headers round to 3 digits)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a stack of parallel slices lie (LPS, mm).

    origins_mm       (slices, 3)  centre of the first voxel of each slice, ordered along the normal
    right, down      (3,)         unit vectors of increasing column and increasing row
    pixel_spacing_mm (row, column) distance between rows, then between columns
    matrix           (rows, columns)
    """

    origins_mm: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    matrix: tuple[int, int]

    @property
    def n_slices(self) -> int:
        return len(self.origins_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.n_slices, *self.matrix)

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slices, `right x down` (PS3.3 C.7.6.2.1.1)."""
        normal = np.cross(self.right, self.down)
        return normal / np.linalg.norm(normal)

    @cached_property
    def positions_mm(self) -> NDArray[np.float64]:
        """(slices,) distance of each slice along the normal."""
        return self.origins_mm @ self.normal

    @cached_property
    def steps_mm(self) -> NDArray[np.float64]:
        """(slices - 1,) distance between neighbouring slices along the normal."""
        return np.diff(self.positions_mm)

    @property
    def slice_spacing_mm(self) -> float:
        """Median distance between slices along the normal; 0 for a single slice."""
        return float(np.median(np.abs(self.steps_mm))) if self.n_slices > 1 else 0.0

    @property
    def is_even(self) -> bool:
        """True when every step is within 5 % of the median step."""
        if self.n_slices < 3:
            return True
        return bool(np.all(np.abs(np.abs(self.steps_mm) / self.slice_spacing_mm - 1) <= UNEVEN_TOLERANCE))

    @cached_property
    def slice_vector_mm(self) -> NDArray[np.float64]:
        """Mean displacement from a slice to the next; not along the normal when the gantry is tilted."""
        if self.n_slices < 2:
            return self.normal.copy()
        return (self.origins_mm[-1] - self.origins_mm[0]) / (self.n_slices - 1)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the stacking direction and the slice normal (gantry tilt)."""
        if self.n_slices < 2:
            return 0.0
        direction = self.slice_vector_mm / np.linalg.norm(self.slice_vector_mm)
        return float(np.degrees(np.arccos(np.clip(abs(direction @ self.normal), -1, 1))))

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) map from (slice, row, column, 1) to LPS mm; sheared when the gantry is tilted.

        Exact for even stacks; for uneven ones the first and last slice are right and those between
        are off by what the steps differ: use `world` there.
        """
        affine = np.eye(4)
        affine[:3, 0] = self.slice_vector_mm
        affine[:3, 1] = self.down * self.pixel_spacing_mm[0]
        affine[:3, 2] = self.right * self.pixel_spacing_mm[1]
        affine[:3, 3] = self.origins_mm[0]
        return affine

    def world(self, index: NDArray[np.integer]) -> NDArray[np.float64]:
        """LPS positions in mm, (..., 3), of integer voxel indices (..., 3) = (slice, row, column)."""
        index = np.asarray(index)
        return (
            self.origins_mm[index[..., 0]]
            + index[..., 1, None] * (self.pixel_spacing_mm[0] * self.down)
            + index[..., 2, None] * (self.pixel_spacing_mm[1] * self.right)
        )

    def select(self, start: int, stop: int) -> Geometry:
        """The geometry of slices start .. stop - 1."""
        return replace(self, origins_mm=self.origins_mm[start:stop])

    def difference(self, other: Geometry, tolerance_mm: float = 0.01) -> str | None:
        """What differs between two geometries, in words with both values; None when nothing does."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if not np.allclose(self.pixel_spacing_mm, other.pixel_spacing_mm, atol=1e-4):
            here, there = ("({:.5g}, {:.5g})".format(*one.pixel_spacing_mm) for one in (self, other))
            return f"pixel spacing {here} mm against {there} mm"
        if not np.allclose([self.right, self.down], [other.right, other.down], atol=1e-4):
            return "image orientation differs"
        off = float(np.abs(self.origins_mm - other.origins_mm).max())
        if off > tolerance_mm:
            return f"slice positions differ by up to {off:.3f} mm"
        return None

    @classmethod
    def from_affine(cls, affine: NDArray[np.floating], shape: tuple[int, int, int]) -> Geometry:
        """Geometry of an evenly stacked array; `affine` maps (slice, row, column, 1) to LPS mm.

        Raises GeometryError when rows and columns are not perpendicular or a spacing is zero.
        """
        affine = affine.astype(np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.all(np.isfinite(affine)) or np.any(spacing[1:] <= 0) or (shape[0] > 1 and spacing[0] <= 0):
            raise GeometryError(f"the affine has spacings {spacing.tolist()} mm: all three must be above zero")
        down, right = affine[:3, 1] / spacing[1], affine[:3, 2] / spacing[2]
        if abs(down @ right) > 1e-3:
            raise GeometryError(f"rows and columns are not perpendicular (cosine {down @ right:.4f}); resample first")
        origins = affine[:3, 3] + np.arange(shape[0])[:, None] * affine[:3, 0]

        def double(values: NDArray[np.floating]) -> NDArray[np.float64]:
            return np.asarray(values, dtype=np.float64)

        spacings, matrix = (float(spacing[1]), float(spacing[2])), (shape[1], shape[2])
        return cls(double(origins), double(right), double(down), spacings, matrix)


class SliceSource(Protocol):
    """Slices that can be read one at a time, so that a scan need not fit in memory."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def unit(self) -> Unit: ...

    def read(self, index: int) -> NDArray[np.float32]:
        """(rows, columns) values of one slice, in `unit`."""

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        """(rows, columns) True where a pixel holds no measurement; None when all do."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An array with its geometry and unit; a `SliceSource` that is already in memory.

    array               (slices, rows, columns) float32 in `unit`
    frame_of_reference  DICOM FrameOfReferenceUID, None when unknown
    mask                (slices, rows, columns) True where there is no measurement, or None
    """

    array: NDArray[np.float32]
    geometry: Geometry
    unit: Unit
    frame_of_reference: str | None = None
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(f"array of shape {self.array.shape} for a geometry of {self.geometry.shape}")

    @property
    def affine(self) -> NDArray[np.float64]:
        return self.geometry.affine

    def read(self, index: int) -> NDArray[np.float32]:
        return self.array[index]

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return None if self.mask is None else self.mask[index]

    def with_array(self, array: NDArray[np.float32]) -> Volume:
        """The same place and unit with other numbers; raises GeometryError for another shape."""
        return replace(self, array=array)


def collect(source: SliceSource) -> Volume:
    """All slices of a source as a volume in memory."""
    n = source.geometry.n_slices
    array = np.stack([source.read(index) for index in range(n)])
    masks = [source.padding(index) for index in range(n)]
    if all(mask is None for mask in masks):
        return Volume(array, source.geometry, source.unit)
    none = np.zeros(source.geometry.matrix, dtype=bool)
    return Volume(array, source.geometry, source.unit, mask=np.stack([none if m is None else m for m in masks]))
