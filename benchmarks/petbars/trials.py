"""Bodies of benchmarks/pet_bars.py and what scans of them show, made once and kept on disk.

torso     part of a trunk never trained on (seeds from SEED on), with spheres of SPHERES_MM and lesions cut from scans
          of the split; 4 mm voxels, a CT on the same grid, the liver in view
scan      a measured scan taken for the truth, with its CT where one lies beside it; its foci are found in it
uniform   a cylinder of water

full      reconstruction of a scan of COUNTS trues a slice, filter of 5 mm: what everything is measured against
ideal     the same of the expected counts: what a perfect denoiser would give
drfN      of the N-th part of the full scan's events
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from bars.trials import Store
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, maximum_filter

from medidiff.data.manifest import load
from medidiff.data.pet_cases import AIR_HU, TEXTURE, as_ct
from medidiff.metrics.pet import FWHM, MTV_SHARE, Lesion, lesion
from medidiff.metrics.preset import Preset
from medidiff.noise.activity import BODY_SUV
from medidiff.physics.pet_phantoms import (
    Paintable,
    Pasted,
    Phantom,
    Solid,
    geometry,
    render,
    torso,
    uniform,
    with_pasted,
)
from medidiff.regrid import OnGrid
from medidiff.simulate_pet import Acquired, LowCount
from medidiff.volume import Volume, collect

VERSION = 1  # of the construction: part of every name
SEED = 2**20  # training's seeds are small
SPLITS = ("tune", "test", "calibrate")
PLANE_MM, MATRIX, UNIFORM_MATRIX = 4.0, (80, 120), (64, 64)
SPACING_MM = (3.2, 4.8)  # between the slices of a torso
MIDDLES_MM = (-60.0, 40.0)  # of the part of a torso: the liver is in view, the bladder is not
SPHERES_MM = (37.0, 28.0, 22.0, 17.0, 13.0, 13.0, 10.0, 10.0, 10.0)
CONTRAST, LEAST_AROUND, HOTTEST = (3.0, 8.0), 0.7, 4.0  # times what lies around, SUV; never in something hotter
MOST_CUT = 2  # lesions cut from scans, which are large, in one torso
RESOLUTION_MM = 4.5  # of the detectors, on voxels of 4 mm: recovery of EARL 1
COUNTS = 1e6
CLEAR_MM = 8.0  # of the liver's edge
RIM_MM = 25.0  # of the cylinder's: the matched filter reaches so far
BODY_MM, TOP_PERCENT = 8.0, 99.9  # smoothing of the body mask; the declared range ends at this percentile in the body
FOCI, FOCUS_ML, FOCUS_BLUR_MM = 3, (0.5, 50.0), 4.0  # of a measured scan; more blur joins neighbours

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """A lesion: its number in the label image, its name and the diameter of a ball of its volume."""

    number: int
    name: str
    diameter_mm: float
    is_pasted: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """A body: uptake and CT on one grid, numbered lesions (None: to be found in the full scan), `even` the region
    where uptake should not vary (liver, inner cylinder)."""

    key: str
    kind: str
    suv: Volume
    ct: Volume | None
    labels: NDArray[np.uint8] | None
    targets: tuple[Target, ...]
    even: Mask | None
    resolution_mm: float = RESOLUTION_MM

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        g = self.suv.geometry
        return (g.slice_spacing_mm, *g.pixel_spacing_mm)

    @cached_property
    def acquired(self) -> Acquired:
        """The full scan's events; one worker, as the other methods have."""
        scan = LowCount(1.0, "time", COUNTS, SEED, self.resolution_mm)
        return Acquired(self.suv, scan, self.key, self.ct, workers=1)

    def image(self, what: str, store: Store) -> Image:
        """ "full", "ideal" or "drf20", from the store or made now."""
        name = f"{self.key}_{what}"

        def make() -> Iterator[tuple[str, Image]]:
            whole = self.acquired.ideal() if what == "ideal" else self.acquired.image(_drf(what))
            yield name, whole.array

        return next(store.stacks([name], make()))[1]


def _drf(what: str) -> float:
    return 1.0 if what == "full" else float(what.removeprefix("drf"))


