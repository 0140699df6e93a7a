"""PET phantoms made of solids, with known uptake, attenuation, volumes and lesions.

Solids are painted one after another, a later one replaces what lies under it. A voxel holds the mean over points
spread evenly in it, so that a small sphere keeps its volume on any grid, and edges are no staircases.
Lengths are in mm in LPS (x to the left, y to the back, z to the head); the origin is the centre of the image.

    nema      image quality phantom of IEC 61675-1 and NEMA NU 2: six spheres of 10 to 37 mm, a lung insert of 50 mm
    uniform   a cylinder of water, 200 mm across and long
    derenzo   six sectors of hot rods, 4.8 to 12.7 mm, two diameters apart (the "ultra deluxe" Jaszczak insert)
    torso     a patient's trunk with organs; with a generator its sizes and uptake vary, and lesions are drawn into it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates

from medidiff.physics.pet import MU_LUNG, MU_WATER
from medidiff.volume import Geometry

Array = NDArray[np.float32]
Points = NDArray[np.floating]
Vector = tuple[float, float, float]
Role = Literal["background", "organ", "cold", "lesion"]
Shape = Literal["ellipsoid", "cylinder", "box", "front half"]

MU_BONE = 0.0113  # spongy bone with marrow, about 300 HU at 120 kVp
SUBSAMPLES = 3

SPHERES_MM = (37.0, 10.0, 13.0, 17.0, 22.0, 28.0)  # around the ring, in the order of the standard
SPHERE_RING_MM = 57.2
LUNG_INSERT_MM = 50.0
NEMA_FRONT_MM, NEMA_CORNER_MM, NEMA_FLAT_MM = 147.0, 77.0, 70.0  # radii, and half of the flat back
NEMA_LENGTH_MM = 180.0
RODS_MM = (4.8, 6.4, 7.9, 9.5, 11.1, 12.7)
CYLINDER_MM = 100.0  # radius, of uniform and derenzo

LESION_MM = (6.0, 37.0)
LESION_CONTRAST = (2.5, 8.0)
PASTED_MM = 110.0  # larger lesions are shrunk to this extent
TORSO_LENGTH_MM = 440.0
TRIES = 400


class Paintable(Protocol):
    """Something that is somewhere and takes up tracer."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def centre(self) -> Vector: ...
    @property
    def reach(self) -> Vector:
        """Half of the sides of a box around `centre` that holds it."""

    @property
    def volume_ml(self) -> float: ...

    def paint(self, x: Points, y: Points, z: Points, suv: Array, mu: Array) -> NDArray[np.bool_]:
        """Write uptake and attenuation at points that broadcast to the arrays' shape; True where it lies."""


@dataclass(frozen=True)
class Solid:
    """A shape with half axes in mm along x, y, z, turned by `turn` about z, of even uptake (SUV); `mu` in 1/mm.

    "front half" is the half of a cylinder that faces -y.
    """

    name: str
    shape: Shape
    centre: Vector
    axes: Vector
    suv: float
    mu: float = MU_WATER
    role: Role = "organ"
    turn: float = 0.0

    @property
    def reach(self) -> Vector:
        a, b, c = self.axes
        cos, sin = abs(np.cos(self.turn)), abs(np.sin(self.turn))
        return (float(a * cos + b * sin), float(a * sin + b * cos), c)

    @property
    def volume_ml(self) -> float:
        """Of the whole solid, whatever is painted over it."""
        box = 8 * float(np.prod(self.axes)) / 1000
        return box * {"ellipsoid": np.pi / 6, "cylinder": np.pi / 4, "box": 1.0, "front half": np.pi / 8}[self.shape]

    def contains(self, x: Points, y: Points, z: Points) -> NDArray[np.bool_]:
        x, y, z = x - self.centre[0], y - self.centre[1], (z - self.centre[2]) / self.axes[2]
        u = (x * np.cos(self.turn) + y * np.sin(self.turn)) / self.axes[0]
        v = (y * np.cos(self.turn) - x * np.sin(self.turn)) / self.axes[1]
        if self.shape == "ellipsoid":
            return np.asarray(u**2 + v**2 + z**2 <= 1)
        if self.shape == "box":
            return (np.abs(u) <= 1) & (np.abs(v) <= 1) & (np.abs(z) <= 1)
        return np.asarray((u**2 + v**2 <= 1) & (np.abs(z) <= 1) & ((v <= 0) | (self.shape == "cylinder")))

    def paint(self, x: Points, y: Points, z: Points, suv: Array, mu: Array) -> NDArray[np.bool_]:
        inside = self.contains(x, y, z)
        suv[inside], mu[inside] = self.suv, self.mu
        return inside


