"""Training samples with the artefacts of projections: filtered backprojections of few views, short arcs and low doses.

    target   (n, rows, columns) in HU: slices of scans, as they are
    slab     (n, K, rows, columns) in HU: their backprojections between those of their neighbours, of one measurement

Every slice is projected as `medidiff project` does it, by a number of views, an arc, a first angle and a dose drawn for
it, and reconstructed by `fbp` with the kernel that conditions have. The noise of the scans stays in the targets: no
measurement predicts it, so an expectation does not learn it. Prepared once a scan, in .npy files that are
memory-mapped, under a name that hashes the recipe and the source; sample `i` is always the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.utils.data import Dataset

from medidiff.config import Settings, rising
from medidiff.data.dataset import Batch
from medidiff.data.manifest import Pair, load_pair
from medidiff.data.prepare import case_folder, store
from medidiff.data.validation import Probe
from medidiff.errors import InputError
from medidiff.noise.level import noise_estimate
from medidiff.patches import slab_indices
from medidiff.physics.backprojection import fbp
from medidiff.physics.ct import KERNELS
from medidiff.physics.projectors import Beam, evenly
from medidiff.physics.scanner import ELECTRONIC_VARIANCE, I0, scanner_beam
from medidiff.physics.transmission import counts, line_integrals_of, transmission
from medidiff.progress import Progress, silent
from medidiff.units import hu_to_mu, mu_to_hu

Image = NDArray[np.float32]

RECIPE = 1  # raise when a change here alters the prepared numbers
KERNEL = "hann"
AIR_HU = -1000.0  # nothing is less
BODY_HU = -500.0
TRIES = 8  # to put the middle of a patch into the body
SQUARE = 1e-3  # relative
ASKED = {"views_30": (30, 360.0), "views_60": (60, 360.0), "views_120": (120, 360.0), "arc_120": (120, 120.0)}
WORKERS = 2


class ProjectionRecipe(Settings):
    """What is measured of the scans of a recipe.

    views, arc   ranges, views over a whole turn and log-uniform; `whole` is the share of slices seen all round
    dose         range, log-uniform; `full_dose` is the share that has all of it
    slices       of a series at most, evenly
    lone         measurements of a series that is a single slice
    patches      of `patch` pixels of one slice in a sample
    """

    views: Annotated[tuple[float, float], rising(above=0)] = (24.0, 400.0)
    arc: Annotated[tuple[float, float], rising(above=0)] = (80.0, 240.0)
    whole: float = Field(default=0.8, ge=0, le=1)
    dose: Annotated[tuple[float, float], rising(above=0)] = (0.05, 1.0)
    full_dose: float = Field(default=0.5, ge=0, le=1)
    slices: int = Field(default=64, ge=1)
    lone: int = Field(default=6, ge=1)
    patch: int = Field(default=128, ge=1)
    patches: int = Field(default=4, ge=1)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was prepared of one scan; `facts` (n, 3) are noise level and colours of the middle slices."""

    target: Image
    slab: Image
    facts: Image


def prepare_projected(
    pairs: Sequence[Pair], recipe: ProjectionRecipe, slab: int, cache: Path, progress: Progress = silent
) -> list[Measured]:
    """Every scan of the split `train`, measured.

    Raises InputError for scans whose pixels are not square, or that are smaller than a patch.
    """
    chosen = [pair for pair in pairs if pair.split == "train"]
    made = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for done, one in enumerate(pool.map(lambda pair: _prepared(pair, recipe, slab, cache), chosen), start=1):
            made.append(one)
            progress(done, len(chosen))
    if not made:
        raise InputError("there is nothing to train on: no line of the manifest has the split 'train'")
    return made


def projected_probes(pairs: Sequence[Pair], slab: int) -> list[Probe]:
    """The middle slab of every scan of the split `tune`, measured in the ways of ASKED at full dose."""
    made = []
    for number, pair in enumerate(one for one in pairs if one.split == "tune"):
        scan, pixel_mm = _scan(pair)
        middle = len(scan) // 2
        for seed, (name, (views, arc)) in enumerate(ASKED.items()):
            beam = scanner_beam(evenly(views, arc), scan.shape[1] * pixel_mm / 2)
            generator = np.random.default_rng([number, seed])
            made.append(Probe(name, 1.0, *_measured(scan, pixel_mm, middle, slab, beam, 1.0, generator)))
    return made


