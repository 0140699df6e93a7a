"""Phantoms hold the volumes and the activity that their closed forms say, on any grid."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from medidiff.physics.pet_phantoms import (
    NEMA_LENGTH_MM,
    RODS_MM,
    SPHERES_MM,
    Pasted,
    Phantom,
    Solid,
    derenzo,
    geometry,
    nema,
    render,
    torso,
    uniform,
    with_pasted,
)


def _ml(values: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    return float(values.sum(dtype=float) * np.prod(spacing_mm)) / 1000


def test_nema_body_has_its_volume() -> None:
    """Half a disc of 147 mm, a box of 140 x 77 mm and two quarter discs of 77 mm, 180 mm long, to 0.3 %."""
    area = np.pi * 147**2 / 2 + 140 * 77 + np.pi * 77**2 / 2
    spacing = (3.0, 4.0, 4.0)
    rendered = render(Phantom("body", nema().solids[:4], NEMA_LENGTH_MM), (64, 128, 128), spacing)
    assert _ml(rendered.suv, spacing) == pytest.approx(area * 180 / 1000, rel=0.003)


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (3.27, 2.73, 2.73)], ids=["4 mm", "odd"])
def test_nema_spheres_have_their_volume_and_uptake(spacing: tuple[float, float, float]) -> None:
    """pi d^3 / 6 of each sphere to 3 % (10 mm: 8 %) by activity above the background, none touching another."""
    shape = (24, round(360 / spacing[1]), round(360 / spacing[2]))
    hot, cold = render(nema(5.0), shape, spacing), render(nema(1.0), shape, spacing)
    excess = (hot.suv - cold.suv) / 4
    for number, mm in enumerate(SPHERES_MM, start=1):
        sphere = nema().lesions[number - 1]
        place = geometry(shape, spacing)
        k, r, c = np.indices(shape)
        world = place.world(np.stack([k, r, c], -1))
        near = np.linalg.norm(world - np.array(sphere.centre), axis=-1) < mm / 2 + 6
        assert _ml(excess[near], spacing) == pytest.approx(np.pi * mm**3 / 6000, rel=0.08 if mm <= 10 else 0.03)
        assert sphere.volume_ml == pytest.approx(np.pi * mm**3 / 6000)
        assert hot.suv[hot.lesions == number].max() == pytest.approx(5, rel=1e-5 if mm > 10 else 0.05)
        assert _ml(hot.lesions == number, spacing) == pytest.approx(np.pi * mm**3 / 6000, rel=0.1 if mm > 15 else 0.35)


def test_lung_insert_is_cold_lung() -> None:
    """50 mm across, no uptake, attenuation of lung, as long as the body."""
    spacing = (4.0, 2.0, 2.0)
    rendered = render(nema(), (10, 200, 200), spacing)
    inner = np.zeros(rendered.mu.shape, bool)
    inner[:, 95:145, 80:120] = True  # around the insert, inside the body
    lacking = (0.0096 - rendered.mu[inner]) / (0.0096 - 0.0029)
    assert _ml(lacking, spacing) == pytest.approx(np.pi * 25**2 * 40 / 1000, rel=0.01)
    assert rendered.suv[np.isclose(rendered.mu, 0.0029)].max() == 0


def test_cylinder_and_rods() -> None:
    """A cylinder of 200 x 200 mm, and rods that stay inside it without touching; every size is there."""
    spacing = (4.0, 4.0, 4.0)
    assert _ml(render(uniform(2.0), (56, 128, 128), spacing).suv, spacing) == pytest.approx(
        2 * np.pi * 100**2 * 200 / 1000, rel=0.003
    )
    rods = [solid for solid in derenzo().solids if isinstance(solid, Solid) and solid.name.startswith("rods")]
    assert {2 * rod.axes[0] for rod in rods} == set(RODS_MM)
    assert max(np.hypot(*rod.centre[:2]) + rod.axes[0] for rod in rods) < 95
    for one, other in combinations(rods, 2):
        apart = np.hypot(*np.subtract(one.centre[:2], other.centre[:2]))
        assert apart > 0.99 * 2 * max(one.axes[0], other.axes[0])


def test_torso_has_its_organs_where_patients_have_them() -> None:
    """Liver at the right, heart at the left, spine at the back; lungs attenuate least."""
    shape, spacing = (44, 64, 64), (10.0, 8.0, 8.0)
    rendered, corner = render(torso(), shape, spacing), geometry(shape, spacing).origins_mm[0]

    def at(x: float, y: float, z: float) -> tuple[int, ...]:
        return tuple(np.rint((np.array([z, y, x]) - corner[::-1]) / spacing).astype(int))

    assert rendered.suv[at(-80, -10, -40)] == pytest.approx(2.3)
    assert rendered.suv[at(32, -38, 30)] == pytest.approx(1.7)
    assert rendered.mu[at(0, 68, 100)] > 0.011
    assert rendered.mu[at(-80, 0, 110)] == pytest.approx(0.0029)


def test_drawn_lesions_are_known_and_apart() -> None:
    """Every lesion is in the mask by its number, of 6 to 37 mm, hotter than what is around; a seed gives one torso."""
    made, again = (torso(np.random.default_rng(4), 8) for _ in range(2))
    assert made == again != torso(np.random.default_rng(5), 8)
    rendered = render(made, (55, 128, 128), (8.0, 4.0, 4.0))
    bare = render(Phantom("bare", made.solids[:-8], made.length_mm), (55, 128, 128), (8.0, 4.0, 4.0))
    assert len(made.lesions) == 8
    for number, lesion in enumerate(made.lesions, start=1):
        here = rendered.lesions == number
        diameter = (6000 * lesion.volume_ml / np.pi) ** (1 / 3)
        assert 6 <= diameter <= 37
        if diameter > 16:
            assert _ml(here, (8.0, 4.0, 4.0)) == pytest.approx(lesion.volume_ml, rel=0.25)
            assert rendered.suv[here].mean() > 1.5 * bare.suv[here].mean()


def test_pasted_lesions_keep_volume_and_uptake() -> None:
    """A lesion cut out of a scan keeps its volume and, within its rim, its mean uptake (3 %), inside the body."""
    z, y, x = np.indices((20, 24, 28)) - np.array([9.5, 11.5, 13.5])[:, None, None, None]
    mask = (z / 6) ** 2 + (y / 7) ** 2 + (x / 9) ** 2 < 1
    lesion = Pasted.cut("cut", np.where(mask, 6 + 0.2 * x, 0.8).astype(np.float32), mask, (3.3, 2.0, 2.0))
    made = with_pasted(torso(np.random.default_rng(1)), [lesion], np.random.default_rng(2))
    rendered = render(made, (110, 128, 128), (4.0, 4.0, 4.0))
    here = rendered.lesions == 1
    assert lesion.volume_ml == pytest.approx(mask.sum() * 3.3 * 4 / 1000)
    assert _ml(here, (4.0, 4.0, 4.0)) == pytest.approx(lesion.volume_ml, rel=0.03)
    assert rendered.suv[binary_erosion(here)].mean() == pytest.approx(6, rel=0.03)
    assert rendered.mu[here].min() > 0


def test_a_large_lesion_is_shrunk_and_an_empty_one_refused() -> None:
    """Beyond 110 mm it is scaled evenly; a mask without a voxel is an error."""
    mask = np.ones((60, 10, 10), bool)
    lesion = Pasted.cut("long", np.ones(mask.shape, np.float32), mask, (4.0, 4.0, 4.0))
    assert lesion.spacing_mm == pytest.approx((110 / 60,) * 3)
    with pytest.raises(ValueError, match="empty"):
        Pasted.cut("none", np.ones(mask.shape, np.float32), ~mask, (4.0, 4.0, 4.0))


def test_no_room_is_said() -> None:
    """More lesions than fit are an error, not an endless search."""
    cube = Pasted.cut("big", np.ones((27, 27, 27), np.float32), np.ones((27, 27, 27), bool), (4.0, 4.0, 4.0))
    with pytest.raises(ValueError, match="no place"):
        with_pasted(torso(), [cube] * 12, np.random.default_rng(0))