@dataclass(frozen=True, eq=False)
class Trial:
    """A body scanned with fewer counts."""

    case: Case
    drf: float
    low: Image
    full: Image
    ideal: Image
    uptake: dict[tuple[str, int], Lesion] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.case.key}_drf{self.drf:g}"

    @cached_property
    def body(self) -> Mask:
        """Where the full scan, smoothed by BODY_MM, holds more than BODY_SUV."""
        sigmas = [BODY_MM / FWHM / step for step in self.case.spacing_mm]
        return np.asarray(gaussian_filter(self.full, sigmas) > BODY_SUV)

    @cached_property
    def preset(self) -> Preset:
        """The declared range: 0 to a high percentile of the full scan in the body, nothing clipped."""
        return Preset(0.0, float(np.percentile(self.full[self.body], TOP_PERCENT)), clip=False, unit="SUV")

    def reference(self, what: str, number: int) -> Lesion:
        """Uptake of a lesion in the full scan ("full") or in the noise-free image ("ideal")."""
        if (what, number) not in self.uptake:
            image = {"full": self.full, "ideal": self.ideal}[what]
            self.uptake[what, number] = lesion(image, self.case.labels == number, self.case.spacing_mm)
        return self.uptake[what, number]

    def middle(self, n: int) -> Trial:
        """The `n` slices in the middle, without lesions: enough to tune a strength on."""
        first, last = span(len(self.low), n)
        images = (image[first:last] for image in (self.low, self.full, self.ideal))
        g = self.case.suv.geometry.select(first, last)
        suv = Volume(self.case.suv.array[first:last], g, "SUV")
        return Trial(replace(self.case, key=f"{self.case.key}_middle{n}", suv=suv, labels=None), self.drf, *images)


def span(n: int, wanted: int) -> tuple[int, int]:
    """First and last plus one of the slices in the middle."""
    first = max(n - wanted, 0) // 2
    return first, min(first + wanted, n)


def trials(case: Case, drfs: Sequence[float], store: Store) -> list[Trial]:
    """A body at every reduction factor."""
    full, ideal = case.image("full", store), case.image("ideal", store)
    if case.labels is None:
        labels, targets = foci(full, case.spacing_mm)
        case = replace(case, labels=labels, targets=targets)
    return [Trial(case, drf, case.image(f"drf{drf:g}", store), full, ideal) for drf in drfs]


# ---------------------------------------------------------------- bodies


def torso_case(split: str, number: int, slices: int, cut: Sequence[Pasted]) -> Case:
    """A part of a trunk with its lesions and its CT."""
    rng = np.random.default_rng([SEED, SPLITS.index(split), number])
    shape, spacing = (slices, *MATRIX), (float(rng.uniform(*SPACING_MM)), PLANE_MM, PLANE_MM)
    trunk = part(torso(rng), float(rng.uniform(*MIDDLES_MM)), slices * spacing[0])
    phantom = with_spheres(with_pasted(trunk, cut, rng), rng)
    seen = render(phantom, shape, spacing)
    liver = next(solid for solid in trunk.solids if solid.name == "liver")
    is_liver = np.isclose(seen.suv, liver.suv, rtol=1e-5)
    texture = gaussian_filter(rng.normal(size=shape).astype(np.float32), [TEXTURE[1] / FWHM / mm for mm in spacing])
    suv = seen.suv * np.exp(TEXTURE[0] * texture / texture.std())
    hu = render(as_ct(phantom, rng), shape, spacing).suv + AIR_HU
    place = geometry(shape, spacing)
    targets = tuple(target(k, solid) for k, solid in enumerate(phantom.lesions, start=1) if (seen.lesions == k).any())
    return Case(
        "_".join([split, f"torso{number}", str(slices), *(one.name for one in cut), f"v{VERSION}"]),
        "torso",
        Volume(suv.astype(np.float32), place, "SUV"),
        Volume(hu.astype(np.float32), place, "HU"),
        seen.lesions,
        targets,
        eroded(is_liver, spacing, CLEAR_MM),
    )


def part(phantom: Phantom, middle_mm: float, length_mm: float) -> Phantom:
    """`length_mm` of a phantom around a place on its axis, which becomes the middle."""
    solids = (replace(s, centre=(*s.centre[:2], s.centre[2] - middle_mm)) for s in phantom.solids)
    return Phantom(phantom.name, tuple(solids), length_mm)


