"""Regions of a case from files: masks (what is above 0 is inside) and label images (each label a lesion).

A region is one NIfTI file for all cases, or a folder with `CASE.nii.gz` for each case that has it. Dose variants of
a case share its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.evaluate.masks import label_values
from medidiff.io.files import file_hash
from medidiff.io.nifti import open_labels
from medidiff.study.inputs import aligned, middle
from medidiff.study.settings import Regions
from medidiff.volume import SliceSource

ENDINGS = (".nii.gz", ".nii")
LESION = "lesion {}"

Mask = NDArray[np.bool_]
Lookup = Callable[[int], Mapping[str, Mask]]


@dataclass(frozen=True)
class RegionFiles:
    """The files of one case: (region, file) of masks, and the label image of its lesions."""

    masks: tuple[tuple[str, Path], ...] = ()
    lesions: Path | None = None

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.masks} | ({"lesions"} if self.lesions else set())

    def fingerprint(self) -> list[tuple[str, str]]:
        """(region, SHA-256 of its file)."""
        named = [*self.masks, *([("lesions", self.lesions)] if self.lesions else [])]
        return [(name, file_hash(path)) for name, path in named]

    def open(self, scan: SliceSource, slices: int | None) -> Lookup:
        """Masks of each of the middle slices of a scan; raises GeometryError for files of another grid."""
        masks = [(name, _opened(path, scan, slices)) for name, path in self.masks]
        lesions = None if self.lesions is None else _opened(self.lesions, scan, slices)

        def at(index: int) -> dict[str, Mask]:
            found = {name: source.read(index) > 0 for name, source in masks}
            if lesions is not None:
                labels = np.rint(lesions.read(index)).astype(int)
                found |= {LESION.format(label): labels == label for label in np.unique(labels[labels > 0])}
            return {name: mask for name, mask in found.items() if mask.any()}

        return at


NO_REGIONS = RegionFiles()


def region_files(regions: Regions, case: str, root: Path) -> RegionFiles:
    """What there is for one case; raises InputError for a path that does not exist, or lesions that are no labels."""
    masks = ((name, _file(root / path, case)) for name, path in regions.masks.items())
    lesions = None if regions.lesions is None else _file(root / regions.lesions, case)
    if lesions is not None:
        label_values(lesions, open_labels(lesions))
    return RegionFiles(tuple((name, path) for name, path in masks if path), lesions)


def _file(path: Path, case: str) -> Path | None:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such mask file or folder of masks")
    return next((path / (case + ending) for ending in ENDINGS if (path / (case + ending)).is_file()), None)


def _opened(path: Path, scan: SliceSource, slices: int | None) -> SliceSource:
    return middle(aligned(open_labels(path, scan.unit), scan, path), slices)
