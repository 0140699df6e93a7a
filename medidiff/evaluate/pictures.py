"""The slice of a result that is furthest from its reference, kept for whoever draws it.

DIR/pictures/<case>--<method>.npz   candidate, reference, and scan and deviation where known: (rows, columns)
                                    float32; index; pixel_mm (2,); sides (2 letters); rmse
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from medidiff.evaluate.images import Furthest
from medidiff.evaluate.view import View
from medidiff.io.files import replacing
from medidiff.volume import Geometry

FOLDER = "pictures"


class WorstSlice:
    """Watches views go by and remembers one."""

    def __init__(self) -> None:
        self.view: View | None = None
        self.rmse = -1.0

    def watch(self, views: Iterable[View]) -> Iterator[View]:
        for view in views:
            difference = np.subtract(view.candidate, view.reference, dtype=np.float64)[view.measured]
            rmse = float(np.sqrt(np.mean(difference**2)))
            if rmse > self.rmse:
                self.view, self.rmse = view, rmse
            yield view

    def found(self, place: Geometry) -> Furthest | None:
        """Which slice of `place` it is; None where no view went by."""
        return None if self.view is None else Furthest.of(self.view.index, place)

    def save(self, path: Path, place: Geometry) -> None:
        """Write the slice, whole or not at all; nothing where no view went by."""
        from medidiff.figures import side_letters

        view = self.view
        if view is None:
            return
        images = {"candidate": view.candidate, "reference": view.reference, "scan": view.scan}
        given = {k: v.astype(np.float32) for k, v in {**images, "deviation": view.deviation}.items() if v is not None}
        facts = {"index": view.index, "pixel_mm": place.pixel_spacing_mm, "rmse": self.rmse}
        arrays = {name: np.asarray(value) for name, value in facts.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, sides=np.array(side_letters(place)), **arrays, **given)