def _prepared(pair: Pair, recipe: ProjectionRecipe, slab: int, cache: Path) -> Measured:
    of_scan = case_folder(cache, pair, 1.0).name
    measured = recipe.model_dump_json(exclude={"patch", "patches"})
    name = hashlib.sha256(f"{RECIPE} {of_scan} {slab} {measured}".encode()).hexdigest()
    folder = cache / f"projected-{name[:16]}"
    if not (folder / "target.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _fill(pair, recipe, slab, folder, int(name[:15], 16))
    found = [np.load(folder / f"{stem}.npy", mmap_mode="r", allow_pickle=False) for stem in ("target", "slab", "facts")]
    measured_of = Measured(*found)
    if min(measured_of.target.shape[1:]) < recipe.patch:
        raise InputError(
            f"{pair.full.name}: slices of {measured_of.target.shape[1]} x {measured_of.target.shape[2]} pixels are "
            f"smaller than a patch of {recipe.patch}: lower projections.patch or leave the scan out"
        )
    return measured_of


def _fill(pair: Pair, recipe: ProjectionRecipe, slab: int, folder: Path, seed: int) -> None:
    scan, pixel_mm = _scan(pair)
    lone = len(scan) == 1
    n = recipe.lone if lone else min(recipe.slices, len(scan))
    indices = np.zeros(n, int) if lone else np.linspace(0, len(scan) - 1, n).round().astype(int)
    targets, slabs, facts = [], [], []
    for number, index in enumerate(indices):
        generator = np.random.default_rng([seed, number])
        beam, dose = _drawn(recipe, scan.shape[1] * pixel_mm / 2, generator)
        made, target = _measured(scan, pixel_mm, int(index), slab, beam, dose, generator)
        estimate = noise_estimate(made[slab // 2])
        targets.append(target)
        slabs.append(made)
        facts.append((estimate.level, *estimate.colour))
    store(folder / "slab.npy", np.stack(slabs))
    store(folder / "facts.npy", np.array(facts, np.float32))
    store(folder / "target.npy", np.stack(targets))  # last: its presence says that the scan is whole


def _scan(pair: Pair) -> tuple[Image, float]:
    """(slices, rows, columns) in HU as a projector sees them, nothing below air, and the size of the pixels."""
    volume, _ = load_pair(pair)
    row_mm, column_mm = volume.geometry.pixel_spacing_mm
    if abs(row_mm / column_mm - 1) > SQUARE:
        raise InputError(f"{pair.full.name}: pixels of {row_mm:g} x {column_mm:g} mm are not square: resample the scan")
    hu = volume.array if volume.mask is None else np.where(volume.mask, AIR_HU, volume.array)
    return np.maximum(hu, AIR_HU).astype(np.float32), row_mm


def _drawn(recipe: ProjectionRecipe, radius_mm: float, generator: np.random.Generator) -> tuple[Beam, float]:
    views = float(np.exp(generator.uniform(*np.log(recipe.views))))
    arc = 360.0 if generator.random() < recipe.whole else generator.uniform(*recipe.arc)
    dose = 1.0 if generator.random() < recipe.full_dose else float(np.exp(generator.uniform(*np.log(recipe.dose))))
    n_views = max(round(views * arc / 360), 8)
    return scanner_beam(evenly(n_views, arc) + generator.uniform(0, 2 * np.pi), radius_mm), dose


def _measured(
    scan: Image,
    pixel_mm: float,
    index: int,
    slab: int,
    beam: Beam,
    dose: float,
    generator: np.random.Generator,
) -> tuple[Image, Image]:
    """(K, rows, columns) backprojections around a slice, and the slice."""
    photons = np.float32(dose * I0)
    found: dict[int, Image] = {}
    for k in slab_indices(index, len(scan), slab):
        if k not in found:
            mu = np.maximum(hu_to_mu(scan[k]), 0).astype(np.float32)
            counted = counts(photons * transmission(mu, pixel_mm, beam), ELECTRONIC_VARIANCE, generator)
            line = line_integrals_of(counted, np.full(beam.n_bins, photons))
            found[k] = np.asarray(mu_to_hu(fbp(line[None], beam, mu.shape, pixel_mm, KERNELS[KERNEL])[0]), np.float32)
    return np.stack([found[k] for k in slab_indices(index, len(scan), slab)]), scan[index]


class ProjectedDataset(Dataset[Batch]):
    """Sample i -> patches of one slice: target (N, 1, p, p), slab (N, K, p, p) in HU, level (N,), colour (N, 2).

    Scans are drawn with probability ~ sqrt(slices), patches with their middle in the body, turned and mirrored.
    """

    def __init__(self, scans: Sequence[Measured], recipe: ProjectionRecipe, *, seed: int) -> None:
        self.scans, self.recipe, self.seed = scans, recipe, seed
        weights = np.sqrt([len(one.target) for one in scans])
        self.weights = weights / weights.sum()

    def __getitem__(self, index: int) -> Batch:
        generator = np.random.default_rng([self.seed, index])
        scan = self.scans[int(generator.choice(len(self.scans), p=self.weights))]
        k, n = int(generator.integers(len(scan.target))), self.recipe.patches
        stack = np.concatenate([scan.target[k : k + 1], scan.slab[k]])
        patches = torch.from_numpy(np.stack([self._patch(stack, generator) for _ in range(n)]))
        level, *colour = (float(value) for value in scan.facts[k])
        return {
            "target": patches[:, :1],
            "slab": patches[:, 1:],
            "level": torch.full((n,), level),
            "colour": torch.tensor([colour] * n),
        }

    def _patch(self, stack: Image, generator: np.random.Generator) -> Image:
        size = self.recipe.patch
        for _ in range(TRIES):
            row, column = (int(generator.integers(side - size + 1)) for side in stack.shape[1:])
            if stack[0, row + size // 2, column + size // 2] > BODY_HU:
                break
        patch = np.rot90(stack[:, row : row + size, column : column + size], int(generator.integers(4)), (1, 2))
        return np.ascontiguousarray(patch[:, :, ::-1] if generator.random() < 0.5 else patch)
