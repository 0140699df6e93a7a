"""Where the lesions of a case lie: from a table, or from a label map. Positions are LPS mm.

table      CSV with the columns case, x_mm, y_mm, z_mm, radius_mm; case as the page numbers it; a case that the
           table does not name is normal
label map  a NIfTI file, 0 where there is no lesion: each value is a lesion, or each connected part where there is
           one value only. The position is the centroid, the radius reaches the farthest voxel, and is no less than
           LEAST_MM, as nobody can point more exactly.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import ndimage

from dashboard.reading.design import Lesion
from medidiff.errors import InputError
from medidiff.io.nifti import open_labels

COLUMNS = ("case", "x_mm", "y_mm", "z_mm", "radius_mm")
LEAST_MM = 5.0
EVERY_NEIGHBOUR = np.ones((3, 3, 3))
MOST = 1000  # lesions; a map with more is an image


def from_table(content: bytes, cases: Iterable[int]) -> dict[int, tuple[Lesion, ...]]:
    """Lesions by number of the case: one entry for each of `cases`. Raises InputError naming the line."""
    found: dict[int, tuple[Lesion, ...]] = dict.fromkeys(cases, ())
    for number, line in enumerate(_lines(content), 2):
        try:
            case, (x, y, z, radius) = int(line["case"]), (float(line[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            raise InputError(f"line {number} of the table of lesions: expected numbers; correct it") from None
        if case not in found:
            raise InputError(
                f"line {number} of the table of lesions: expected one of the cases {_named(found)}, found {case}"
            )
        if not (math.isfinite(x + y + z) and 0 < radius < math.inf):
            raise InputError(f"line {number} of the table of lesions: expected a position and a radius above 0")
        found[case] += (Lesion(position_mm=(x, y, z), radius_mm=radius),)
    return found


def from_labels(path: Path) -> tuple[Lesion, ...]:
    """The lesions of a label map. Raises InputError where it is none."""
    source = open_labels(path)
    labels = np.stack([source.read(k) for k in range(source.geometry.n_slices)])
    values = np.unique(labels)
    if values.size > MOST or (labels != np.rint(labels)).any() or values[0] < 0:
        raise InputError(f"{path.name}: expected a label map, 0 and whole numbers above, found other values")
    if values.size <= 2:
        labels = ndimage.label(labels, EVERY_NEIGHBOUR)[0]
    return tuple(
        _lesion(np.argwhere(labels == value), source.geometry.affine) for value in np.unique(labels[labels > 0])
    )


def _named(cases: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cases)))


def _lesion(voxels: np.ndarray, affine: np.ndarray) -> Lesion:
    """Of voxels (n, 3), as (slice, row, column)."""
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    centre = places.mean(0)
    farthest = float(np.linalg.norm(places - centre, axis=1).max())
    x, y, z = (round(float(mm), 3) for mm in centre)
    return Lesion(position_mm=(x, y, z), radius_mm=round(max(farthest, LEAST_MM), 3))


def _lines(content: bytes) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        lines = list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise InputError("the table of lesions is not readable as CSV: save it again, as UTF-8") from None
    if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise InputError(f"the table of lesions has no column {lacking[0]}: expected {', '.join(COLUMNS)}")
    return lines
