"""What a reader can do with the images: see edges, and detect faint things. For phantoms.

    TTF f50, TTF f10     frequencies at which the transfer function of each rod has fallen to a half and a tenth
    TTF f50 ratio        f50 over that of the scan the candidate was made from
    TTF at input f50     what is left of the scan's 0.5 at the scan's f50; 0.5 is nothing lost
    NPWE d'              of the disc TASK, seen with the resolution of each rod and the noise in the uniform part
    CHO AUC              (low, high: its interval) for each kind of signal

A rod's edge is averaged over all realisations first, and it is not judged where its contrast is below LEAST_CNR
noise levels with MIN_REALISATIONS of them, or as much less as there are more: such a figure would be noise. The CNR
beside it is the measure `cnr`.

NPWE d' takes for granted that a faint disc is treated as the rod is. A nonlinear method that takes faint structures
for noise then looks far better than it is (the embedded model at a quarter dose: d' tenfold, AUC a little lower, a
fifth to a half of the discs' contrast left): read CHO AUC, which looks at the discs themselves, and `contrast`
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.measures.noise import SILENT_HU, Cnr, Nps
from medidiff.evaluate.measures.places import distance, is_there, of_role, offsets, side_mm
from medidiff.evaluate.view import Context, Feature, Image, View
from medidiff.metrics.detectability import (
    FOLDS,
    MIN_SAMPLES,
    channelised_hotelling,
    channels,
    disc_spectrum,
    eye_filter,
    npwe,
)
from medidiff.metrics.resolution import Edge, Transfer, circular_edge, transfer_function

LEAST_CNR = 3.0
MIN_REALISATIONS = 50
TASK_RADIUS_MM, TASK_HU = 2.5, 10.0
STEPS = 512  # of the integral over frequencies
WIDEST_MM = 20.0  # radius of the patch that the channels see, unless the next signal is nearer


class _Rod:
    """The edge of one rod in one series of images."""

    def __init__(self, edge: Edge) -> None:
        self.edge, self.n = edge, 0
        self.total = np.zeros(len(edge.distance))

    def add(self, image: Image) -> None:
        self.total += self.edge.sums(image)
        self.n += 1

    @property
    def transfer(self) -> Transfer:
        return transfer_function(self.edge, self.total / self.n)


class Ttf:
    """Transfer functions of all rods, of the candidate and of the scan."""

    def __init__(self, context: Context) -> None:
        self.pixel_mm = context.pixel_mm
        self.features = of_role(context, "rod")
        self.noise = Cnr(context)
        self.rods: dict[str, _Rod] = {}
        self.inputs: dict[str, _Rod] = {}

    def add(self, view: View) -> None:
        self.noise.add(view)
        for feature in self.features:
            if is_there(feature, view.index):
                self._rod(self.rods, feature, view.candidate).add(view.candidate)
                if view.scan is not None:
                    self._rod(self.inputs, feature, view.scan).add(view.scan)

    def _rod(self, rods: dict[str, _Rod], feature: Feature, image: Image) -> _Rod:
        if feature.name not in rods:
            d = distance(feature, image.shape, self.pixel_mm)
            rods[feature.name] = _Rod(circular_edge(d, feature.ellipse.a, side_mm(self.pixel_mm)))
        return rods[feature.name]

    def transfers(self) -> Iterator[tuple[str, Transfer]]:
        """Of the rods that stand out of the noise enough."""
        for name, rod in self.rods.items():
            contrast, variance = self.noise.mean(name)
            enough = LEAST_CNR * np.sqrt(MIN_REALISATIONS / rod.n * max(variance, SILENT_HU**2))
            if rod.n >= MIN_REALISATIONS and abs(contrast) >= enough:
                yield name, rod.transfer

    def values(self) -> Iterator[Value]:
        for name, transfer in self.transfers():
            f50, f10 = transfer.frequency_at(0.5), transfer.frequency_at(0.1)
            found = {"TTF f50": (f50, "1/mm"), "TTF f10": (f10, "1/mm")}
            if name in self.inputs:
                before = self.inputs[name].transfer.frequency_at(0.5)
                found["TTF f50 ratio"] = f50 / before, "1"
                found["TTF at input f50"] = transfer.at(before), "1"
            for metric, (value, unit) in found.items():
                if np.isfinite(value):
                    yield Value(metric, value, unit, region=name)

    def curves(self) -> Iterator[Function]:
        for name, transfer in self.transfers():
            x, y = tuple(transfer.frequency.tolist()), tuple(transfer.value.tolist())
            yield Function(f"TTF {name}", x, y, "1/mm", "1", region=name)


class Npwe:
    """The non-prewhitening observer with an eye filter, by the transfer function of each rod."""

    def __init__(self, context: Context) -> None:
        self.ttf, self.nps = Ttf(context), Nps(context)
        self.highest = 0.5 / side_mm(context.pixel_mm)

    def add(self, view: View) -> None:
        if self.ttf.features and self.nps.backgrounds:
            self.ttf.add(view)
            self.nps.add(view)

    def values(self) -> Iterator[Value]:
        noise = self.nps.coloured.get("candidate")
        if noise is None:
            return
        f = np.linspace(0, self.highest, STEPS)
        power = np.interp(f, noise.frequency, noise.power)
        task = disc_spectrum(f, TASK_RADIUS_MM, TASK_HU)
        for name, transfer in self.ttf.transfers():
            seen = task * np.interp(f, transfer.frequency, transfer.value)
            yield Value("NPWE d'", npwe(f, seen, power, eye_filter(f)), "1", region=name)

    def curves(self) -> Iterable[Function]:
        return ()


class Cho:
    """The channelised Hotelling observer: what it keeps of a slice is ten numbers a place."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.features = of_role(context, "signal", "absent")
        self.templates: dict[int | None, tuple[NDArray[np.intp], NDArray[np.floating]]] = {}
        self.found: dict[str, dict[str, list[tuple[int, NDArray[np.floating]]]]] = {}

    def add(self, view: View) -> None:
        for feature in self.features:
            if is_there(feature, view.index):
                pixels, templates = self._templates(feature, view.candidate)
                response = templates @ view.candidate.ravel()[pixels]
                roles = self.found.setdefault(feature.name, {"signal": [], "absent": []})
                roles[feature.role].append((view.index, response))

    def _templates(self, feature: Feature, image: Image) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
        """Pixels of the patch around a place, and the channels there."""
        if feature.pair not in self.templates:
            x, y = np.broadcast_arrays(*offsets(feature, image.shape, self.context.pixel_mm))
            pixels = np.flatnonzero(np.hypot(x, y) < self._reach(feature))
            side = side_mm(self.context.pixel_mm)
            self.templates[feature.pair] = pixels, channels(x.ravel()[pixels], y.ravel()[pixels], side)
        return self.templates[feature.pair]

    def _reach(self, feature: Feature) -> float:
        """Half the way to the next signal: what is there must not help."""
        e = feature.ellipse
        others = [o.ellipse for o in self.features if o.pair != feature.pair]
        return min([WIDEST_MM, *(0.5 * float(np.hypot(o.x0 - e.x0, o.y0 - e.y0)) for o in others)])

    def values(self) -> Iterator[Value]:
        for name, roles in self.found.items():
            if all(len(s) >= MIN_SAMPLES and len({k for k, _ in s}) >= FOLDS for s in roles.values()):
                present, absent = (np.stack([r for _, r in roles[role]]) for role in ("signal", "absent"))
                of_present, of_absent = (np.array([k for k, _ in roles[role]]) for role in ("signal", "absent"))
                generator = np.random.default_rng(self.context.seed)
                auc = channelised_hotelling(present, absent, of_present, of_absent, generator)
                yield Value("CHO AUC", auc.auc, "1", region=name)
                yield Value("CHO AUC low", auc.low, "1", region=name)
                yield Value("CHO AUC high", auc.high, "1", region=name)

    def curves(self) -> Iterable[Function]:
        return ()


MEASURES: dict[str, Factory] = {"ttf": Ttf, "npwe": Npwe, "cho": Cho}
