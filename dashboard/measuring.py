"""Measurements in regions that the reader drew, on the very voxels that the viewer shows.

A region is points of the patient in mm (LPS), so that it lies at the same place on every grid. In a section along the
voxels a pixel belongs to a region when its centre does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.draw import polygon2mask

from medidiff.errors import InputError
from medidiff.noise.spectrum import Spectrum, noise_spectrum

Array = NDArray[np.float64]

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # world axes across, up or down, through
DOWN = {"axial": 1, "coronal": -1, "sagittal": -1}  # to the back, but from the head to the feet
POINTS = {"circle": 2, "rectangle": 2, "line": 2, "freehand": 3}
AREAS = ("circle", "rectangle", "freehand")
LEAST_PATCH, MOST_PATCH = 16, 64  # pixels along the side of a region whose spectrum is taken
EQUAL = 0.01  # pixels count as square when their sides differ by less
BINS = 60
SAMPLES_A_PIXEL = 2


@dataclass(frozen=True, eq=False)
class Region:
    """What was drawn. `points_mm` (n, 3): centre and rim, two opposite corners, two ends, or an outline."""

    name: str
    kind: str
    plane: str
    points_mm: Array

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Region:
        """As the viewer tells it. Raises InputError for anything else."""
        try:
            points = np.asarray(told["points_mm"], np.float64)
            region = cls(str(told["id"]), str(told["kind"]), str(told["plane"]), points)
            is_one = region.plane in PLANES and points.ndim == 2 and points.shape[1] == 3
            is_one = is_one and len(points) >= POINTS[region.kind] and bool(np.isfinite(points).all())
        except (KeyError, TypeError, ValueError):
            is_one = False
        if not is_one:
            raise InputError("a region of the viewer could not be understood: draw it again")
        return region

    @property
    def is_area(self) -> bool:
        return self.kind in AREAS


@dataclass(frozen=True, eq=False)
class Section:
    """One plane of a volume: `values` (n, m) along the voxel axes `axes` that lie across and up, steps in mm.

    to_voxel   (4, 4) LPS mm to voxels; signs: whether x, y, z (LPS) grows with the index
    """

    values: Array
    plane: str
    axes: tuple[int, int]
    steps_mm: tuple[float, float]
    signs: tuple[int, int]
    to_voxel: Array

    @property
    def pixel_mm2(self) -> float:
        return self.steps_mm[0] * self.steps_mm[1]

    def pixels(self, points_mm: Array) -> Array:
        """Positions (n, 3) as fractional indices (n, 2) into `values`."""
        return (points_mm @ self.to_voxel[:3, :3].T + self.to_voxel[:3, 3])[:, list(self.axes)]

    def mask(self, region: Region) -> NDArray[np.bool_]:
        """Which pixels have their centre in a region."""
        points = self.pixels(region.points_mm)
        steps = np.array(self.steps_mm)
        if region.kind == "freehand":
            return polygon2mask(self.values.shape, points)
        index = np.moveaxis(np.indices(self.values.shape), 0, -1)
        if region.kind == "circle":
            radius = np.hypot(*((points[1] - points[0]) * steps))
            return np.hypot(*np.moveaxis((index - points[0]) * steps, -1, 0)) <= radius
        low, high = points[:2].min(0), points[:2].max(0)
        return ((index >= low) & (index <= high)).all(-1)

    def display(self) -> Array:
        """As on screen: patient's left on the right, front or head at the top, a face looks to the left."""
        shown = self.values if self.signs[0] > 0 else self.values[::-1]
        shown = shown if self.signs[1] * DOWN[self.plane] > 0 else shown[:, ::-1]
        return shown.T

    def on_display(self, pixels: Array) -> Array:
        """Indices (n, 2) into `values` as (column, row) of `display`."""
        n, m = self.values.shape
        across = pixels[:, 0] if self.signs[0] > 0 else n - 1 - pixels[:, 0]
        down = pixels[:, 1] if self.signs[1] * DOWN[self.plane] > 0 else m - 1 - pixels[:, 1]
        return np.stack([across, down], axis=1)


