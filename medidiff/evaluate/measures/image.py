"""Image metrics over a volume: one row a preset, and where that makes sense one a region.

    RMSE, NRMSE, bias    over all voxels of the whole image, of each tissue (CT) and of each region
    PSNR, SSIM and other indices of a slice    mean over the slices that are large enough for them

Voxels without a measurement do not count. A preset of another unit says nothing. Where a protocol settles
otherwise (`medidiff.metrics.preset.Conventions`), its rows follow it: they know neither padding nor regions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, Mask, View
from medidiff.metrics.gmsd import gmsd
from medidiff.metrics.haarpsi import haarpsi
from medidiff.metrics.image import decibel
from medidiff.metrics.preset import OURS, WHOLE_RANGE, Preset, find_presets
from medidiff.metrics.ssim import ms_ssim, ssim
from medidiff.metrics.vif import vif
from medidiff.results.rows import WHOLE

SliceMetric = Callable[[View, Preset], float]


def counted(view: View, preset: Preset) -> Mask | None:
    """The pixels that count, None where all do."""
    return None if preset.conventions.padding_counts else view.mask


def regions(view: View, unit: str) -> Iterator[tuple[str, Mask]]:
    """Everything smaller than the whole image: tissues in HU, and the regions of the case."""
    if unit == "HU":
        yield from view.tissues.items()
    for name, mask in view.regions.items():
        yield name, mask & view.measured


@lru_cache(maxsize=4)  # RMSE, NRMSE and PSNR look at the same slice one after the other
def _squared(view: View, preset: Preset) -> NDArray[np.float64]:
    """Squared error on the preset's [0, 1]."""
    difference = preset.map(view.candidate)
    difference -= preset.map(view.reference)
    difference *= difference
    return difference


def _psnr(view: View, preset: Preset) -> float:
    squared, mask = _squared(view, preset), counted(view, preset)
    return decibel(float((squared if mask is None else squared[mask]).mean()))


def _similarity(metric: Callable[..., float], view: View, preset: Preset) -> float:
    return metric(view.candidate, view.reference, preset, counted(view, preset))


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
        return [Value(self.name, float(np.mean(found)), self.unit, name) for name, found in self.found.items()]

    def curves(self) -> Iterable[Function]:
        return ()


@dataclass
class _Sum:
    """A running mean over voxels, and the slices' root means beside it."""

    total: float = 0.0
    voxels: int = 0
    roots: list[float] = field(default_factory=list)

    def add(self, values: NDArray[np.float64], mask: Mask | None) -> None:
        chosen = values if mask is None else values[mask]
        if chosen.size:
            self.total += float(chosen.sum())
            self.voxels += chosen.size
            self.roots.append(float(np.sqrt(abs(chosen.mean()))))

    @property
    def mean(self) -> float:
        return self.total / self.voxels


class PooledError:
    """RMSE, in the unit of the case or as a fraction of the preset's range."""

    def __init__(self, name: str, relative: bool, context: Context) -> None:
        self.name, self.relative, self.unit = name, relative, context.unit
        self.presets = find_presets(context.presets, context.unit)
        self.sums: dict[tuple[str, str], _Sum] = defaultdict(_Sum)

    def add(self, view: View) -> None:
        if not view.measured.any():
            return
        for name, preset in self.presets.items():
            squared = _squared(view, preset.error_range)
            self.sums[name, WHOLE].add(squared, counted(view, preset))
            if preset.conventions == OURS:
                for region, mask in regions(view, self.unit):
                    self.sums[name, region].add(squared, mask)

    def values(self) -> Iterable[Value]:
        for (name, region), found in self.sums.items():
            if found.voxels:
                preset = self.presets[name]
                root = float(np.mean(found.roots)) if preset.conventions.slice_rmse else float(np.sqrt(found.mean))
                scale = 1.0 if self.relative else preset.error_range.range
                yield Value(self.name, root * scale, "1" if self.relative else self.unit, name, region)

    def curves(self) -> Iterable[Function]:
        return ()


class Bias:
    """Mean of candidate minus reference, clipped by nothing."""

    def __init__(self, context: Context) -> None:
        self.unit = context.unit
        self.sums: dict[str, _Sum] = defaultdict(_Sum)

    def add(self, view: View) -> None:
        difference = view.candidate.astype(np.float64) - view.reference
        self.sums[WHOLE].add(difference, view.mask)
        for region, mask in regions(view, self.unit):
            self.sums[region].add(difference, mask)

    def values(self) -> Iterable[Value]:
        preset = WHOLE_RANGE.get(self.unit, "")
        return [Value("bias", found.mean, self.unit, preset, name) for name, found in self.sums.items() if found.voxels]

    def curves(self) -> Iterable[Function]:
        return ()


def _index(metric: Callable[..., float], name: str) -> Factory:
    return partial(SliceMean, partial(_similarity, metric), name, "1")


MEASURES: dict[str, Factory] = {
    "rmse": partial(PooledError, "RMSE", False),
    "nrmse": partial(PooledError, "NRMSE", True),
    "psnr": partial(SliceMean, _psnr, "PSNR", "dB"),
    "ssim": _index(ssim, "SSIM"),
    "ms-ssim": _index(ms_ssim, "MS-SSIM"),
    "vif": _index(vif, "VIF"),
    "gmsd": _index(gmsd, "GMSD"),
    "haarpsi": _index(haarpsi, "HaarPSI"),
    "bias": Bias,
}
