"""A scan on the grid of another one, slice by slice: the CT of a PET scan, at the places of its voxels.

    in the plane   Gaussian of standard deviation sigma, then linear between pixels
    across         linear between the two nearest slices; mean of `subslices` planes through the thickness

A voxel of PET is larger than one of CT, so the CT is averaged over it. Every slice of the source is taken where its
own header places it: steps may differ, and the planes of the two grids may lie at any angle.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

SUBSLICES = 3
AIR_HU = -1000.0
KEPT = 32  # smoothed slices of the source in memory: 32 MB of 512 x 512 pixels, enough for slightly tilted planes
SIGMA = 0.4  # of the wanted pixel: about the square's own spread, sqrt(1/12), with a margin for the scanner's blur
EDGE_MM = 1e-6  # what lies beyond the last slice by rounding alone lies on it


@dataclass(frozen=True, eq=False)
class OnGrid:
    """Slices of `source` at the places of `geometry` (a `SliceSource`).

    sigma_mm   of the Gaussian; None: SIGMA of the pixels of `geometry`
    subslices  planes through each slice of `geometry` whose mean is taken
    outside    value where the source does not reach, and the least that it may have; nan: it may have any
    """

    source: SliceSource
    geometry: Geometry
    sigma_mm: float | None = None
    subslices: int = SUBSLICES
    outside: float = AIR_HU
    _smooth: OrderedDict[int, NDArray[np.float32]] = field(default_factory=OrderedDict, repr=False)

    @property
    def unit(self) -> Unit:
        return self.source.unit

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        """None: what is missing is `outside`."""
        return None

    def read(self, index: int) -> NDArray[np.float32]:
        """(rows, columns) of one slice of `geometry`, in the source's unit."""
        rows, columns = np.indices(self.geometry.matrix)
        world = self.geometry.world(np.stack([np.full_like(rows, index), rows, columns], axis=-1))
        thickness = self.geometry.slice_spacing_mm
        offsets = (np.arange(self.subslices) - (self.subslices - 1) / 2) / self.subslices * thickness
        planes = [self._at(world + offset * self.geometry.normal) for offset in offsets]
        return np.asarray(np.mean(planes, axis=0), np.float32)

    def _at(self, world: NDArray[np.float64]) -> NDArray[np.float32]:
        """The source at places (rows, columns, 3) in mm."""
        n = self.source.geometry.n_slices
        position, is_reached = self._position(world)
        values = np.full(position.shape, self.outside, np.float32)
        lower = np.floor(position).astype(int)
        for k in np.unique(lower[is_reached]):
            here = (lower == k) & is_reached
            share = (position[here] - k).astype(np.float32)
            near = self._in_plane(int(k), world[here])
            far = self._in_plane(min(int(k) + 1, n - 1), world[here])
            values[here] = (1 - share) * near + share * far
        return values

    def _position(self, world: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Places as fractions of the source's slices, and whether they lie between its first and last one."""
        there = self.source.geometry.positions_mm
        along = world @ self.source.geometry.normal
        inside = np.clip(along, there.min(), there.max())
        order = slice(None, None, -1 if there[0] > there[-1] else 1)  # NIfTI may stack against the normal
        position = np.interp(inside, there[order], np.arange(len(there))[order])
        return position, np.abs(along - inside) <= EDGE_MM

    def _in_plane(self, k: int, world: NDArray[np.float64]) -> NDArray[np.float32]:
        there = self.source.geometry
        offset = world - there.origins_mm[k]
        index = [offset @ there.down / there.pixel_spacing_mm[0], offset @ there.right / there.pixel_spacing_mm[1]]
        return map_coordinates(self._slice(k), index, order=1, cval=self.outside, output=np.float32)

    def _slice(self, k: int) -> NDArray[np.float32]:
        """One slice of the source, smoothed; the last few stay in memory."""
        if k not in self._smooth:
            image = np.fmax(self.source.read(k), np.float32(self.outside))  # fmax: nan is no limit
            self._smooth[k] = np.asarray(gaussian_filter(image, self._sigma), np.float32)
            if len(self._smooth) > KEPT:
                self._smooth.popitem(last=False)
        return self._smooth[k]

    @property
    def _sigma(self) -> list[float]:
        """Of the Gaussian, in rows and columns of the source."""
        sizes = zip(self.geometry.pixel_spacing_mm, self.source.geometry.pixel_spacing_mm, strict=True)
        return [(SIGMA * wanted if self.sigma_mm is None else self.sigma_mm) / there for wanted, there in sizes]
