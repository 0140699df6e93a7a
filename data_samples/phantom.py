"""An anthropomorphic phantom: the border of chest and abdomen, portal venous phase, without noise.

Solids (ellipsoids, tubes, ribs along tilted arcs, branching vessels) are painted in order onto a label
image, later ones over earlier ones; a label stands for a tissue with a CT number. Each slice is painted
three times through its thickness on a grid twice as fine as the pixels, and the tissues' values are
averaged: edges have partial volume as in a scanner, and no edge falls on the pixel grid of the projector.
Fine tissue structure (speckle, septa of fat) is a smooth random field weighted by tissue.

Organs are bent by a smooth displacement of a few millimetres, so that nothing is a perfect ellipsoid; lesions,
nodules and vessels lie exactly where the tables say.

World: LPS millimetres (x to the patient's left, y to the back, z to the head). Liver at the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

MATRIX, PIXEL_MM = 512, 0.75
N_SLICES, SLICE_MM = 12, 3.0
FINE, FINE_Z = 2, 3
BEND_MM = 5.0
POINT_SPREAD_MM = 0.45  # standard deviation of the focal spot and detector blur
ANATOMY_SEED = 20260101

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Tissue:
    """CT number, and the amplitude in HU of its speckle and of the septa that run through it."""

    hu: float
    speckle: float = 0.0
    septa: float = 0.0


TISSUES = {
    "air": Tissue(-1000),
    "couch shell": Tissue(-90),
    "couch foam": Tissue(-940),
    "skin": Tissue(15, 6),
    "fat": Tissue(-104, 5, 45),
    "inner fat": Tissue(-98, 6, 60),
    "muscle": Tissue(58, 5, -42),
    "cartilage": Tissue(115, 14),
    "bone": Tissue(820, 90),
    "marrow": Tissue(210, 55),
    "disc": Tissue(88, 8),
    "cord": Tissue(38, 3),
    "fluid": Tissue(6, 2),
    "lung": Tissue(-868, 16, 28),
    "bronchial wall": Tissue(-50),
    "vessel in lung": Tissue(70),
    "heart": Tissue(112, 4),
    "blood": Tissue(152, 2),
    "calcification": Tissue(760),
    "liver": Tissue(108, 5),
    "spleen": Tissue(118, 4),
    "kidney": Tissue(176, 6),
    "kidney pelvis": Tissue(20, 12),
    "stomach wall": Tissue(68, 5),
    "stomach content": Tissue(24, 7),
    "gas": Tissue(-990),
    "vessel in liver": Tissue(148, 2),
    "lesion -12": Tissue(96, 2),
    "lesion -18": Tissue(90, 2),
    "lesion -25": Tissue(83, 2),
    "lesion -45": Tissue(63, 3),
    "lesion +25": Tissue(133, 2),
    "cyst": Tissue(8, 1),
    "nodule": Tissue(35, 6),
    "ground glass": Tissue(-620, 20),
}
CODE = {name: code for code, name in enumerate(TISSUES)}


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid (or superquadric) of one tissue; `inside` limits it to what that tissue covers."""

    tissue: str
    centre: Point
    radii: Point
    turn_degrees: float = 0.0
    power: float = 2.0
    inside: str | None = None


@dataclass(frozen=True)
class Tube:
    """A straight tube with round ends whose radius tapers from `start` to `end`."""

    tissue: str
    start: Point
    end: Point
    radii: tuple[float, float]
    inside: str | None = None