@dataclass(frozen=True, eq=False)
class Pasted:
    """A lesion cut out of a scan: uptake (slices, rows, columns) in SUV and its mask, put around `centre`.

    `spacing_mm` (slice, row, column) is that of the array, after any shrinking. Attenuation stays as it was.
    """

    name: str
    suv: Array
    mask: NDArray[np.bool_]
    spacing_mm: Vector
    centre: Vector = (0.0, 0.0, 0.0)
    role: Role = "lesion"

    @property
    def reach(self) -> Vector:
        z, y, x = ((n + 1) * step / 2 for n, step in zip(self.mask.shape, self.spacing_mm, strict=True))
        return (x, y, z)

    @property
    def volume_ml(self) -> float:
        return float(self.mask.sum() * np.prod(self.spacing_mm)) / 1000

    @classmethod
    def cut(cls, name: str, suv: Array, mask: NDArray[np.bool_], spacing_mm: Vector) -> Pasted:
        """The part of a scan that the mask fills, shrunk evenly where it extends beyond PASTED_MM.

        Raises ValueError where the mask is empty.
        """
        if not mask.any():
            raise ValueError("the mask of the lesion is empty")
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        extent = max(n * step for n, step in zip(mask[box].shape, spacing_mm, strict=True))
        shrink = min(1.0, PASTED_MM / extent)
        z, y, x = (step * shrink for step in spacing_mm)
        # what lay around stays out of the lesion when it is interpolated
        nearest = distance_transform_edt(~mask[box], return_distances=False, return_indices=True)
        return cls(name, suv[box].astype(np.float32)[tuple(nearest)], mask[box], (z, y, x))

    def paint(self, x: Points, y: Points, z: Points, suv: Array, mu: Array) -> NDArray[np.bool_]:
        points = zip((z, y, x), self.centre[::-1], self.spacing_mm, self.mask.shape, strict=True)
        index = np.stack(np.broadcast_arrays(*((p - c) / step + (n - 1) / 2 for p, c, step, n in points)))
        # voxels as they are, the outer halves of the outermost too: its volume stays
        inside = map_coordinates(self.mask.astype(np.uint8), index, order=0, mode="grid-constant") > 0
        suv[inside] = map_coordinates(self.suv, index[:, inside], order=1, mode="nearest")
        return np.asarray(inside)


@dataclass(frozen=True)
class Phantom:
    """What is painted, in order, and how far the whole reaches along z."""

    name: str
    solids: tuple[Paintable, ...]
    length_mm: float

    @property
    def lesions(self) -> tuple[Paintable, ...]:
        return tuple(solid for solid in self.solids if solid.role == "lesion")


@dataclass(frozen=True, eq=False)
class Rendered:
    """(slices, rows, columns) each: uptake (SUV), attenuation (1/mm), and the number of the lesion, counted from 1,
    that fills at least half of a voxel (0: none)."""

    suv: Array
    mu: Array
    lesions: NDArray[np.uint8]


def render(
    phantom: Phantom,
    shape: tuple[int, int, int],
    spacing_mm: Vector,
    *,
    z0_mm: float = 0.0,
    subsamples: int = SUBSAMPLES,
) -> Rendered:
    """The phantom on a grid of (slices, rows, columns), its middle at (0, 0, `z0_mm`)."""
    planes = [_plane(phantom, shape[1:], spacing_mm, z, subsamples) for z in _centres(shape[0], spacing_mm[0]) + z0_mm]
    suv, mu, lesions = (np.stack(parts) for parts in zip(*planes, strict=True))
    return Rendered(suv, mu, lesions)


