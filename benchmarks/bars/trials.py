"""Trials of benchmarks/ct_bars.py, made once and kept on disk: simulating takes longer than judging.

    truth   a pseudo-clean slab through a kernel (medidiff/data/trials.py), noise-free
    full    truth + noise of a full-dose scan
    low     full + what a scan at the dose has more: it shares the full dose's noise

A measured series has no truth: `full` is the series, `low` has noise of the series' own level and spectrum inserted.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.data.manifest import Pair
from medidiff.data.trials import both_doses, cases, is_lone, spread
from medidiff.io.dicom import open_series, scan
from medidiff.patches import slab_indices
from medidiff.simulate import Acquisition, LowDoseSource, low_dose

SLAB = 5  # slices kept: a model that looks at fewer gets the middle ones of the same noise
MEASURED = "measured"
VERSION = 1  # of the construction: part of every name
CAP_BYTES = 2 * 10**9  # what is made beyond that is not kept

Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trial:
    """One slice: its low-dose slab (SLAB or 1, rows, columns), full dose and truth (None: measured series) in HU.

    scan    the last two parts of its path
    number  of the slice in the series, by its number of files
    """

    key: str
    patient: str
    scan: str
    number: int
    kernel: str
    dose: float
    slab: Image
    full: Image
    truth: Image | None

    @property
    def group(self) -> str:
        return f"{self.kernel} {self.dose:g}"

    @property
    def y(self) -> Image:
        return self.slab[len(self.slab) // 2]

    def slab_of(self, height: int) -> Image:
        """What a model of `height` slices sees; an isolated slice is its own neighbour."""
        if len(self.slab) == 1:
            return np.repeat(self.slab, height, axis=0)
        first = (len(self.slab) - height) // 2
        return self.slab[first : first + height]

    @property
    def body(self) -> NDArray[np.bool_]:
        return (self.full if self.truth is None else self.truth) > -950


@dataclass(frozen=True)
class Store:
    """Arrays on disk by name; `folder` never grows beyond CAP_BYTES."""

    folder: Path

    def stacks(self, names: Sequence[str], make: Iterator[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
        """(name, array) in order; `make` is asked for all of them when one is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [self.folder / f"{name}.npy" for name in names]
        if all(path.exists() for path in paths):
            yield from ((name, np.load(path)) for name, path in zip(names, paths, strict=True))
            return
        for name, array in make:
            self._keep(self.folder / f"{name}.npy", array)
            yield name, array

    def _keep(self, path: Path, array: Image) -> None:
        if sum(p.stat().st_size for p in self.folder.glob("*.npy")) + array.nbytes < CAP_BYTES:
            temporary = path.with_suffix(".partial")
            with temporary.open("wb") as file:
                np.save(file, array)
            temporary.replace(path)


def pseudo_clean_trials(
    pair: Pair, store: Store, slices: int, kernels: Sequence[str], doses: Sequence[float]
) -> Iterator[Trial]:
    """Every kernel and dose of evenly spread slices of one scan."""
    stem, scan_name, indices = (
        f"{pair.patient}_{pair.full.stem}_{slices}_v{VERSION}",
        _name(pair),
        _indices(pair, slices),
    )
    groups = {f"{stem}_{kernel}_{dose:g}": (kernel, dose) for kernel in kernels for dose in doses}

    def make() -> Iterator[tuple[str, Image]]:
        cleaned = cases(pair, SLAB, slices)
        for name, (kernel, dose) in groups.items():
            made = [_both(clean, pixel_mm, kernel, dose, f"{name}_{k}") for k, (clean, pixel_mm) in enumerate(cleaned)]
            yield name, np.stack(made)

    for name, stack in store.stacks(list(groups), make()):
        kernel, dose = groups[name]
        for k, item in enumerate(stack):
            index = indices[k]
            yield Trial(f"{name}_{k}", pair.patient, scan_name, index, kernel, dose, item[:-2], item[-2], item[-1])


def _name(pair: Pair) -> str:
    return "/".join(pair.full.parts[-2:])


def _indices(pair: Pair, slices: int) -> list[int]:
    """The slices that were taken; a folder holds one series."""
    return spread(sum(1 for _ in pair.full.iterdir()) if pair.full.is_dir() else 1, slices)


def _both(clean: Image, pixel_mm: float, kernel: str, dose: float, key: str) -> Image:
    """(SLAB or 1, and 2 more, rows, columns): the slab, its full dose and its truth."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    slab, full, truth = both_doses(clean[:1] if is_lone(clean) else clean, pixel_mm, dose, kernel, generator)
    return np.concatenate([slab, full[None], truth[None]])


def measured_trials(pair: Pair, store: Store, slices: int, doses: Sequence[float]) -> Iterator[Trial]:
    """Evenly spread slices of a measured series at each dose; nothing of a single slice, whose noise is too little
    to fit a scanner to."""
    if not pair.full.is_dir():
        return
    stem, indices = f"{pair.patient}_{pair.full.name}_{slices}_v{VERSION}", _indices(pair, slices)
    names = {f"{stem}_{MEASURED}_{dose:g}": dose for dose in doses}

    def make() -> Iterator[tuple[str, Image]]:
        series = scan(pair.full).usable[0]
        source, acquisition = open_series(series), Acquisition.of(series)
        n = source.geometry.n_slices
        for name, dose in names.items():
            low = LowDoseSource(source, acquisition, low_dose(source, acquisition, dose))
            made = [[*(low.read(j) for j in slab_indices(k, n, SLAB)), source.read(k)] for k in spread(n, slices)]
            yield name, np.stack([np.stack(images) for images in made])

    for name, stack in store.stacks(list(names), make()):
        for k, item in enumerate(stack):
            slab, full, dose = item[:-1], item[-1], names[name]
            yield Trial(f"{name}_{k}", pair.patient, _name(pair), indices[k], MEASURED, dose, slab, full, None)