LESIONS = (
    Ellipsoid("lesion -45", (-92, -18, -3), (7, 6.5, 8), inside="liver"),
    Ellipsoid("lesion -25", (-62, 38, 1), (6, 6, 7), inside="liver"),
    Ellipsoid("lesion -25", (-70, -48, 4), (3.5, 3.5, 4), inside="liver"),
    Ellipsoid("lesion -18", (-100, 22, 2), (5, 5, 6), inside="liver"),
    Ellipsoid("lesion -18", (14, -50, -8), (4, 4, 5), inside="liver"),
    Ellipsoid("lesion -12", (-82, 8, 6), (6.5, 6.5, 7), inside="liver"),
    Ellipsoid("lesion +25", (-55, -22, -9), (5, 4.5, 6), inside="liver"),
    Ellipsoid("cyst", (-108, -2, -12), (4, 4, 4), inside="liver"),
)
NODULES = (
    Ellipsoid("nodule", (-96, 62, 6), (3.2, 3, 3.2)),
    Ellipsoid("nodule", (105, 55, -4), (2.1, 2.1, 2.1)),
    Ellipsoid("ground glass", (88, -22, 13), (5, 4.5, 5)),
)
# The two halves of the diaphragm are thin shells over what lies below: they push the lungs aside.
ORGANS = (
    Ellipsoid("inner fat", (24, -44, 46), (64, 46, 62)),
    Ellipsoid("heart", (24, -44, 46), (58, 40, 56), turn_degrees=-25),
    Ellipsoid("blood", (36, -42, 44), (30, 20, 42), turn_degrees=-25),
    Ellipsoid("inner fat", (-7, 28, 0), (36, 34, 60)),
    Ellipsoid("muscle", (-66, 2, -46), (78, 82, 82)),
    Ellipsoid("muscle", (72, 2, -50), (66, 76, 76)),
    Ellipsoid("inner fat", (72, 2, -50), (64, 74, 74)),
    Ellipsoid("liver", (-66, 2, -46), (76, 80, 80)),
    Ellipsoid("muscle", (8, -50, -42), (66, 34, 62), turn_degrees=10),
    Ellipsoid("liver", (8, -50, -42), (64, 32, 60), turn_degrees=10),
    Ellipsoid("kidney", (50, 56, -36), (23, 19, 48), turn_degrees=-30),
    Ellipsoid("kidney pelvis", (45, 53, -36), (9, 7, 34), turn_degrees=-30),
    Ellipsoid("spleen", (103, 34, -24), (22, 40, 42), turn_degrees=20),
    Ellipsoid("stomach wall", (108, -26, -26), (19, 15, 36), turn_degrees=60),
    Ellipsoid("stomach content", (108, -26, -26), (16.5, 12.5, 33), turn_degrees=60),
    Ellipsoid("gas", (108, -27, -22), (13, 9, 26), turn_degrees=60),
    Ellipsoid("stomach wall", (62, -22, -30), (40, 36, 46), turn_degrees=20),
    Ellipsoid("stomach content", (62, -22, -30), (37, 33, 43), turn_degrees=20),
    Ellipsoid("muscle", (9, 30, 0), (17, 17, 200)),
    Ellipsoid("inner fat", (9, 30, 0), (14, 14, 200)),
    Ellipsoid("blood", (10, 31, 0), (11, 11, 200)),
    Ellipsoid("blood", (-23, 17, 0), (13, 11, 200), turn_degrees=15),
    Ellipsoid("muscle", (12, 8, 0), (9, 6, 200)),
    Ellipsoid("gas", (12, 7, 8), (2.5, 1.2, 7)),
    Ellipsoid("blood", (-9, 38, 0), (3, 3, 200)),
    Ellipsoid("calcification", (19, 36, 3), (1.6, 3.2, 4), turn_degrees=-30),
)
SPINE = (
    Ellipsoid("muscle", (-30, 80, 0), (25, 15, 300), turn_degrees=12, power=2.6),
    Ellipsoid("muscle", (30, 80, 0), (26, 15, 300), turn_degrees=-12, power=2.6),
    Ellipsoid("bone", (0, 87, -6), (4.2, 17, 17)),
    Ellipsoid("marrow", (0, 87, -6), (2.2, 15, 15)),
    Ellipsoid("bone", (-24, 74, -2), (17, 5.5, 9), turn_degrees=24),
    Ellipsoid("bone", (24, 74, -2), (17, 5.5, 9), turn_degrees=-24),
    Ellipsoid("marrow", (-24, 74, -2), (14, 3.2, 7), turn_degrees=24),
    Ellipsoid("marrow", (24, 74, -2), (14, 3.2, 7), turn_degrees=-24),
    Ellipsoid("bone", (0, 70, 0), (15, 12.5, 300)),
    Ellipsoid("inner fat", (0, 70, 0), (11, 9.5, 300)),
    Ellipsoid("fluid", (0, 70, 0), (9, 8, 300)),
    Ellipsoid("cord", (0, 70, 0), (5, 4, 300)),
    Ellipsoid("bone", (0, 49, 5), (19.5, 15.5, 17), power=4),
    Ellipsoid("disc", (0, 49, -17), (19, 15, 5), power=4),
    Ellipsoid("marrow", (0, 49, 5), (18, 14, 15.5), power=4),
    Ellipsoid("bone", (1, 62, 6), (1.2, 3, 5), inside="marrow"),
)
XIPHOID = (Ellipsoid("bone", (2, -86, 10), (9, 3.6, 40)), Ellipsoid("marrow", (2, -86, 10), (7, 2.1, 36)))
STOMACH_GAS = Ellipsoid("gas", (62, -22, -30), (37, 33, 43), turn_degrees=20, inside="stomach content")
STOMACH_LEVEL_MM = -32.0  # the patient lies on the back: gas is in front of a level, fluid behind it