def with_spheres(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Spheres of SPHERES_MM where they fit, each CONTRAST times as hot as what it lies in."""
    for diameter in SPHERES_MM:
        around, placed = np.inf, phantom
        while around > HOTTEST:
            sphere = Solid(f"sphere {diameter:g} mm", "ellipsoid", (0, 0, 0), (diameter / 2,) * 3, 0.0, role="lesion")
            placed = with_pasted(phantom, [sphere], rng)
            around = uptake(phantom, placed.solids[-1].centre)
        suv = float(rng.uniform(*CONTRAST)) * max(around, LEAST_AROUND)
        phantom = replace(placed, solids=(*phantom.solids, replace(placed.solids[-1], suv=suv)))
    return phantom


def uptake(phantom: Phantom, at: tuple[float, float, float]) -> float:
    """SUV of a phantom at a point (x, y, z)."""
    suv, mu = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    for solid in phantom.solids:
        solid.paint(*(np.full((1, 1, 1), value) for value in at), suv, mu)
    return float(suv[0, 0, 0])


def target(number: int, solid: Paintable) -> Target:
    diameter = 10 * (6 * solid.volume_ml / np.pi) ** (1 / 3)
    return Target(number, solid.name, float(diameter), isinstance(solid, Pasted))


def eroded(mask: Mask, spacing: tuple[float, float, float], by_mm: float) -> Mask:
    """What lies at least `by_mm` inside; the first and last slice are no edge."""
    padded = np.pad(mask, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return np.asarray(distance_transform_edt(padded, spacing)[1:-1] >= by_mm)


def scan_case(folder: Path, name: str) -> Case:
    """A measured scan; a folder `ct` beside it is its CT."""
    suv = load(folder)
    beside = folder.parent / "ct"
    ct = collect(OnGrid(load(beside), suv.geometry)) if beside.is_dir() else None
    return Case(f"{name}_{folder.name}_v{VERSION}", "scan", suv, ct, None, (), None, resolution_mm=0.0)


def uniform_case(slices: int) -> Case:
    """A cylinder of water with its CT; the inner part is where foci are counted."""
    shape, spacing = (slices, *UNIFORM_MATRIX), (PLANE_MM,) * 3
    cylinder = uniform()
    seen = render(cylinder, shape, spacing)
    place = geometry(shape, spacing)
    hu = np.where(seen.suv > 0.5, 0.0, AIR_HU).astype(np.float32)
    nothing = np.zeros(shape, np.uint8)
    inner = eroded(seen.suv > 0.99, spacing, RIM_MM)
    volumes = Volume(seen.suv, place, "SUV"), Volume(hu, place, "HU")
    return Case(f"uniform_{slices}_v{VERSION}", "uniform", *volumes, nothing, (), inner)


# ---------------------------------------------------------------- foci of a measured scan


def foci(full: Image, spacing: tuple[float, float, float]) -> tuple[NDArray[np.uint8], tuple[Target, ...]]:
    """At most FOCI regions at 41 % of a local maximum of the smoothed scan, hottest first.

    What is larger than FOCUS_ML (heart, brain, bladder, kidneys that are full) or reaches the first or last slice is
    an organ; what is smaller is noise. Voxels of a hotter region belong to that.
    """
    smooth = gaussian_filter(full, [FOCUS_BLUR_MM / FWHM / step for step in spacing])
    summits = np.argwhere((smooth == maximum_filter(smooth, 5)) & (smooth > 2))
    labels, free, found = np.zeros(full.shape, np.uint8), np.ones(full.shape, bool), []
    for at in sorted(map(tuple, summits), key=lambda place: -smooth[place]):
        pieces, _ = label((smooth > MTV_SHARE * smooth[at]) & free)
        piece = pieces == pieces[at] if free[at] else np.zeros(full.shape, bool)
        ml = float(piece.sum() * np.prod(spacing)) / 1000
        free &= ~piece
        if FOCUS_ML[0] <= ml <= FOCUS_ML[1] and not piece[[0, -1]].any() and len(found) < FOCI:
            found.append(Target(len(found) + 1, f"focus {len(found) + 1}", 10 * (6 * ml / np.pi) ** (1 / 3)))
            labels[piece] = len(found)
    return labels, tuple(found)


def shares(cut: Sequence[Pasted], torsos: int) -> list[list[Pasted]]:
    """Which lesions go into which torso: one at least where there is any, MOST_CUT at most; with torsos enough each
    lesion is used."""
    if not cut:
        return [[] for _ in range(torsos)]
    return [list(cut[k::torsos])[:MOST_CUT] or [cut[k % len(cut)]] for k in range(torsos)]
