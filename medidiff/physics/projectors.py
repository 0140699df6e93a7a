"""Line integrals of images for parallel and fan beams, as a sparse matrix.

Every ray is the line `x cos(theta) + y sin(theta) = s`, x along columns, y along rows, mm from the middle of the image.
A bin whose centre lies at `u` along the detector sees

    parallel    theta = angle           s = u
    fan         theta = angle - gamma   s = R sin(gamma)    gamma = u / D (curved), atan(u / D) (flat)

`R` from source to isocentre, `D` from source to detector; `angle` is the source's: it stands at `R (sin, -cos)`, above
the image at 0, where bins follow the columns (Kak & Slaney 1988, sections 3.4.1 and 3.4.2).

Rows of the matrix are Joseph's interpolation (1982, IEEE TMI 1:192), those of `ct.line_integrals`, one ray through the
middle of each bin. Where views go on by quarter turns the matrix holds the first quarter only, and acts on the square
image and its turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.errors import InputError
from medidiff.physics.ct import walk
from medidiff.physics.operators import LinearOperator, SparseRows, as_batch, as_columns

Array = NDArray[np.float64]
MOST_WEIGHTS = 2**31 - 1  # indices are 32 bit


@dataclass(frozen=True, eq=False)
class Beam:
    """How a slice is seen. Bins are centred on the central ray; `bin_mm` is their pitch along the detector, which a
    parallel beam has at the isocentre."""

    kind: Literal["parallel", "fan"]
    angles: Array
    n_bins: int
    bin_mm: float
    detector: Literal["flat", "curved"] = "flat"
    source_isocentre_mm: float = 0.0
    source_detector_mm: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(views, bins)."""
        return len(self.angles), self.n_bins

    @property
    def u_mm(self) -> Array:
        """(bins,) centres along the detector."""
        return np.asarray((np.arange(self.n_bins) - (self.n_bins - 1) / 2) * self.bin_mm, np.float64)

    @property
    def gammas(self) -> Array:
        """(bins,) angles from the central ray; 0 where rays are parallel."""
        if self.kind == "parallel":
            return np.zeros(self.n_bins)
        u = self.u_mm / self.source_detector_mm
        return u if self.detector == "curved" else np.arctan(u)

    @property
    def s_mm(self) -> Array:
        """(bins,) distances of the rays from the isocentre."""
        return self.u_mm if self.kind == "parallel" else self.source_isocentre_mm * np.sin(self.gammas)

    @property
    def isocentre_bin_mm(self) -> float:
        """Pitch of the bins at the isocentre."""
        if self.kind == "parallel":
            return self.bin_mm
        return self.bin_mm * self.source_isocentre_mm / self.source_detector_mm

    def lines(self) -> tuple[Array, Array]:
        """(views * bins,) `theta` and `s` in mm of every ray."""
        theta = self.angles[:, None] - self.gammas
        return theta.ravel(), np.broadcast_to(self.s_mm, theta.shape).ravel()

    def split(self, parts: int) -> Beam:
        """The same detector with each bin cut into `parts`."""
        return replace(self, n_bins=self.n_bins * parts, bin_mm=self.bin_mm / parts)

    def part(self, start: int, stop: int) -> Beam:
        """Views start .. stop - 1."""
        return replace(self, angles=self.angles[start:stop])


def evenly(n_views: int, arc_degrees: float) -> Array:
    """(views,) angles in radians from 0, evenly over an arc whose end is left out."""
    return np.arange(n_views) * (np.radians(arc_degrees) / n_views)