def grow(rng: np.random.Generator, tissue: str, inside: str, start: Point, heading: Point,
         length: float, radius: float, depth: int) -> Iterator[Tube]:  # fmt: skip
    """A vessel that forks in two at the end of each stretch, thinner by Murray's law (r^3 is shared)."""
    direction = np.asarray(heading) / np.linalg.norm(heading)
    end = tuple(float(v) for v in np.asarray(start) + length * direction)
    thinner = radius * 2 ** (-1 / 3)
    yield Tube(tissue, start, end, (radius, thinner), inside)  # type: ignore[arg-type]
    if depth == 0:
        return
    side = np.cross(direction, rng.standard_normal(3))
    side /= np.linalg.norm(side)
    for sign, share in ((1, rng.uniform(0.8, 1.0)), (-1, rng.uniform(0.55, 0.9))):
        turned = direction + sign * rng.uniform(0.25, 0.75) * side
        yield from grow(rng, tissue, inside, end, tuple(turned), length * rng.uniform(0.7, 0.95),
                        thinner * share, depth - 1)  # type: ignore[arg-type]  # fmt: skip


def vessels() -> list[Tube]:
    """The pulmonary and hepatic trees and the bronchi of the phantom, always the same."""
    rng = np.random.default_rng(ANATOMY_SEED)
    tubes: list[Tube] = []
    for side in (-1, 1):
        hilum = (side * 50.0, 18.0, 62.0)
        for angle in np.radians(np.linspace(-70, 85, 16)):
            goal = np.array([side * 112 * np.cos(angle), 4 + 84 * np.sin(angle), rng.uniform(-35, 30)])
            heading = goal - hilum
            tubes += grow(rng, "vessel in lung", "lung", hilum, tuple(heading), 0.42 * np.linalg.norm(heading), 3.6, 7)
        for x, y in ((0.55, 0.7), (0.8, 0.1)):
            bronchus = ((side * 46.0, 24.0, 60.0), (side * (46.0 + 60 * x), 24 + 60 * y, -12.0))
            tubes += [Tube("bronchial wall", *bronchus, (4.4, 1.8), "lung"),
                      Tube("gas", *bronchus, (3.1, 0.9), "bronchial wall")]  # fmt: skip
    for start, end in (((50, 45, -18), (98, 30, -12)), ((40, 10, -25), (80, 28, 2)), ((60, 20, -30), (95, 48, 8))):
        tubes.append(Tube("blood", start, end, (3.2, 1.8), "inner fat"))
    for heading in ((-1, 0.25, -0.15), (-0.8, -0.7, 0.05), (-0.3, -1, -0.1), (-0.9, 0.7, 0.1)):
        tubes += grow(rng, "vessel in liver", "liver", (-27.0, 14.0, 2.0), heading, 24, 4.6, 5)
    for heading in ((-0.8, -0.3, 0.5), (-0.4, -0.6, 0.6), (-0.9, 0.5, 0.4), (0.5, -0.8, 0.6)):
        tubes += grow(rng, "vessel in liver", "liver", (-40.0, -12.0, -32.0), heading, 22, 4.2, 5)
    return tubes


