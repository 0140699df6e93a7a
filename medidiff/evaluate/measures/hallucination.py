"""What a method made up or took away, by medidiff.metrics.hallucination; needs the scan that the method was given.

    added structure, removed structure      % of the pixels (of a region) where there is any
    strongest added, strongest removed      in standard deviations of the input's smoothed noise: one planted lesion in
                                            a hundred slices is nothing in per cent and plain here
    unsupported frequencies                 % of rings of all patches whose content neither scan nor reference explains

A known truth takes the reference's place. In CT only patches inside the patient are correlated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, Image, Mask, View
from medidiff.metrics.hallucination import (
    N_RINGS,
    Excess,
    excess,
    patch_corners,
    patches_at,
    ring_frequencies,
    texture,
    transforms,
)
from medidiff.results.rows import WHOLE

AIR_HU = -900.0  # mean of a patch


class Hallucination:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.pixels: Counter[str] = Counter()
        self.found: dict[str, Counter[str]] = {"added": Counter(), "removed": Counter()}
        self.strongest = {"added": 0.0, "removed": 0.0}
        self.patches = 0
        self.rings = np.zeros((3, N_RINGS))  # sums over patches: FRC with reference, with scan, unsupported

    def add(self, view: View) -> None:
        if view.scan is None or not view.measured.any():
            return
        target = view.reference if view.truth is None else view.truth
        x, r, y = (_filled(image, view.measured) for image in (view.candidate, target, view.scan))
        self._add_structure(excess(x, r, y, self.context.pixel_mm), view)
        self._add_texture(x, r, y, view.measured)

    def _add_structure(self, found: Excess, view: View) -> None:
        regions = {WHOLE: view.measured, **view.regions}
        for name, mask in regions.items():
            self.pixels[name] += int(np.count_nonzero(mask & view.measured))
        for kind, image in (("added", found.added), ("removed", found.removed)):
            sigmas = np.abs(image) * view.measured
            self.strongest[kind] = max(self.strongest[kind], float(sigmas.max()))
            for name, mask in regions.items():
                self.found[kind][name] += int(np.count_nonzero(sigmas[mask]))

    def _add_texture(self, x: Image, r: Image, y: Image, measured: Mask) -> None:
        corners = patch_corners(measured)
        if self.context.unit == "HU":
            corners = corners[patches_at(r, corners).mean((1, 2)) > AIR_HU]
        if not len(corners):
            return
        seen = texture(*(transforms(image, corners) for image in (x, r, y)))
        self.patches += len(corners)
        for row, values in enumerate((seen.with_reference, seen.with_scan, seen.unsupported)):
            self.rings[row] += values.sum(0)

    def values(self) -> Iterable[Value]:
        for kind, found in self.found.items():
            for region, pixels in self.pixels.items():
                if pixels:
                    yield Value(f"{kind} structure", 100 * found[region] / pixels, "%", region=region)
            if self.pixels[WHOLE]:
                yield Value(f"strongest {kind}", self.strongest[kind], "sigma")
        if self.patches:
            yield Value("unsupported frequencies", float(100 * self.rings[2].mean() / self.patches), "%")

    def curves(self) -> Iterable[Function]:
        if not self.patches:
            return
        x = tuple(map(float, ring_frequencies(self.context.pixel_mm[0])))
        names = ("FRC with reference", "FRC with input", "unsupported frequencies")
        for name, sums, (factor, unit) in zip(names, self.rings, ((1, "1"), (1, "1"), (100, "%")), strict=True):
            y = tuple(map(float, factor * sums / self.patches))
            yield Function(name, x, y, "1/mm", unit)


def _filled(image: Image, measured: Mask) -> Image:
    """Padding at the least measured value, so that filters do not meet a cliff of -2000."""
    return image if measured.all() else np.where(measured, image, image[measured].min())


MEASURES: dict[str, Factory] = {"hallucination": Hallucination}
