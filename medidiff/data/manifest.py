"""The list of training data: a CSV of patient, split, full and, for real pairs, low.

    patient,split,full,low
    p001,train,scans/p001_full,scans/p001_quarter      a measured pair
    p002,train,scans/p002,                             full dose only: the low dose is simulated

Paths (DICOM folder or file, or NIfTI) are relative to the data root. A patient belongs to one split.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medidiff.errors import InputError, UnitError
from medidiff.io.dicom import load_volume
from medidiff.io.nifti import is_nifti_name, open_nifti
from medidiff.volume import Volume, collect

Split = Literal["train", "tune", "calibrate", "test"]


@dataclass(frozen=True)
class Pair:
    """One line of the manifest; `low` is None where the low dose is to be simulated."""

    patient: str
    split: Split
    full: Path
    low: Path | None


def read_manifest(path: Path, root: Path) -> tuple[Pair, ...]:
    """Read and check a manifest; raises InputError naming every faulty line at once."""
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder, where the paths in {path} should start: give the folder of the scans"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as a CSV manifest ({error})") from None
    missing = {"patient", "split", "full"} - set(columns)
    if missing:
        raise InputError(f"{path}: needs the columns patient, split, full (and low); missing: {sorted(missing)}")
    faults = [fault for number, row in enumerate(rows, start=2) for fault in _faults(number, row, root)]
    faults += _in_several_splits(rows, "patient") + _in_several_splits(rows, "full")
    if faults or not rows:
        raise InputError(f"{path}: {len(faults)} faults: {'; '.join(faults)}" if rows else f"{path}: lists no scans")
    return tuple(_pair(row, root) for row in rows)


def _in_several_splits(rows: list[dict[str, str]], key: str) -> list[str]:
    """Patients (or scans) that would be trained on and judged by; named by line, patients' names are not shown."""
    seen: dict[str, list[tuple[int, str]]] = {}
    for number, row in enumerate(rows, start=2):
        if row[key]:
            seen.setdefault(row[key], []).append((number, row["split"]))
    return [
        f"lines {[number for number, _ in lines]}: one {key} in several splits ({sorted({s or '' for _, s in lines})})"
        for lines in seen.values()
        if len({split for _, split in lines}) > 1
    ]


def _faults(number: int, row: dict[str, str], root: Path) -> list[str]:
    faults = [f"line {number}: '{key}' is empty" for key in ("patient", "full") if not row[key]]
    if row["split"] not in get_args(Split):
        faults.append(f"line {number}: split '{row['split']}' is none of {', '.join(get_args(Split))}")
    faults += [
        f"line {number}: '{row[key]}' does not exist under {root}"
        for key in ("full", "low")
        if row.get(key) and not (root / row[key]).exists()
    ]
    return faults


def _pair(row: dict[str, str], root: Path) -> Pair:
    split: Split = row["split"]  # type: ignore[assignment]  # checked by _faults
    return Pair(row["patient"], split, root / row["full"], root / row["low"] if row.get("low") else None)


def load_pair(pair: Pair) -> tuple[Volume, Volume | None]:
    """Both volumes of a pair; raises InputError when they do not fit each other or cannot be read."""
    full = load(pair.full)
    if pair.low is None:
        return full, None
    low = load(pair.low)
    if low.unit != full.unit:
        raise UnitError(f"{pair.low.name}: in {low.unit}, but its full dose is in {full.unit}; pair like with like")
    difference = full.geometry.difference(low.geometry)
    if difference:
        raise InputError(f"{pair.full.name} and {pair.low.name}: geometries differ ({difference})")
    return full, low


def load(path: Path) -> Volume:
    """A DICOM folder or file, or a NIfTI file, as a volume in memory."""
    if is_nifti_name(path):
        return collect(open_nifti(path))
    return load_volume(path)


def one_of_each(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The smallest pair of each split: enough to try a recipe."""

    def size(pair: Pair) -> int:
        return pair.full.stat().st_size if pair.full.is_file() else sum(f.stat().st_size for f in pair.full.rglob("*"))

    splits = sorted({pair.split for pair in pairs})
    return tuple(min((p for p in pairs if p.split == split), key=size) for split in splits)
