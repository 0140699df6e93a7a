"""Prepared PET cases on disk: acquired and reconstructed once at several counts, then memory-mapped.

    target   (slices, rows, columns) in SUV: the reconstruction of the *expected* counts
    low      (realisations, slices, rows, columns): reconstructions of counts drawn at as many reduction factors
    guide    (slices, rows, columns) in HU: a CT, where the case has one

The target has the resolution of the scanner and no noise, so the network learns to take out noise and nothing else:
neither partial volume nor the reconstruction's own bias is its business. Bodies are torso phantoms with drawn lesions
and lesions cut from scans, their organs given a texture, and scans themselves (with the noise that they hold).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter

from medidiff.config import Settings, rising
from medidiff.data.manifest import Pair, Split, load
from medidiff.data.prepare import store
from medidiff.errors import InputError
from medidiff.io.nifti import open_labels, open_nifti
from medidiff.physics.pet_phantoms import Pasted, Phantom, Solid, render, torso, with_pasted
from medidiff.progress import Progress, silent
from medidiff.simulate_pet import Acquired, LowCount
from medidiff.volume import Geometry, Volume, collect

Image = NDArray[np.float32]

RECIPE = 2  # raise when a change here alters the prepared numbers
PLANE_MM, MATRIX = 4.0, 128
TEXTURE = (0.06, 8.0)  # relative, and mm over which it varies
USUAL_HU = {
    "fat": -95.0,
    "muscle": 50.0,
    "abdomen": 20.0,
    "right lung": -820.0,
    "left lung": -820.0,
    "liver": 58.0,
    "stomach": 25.0,
    "spleen": 48.0,
    "heart": 45.0,
    "left ventricle": 38.0,
    "aorta": 40.0,
    "spine": 300.0,
    "spinal canal": 20.0,
    "right kidney": 32.0,
    "left kidney": 32.0,
    "bowel": 30.0,
    "bladder": 5.0,
}
LESION_HU = 40.0
AIR_HU = -1000.0


class PetBodies(Settings):
    """What PET cases are made of.

    torsos        phantoms, each with `lesions` drawn lesions and `pasted` ones of the folder of a manifest line
    slices        of a torso; their spacing is drawn from `spacing_mm`
    drf           reduction factors of the realisations, log-uniform within equal parts of this range
    counts        trues a slice that the full scan has, log-uniform
    resolution_mm of the detectors (FWHM); 4.5 gives the recovery of EARL 1 on voxels of 4 mm
    filter_mm     of the reconstruction; training smooths further
    """

    torsos: int = Field(default=32, ge=0)
    slices: int = Field(default=40, ge=8)
    lesions: int = Field(default=8, ge=0)
    pasted: int = Field(default=1, ge=0)
    realisations: int = Field(default=5, ge=1)
    spacing_mm: Annotated[tuple[float, float], rising(above=0)] = (2.5, 5.0)
    drf: Annotated[tuple[float, float], rising(1)] = (1.5, 100.0)
    counts: Annotated[tuple[float, float], rising(above=0)] = (4e5, 2e6)
    resolution_mm: Annotated[tuple[float, float], rising(0)] = (3.5, 6.0)
    filter_mm: float = Field(default=3.0, ge=0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class PetCase:
    """One prepared body; spacing (slice, row, column) in mm, `drf` of each realisation."""

    name: str
    target: Image
    low: Image
    guide: Image | None
    spacing_mm: tuple[float, float, float]
    drf: tuple[float, ...]
    lesions: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Body:
    """What is scanned: uptake as a volume, a CT or None, numbered lesions, and the blur that the scanner adds."""

    suv: Volume
    ct: Volume | None
    lesions: NDArray[np.uint8]
    resolution_mm: float


def torso_cases(
    settings: PetBodies, lesions: Sequence[Path], cache: Path, progress: Progress = silent
) -> list[PetCase]:
    """The torsos of a recipe; `lesions` are folders of an uptake and a mask each, to be pasted."""
    cut = [pasted(folder) for folder in lesions] if settings.pasted else []
    names = [folder.name for folder in lesions]
    made = []
    for number in range(settings.torsos):
        key = json.dumps(["torso", RECIPE, number, settings.model_dump(exclude={"torsos"}), names])
        folder = cache / f"pet-{_digest(key)}"
        if not (folder / "case.json").exists():
            rng = np.random.default_rng([settings.seed, number])
            _acquire(drawn_torso(settings, cut, rng), settings, folder, rng)
        made.append(_loaded(f"torso {number}", folder))
        progress(number + 1, settings.torsos)
    return made


def scan_cases(settings: PetBodies, pairs: Sequence[Pair], cache: Path, progress: Progress = silent) -> list[PetCase]:
    """Full-count scans, taken for the truth with the noise that they hold."""
    made = []
    for done, pair in enumerate(pairs, start=1):
        listing = sorted((f.name, f.stat().st_size) for f in pair.full.rglob("*") if f.is_file())
        key = json.dumps(
            ["scan", RECIPE, listing, settings.model_dump(include={"realisations", "drf", "filter_mm", "seed"})]
        )
        folder = cache / f"pet-{_digest(key)}"
        if not (folder / "case.json").exists():
            volume = load(pair.full)
            nothing = np.zeros(volume.array.shape, np.uint8)
            _acquire(Body(volume, None, nothing, 0.0), settings, folder, np.random.default_rng([settings.seed, done]))
        made.append(_loaded(pair.full.name, folder))
        progress(done, len(pairs))
    return made


def drawn_torso(settings: PetBodies, cut: Sequence[Pasted], rng: np.random.Generator) -> Body:
    """A part of a torso, with lesions, texture and a CT."""
    phantom = torso(rng, settings.lesions)
    if cut:
        chosen = [cut[int(k)] for k in rng.integers(len(cut), size=settings.pasted)]
        phantom = with_pasted(phantom, chosen, rng)
    spacing = (float(rng.uniform(*settings.spacing_mm)), PLANE_MM, PLANE_MM)
    shape = (settings.slices, MATRIX, MATRIX)
    free = max(phantom.length_mm - settings.slices * spacing[0], 0) / 2
    z0 = float(rng.uniform(-free, free))
    seen = render(phantom, shape, spacing, z0_mm=z0)
    field = gaussian_filter(rng.normal(size=shape).astype(np.float32), [TEXTURE[1] / 2.355 / mm for mm in spacing])
    suv = seen.suv * np.exp(TEXTURE[0] * field / field.std())
    hu = render(as_ct(phantom, rng), shape, spacing, z0_mm=z0).suv + AIR_HU
    geometry = Geometry.from_affine(np.diag([*spacing, 1.0])[[2, 1, 0, 3]], shape)
    resolution_mm = float(rng.uniform(*settings.resolution_mm))
    return Body(Volume(suv, geometry, "SUV"), Volume(hu, geometry, "HU"), seen.lesions, resolution_mm)


def as_ct(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """The phantom with HU above air in place of uptake; every second lesion is not to be seen on CT."""
    solids = []
    for solid in phantom.solids:
        if isinstance(solid, Solid) and solid.role != "lesion":
            solids.append(replace(solid, suv=USUAL_HU.get(solid.name, 30.0) + rng.normal(0, 8) - AIR_HU))
        elif isinstance(solid, Solid) and rng.random() < 0.5:
            solids.append(replace(solid, suv=LESION_HU + rng.normal(0, 15) - AIR_HU))
    return replace(phantom, solids=tuple(solids))


def pasted(folder: Path) -> Pasted:
    """A lesion of a folder that holds an uptake in SUV and its mask on the same grid, both NIfTI (`*mask*`).

    Raises InputError where one of the two is missing, or they do not fit.
    """
    masks = masks_of(folder)
    images = [file for file in sorted(folder.glob("*.nii*")) if file not in masks]
    if not masks or not images:
        raise InputError(f"{folder}: expected a NIfTI of a lesion and its mask, named *mask*: give a folder with both")
    uptake, mask = collect(open_nifti(images[0], "SUV")), collect(open_labels(masks[0], "SUV"))
    if difference := uptake.geometry.difference(mask.geometry):
        raise InputError(f"{masks[0]}: not the grid of {images[0].name}: {difference}")
    spacing = (uptake.geometry.slice_spacing_mm, *uptake.geometry.pixel_spacing_mm)
    try:
        return Pasted.cut(folder.name, uptake.array, mask.array > 0, spacing)
    except ValueError as error:
        raise InputError(f"{masks[0]}: {error}") from None


def masks_of(folder: Path) -> list[Path]:
    """The masks of a folder that holds a lesion cut from a scan; none where it holds a scan."""
    return [file for file in sorted(folder.glob("*.nii*")) if "mask" in file.name.lower()]


def lesions_and_scans(pairs: Sequence[Pair], split: Split) -> tuple[list[Path], list[Pair]]:
    """Folders of lesions to be pasted, and scans, of one split of a manifest."""
    mine = [(pair, bool(masks_of(pair.full))) for pair in pairs if pair.split == split]
    return [pair.full for pair, is_lesion in mine if is_lesion], [pair for pair, is_lesion in mine if not is_lesion]


def _acquire(body: Body, settings: PetBodies, folder: Path, rng: np.random.Generator) -> None:
    geometry = body.suv.geometry
    counts = float(np.exp(rng.uniform(*np.log(settings.counts))))
    scan = LowCount(1.0, "time", counts, settings.seed, body.resolution_mm, filter_mm=settings.filter_mm)
    acquired = Acquired(body.suv, scan, folder.name, body.ct)
    factors = [float(f) for f in _spread(settings.drf, settings.realisations, rng)]
    folder.mkdir(parents=True, exist_ok=True)
    store(folder / "low.npy", np.stack([acquired.image(drf).array for drf in factors]))
    store(folder / "target.npy", acquired.ideal().array)
    if body.ct is not None:
        store(folder / "guide.npy", body.ct.array)
    np.save(folder / "lesions.npy", body.lesions)
    facts = {"spacing_mm": [geometry.slice_spacing_mm, *geometry.pixel_spacing_mm], "drf": factors, "counts": counts}
    (folder / "case.json").write_text(json.dumps(facts))  # last: its presence says that the case is whole


def _spread(span: tuple[float, float], n: int, rng: np.random.Generator) -> Iterator[float]:
    """One value, log-uniform, from each of n equal parts of the range."""
    low, high = np.log(span)
    yield from np.exp(low + (high - low) * (np.arange(n) + rng.random(n)) / n)


def _loaded(name: str, folder: Path) -> PetCase:
    facts = json.loads((folder / "case.json").read_text())
    arrays = {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in folder.glob("*.npy")}
    spacing = (float(facts["spacing_mm"][0]), float(facts["spacing_mm"][1]), float(facts["spacing_mm"][2]))
    return PetCase(
        name, arrays["target"], arrays["low"], arrays.get("guide"), spacing, tuple(facts["drf"]), arrays["lesions"]
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