class Projector(LinearOperator):
    """Line integrals of attenuation images (rows, columns) in 1/mm, (views, bins), on any device.

    `turns` is how many quarter turns share the matrix. Raises InputError where the matrix would be too large.
    """

    def __init__(
        self, matrix: tuple[int, int], pixel_mm: float, beam: Beam, device: torch.device | str = "cpu"
    ) -> None:
        self.in_shape, self.out_shape = matrix, beam.shape
        self.device, self.pixel_mm, self.beam = torch.device(device), pixel_mm, beam
        self.turns = _turns(beam.angles) if matrix[0] == matrix[1] else 1
        self._parts = _system(matrix, pixel_mm, beam.part(0, len(beam.angles) // self.turns))

    @cached_property
    def rows(self) -> SparseRows:
        return SparseRows.of(*self._parts, self.device)

    @cached_property
    def columns(self) -> SparseRows:
        rows, columns = self.in_shape
        offsets, index, weight = _transposed(*self._parts, rows * columns)
        return SparseRows.of(offsets, index, weight, self.device)

    def _forward(self, x: Tensor) -> Tensor:
        turned = torch.cat([torch.rot90(x, k, (1, 2)) for k in range(self.turns)])
        seen = as_batch(self.rows.times(as_columns(turned)), self._quarter)
        return seen.reshape(self.turns, len(x), *self._quarter).transpose(0, 1).reshape(len(x), *self.out_shape)

    def _backward(self, y: Tensor) -> Tensor:
        quarters = y.reshape(len(y), self.turns, *self._quarter).transpose(0, 1)
        spread = as_batch(self.columns.times(as_columns(quarters.reshape(-1, *self._quarter))), self.in_shape)
        images = spread.reshape(self.turns, len(y), *self.in_shape)
        return torch.stack([torch.rot90(image, -k, (1, 2)) for k, image in enumerate(images)]).sum(0)

    @property
    def _quarter(self) -> tuple[int, int]:
        views, bins = self.out_shape
        return views // self.turns, bins


def _turns(angles: Array) -> int:
    """How often the first views come again, each time a quarter turn on."""
    for turns in (4, 3, 2):
        part, rest = divmod(len(angles), turns)
        if rest == 0 and np.allclose(angles[part:] - angles[:-part], np.pi / 2, rtol=0, atol=1e-9):
            return turns
    return 1


Parts = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


def _system(matrix: tuple[int, int], pixel_mm: float, beam: Beam) -> Parts:
    """Offsets, pixel indices and weights in mm of all rays."""
    theta, s_mm = beam.lines()
    s_pixels = s_mm / pixel_mm
    counts = np.empty(theta.size, np.int64)
    _count(theta, s_pixels, *matrix, counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if offsets[-1] > MOST_WEIGHTS:
        raise InputError(
            f"{beam.shape[0]} views of {beam.n_bins} bins through {matrix[0]} x {matrix[1]} pixels make a matrix of "
            f"{16e-9 * offsets[-1]:.0f} GB: use fewer views or a smaller image"
        )
    index, weight = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    _fill(theta, s_pixels, pixel_mm, *matrix, offsets, index, weight)
    return offsets.astype(np.int32), index, weight


@numba.njit(nogil=True, cache=True)
def _count(theta: Any, s_pixels: Any, rows: int, cols: int, counts: Any) -> None:
    """Pixels with a weight on each ray."""
    for ray in range(theta.size):
        over_rows, first, last, start, slope, _ = walk(theta[ray], s_pixels[ray], rows, cols)
        cells = cols if over_rows else rows
        total = 0
        for k in range(first, last):
            i = int(np.floor(start + slope * k))
            total += (0 <= i < cells) + (0 <= i + 1 < cells)
        counts[ray] = total


@numba.njit(nogil=True, cache=True)
def _fill(
    theta: Any, s_pixels: Any, pixel_mm: float, rows: int, cols: int, offsets: Any, index: Any, weight: Any
) -> None:
    for ray in range(theta.size):
        over_rows, first, last, start, slope, length = walk(theta[ray], s_pixels[ray], rows, cols)
        cells = cols if over_rows else rows
        at = offsets[ray]
        for k in range(first, last):
            x = start + slope * k
            i = int(np.floor(x))
            for j, share in ((i, 1 - (x - i)), (i + 1, x - i)):
                if 0 <= j < cells:
                    index[at] = k * cols + j if over_rows else j * cols + k
                    weight[at] = share * length * pixel_mm
                    at += 1


@numba.njit(nogil=True, cache=True)
def _transposed(offsets: Any, index: Any, weight: Any, n_columns: int) -> Any:
    """The same matrix by columns, their entries in the order of the rows."""
    starts = np.zeros(n_columns + 1, np.int32)
    for column in index:
        starts[column + 1] += 1
    for column in range(n_columns):
        starts[column + 1] += starts[column]
    free = starts[:-1].copy()
    rows, weights = np.empty_like(index), np.empty_like(weight)
    for row in range(offsets.size - 1):
        for k in range(offsets[row], offsets[row + 1]):
            at = free[index[k]]
            rows[at], weights[at] = row, weight[k]
            free[index[k]] = at + 1
    return starts, rows, weights
