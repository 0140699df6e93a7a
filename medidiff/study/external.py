"""Results that somebody else's program made: a folder with one DICOM folder or NIfTI file named after each case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.nifti import NiftiSource
from medidiff.study.inputs import aligned, digest_of, one_scan
from medidiff.units import Unit
from medidiff.volume import SliceSource

ENDINGS = ("", ".nii.gz", ".nii", ".dcm")


def find_result(folder: Path, case: str) -> Path:
    """Where the result for a case lies; raises InputError where there is none."""
    for ending in ENDINGS:
        if (folder / (case + ending)).exists():
            return folder / (case + ending)
    raise InputError(f"{folder}: has no {case} (a DICOM folder, or {case}.nii.gz)")


def open_result(path: Path, scan: SliceSource) -> SliceSource:
    """The slices of a result on the grid of the scan; raises GeometryError or UnitError for another one.

    Values that are not numbers (nan) would not count, and the hardest voxels could be left out: InputError.
    """
    source = one_scan(path, unit=scan.unit).open()
    result = aligned(source, scan, path)
    if isinstance(source, NiftiSource) and source.has_holes:
        lost = sum(_lost(result.padding(k), scan.padding(k)) for k in range(scan.geometry.n_slices))
        if lost:
            raise InputError(
                f"{path}: {lost} voxels are not numbers (nan) where the scan holds a measurement; fill them"
            )
    return result


def _lost(missing: NDArray[np.bool_] | None, outside: NDArray[np.bool_] | None) -> int:
    """Pixels that are missing in a result and measured in the scan."""
    if missing is None:
        return 0
    return int(np.count_nonzero(missing if outside is None else missing & ~outside))


def prints(path: Path, unit: Unit = "HU") -> tuple[str, str]:
    """What changes when the result does, and its digest."""
    found = one_scan(path, unit=unit)
    return found.fingerprint, digest_of(found)
