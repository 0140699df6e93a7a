"""Regions from NIfTI files: a mask (0 and one other number) is one region, a label map one region a label.

FILE.nii.gz          region FILE, or `FILE 1`, `FILE 2`, ... of a label map
FOLDER/liver.nii.gz  region liver, of every case whose grid it lies on
FOLDER/CASE/liver.nii.gz, FOLDER/CASE.nii.gz    of this case only (`mask` or `label 1`, ... in the last form)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medidiff.errors import InputError
from medidiff.evaluate.engine import Regions
from medidiff.evaluate.match import Item, listed
from medidiff.evaluate.view import Mask
from medidiff.io.files import file_hash
from medidiff.io.nifti import grid_difference, is_nifti_name, on_grid, open_labels
from medidiff.volume import Geometry, SliceSource

MOST_LABELS = 200  # a file with more holds an image


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A file, the names that it and its folders have, its grid and its labels above 0."""

    path: Path
    parts: tuple[str, ...]
    place: Geometry
    labels: tuple[int, ...]
    fingerprint: str

    def belongs_to(self, item: Item, cases: frozenset[str]) -> bool:
        """By a name of a case where the path holds one, else by the grid."""
        named = {item.name, item.case}
        if cases & self._names:
            return bool(named & self._names)
        return item.place is not None and grid_difference(self.place, item.place, even=True) is None

    def regions(self, item: Item) -> dict[str, int]:
        """Region -> label."""
        stem = self.parts[-1]
        if len(self.labels) < 2:
            return {stem if stem not in (item.name, item.case) else "mask": label for label in self.labels}
        return {f"{'label' if stem in (item.name, item.case) else stem} {label}": label for label in self.labels}

    @property
    def _names(self) -> set[str]:
        return {*self.parts, "/".join(self.parts[:-1]), "/".join(self.parts)}


def find_masks(path: Path) -> list[MaskFile]:
    """The masks of a file or folder; raises InputError for a file that is none."""
    if not path.exists():
        raise InputError(f"{path}: no such mask file or folder of masks")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.nii*") if is_nifti_name(p))
    if not files:
        raise InputError(f"{path}: holds no NIfTI masks")
    return [_mask_file(file, path) for file in files]


def masks_of(items: Sequence[Item], masks: Sequence[MaskFile]) -> list[list[MaskFile]]:
    """The masks of every case; raises InputError for a mask of no case, and for two that give one region its name."""
    names = frozenset(name for item in items for name in (item.name, item.case))
    found = [[mask for mask in masks if mask.belongs_to(item, names)] for item in items]
    idle = [str(mask.path) for mask in masks if not any(mask in of_case for of_case in found)]
    if idle:
        raise InputError(f"masks that lie on the grid of no case: {listed(idle)}; resample them, or leave them out")
    for item, of_case in zip(items, found, strict=True):
        regions = [region for mask in of_case for region in mask.regions(item)]
        if len(set(regions)) < len(regions):
            twice = sorted({region for region in regions if regions.count(region) > 1})
            raise InputError(f"{item.label}: several masks give a region called {listed(twice)}; rename one")
    return found


def open_masks(masks: Sequence[MaskFile], item: Item) -> Regions | None:
    """The regions of each slice of a case."""
    if not masks or item.place is None:
        return None
    place = item.place
    opened = [(on_grid(open_labels(mask.path), place, even=True), mask.regions(item)) for mask in masks]

    def at(index: int) -> Mapping[str, Mask]:
        return {
            region: labels == label
            for source, regions in opened
            for labels in (np.rint(source.read(index)),)
            for region, label in regions.items()
            if (labels == label).any()
        }

    return at


def _mask_file(file: Path, root: Path) -> MaskFile:
    source = open_labels(file)
    relative = Path(file.name) if file == root else file.relative_to(root)
    stem = relative.name[: relative.name.lower().index(".nii")]
    labels = label_values(file, source)
    if not labels:
        raise InputError(f"{file}: the mask is empty")
    return MaskFile(file, (*relative.parts[:-1], stem), source.geometry, labels, file_hash(file))


def label_values(file: Path, source: SliceSource) -> tuple[int, ...]:
    """The labels above 0 of a mask or label map; raises InputError for an image."""
    found: set[float] = set()
    for index in range(source.geometry.n_slices):
        found |= set(np.unique(source.read(index)).tolist())
        if len(found) > MOST_LABELS or any(value < 0 or value != round(value) for value in found):
            raise InputError(f"{file}: expected a mask (0 and 1) or labels (0, 1, 2, ...), found other numbers")
    return tuple(sorted(int(value) for value in found - {0.0}))
