"""A CT on the grid of a PET scan, slice by slice: the second image that a network of three dimensions may be shown.

A voxel of PET is larger than one of CT, so the CT is averaged over it: in the plane by a Gaussian of the PET's pixel
size, across by the mean of SUBSLICES planes through the slice, each interpolated linearly. Where the CT does not reach,
there is air. Both series must name one frame of reference, for that is what says that they lie on each other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from medidiff.errors import InputError
from medidiff.inference.cases import Case, find_cases
from medidiff.inference.options import CT_OF_STUDY
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

SUBSLICES = 3
AIR_HU = -1000.0
KEPT = 8  # smoothed CT slices in memory
SIGMA = 0.4  # of the PET's pixel: about the square's own spread, sqrt(1/12), with a margin for the scanner's blur


def guide_for(case: Case, geometry: Geometry, ct: str) -> SliceSource:
    """The CT for a case, on its grid: that of its study, or the one of a path.

    Raises InputError where there is none, or it does not reach the scan.
    """
    source = case.study_ct() if ct == CT_OF_STUDY else find_cases(Path(ct)).cases[0].open()
    if source is None:
        raise InputError(
            "--ct study: the folder holds no CT in the frame of reference of the PET: name one by its path"
        )
    middle = geometry.world(np.array([geometry.n_slices // 2, geometry.matrix[0] // 2, geometry.matrix[1] // 2]))
    reach = source.geometry.positions_mm[[0, -1]]
    at = float(middle @ source.geometry.normal)
    if not reach.min() <= at <= reach.max():
        raise InputError(
            f"--ct: reaches from {reach.min():.0f} to {reach.max():.0f} mm, the middle of the PET lies at {at:.0f} mm: "
            "give the CT of the same examination"
        )
    return OnGrid(source, geometry)


@dataclass(frozen=True, eq=False)
class OnGrid:
    """Slices of `source` (HU) at the places of `geometry`, whose planes may lie at any angle to it."""

    source: SliceSource
    geometry: Geometry
    _smooth: OrderedDict[int, NDArray[np.float32]] = field(default_factory=OrderedDict, repr=False)

    @property
    def unit(self) -> Unit:
        return self.source.unit

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        """None: what is missing is air."""
        return None

    def read(self, index: int) -> NDArray[np.float32]:
        """(rows, columns) HU of one PET slice."""
        rows, columns = np.indices(self.geometry.matrix)
        world = self.geometry.world(np.stack([np.full_like(rows, index), rows, columns], axis=-1))
        thickness = self.geometry.slice_spacing_mm
        offsets = (np.arange(SUBSLICES) - (SUBSLICES - 1) / 2) / SUBSLICES * thickness
        planes = [self._at(world + offset * self.geometry.normal) for offset in offsets]
        return np.asarray(np.mean(planes, axis=0), np.float32)

    def _at(self, world: NDArray[np.float64]) -> NDArray[np.float32]:
        """CT at places (rows, columns, 3) in mm: between its two nearest slices, linearly."""
        ct = self.source.geometry
        along = world @ ct.normal
        position = np.interp(along, ct.positions_mm, np.arange(ct.n_slices), left=-1, right=-1)
        if ct.n_slices == 1:
            position = np.zeros_like(along)
        values = np.full(along.shape, AIR_HU, np.float32)
        lower = np.floor(position).astype(int)
        for k in np.unique(lower[position >= 0]):
            here = (lower == k) & (position >= 0)
            share = (position[here] - k).astype(np.float32)
            near = self._in_plane(int(k), world[here])
            far = self._in_plane(min(int(k) + 1, ct.n_slices - 1), world[here])
            values[here] = (1 - share) * near + share * far
        return values

    def _in_plane(self, k: int, world: NDArray[np.float64]) -> NDArray[np.float32]:
        ct = self.source.geometry
        offset = world - ct.origins_mm[k]
        index = [offset @ ct.down / ct.pixel_spacing_mm[0], offset @ ct.right / ct.pixel_spacing_mm[1]]
        return map_coordinates(self._slice(k), index, order=1, cval=AIR_HU, output=np.float32)

    def _slice(self, k: int) -> NDArray[np.float32]:
        """One CT slice, smoothed to the PET's pixels; the last few stay in memory."""
        if k not in self._smooth:
            sigma = [
                SIGMA * mine / theirs
                for mine, theirs in zip(
                    self.geometry.pixel_spacing_mm, self.source.geometry.pixel_spacing_mm, strict=True
                )
            ]
            image = np.maximum(self.source.read(k), AIR_HU)
            self._smooth[k] = np.asarray(gaussian_filter(image, sigma), np.float32)
            if len(self._smooth) > KEPT:
                self._smooth.popitem(last=False)
        return self._smooth[k]