class Voxels:
    """A NIfTI file that is read by planes, nothing else of it."""

    def __init__(self, path: Path) -> None:
        image = nib.load(path)
        self.data = image.dataobj
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # RAS to LPS
        self.affine, self.to_voxel = affine, np.linalg.inv(affine)
        self.order = nib.io_orientation(affine)[:, 0].astype(int)  # of each voxel axis the world axis it runs along

    def section(self, plane: str, at_mm: Array, shift: int = 0) -> Section | None:
        """The plane through a position, `shift` slices further; None outside of the volume."""
        across, up, through = (int(np.flatnonzero(self.order == axis)[0]) for axis in PLANES[plane])
        voxel = self.to_voxel[:3, :3] @ at_mm + self.to_voxel[:3, 3]
        index = round(float(voxel[through])) + shift
        if not 0 <= index < self.data.shape[through]:
            return None
        cut: list[Any] = [slice(None)] * 3
        cut[through] = index
        values = np.asarray(self.data[tuple(cut)], np.float64)
        values = values if across < up else values.T
        steps = [float(np.linalg.norm(self.affine[:3, axis])) for axis in (across, up)]
        signs = [1 if self.affine[PLANES[plane][k], axis] > 0 else -1 for k, axis in enumerate((across, up))]
        return Section(values, plane, (across, up), (steps[0], steps[1]), (signs[0], signs[1]), self.to_voxel)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image as it is shown: `base` is what it is blended with, at a strength below 100 %.

    is_compared   a scan or a reconstruction, not a map of deviations
    """

    title: str
    unit: str
    voxels: Voxels
    base: Voxels | None = None
    strength: float = 100.0
    is_compared: bool = True

    def section(self, plane: str, at_mm: Array, shift: int = 0) -> Section | None:
        found = self.voxels.section(plane, at_mm, shift)
        below = None if self.base is None else self.base.section(plane, at_mm, shift)
        if found is None or below is None:
            return found
        return replace(found, values=below.values + self.strength / 100 * (found.values - below.values))


@dataclass(frozen=True)
class Reading:
    """Of one region in one image; nan where there are too few pixels. `bias` is the mean less that of a reference."""

    region: str
    kind: str
    plane: str
    image: str
    unit: str
    pixels: int
    area_mm2: float
    mean: float
    sd: float
    low: float
    high: float
    bias: float = math.nan
    against: str = ""


def readings(regions: Sequence[Region], images: Sequence[Shown], reference: str | None) -> list[Reading]:
    """Every region in every image that it lies in; the bias against the image titled `reference`, of the same unit."""
    found = []
    for region in regions:
        of_region = [reading for image in images if (reading := _reading(region, image)) is not None]
        against = next((one for one in of_region if one.image == reference), None)
        compared = {image.title for image in images if image.is_compared}
        found += [_biased(one, against) if one.image in compared else one for one in of_region]
    return found


def _reading(region: Region, image: Shown) -> Reading | None:
    section = image.section(region.plane, region.points_mm[0])
    if section is None or not region.is_area:
        return None
    inside = section.values[section.mask(region)]
    inside = inside[np.isfinite(inside)]
    n = inside.size
    low, high, mean = (float(inside.min()), float(inside.max()), float(inside.mean())) if n else (math.nan,) * 3
    sd = float(inside.std(ddof=1)) if n > 1 else math.nan
    area = n * section.pixel_mm2
    return Reading(region.name, region.kind, region.plane, image.title, image.unit, n, area, mean, sd, low, high)


def _biased(one: Reading, against: Reading | None) -> Reading:
    if against is None or against.unit != one.unit:
        return one
    return replace(one, bias=one.mean - against.mean, against=against.image)


def profile(line: Region, image: Shown) -> tuple[Array, Array]:
    """Distances from the first end in mm (n,), and values there between the pixels; nan outside."""
    section = image.section(line.plane, line.points_mm[0])
    if section is None:
        return np.empty(0), np.empty(0)
    ends = section.pixels(line.points_mm[:2])
    n = max(2, int(np.ceil(SAMPLES_A_PIXEL * np.abs(ends[1] - ends[0]).max())) + 1)
    share = np.linspace(0, 1, n)
    where = ends[0] + share[:, None] * (ends[1] - ends[0])
    length = float(np.hypot(*((ends[1] - ends[0]) * section.steps_mm)))
    return share * length, map_coordinates(section.values, where.T, order=1, cval=np.nan)


def spectrum(region: Region, image: Shown, each_side: int = 0) -> Spectrum:
    """Noise power of squares inside of a region, in its slice and so many on each side.

    The squares overlap by half; a second-order trend is taken from each. Raises InputError for a region that holds no
    square of 16 pixels, and for pixels that are not square.
    """
    sections = [image.section(region.plane, region.points_mm[0], k) for k in range(-each_side, each_side + 1)]
    there = [section for section in sections if section is not None]
    if not there:
        raise InputError("the region lies outside of this image")
    across, up = there[0].steps_mm
    if abs(across - up) > EQUAL * up:
        raise InputError(f"a spectrum needs square pixels; those of this plane are {across:.3g} x {up:.3g} mm")
    mask = there[0].mask(region)
    patches = [patch for section in there for patch in _patches(section.values, mask)]
    if not patches:
        raise InputError(f"a spectrum needs a region that holds a square of {LEAST_PATCH} x {LEAST_PATCH} pixels")
    return noise_spectrum(np.stack(patches), across)


def _patches(values: Array, mask: NDArray[np.bool_]) -> list[Array]:
    """Squares that lie in the mask as a whole: one where only one fits, else of half the side of the largest."""
    below = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    largest = _largest(below)
    if largest < LEAST_PATCH:
        return []
    side = largest if largest < 2 * LEAST_PATCH else min(largest // 2, MOST_PATCH)
    free, half = np.ones(mask.shape, bool), side // 2
    found = []
    for row, column in np.argwhere(_fitting(below, side)):
        if free[row, column]:
            found.append(values[row : row + side, column : column + side])
            free[max(row - half + 1, 0) : row + half, max(column - half + 1, 0) : column + half] = False
    return found


def _fitting(below: NDArray[np.integer], side: int) -> NDArray[np.bool_]:
    """Where a square of so many pixels begins that lies in the mask as a whole; `below` counts it up to each pixel."""
    count = below[side:, side:] - below[:-side, side:] - below[side:, :-side] + below[:-side, :-side]
    return count == side**2


def _largest(below: NDArray[np.integer]) -> int:
    """Side of the largest square of pixels; where one fits, all smaller ones do."""
    low, high = 0, min(below.shape) - 1
    while low < high:
        side = (low + high + 1) // 2
        low, high = (side, high) if _fitting(below, side).any() else (low, side - 1)
    return low


def histogram(region: Region, images: Sequence[Shown]) -> tuple[Array, dict[str, Array]]:
    """Edges of common bins (n + 1,), and the share of the region's pixels in each (n,), by title."""
    inside = {}
    for image in images:
        section = image.section(region.plane, region.points_mm[0])
        values = np.empty(0) if section is None else section.values[section.mask(region)]
        if (values := values[np.isfinite(values)]).size:
            inside[image.title] = values
    if not inside:
        return np.empty(0), {}
    edges = np.histogram_bin_edges(np.concatenate(list(inside.values())), BINS)
    return edges, {title: np.histogram(values, edges)[0] / values.size for title, values in inside.items()}
