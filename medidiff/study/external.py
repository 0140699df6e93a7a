"""Results that somebody else's program made: a folder with one DICOM folder or NIfTI file named after each case."""

from __future__ import annotations

from pathlib import Path

from medidiff.errors import InputError
from medidiff.study.inputs import aligned, one_scan
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
    """The slices of a result on the grid of the scan; raises GeometryError or UnitError for another one."""
    return aligned(one_scan(path, unit=scan.unit).open(), scan, path)


def fingerprint(path: Path, unit: Unit = "HU") -> str:
    """Changes when the result does."""
    return one_scan(path, unit=unit).fingerprint
