"""A CT on a PET grid: the right place, the right HU, whatever the angle between them and the order of its slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medidiff.regrid import AIR_HU, KEPT, OnGrid
from medidiff.volume import Geometry, Volume, collect


def plane(world: np.ndarray) -> np.ndarray:
    """HU that rise linearly in all directions: interpolation and averaging leave them as they are."""
    return world @ np.array([0.5, -0.3, 0.8]) + 20


def ct(n: int = 60) -> Volume:
    """Linear HU on 1 x 0.8 mm pixels, slices 2.5 mm apart."""
    geometry = Geometry.from_affine(affine((2.5, 0.8, 1.0), (-70.0, -60.0, -60.0)), (n, 160, 130))
    index = np.stack(np.indices(geometry.shape), -1)
    return Volume(plane(geometry.world(index)).astype(np.float32), geometry, "HU")


def affine(spacing: tuple[float, float, float], origin: tuple[float, float, float], turn: float = 0.0) -> np.ndarray:
    """(slice, row, column) -> LPS, slices along z, turned about x."""
    c, s = np.cos(turn), np.sin(turn)
    found = np.eye(4)
    found[:3, 0] = spacing[0] * np.array([0, -s, c])
    found[:3, 1] = spacing[1] * np.array([0, c, s])
    found[:3, 2] = spacing[2] * np.array([1, 0, 0])
    found[:3, 3] = origin
    return found


@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_linear_hu_come_out_as_they_are(turn: float) -> None:
    """At every voxel well inside the CT, on straight planes and on tilted ones."""
    geometry = Geometry.from_affine(affine((3.27, 4.0, 4.0), (-40.0, -30.0, -30.0), turn), (12, 16, 18))
    grid = OnGrid(ct(), geometry)
    for k in (0, 5, 11):
        index = np.stack([np.full(geometry.matrix, k), *np.indices(geometry.matrix)], -1)
        np.testing.assert_allclose(grid.read(k), plane(geometry.world(index)), atol=0.05)


def test_beyond_the_ct_there_is_air() -> None:
    """To the side and above it."""
    geometry = Geometry.from_affine(affine((3.0, 4.0, 4.0), (-40.0, -300.0, 0.0)), (80, 16, 16))
    grid = OnGrid(ct(), geometry)
    assert (grid.read(0) == AIR_HU).all()
    middle = Geometry.from_affine(affine((3.0, 4.0, 4.0), (-40.0, -30.0, 0.0)), (80, 16, 16))
    assert (OnGrid(ct(), middle).read(79) == AIR_HU).all()


def test_memory_does_not_grow_with_the_scan() -> None:
    """A few CT slices are kept, however many were needed."""
    geometry = Geometry.from_affine(affine((3.0, 4.0, 4.0), (-40.0, -30.0, -55.0)), (40, 8, 8))
    grid = OnGrid(ct(), geometry)
    for k in range(40):
        grid.read(k)
        assert len(grid._smooth) <= KEPT


def test_slices_may_be_stacked_either_way() -> None:
    """A CT whose last slice comes first, as NIfTI has it, gives the same HU at the same places."""
    there = ct()
    back = there.affine
    back[:3, 3] += (there.geometry.n_slices - 1) * back[:3, 0]
    back[:3, 0] *= -1
    turned = Volume(there.array[::-1], Geometry.from_affine(back, there.geometry.shape), "HU")
    wanted = Geometry.from_affine(affine((3.27, 4.0, 4.0), (-40.0, -30.0, -50.0), 0.1), (6, 16, 18))
    found, expected = (collect(OnGrid(source, wanted)).array for source in (turned, there))
    assert expected.std() > 10
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_uneven_slices_count_where_they_are() -> None:
    """With a step that is twice the others, linear HU still come out as they are."""
    there = ct()
    kept = np.delete(np.arange(there.geometry.n_slices), 30)
    geometry = replace(there.geometry, origins_mm=there.geometry.origins_mm[kept])
    wanted = Geometry.from_affine(affine((2.0, 4.0, 4.0), (-40.0, -30.0, 5.0)), (16, 16, 18))
    index = np.stack(np.indices(wanted.shape), -1)
    found = collect(OnGrid(Volume(there.array[kept], geometry, "HU"), wanted)).array
    np.testing.assert_allclose(found, plane(wanted.world(index)), atol=0.05)


def test_its_own_grid_is_reached_to_the_last_voxel() -> None:
    """Points on the slices themselves, unsmoothed: the array as it was, nothing below `outside` lost where that is nan,
    and raised to it where it is not."""
    there = ct(5)
    array = there.array.copy()
    array[2, :9] = -3000
    there = there.with_array(array)
    own = OnGrid(there, there.geometry, sigma_mm=0.0, subslices=1, outside=np.nan)
    np.testing.assert_allclose(collect(own).array, array, atol=1e-3)
    least = collect(OnGrid(there, there.geometry, sigma_mm=0.0, subslices=1)).array
    np.testing.assert_allclose(least, np.maximum(array, AIR_HU), atol=1e-3)
