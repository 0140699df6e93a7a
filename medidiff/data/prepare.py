"""Prepared cases on disk: decoded, cleaned and given a noise bank once, then memory-mapped.

For a full-dose-only scan: `clean` (n, rows, columns) in HU and `noise`, one realisation a slice of the noise of
a scan through that anatomy with the sharpest kernel there is (ram-lak to 1.5 x Nyquist). Every other kernel is
that noise through a low-pass filter, which the training transforms draw anew each time: quick, and approximate, for
what the sharpest kernel aliases stays in (correlation with the direct reconstruction 0.94 for smooth kernels, 0.74 for
sharp ones, where scanners alias as well); the level is drawn separately. For a measured pair:
`clean` is the full dose and `low` the low dose. Plain .npy files under a name that hashes the recipe and the
source, written under a temporary name, so an interrupted preparation continues.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.data.clean import average_along_z, piecewise_clean, pseudo_clean, shrink
from medidiff.data.manifest import Pair, load_pair
from medidiff.physics.ct import Kernel, noise_image

RECIPE = 1  # raise when a change here alters the prepared numbers
SHARPEST = Kernel("ram-lak", cutoff=1.5)
I0_FULL = 2e5
ELECTRONIC_VARIANCE = 10.0
DOSES = (0.05, 0.6)
AIR_HU = -1024.0  # below it lies padding, not anatomy
SAMPLE_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Case:
    """One prepared scan: memory-mapped float32 stacks (slices, rows, columns) in HU.

    is_exact    whether `clean` is free of noise everywhere, as a phantom is; a cleaned scan is not at strong edges
    has_own_noise   `clean` is a scan with all its noise, and `noise` is another one like that (medidiff.recorrupt)
    """

    name: str
    clean: NDArray[np.float32]
    noise: NDArray[np.float32] | None
    low: NDArray[np.float32] | None
    is_exact: bool = False
    has_own_noise: bool = False


def case_folder(cache: Path, pair: Pair, factor: float) -> Path:
    """Where a case is kept: hashes of the recipe with the names and sizes of its files, and of their content.

    The first hash also seeds the noise; the second tells scans apart whose files have equal names and sizes.
    """
    sources = [pair.full, *([pair.low] if pair.low else [])]
    files = sorted(f for s in sources for f in ([s] if s.is_file() else s.rglob("*")) if f.is_file())
    listing = [(f.name, f.stat().st_size) for f in files]
    key = json.dumps([RECIPE, factor, pair.low is not None, listing])
    content = hashlib.sha256(b"".join(_sample(f) for f in files))
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{content.hexdigest()[:8]}"


def _sample(path: Path) -> bytes:
    """The middle of a file, where its pixels are: enough to recognise it, and quick for thousands of slices."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size // 2 - SAMPLE_BYTES // 2, 0))
        return file.read(SAMPLE_BYTES)


Cleaning = Literal["nlm", "tv", "none"]
STACKS: dict[Cleaning, str] = {"nlm": "clean", "tv": "tv", "none": "shrunk"}


def prepare(pair: Pair, factor: float, cache: Path, cleaning: Cleaning = "nlm") -> Case:
    """The prepared case of one pair at one shrinking factor, made on first use.

    With the cleaning "none", `clean` is the scan shrunk and no more, its own noise still in it.
    """
    folder = case_folder(cache, pair, factor)
    if not (folder / "clean.npy").exists():
        _fill(pair, factor, folder)
    other = folder / f"{STACKS[cleaning]}.npy"
    if pair.low is None and not other.exists():
        store(other, np.stack(list(_otherwise(pair, factor, cleaning))))
    stacks = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
    clean = stacks["clean" if pair.low is not None else STACKS[cleaning]]
    return Case(pair.full.name, clean, stacks.get("noise"), stacks.get("low"))


def _otherwise(pair: Pair, factor: float, cleaning: Cleaning) -> Iterator[NDArray[np.float32]]:
    """The slices of a full-dose scan at the same matrix as `clean`, not cleaned or by total variation."""
    full, _ = load_pair(pair)
    if cleaning == "none":
        yield from (shrink(np.maximum(image, AIR_HU), factor) for image in full.array)
        return
    for image in average_along_z(full.array, full.geometry.slice_spacing_mm):
        yield piecewise_clean(np.maximum(image, AIR_HU), factor)


def _fill(pair: Pair, factor: float, folder: Path) -> None:
    full, low = load_pair(pair)
    folder.mkdir(parents=True, exist_ok=True)
    if low is not None:
        store(folder / "low.npy", low.array)
        store(folder / "clean.npy", full.array)
        return
    smooth = average_along_z(full.array, full.geometry.slice_spacing_mm)
    clean = np.stack([pseudo_clean(np.maximum(image, AIR_HU), factor) for image in smooth])
    pixel_mm = full.geometry.pixel_spacing_mm[0] * full.array.shape[1] / clean.shape[1]
    store(folder / "noise.npy", np.stack(list(_noises(clean, pixel_mm, int(folder.name[:16], 16)))))
    store(folder / "clean.npy", clean)  # last: its presence says that the case is whole


def _noises(clean: NDArray[np.float32], pixel_mm: float, seed: int) -> Iterator[NDArray[np.float32]]:
    for index, image in enumerate(clean):
        generator = np.random.default_rng([seed % 2**32, index])
        yield scanner_noise(image, pixel_mm, float(np.exp(generator.uniform(*np.log(DOSES)))), SHARPEST, generator)


def scanner_noise(
    image: NDArray[np.float32],
    pixel_mm: float,
    dose: float,
    kernel: Kernel,
    generator: np.random.Generator,
    *,
    full_dose: bool = True,
) -> NDArray[np.float32]:
    """The noise (rows, columns) of a scan of a clean slice in HU at a dose fraction, by the scanner trained on.

    Without `full_dose` only what a scan at full dose lacks of it.
    """
    return noise_image(
        image,
        pixel_mm,
        dose_fraction=dose,
        i0=I0_FULL,
        electronic_variance=ELECTRONIC_VARIANCE,
        kernel=kernel,
        generator=generator,
        full_dose=full_dose,
    )


def store(path: Path, array: NDArray[np.float32]) -> None:
    """Write a stack under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # processes of one run may prepare side by side
    with temporary.open("wb") as file:
        np.save(file, array.astype(np.float32, copy=False))
    os.replace(temporary, path)