def geometry(shape: tuple[int, int, int], spacing_mm: Vector, *, z0_mm: float = 0.0) -> Geometry:
    """Where the voxels of `render` lie: axial slices from the feet up, rows from front to back."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing_mm
    affine[[2, 1, 0], 3] = -np.array(spacing_mm) * (np.array(shape) - 1) / 2
    affine[2:, 3] += z0_mm, 1
    return Geometry.from_affine(affine, shape)


def _plane(
    phantom: Phantom, matrix: tuple[int, int], spacing_mm: Vector, z_mm: float, subsamples: int
) -> tuple[Array, Array, NDArray[np.uint8]]:
    thickness, *in_plane = spacing_mm
    z = z_mm + _centres(subsamples, thickness / subsamples)
    y, x = (_centres(n * subsamples, step / subsamples) for n, step in zip(matrix, in_plane, strict=True))
    fine = (z.size, y.size, x.size)
    suv, mu, owner = np.zeros(fine, np.float32), np.zeros(fine, np.float32), np.zeros(fine, np.uint8)
    number = 0
    for solid in phantom.solids:
        number += solid.role == "lesion"
        box = tuple(_span(p, c, r) for p, c, r in zip((z, y, x), solid.centre[::-1], solid.reach[::-1], strict=True))
        if all(part.stop > part.start for part in box):
            zs, ys, xs = np.ix_(z[box[0]], y[box[1]], x[box[2]])
            inside = solid.paint(xs, ys, zs, suv[box], mu[box])
            owner[box][inside] = number if solid.role == "lesion" else 0
    return _mean(suv, subsamples), _mean(mu, subsamples), _majority(owner, number, subsamples)


def _mean(fine: NDArray[np.generic], n: int) -> Array:
    """(slice, rows, columns) of points to (rows, columns) of voxels."""
    rows, columns = fine.shape[1] // n, fine.shape[2] // n
    return np.asarray(fine.reshape(n, rows, n, columns, n).mean((0, 2, 4)), np.float32)


def _majority(owner: NDArray[np.uint8], highest: int, n: int) -> NDArray[np.uint8]:
    labels = np.zeros((owner.shape[1] // n, owner.shape[2] // n), np.uint8)
    for number in range(1, highest + 1):
        if np.any(owner == number):
            labels[_mean(owner == number, n) >= 0.5] = number
    return labels


def _centres(n: int, step: float) -> NDArray[np.float64]:
    return np.asarray((np.arange(n) - (n - 1) / 2) * step, np.float64)


def _span(points: NDArray[np.float64], centre: float, reach: float) -> slice:
    return slice(int(np.searchsorted(points, centre - reach)), int(np.searchsorted(points, centre + reach, "right")))


# ---------------------------------------------------------------- fixed phantoms


def nema(contrast: float = 4.0, background: float = 1.0) -> Phantom:
    """The image quality phantom; spheres hold `contrast` times the background. Walls are left out."""
    half, y0 = NEMA_LENGTH_MM / 2, (NEMA_FRONT_MM - NEMA_CORNER_MM) / 2  # centred from front to back
    body = [
        Solid("front", "front half", (0, y0, 0), (NEMA_FRONT_MM, NEMA_FRONT_MM, half), background),
        Solid("back", "box", (0, y0 + NEMA_CORNER_MM / 2, 0), (NEMA_FLAT_MM, NEMA_CORNER_MM / 2, half), background),
        *(
            Solid(f"{side} corner", "cylinder", (x, y0, 0), (NEMA_CORNER_MM, NEMA_CORNER_MM, half), background)
            for side, x in (("right", -NEMA_FLAT_MM), ("left", NEMA_FLAT_MM))
        ),
    ]
    lung_radius = LUNG_INSERT_MM / 2
    lung = Solid("lung insert", "cylinder", (0, y0, 0), (lung_radius, lung_radius, half), 0.0, MU_LUNG, "cold")
    spheres = [
        Solid(f"sphere {mm:g} mm", "ellipsoid", (x, y + y0, 0), (mm / 2,) * 3, contrast * background, role="lesion")
        for mm, (x, y) in zip(SPHERES_MM, _ring(SPHERE_RING_MM, 6), strict=True)
    ]
    return Phantom("nema", (*(replace(part, role="background") for part in body), lung, *spheres), NEMA_LENGTH_MM)


def uniform(suv: float = 1.0) -> Phantom:
    """A cylinder of water."""
    return Phantom("uniform", (_cylinder(suv),), 2 * CYLINDER_MM)


def derenzo(suv: float = 5.0) -> Phantom:
    """Hot rods in a cold cylinder, their centres two diameters apart in triangles."""
    rods = [
        Solid(f"rods {mm:g} mm", "cylinder", (x, y, 0), (mm / 2, mm / 2, 0.8 * CYLINDER_MM), suv)
        for k, mm in enumerate(RODS_MM)
        for x, y in _sector(mm, k * np.pi / 3)
    ]
    return Phantom("derenzo", (_cylinder(0.0), *rods), 2 * CYLINDER_MM)


def _cylinder(suv: float) -> Solid:
    return Solid("cylinder", "cylinder", (0, 0, 0), (CYLINDER_MM,) * 3, suv, role="background")


def _ring(radius_mm: float, n: int) -> list[tuple[float, float]]:
    angles = 2 * np.pi * np.arange(n) / n
    return [(float(radius_mm * np.cos(t)), float(radius_mm * np.sin(t))) for t in angles]


def _sector(diameter_mm: float, middle: float) -> Iterator[tuple[float, float]]:
    """Places of rods in a sixth of the circle."""
    step, along = 2 * diameter_mm, (middle - np.pi / 6, middle + np.pi / 6)
    tip = 2 * diameter_mm + 4
    for i in range(30):
        for j in range(30):
            u, v = (tip * turn(middle) + step * (i * turn(along[0]) + j * turn(along[1])) for turn in (np.cos, np.sin))
            if np.hypot(u, v) + diameter_mm / 2 < CYLINDER_MM - 5:
                yield float(u), float(v)


# ---------------------------------------------------------------- torso


def torso(generator: np.random.Generator | None = None, n_lesions: int = 0) -> Phantom:
    """A trunk from the shoulders to the bladder; with a generator every size and uptake is drawn around the usual one,
    and `n_lesions` of LESION_MM across are put where they fit.

    Uptake of FDG an hour after injection as in Zincirkeser et al. 2007 (J Int Med Res 35:529) and Boellaard 2015.
    """
    rng = generator or np.random.default_rng(0)
    spread = 0.0 if generator is None else 1.0
    size = 1 + spread * rng.uniform(-0.12, 0.15)
    organs = tuple(_varied(organ, rng, size, spread) for organ in _trunk())
    return with_lesions(Phantom("torso", organs, TORSO_LENGTH_MM), n_lesions, rng)


def _trunk() -> Iterator[Solid]:
    half = TORSO_LENGTH_MM  # the body goes on beyond the image
    yield Solid("fat", "cylinder", (0, 0, 0), (185, 125, half), 0.35, 0.0091, "background")
    yield Solid("muscle", "cylinder", (0, 5, 0), (162, 102, half), 0.75, role="background")
    yield Solid("abdomen", "cylinder", (0, -12, -125), (130, 72, 110), 0.9)
    yield Solid("right lung", "ellipsoid", (-80, -5, 95), (58, 78, 115), 0.45, MU_LUNG)
    yield Solid("left lung", "ellipsoid", (80, -5, 95), (54, 76, 112), 0.45, MU_LUNG)
    yield Solid("liver", "ellipsoid", (-62, -8, -35), (88, 68, 68), 2.3)
    yield Solid("stomach", "ellipsoid", (58, -30, -28), (42, 34, 40), 1.5, turn=0.5)
    yield Solid("spleen", "ellipsoid", (108, 32, -30), (26, 40, 48), 1.9)
    yield Solid("heart", "ellipsoid", (32, -38, 30), (48, 42, 46), 3.2, turn=-0.6)
    yield Solid("left ventricle", "ellipsoid", (32, -38, 30), (34, 28, 32), 1.7, turn=-0.6)
    yield Solid("aorta", "cylinder", (14, 38, 40), (13, 13, 180), 1.7)
    yield Solid("spine", "cylinder", (0, 68, 0), (20, 17, half), 1.6, MU_BONE)
    yield Solid("spinal canal", "cylinder", (0, 88, 0), (8, 7, half), 1.2)
    yield Solid("right kidney", "ellipsoid", (-66, 45, -105), (26, 25, 52), 3.0, turn=0.4)
    yield Solid("left kidney", "ellipsoid", (66, 45, -98), (26, 25, 52), 3.0, turn=-0.4)
    yield Solid("right renal pelvis", "ellipsoid", (-56, 40, -105), (9, 9, 16), 9.0)
    yield Solid("left renal pelvis", "ellipsoid", (56, 40, -98), (9, 9, 16), 9.0)
    yield Solid("bowel", "ellipsoid", (25, -35, -140), (60, 28, 34), 1.4)
    yield Solid("bladder", "ellipsoid", (0, -25, -200), (32, 27, 24), 15.0)


def _varied(organ: Solid, rng: np.random.Generator, size: float, spread: float) -> Solid:
    """One organ of another patient; the whole is `size` times as wide."""
    moved = 0.0 if organ.role == "background" else 4.0
    shift, stretch = spread * rng.normal(0, moved, 3), 1 + spread * rng.uniform(-0.08, 0.08, 3)
    x, y, z = (float(c * size + s) for c, s in zip(organ.centre, shift, strict=True))
    a, b, c = (float(axis * size * t) for axis, t in zip(organ.axes, stretch, strict=True))
    return replace(organ, centre=(x, y, z), axes=(a, b, c), suv=float(organ.suv * np.exp(spread * rng.normal(0, 0.15))))


def with_lesions(phantom: Phantom, n: int, generator: np.random.Generator) -> Phantom:
    """`n` ellipsoids more, of LESION_MM across and LESION_CONTRAST times what lies around."""
    for number in range(n):
        diameter = float(np.exp(generator.uniform(*np.log(LESION_MM))))
        stretch = np.exp(generator.normal(0, 0.12, 3))
        a, b, c = (float(d) for d in diameter / 2 * stretch / np.prod(stretch) ** (1 / 3))
        turn, contrast = float(generator.uniform(0, np.pi)), float(generator.uniform(*LESION_CONTRAST))
        lesion = Solid(f"lesion {number + 1}, {diameter:.0f} mm", "ellipsoid", (0, 0, 0), (a, b, c), 0.0, turn=turn)
        centre = _place(phantom, lesion, generator)
        suv = contrast * max(_uptake(phantom, centre), 0.7)
        phantom = _added(phantom, replace(lesion, centre=centre, suv=suv, role="lesion"))
    return phantom


def with_pasted(phantom: Phantom, lesions: Sequence[Pasted], generator: np.random.Generator) -> Phantom:
    """The lesions put where they fit, one after another."""
    for lesion in lesions:
        phantom = _added(phantom, replace(lesion, centre=_place(phantom, lesion, generator)))
    return phantom


def _added(phantom: Phantom, lesion: Paintable) -> Phantom:
    return replace(phantom, solids=(*phantom.solids, lesion))


def _place(phantom: Phantom, lesion: Paintable, generator: np.random.Generator) -> Vector:
    """A centre from which the lesion stays in the body, in the image, and off the other lesions.

    Raises ValueError where none is found.
    """
    body = phantom.solids[0]
    room = np.array([*body.reach[:2], phantom.length_mm / 2])
    reach = np.array(lesion.reach)
    for _ in range(TRIES):
        centre = generator.uniform(-1, 1, 3) * np.maximum(room - reach, 0)
        offset = (np.abs(centre - np.array(body.centre)) + reach)[:2] / room[:2]
        if np.hypot(*offset) < 0.95 and not any(_touches(centre, reach, other) for other in phantom.lesions):
            return (float(centre[0]), float(centre[1]), float(centre[2]))
    raise ValueError(
        f"no place was found for a lesion of {2 * reach.max():.0f} mm beside {len(phantom.lesions)} others"
    )


def _touches(centre: NDArray[np.float64], reach: NDArray[np.float64], other: Paintable) -> bool:
    gap = np.abs(centre - np.array(other.centre)) - reach - np.array(other.reach)
    return bool(gap.max() < 8.0)


def _uptake(phantom: Phantom, at: Vector) -> float:
    suv, mu = (np.zeros((1, 1, 1), np.float32) for _ in range(2))
    x, y, z = (np.full((1, 1, 1), value) for value in at)
    for solid in phantom.solids:
        solid.paint(x, y, z, suv, mu)
    return float(suv[0, 0, 0])


PHANTOMS: dict[str, Callable[[], Phantom]] = {"nema": nema, "uniform": uniform, "derenzo": derenzo, "torso": torso}
