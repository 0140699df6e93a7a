"""What PSNR against a noisy reference is read beside: input, truth, best blend, limit, and the share of it gained.

All are means over slices, per intensity range, like PSNR itself. Where no truth is given, its PSNR is the one expected
from the dose and the kind of reference; a limit exists against a noisy reference only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, View
from medidiff.metrics.companions import GRID, best_blend, blend_errors, limit_gain_db, mean_psnr, truth_gain_db
from medidiff.metrics.image import mse
from medidiff.metrics.preset import find_presets


class Companions:
    """Needs the scan that the candidate was made from."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.presets = find_presets(context.presets, context.unit)
        self.pixels: list[float] = []
        self.blends: dict[str, list[NDArray[np.floating]]] = {name: [] for name in self.presets}
        self.truths: dict[str, list[float]] = {name: [] for name in self.presets}

    def add(self, view: View) -> None:
        if view.scan is None or not view.measured.any():
            return
        self.pixels.append(float(view.measured.sum()))
        for name, preset in self.presets.items():
            mask = None if preset.conventions.padding_counts else view.mask
            self.blends[name].append(blend_errors(view.candidate, view.scan, view.reference, preset, mask))
            if view.truth is not None:
                self.truths[name].append(mse(view.truth, view.reference, preset, mask))

    def values(self) -> Iterable[Value]:
        if not self.pixels:
            return
        for name in self.presets:
            yield from (Value(metric, value, unit, name) for metric, value, unit in self._of(name))

    def _of(self, name: str) -> Iterator[tuple[str, float, str]]:
        errors = np.array(self.blends[name])
        candidate, scan = mean_psnr(errors[:, 0]), mean_psnr(errors[:, -1])
        alpha, blend = best_blend(errors, np.array(self.pixels))
        yield "PSNR input", scan, "dB"
        yield "PSNR best blend", blend, "dB"
        yield "best blend", alpha, "1"
        noise, dose = self.context.reference_noise, self.context.dose
        if noise == "none":
            return
        known = dose is not None and 0 < dose < 1
        if self.truths[name]:
            yield "PSNR truth", mean_psnr(np.array(self.truths[name])), "dB"
        elif known and dose:
            yield "PSNR truth", scan + truth_gain_db(dose, noise), "dB"
        if known and dose:
            gain = limit_gain_db(dose, noise)
            yield "PSNR limit", scan + gain, "dB"
            yield "attainable gain", 100 * (candidate - scan) / gain, "%"

    def curves(self) -> Iterable[Function]:
        """PSNR of every blend, from the candidate alone (0) to its input (1)."""
        if not self.pixels:
            return
        for name in self.presets:
            decibels = tuple(mean_psnr(errors) for errors in np.array(self.blends[name]).T)
            yield Function(f"PSNR of blends ({name})", tuple(map(float, GRID)), decibels, "1", "dB")


MEASURES: dict[str, Factory] = {"companions": Companions}
