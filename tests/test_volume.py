"""Where voxels lie: the affine is a reading of the slice positions, exact wherever one exists."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medidiff.errors import GeometryError
from medidiff.volume import Geometry, Volume, collect

SHAPE = (6, 4, 5)


def geometry(
    turn: tuple[float, float, float] = (0, 0, 0), steps_mm: tuple[float, ...] = (2.5,) * 5, tilt_degrees: float = 0.0
) -> Geometry:
    """A stack turned by Euler angles; a tilt displaces each slice within its plane."""
    right, down, normal = Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    positions = np.concatenate([[0.0], np.cumsum(steps_mm)])
    shift = np.tan(np.radians(tilt_degrees))
    origins = np.array([10.0, -20.0, 30.0]) + positions[:, None] * (normal + shift * down)
    return Geometry(origins, right, down, (0.7, 0.9), (4, 5))


def all_indices(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)


@pytest.mark.parametrize("turn", [(0, 0, 0), (90, 0, 0), (10, -20, 30), (0, 180, 0)])
@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_the_affine_and_the_slice_positions_agree(turn: tuple[float, float, float], tilt: float) -> None:
    """For every voxel of an even stack, however turned and tilted: affine (k, r, c, 1) = world(k, r, c)."""
    place = geometry(turn, tilt_degrees=tilt)
    index = all_indices(place.shape)
    homogeneous = np.concatenate([index, np.ones((*index.shape[:-1], 1))], axis=-1)
    np.testing.assert_allclose((homogeneous @ place.affine.T)[..., :3], place.world(index), atol=1e-9)


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, -20, 30)])
@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_from_affine_undoes_affine(turn: tuple[float, float, float], tilt: float) -> None:
    """Geometry -> affine -> geometry is the same place, sheared stacks included."""
    place = geometry(turn, tilt_degrees=tilt)
    back = Geometry.from_affine(place.affine, place.shape)
    assert place.difference(back, tolerance_mm=1e-9) is None
    np.testing.assert_allclose(back.affine, place.affine, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 12.5, -20.0])
def test_tilt_is_read_and_spacing_is_along_the_normal(tilt: float) -> None:
    """A tilted stack's slices are 2.5 mm apart, although their origins are further."""
    place = geometry((5, 6, 7), tilt_degrees=tilt)
    assert place.tilt_degrees == pytest.approx(abs(tilt), abs=1e-5)
    assert place.slice_spacing_mm == pytest.approx(2.5)
    assert np.linalg.norm(place.slice_vector_mm) == pytest.approx(2.5 / np.cos(np.radians(tilt)))


def test_uneven_steps_are_kept() -> None:
    """A gap makes the stack uneven; `world` keeps each position, the affine meets the first and last slice."""
    place = geometry(steps_mm=(2.5, 2.5, 5.0, 2.5, 2.5))
    assert not place.is_even
    assert place.slice_spacing_mm == 2.5
    np.testing.assert_allclose(place.steps_mm, [2.5, 2.5, 5, 2.5, 2.5])
    np.testing.assert_allclose(place.world(np.array([5, 0, 0])), place.origins_mm[5])
    np.testing.assert_allclose(place.affine @ [5, 0, 0, 1], [*place.origins_mm[5], 1])
    assert geometry(steps_mm=(2.5, 2.52, 2.48, 2.5, 2.5)).is_even  # headers round


def test_two_slices_or_one_have_no_unevenness() -> None:
    """One slice has spacing 0, no tilt, and an affine along its normal."""
    one = geometry().select(2, 3)
    assert (one.n_slices, one.slice_spacing_mm, one.tilt_degrees, one.is_even) == (1, 0.0, 0.0, True)
    np.testing.assert_allclose(one.affine[:3, 0], one.normal)
    assert geometry().select(0, 2).is_even


def test_selected_slices_stay_where_they_are() -> None:
    """`select` moves the origin, not the voxels."""
    place = geometry((10, 20, 30))
    part = place.select(2, 5)
    np.testing.assert_allclose(part.world(all_indices(part.shape)), place.world(all_indices(place.shape))[2:5])


def test_differences_are_told_in_words() -> None:
    """Shape, spacing, orientation and position each with what differs; 5 micrometres are nothing."""
    place = geometry()
    shifted = Geometry(place.origins_mm + 0.005, place.right, place.down, place.pixel_spacing_mm, place.matrix)
    assert place.difference(shifted) is None
    further = place.origins_mm + np.array([0, 0, 1.5])
    moved = Geometry(further, place.right, place.down, place.pixel_spacing_mm, place.matrix)
    assert "1.500 mm" in (place.difference(moved) or "")
    assert "shape" in (place.difference(place.select(0, 3)) or "")
    assert "orientation" in (place.difference(geometry((0, 0, 5))) or "")
    wider = Geometry(place.origins_mm, place.right, place.down, (0.7, 0.91), place.matrix)
    assert "0.91" in (place.difference(wider) or "")


def test_unusable_affines_are_refused() -> None:
    """Zero spacing, NaN, and rows that are not perpendicular to columns."""
    good = geometry().affine
    for column, value in ((1, 0.0), (0, 0.0), (2, np.nan)):
        bad = good.copy()
        bad[:3, column] = value
        with pytest.raises(GeometryError, match="above zero"):
            Geometry.from_affine(bad, SHAPE)
    skewed = good.copy()
    skewed[:3, 1] += 0.1 * skewed[:3, 2]
    with pytest.raises(GeometryError, match="not perpendicular"):
        Geometry.from_affine(skewed, SHAPE)


def test_a_volume_is_a_source_of_its_own_slices() -> None:
    """Collecting it gives it back, mask included; another shape is refused; the input is not changed."""
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    mask = array > 1
    volume = Volume(array, geometry(), "HU", mask=mask)
    copy = collect(volume)
    assert np.array_equal(copy.array, array)
    assert copy.mask is not None
    assert np.array_equal(copy.mask, mask)
    assert collect(volume.with_array(array)).unit == "HU"
    assert collect(Volume(array, geometry(), "HU")).mask is None
    with pytest.raises(GeometryError, match=r"\(5, 4, 5\)"):
        volume.with_array(array[1:])
