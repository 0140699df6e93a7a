"""Image metrics over a volume: one row a preset, and where that makes sense one a region.

    RMSE, NRMSE, bias    over all voxels of the whole image, of each tissue (CT) and of each region
    PSNR, SSIM and other indices of a slice    mean over the slices that are large enough for them

Voxels without a measurement do not count. A preset of another unit says nothing. Where a protocol settles
otherwise (`medidiff.metrics.preset.Conventions`), its rows follow it: they know neither padding nor regions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import sqrt
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, Mask, View
from medidiff.metrics.gmsd import gmsd
from medidiff.metrics.haarpsi import haarpsi
from medidiff.metrics.image import decibel
from medidiff.metrics.preset import WHOLE_RANGE, Preset, find_presets
from medidiff.metrics.ssim import SMALLEST, Structure, fits
from medidiff.metrics.vif import vif
from medidiff.results.rows import WHOLE

SliceMetric = Callable[[View, Preset], float]


def _mask(view: View, preset: Preset) -> Mask | None:
    """The pixels that count, None where all do."""
    return None if preset.conventions.padding_counts else view.mask


def _counted(values: NDArray[np.float64], view: View, preset: Preset) -> NDArray[np.float64]:
    mask = _mask(view, preset)
    return values if mask is None else values[mask]


def regions(view: View, unit: str) -> Iterator[tuple[str, Mask]]:
    """Everything smaller than the whole image: tissues in HU, and the regions of the case."""
    if unit == "HU":
        yield from view.tissues.items()
    for name, mask in view.regions.items():
        yield name, mask & view.measured


@lru_cache(maxsize=8)  # RMSE, NRMSE and PSNR look at the same slice one after the other
def _squared(view: View, preset: Preset) -> NDArray[np.float64]:
    """Squared error on the preset's [0, 1]."""
    difference = preset.map(view.candidate)
    difference -= preset.map(view.reference)
    difference *= difference
    return difference


def _psnr(view: View, preset: Preset) -> float:
    return decibel(float(_counted(_squared(view, preset), view, preset).mean()))


@lru_cache(maxsize=4)  # SSIM and MS-SSIM look at the same slice one after the other
def _structure(view: View, preset: Preset, window: str) -> Structure:
    return Structure.of(view.candidate, view.reference, preset, _mask(view, preset), window)


def _ssim(view: View, preset: Preset) -> float:
    window = preset.conventions.ssim_window
    return _structure(view, preset, window).ssim() if fits(view.reference, window) else float("nan")


def _ms_ssim(view: View, preset: Preset) -> float:
    return _structure(view, preset, "gaussian").ms_ssim() if min(view.reference.shape) >= SMALLEST else float("nan")


def _similarity(metric: Callable[..., float], view: View, preset: Preset) -> float:
    return metric(view.candidate, view.reference, preset, _mask(view, preset))


class SliceMean:
    """An index of slices; a slice that is too small for it, or only padding, is left out of the mean."""

    def __init__(self, metric: SliceMetric, name: str, unit: str, context: Context) -> None:
        self.metric, self.name, self.unit = metric, name, unit
        self.presets = find_presets(context.presets, context.unit)
        self.found: dict[str, list[float]] = defaultdict(list)

    def add(self, view: View) -> None:
        if not view.measured.any():
            return
        for name, preset in self.presets.items():
            value = self.metric(view, preset)
            if not np.isnan(value):
                self.found[name].append(value)

    def values(self) -> Iterable[Value]:
        return [Value(self.name, fmean(found), self.unit, name) for name, found in self.found.items()]

    def curves(self) -> Iterable[Function]:
        return ()


@dataclass
class _Mean:
    """A running mean over voxels."""

    total: float = 0.0
    voxels: int = 0

    def add(self, values: NDArray[np.float64], mask: Mask | None) -> None:
        chosen = values if mask is None else values[mask]
        self.total += float(chosen.sum())
        self.voxels += chosen.size

    @property
    def value(self) -> float:
        return self.total / self.voxels


class PooledError:
    """RMSE, in the unit of the case or as a fraction of the preset's range."""

    def __init__(self, name: str, relative: bool, context: Context) -> None:
        self.name, self.relative, self.unit = name, relative, context.unit
        self.presets = find_presets(context.presets, context.unit)
        self.squares: dict[tuple[str, str], _Mean] = defaultdict(_Mean)
        self.roots: dict[str, list[float]] = defaultdict(list)

    def add(self, view: View) -> None:
        if not view.measured.any():
            return
        for name, preset in self.presets.items():
            squared = _squared(view, preset.error_range)
            if preset.conventions.slice_rmse:
                self.roots[name].append(float(np.sqrt(_counted(squared, view, preset).mean())))
                continue
            self.squares[name, WHOLE].add(squared, view.mask)
            for region, mask in regions(view, self.unit):
                self.squares[name, region].add(squared, mask)

    def values(self) -> Iterable[Value]:
        roots = {(name, region): sqrt(mean.value) for (name, region), mean in self.squares.items() if mean.voxels}
        roots |= {(name, WHOLE): fmean(found) for name, found in self.roots.items()}
        for (name, region), root in roots.items():
            scale = 1.0 if self.relative else self.presets[name].error_range.range
            yield Value(self.name, root * scale, "1" if self.relative else self.unit, name, region)

    def curves(self) -> Iterable[Function]:
        return ()


class Bias:
    """Mean of candidate minus reference, clipped by nothing."""

    def __init__(self, context: Context) -> None:
        self.unit = context.unit
        self.means: dict[str, _Mean] = defaultdict(_Mean)

    def add(self, view: View) -> None:
        difference = view.candidate.astype(np.float64) - view.reference
        self.means[WHOLE].add(difference, view.mask)
        for region, mask in regions(view, self.unit):
            self.means[region].add(difference, mask)

    def values(self) -> Iterable[Value]:
        preset = WHOLE_RANGE.get(self.unit, "")
        return [Value("bias", mean.value, self.unit, preset, name) for name, mean in self.means.items() if mean.voxels]

    def curves(self) -> Iterable[Function]:
        return ()


def _index(metric: Callable[..., float], name: str) -> Factory:
    return partial(SliceMean, partial(_similarity, metric), name, "1")


MEASURES: dict[str, Factory] = {
    "rmse": partial(PooledError, "RMSE", False),
    "nrmse": partial(PooledError, "NRMSE", True),
    "psnr": partial(SliceMean, _psnr, "PSNR", "dB"),
    "ssim": partial(SliceMean, _ssim, "SSIM", "1"),
    "ms-ssim": partial(SliceMean, _ms_ssim, "MS-SSIM", "1"),
    "vif": _index(vif, "VIF"),
    "gmsd": _index(gmsd, "GMSD"),
    "haarpsi": _index(haarpsi, "HaarPSI"),
    "bias": Bias,
}
