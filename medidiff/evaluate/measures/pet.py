"""PET: uptake of every region and its bias, recovery and noise of a NEMA phantom, noise of organs, total activity.

Bias is against the reference with the reference's own regions (fixed ROIs), by PET.md: against the truth, partial
volume alone would cost small lesions more than any method does. Everything here needs SUV and is silent otherwise.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, Feature, Image, View
from medidiff.metrics.pet import (
    LesionSums,
    background_variability,
    bias_percent,
    contrast_recovery,
    disc_mean,
    sphere_kernel,
)

FIGURES = {"mean": ("SUVmean", "SUV"), "max": ("SUVmax", "SUV"), "peak": ("SUVpeak", "SUV"),
           "mtv_ml": ("MTV", "mL"), "tlg": ("TLG", "g")}  # fmt: skip


class Uptake:
    """SUVmean, SUVmax, SUVpeak, MTV and TLG of every region, and their bias.

    A sphere reaches into neighbouring slices, so a slice is judged when those after it have been seen: as many are
    kept as the sphere is thick.
    """

    def __init__(self, context: Context) -> None:
        self.is_suv = context.unit == "SUV"
        self.spacing_mm = (context.slice_mm, *context.pixel_mm)
        self.kernel = sphere_kernel(self.spacing_mm) if self.is_suv else np.ones((1, 1, 1))
        self.window: deque[View | None] = deque([None] * len(self.kernel), maxlen=len(self.kernel))
        self.seen: dict[str, tuple[LesionSums, LesionSums]] = {}

    def add(self, view: View) -> None:
        if self.is_suv:
            self._push(view)

    def _push(self, view: View | None) -> None:
        self.window.append(view)
        middle = self.window[len(self.kernel) // 2]
        if middle is None:
            return
        images = (
            [None if view is None else view.candidate for view in self.window],
            [None if view is None else view.reference for view in self.window],
        )
        for name, mask in middle.regions.items():
            sums = self.seen.setdefault(name, (LesionSums(self.spacing_mm), LesionSums(self.spacing_mm)))
            for one, planes in zip(sums, images, strict=True):
                one.add(planes, mask & middle.measured, self.kernel)

    def values(self) -> Iterable[Value]:
        for _ in range(len(self.kernel) // 2):
            self._push(None)
        for name, (candidate, reference) in self.seen.items():
            if candidate.voxels:
                was = asdict(reference.lesion())
                for key, value in asdict(candidate.lesion()).items():
                    metric, unit = FIGURES[key]
                    yield Value(metric, value, unit, region=name)
                    yield Value(f"{metric} bias", bias_percent(value, was[key]), "%", region=name)

    def curves(self) -> Iterable[Function]:
        return ()


class Nema:
    """Contrast recovery and background variability of a phantom's spheres, NEMA NU 2-2018.

    A sphere feature's value is its activity ratio; its slices name the central one. Background features name the
    places of the discs and their slices.
    """

    def __init__(self, context: Context) -> None:
        self.pixel_mm = context.pixel_mm
        features = context.features if context.unit == "SUV" else ()
        self.spheres = [feature for feature in features if feature.role == "sphere"]
        self.backgrounds = [feature for feature in features if feature.role == "background"] if self.spheres else []
        self.hot: dict[str, list[float]] = defaultdict(list)
        self.cool: dict[float, list[float]] = defaultdict(list)

    def add(self, view: View) -> None:
        for sphere in _there(self.spheres, view):
            self.hot[sphere.name].append(self._mean(view.candidate, sphere, 2 * sphere.ellipse.a))
        for background in _there(self.backgrounds, view):
            for diameter in {2 * sphere.ellipse.a for sphere in self.spheres}:
                self.cool[diameter].append(self._mean(view.candidate, background, diameter))

    def _mean(self, image: Image, place: Feature, diameter_mm: float) -> float:
        return disc_mean(image, self.pixel_mm, (place.ellipse.x0, place.ellipse.y0), diameter_mm)

    def values(self) -> Iterable[Value]:
        for sphere in self.spheres:
            around = np.array(self.cool[2 * sphere.ellipse.a])
            if self.hot[sphere.name] and around.size > 1:
                found = float(np.mean(self.hot[sphere.name]))
                recovery = contrast_recovery(found, around, sphere.ellipse.value)
                yield Value("contrast recovery", recovery, "%", region=sphere.name)
                yield Value("background variability", background_variability(around), "%", region=sphere.name)

    def curves(self) -> Iterable[Function]:
        return ()


def _there(features: Iterable[Feature], view: View) -> Iterator[Feature]:
    return (feature for feature in features if feature.slices is None or view.index in feature.slices)


@dataclass
class Moments:
    """Voxels, sum and sum of squares of the candidate, sum of the reference."""

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))

    def add(self, candidate: Image, reference: Image) -> None:
        x = candidate.astype(np.float64)
        self.sums += np.array([x.size, x.sum(), (x * x).sum(), reference.sum(dtype=np.float64)])

    @property
    def variation(self) -> float:
        """Standard deviation in % of the mean."""
        n, total, squares, _ = self.sums
        return float(100 * np.sqrt(max(squares - total**2 / n, 0) / (n - 1)) / (total / n))


class Variation:
    """COV of every region (liver, background), and the total activity with its bias."""

    def __init__(self, context: Context) -> None:
        self.is_suv = context.unit == "SUV"
        self.voxel_ml = context.slice_mm * context.pixel_mm[0] * context.pixel_mm[1] / 1000
        self.whole = Moments()
        self.regions: dict[str, Moments] = defaultdict(Moments)

    def add(self, view: View) -> None:
        if not self.is_suv:
            return
        self.whole.add(view.candidate[view.measured], view.reference[view.measured])
        for name, mask in view.regions.items():
            inside = mask & view.measured
            self.regions[name].add(view.candidate[inside], view.reference[inside])

    def values(self) -> Iterable[Value]:
        n, total, _, reference = self.whole.sums
        if n:
            yield Value("total activity", float(total * self.voxel_ml), "g")
            yield Value("total activity bias", bias_percent(float(total), float(reference)), "%")
        for name, moments in self.regions.items():
            if moments.sums[0] > 1:
                yield Value("COV", moments.variation, "%", region=name)

    def curves(self) -> Iterable[Function]:
        return ()


MEASURES: dict[str, Factory] = {"suv": Uptake, "nema": Nema, "cov": Variation}
