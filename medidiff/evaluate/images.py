"""Which images numbers are of: what lets whoever has a scan find it, and tells nobody else anything.

    study.json   "images"       case -> {"reference", "scan", "truth": digest, "methods": {method: digest}}, where known
                 "worst_slice"  case -> method -> {"index", "position_mm"} of the slice furthest from the reference

A digest is the start of a hash of a series' UID, or of the content of a NIfTI file. It is no identifier: it cannot be
turned back into one, and who does not have the scan learns nothing from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medidiff.volume import Geometry

DIGITS = 16


@dataclass(frozen=True)
class Furthest:
    """The slice of a result that is furthest from its reference.

    index         among the slices that were measured, from 0
    position_mm   (3,) of its centre, LPS: files that are stored the other way round agree on it
    """

    index: int
    position_mm: tuple[float, ...]

    @classmethod
    def of(cls, index: int, place: Geometry) -> Furthest:
        rows, columns = place.matrix
        across = place.down * place.pixel_spacing_mm[0] * (rows - 1) / 2
        along = place.right * place.pixel_spacing_mm[1] * (columns - 1) / 2
        centre = place.origins_mm[index] + across + along
        return cls(index, tuple(round(float(mm), 3) for mm in centre))

    def in_place(self, place: Geometry) -> int:
        """The index of the slice of another image that lies nearest to it."""
        distances = (place.origins_mm - np.array(self.position_mm)) @ place.normal
        return int(np.abs(distances).argmin())


def digest(name: str) -> str:
    """Of a series' UID, or of the hash of a file (`medidiff.io.files.file_hash`)."""
    return hashlib.sha256(name.encode()).hexdigest()[:DIGITS]


def images_of(known: Mapping[str, str], methods: Mapping[str, str]) -> dict[str, Any]:
    """One case of "images": digests by role and by method, without those that are not known."""
    return {**_known(known), "methods": _known(methods)}


def worst_slices(found: Iterable[tuple[str, str, Furthest | None]]) -> dict[str, dict[str, Any]]:
    """The "worst_slice" of (case, method, slice)."""
    slices: dict[str, dict[str, Any]] = {}
    for case, method, worst in found:
        if worst is not None:
            slices.setdefault(case, {})[method] = {"index": worst.index, "position_mm": list(worst.position_mm)}
    return slices


def _known(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: found for name, found in digests.items() if found}