class Canvas:
    """The label image of one thin slice at height `z`, with the coordinates of its fine pixels.

    `x`, `y` are where a pixel lies; `bent_x`, `bent_y` where it lies in the body before it was bent.
    """

    def __init__(self, z: float) -> None:
        step, count = PIXEL_MM / FINE, MATRIX * FINE
        self.z, self.step = z, step
        self.axis = (np.arange(count) - (count - 1) / 2) * step
        self.x, self.y = self.axis[None, :], self.axis[:, None]
        self.bent_x = self.x + BEND_MM * np.sin(self.y / 27 + z / 33 + 0.7) * np.cos(self.x / 41)
        self.bent_y = self.y + BEND_MM * np.sin(self.x / 31 - z / 29 + 0.4) * np.cos(self.y / 47)
        self.labels = np.zeros((count, count), np.uint8)

    def box(self, low: tuple[float, float], high: tuple[float, float]) -> tuple[slice, slice]:
        """The rows and columns that cover a rectangle given by (x, y) corners in mm."""
        return tuple(slice(*np.searchsorted(self.axis, (low[i], high[i]))) for i in (1, 0))  # type: ignore[return-value]

    def paint(self, where: NDArray[np.bool_], tissue: str, inside: str | None = None,
              box: tuple[slice, slice] = (slice(None), slice(None))) -> None:  # fmt: skip
        labels = self.labels[box]
        labels[where if inside is None else where & (labels == CODE[inside])] = CODE[tissue]

    def ellipsoid(self, solid: Ellipsoid, *, bent: bool = False, front_of_mm: float = np.inf) -> None:
        """Paint where the solid cuts this slice, as far as it lies in front of a level."""
        (cx, cy, cz), (rx, ry, rz) = solid.centre, solid.radii
        height = abs((self.z - cz) / rz) ** solid.power
        if height >= 1:
            return
        reach = max(rx, ry) * 1.2 + BEND_MM  # a superquadric's corner is up to 1.19 radii out
        box = self.box((cx - reach, cy - reach), (cx + reach, cy + reach))
        x = (self.bent_x[box] if bent else self.x[:, box[1]]) - cx
        y = (self.bent_y[box] if bent else self.y[box[0]]) - cy
        c, s = np.cos(np.radians(solid.turn_degrees)), np.sin(np.radians(solid.turn_degrees))
        u, v = (c * x + s * y) / rx, (c * y - s * x) / ry
        inside = np.abs(u) ** solid.power + np.abs(v) ** solid.power + height < 1
        self.paint(inside & (self.y[box[0]] < front_of_mm), solid.tissue, solid.inside, box)

    def tube(self, tube: Tube) -> None:
        """Paint where the tube cuts this slice: distance to its axis below the tapering radius."""
        a, b = np.asarray(tube.start), np.asarray(tube.end)
        reach = max(tube.radii)
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        if not low[2] < self.z < high[2]:
            return
        box = self.box((low[0], low[1]), (high[0], high[1]))
        x, y, z = self.x[:, box[1]] - a[0], self.y[box[0]] - a[1], self.z - a[2]
        d = b - a
        t = np.clip((x * d[0] + y * d[1] + z * d[2]) / (d @ d), 0, 1)
        off = (x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2
        self.paint(off < (tube.radii[0] + t * (tube.radii[1] - tube.radii[0])) ** 2, tube.tissue, tube.inside, box)


def paint_trunk(canvas: Canvas) -> None:
    """Couch, skin, fat, the muscles of the wall, ribs, and the two lungs."""
    curve = canvas.y - 136 + 0.0012 * canvas.x**2
    for tissue, thickness in (("couch shell", 17.0), ("couch foam", 14.0)):
        canvas.paint((np.abs(curve) < thickness / 2) & (np.abs(canvas.x) < 158 + thickness / 2), tissue)
    x, y = (canvas.x + canvas.bent_x) / 2, (canvas.y + canvas.bent_y) / 2
    back = np.arctan2(np.abs(x), y) / np.pi  # 0 at the spine, 1 in front
    waist = 1 + 0.02 * np.sin(3 * np.pi * back) + 0.012 * np.sign(x) * np.sin(np.pi * back)
    depth = (np.abs(x / 166) ** 2.35 + np.abs((y - 2) / 116) ** 2.35) ** (1 / 2.35) / waist  # 1 on the skin
    per_unit_mm = np.hypot(x, y) / np.maximum(depth, 1e-6)
    canvas.paint(depth < 1, "skin")
    canvas.paint((1 - depth) * per_unit_mm > 1.8, "fat")
    canvas.paint(depth < 0.835 + 0.055 * np.exp(-(((back - 0.42) / 0.16) ** 2)), "muscle")
    canvas.paint(np.abs(depth - 0.845 - 0.02 * np.sin(9 * back)) < 0.006, "fat", "muscle")  # between two muscles
    canvas.paint(depth < 0.765, "inner fat")
    middle = ((x - 4) / 31) ** 2 + ((y + 6) / 96) ** 2
    canvas.paint((depth < 0.757) & (middle > 1), "lung")
    paint_ribs(canvas, (depth - 0.8) * per_unit_mm, back)


def paint_ribs(canvas: Canvas, from_wall_mm: NDArray[np.float64], back: NDArray[np.float64]) -> None:
    """Ribs slope down by 110 mm from spine to front and end in cartilage; the sides differ by 5 mm."""
    lowered = canvas.z + 110 * back + 5 * (canvas.x > 0)
    along = lowered - 24 * np.round(lowered / 24)
    shape = (from_wall_mm / 4.4) ** 2 + (along / 6.4) ** 2
    ribs, front = (shape < 1) & (back > 0.09), back > 0.8
    canvas.paint(ribs, "bone")
    canvas.paint(ribs & (shape < 0.5), "marrow")
    canvas.paint(ribs & front, "cartilage")


def paint_slice(z: float, tubes: list[Tube]) -> NDArray[np.uint8]:
    """Labels (rows, columns) of a thin slice at height `z` on the fine grid."""
    canvas = Canvas(z)
    paint_trunk(canvas)
    for solid in ORGANS + SPINE + XIPHOID:
        canvas.ellipsoid(solid, bent=True)
    canvas.ellipsoid(STOMACH_GAS, bent=True, front_of_mm=STOMACH_LEVEL_MM)
    for tube in tubes:
        canvas.tube(tube)
    for solid in LESIONS + NODULES:
        canvas.ellipsoid(solid)
    return canvas.labels


def smooth_field(rng: np.random.Generator, sigma_mm: float) -> NDArray[np.float32]:
    """A random field of unit variance over the study, correlated over `sigma_mm` in every direction."""
    sigma = (sigma_mm / SLICE_MM, sigma_mm / PIXEL_MM, sigma_mm / PIXEL_MM)
    field = gaussian_filter(rng.standard_normal((N_SLICES, MATRIX, MATRIX), dtype=np.float32), sigma, mode="wrap")
    return field / field.std()


def slice_heights() -> NDArray[np.float64]:
    """Heights in mm of the slice centres, feet first."""
    return (np.arange(N_SLICES) - (N_SLICES - 1) / 2) * SLICE_MM


def render(slices: Sequence[int] = range(N_SLICES)) -> NDArray[np.float32]:
    """The noise-free study or some of its slices, (slices, rows, columns) in HU."""
    tubes = vessels()
    table = np.array([(t.hu, t.speckle, t.septa) for t in TISSUES.values()], np.float32)
    thin = (np.arange(FINE_Z) - (FINE_Z - 1) / 2) * SLICE_MM / FINE_Z
    maps = np.empty((3, len(slices), MATRIX, MATRIX), np.float32)
    for index, height in enumerate(slice_heights()[list(slices)]):
        fine = np.mean([table[paint_slice(height + dz, tubes)] for dz in thin], axis=0)
        maps[:, index] = fine.reshape(MATRIX, FINE, MATRIX, FINE, 3).mean((1, 3)).transpose(2, 0, 1)
    return add_structure(*maps, slices)


def add_structure(
    hu: NDArray[np.float32], speckle: NDArray[np.float32], septa: NDArray[np.float32], slices: Sequence[int]
) -> NDArray[np.float32]:
    """Speckle, septa (sheets where a smooth field changes sign), the weight of the lungs, and the blur."""
    rng = np.random.default_rng(ANATOMY_SEED + 1)
    fine, coarse, folds, presence = (smooth_field(rng, sigma_mm)[list(slices)] for sigma_mm in (0.9, 3.0, 4.0, 9.0))
    grain = 0.7 * (fine + coarse)
    sheets = np.exp(-((folds / 0.09) ** 2)) * np.clip(presence + 0.4, 0, 1)
    hu = hu + speckle * grain + septa * sheets
    lung = np.clip((-700 - hu) / 60, 0, 1) * (speckle > 4)
    backwards = np.linspace(-1, 1, MATRIX, dtype=np.float32)[None, :, None]
    hu = hu + lung * 55 * backwards  # blood collects at the back: about 0.3 HU per mm
    blur = POINT_SPREAD_MM / PIXEL_MM
    return gaussian_filter(hu, (0, blur, blur)).astype(np.float32)
