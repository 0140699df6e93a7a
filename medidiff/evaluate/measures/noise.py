"""What is left of the noise: its level and colour, and how well inserts stand out of it.

    noise                        standard deviation in HU in uniform regions, by the two-dimensional spectrum
    NPS mean, NPS peak           mean frequency, and that of the highest ring
    NPS shift, NPS shift input   mean frequency less that of the reference (where it has noise), and of the scan
    CNR, contrast                of every rod and signal against what is around it

Spectra are taken at the same places in candidate, reference and scan: in a phantom in its uniform part, in a patient
in homogeneous soft tissue of a few slices. Only the trend of each region is subtracted: not the reference, which
would hide that anatomy was smoothed, and count noise that candidate and reference share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.measures.places import distance, is_there, of_role, offsets, side_mm
from medidiff.evaluate.view import Context, Feature, Image, Mask, View
from medidiff.metrics.detectability import contrast_to_noise
from medidiff.noise.spectrum import (
    ROI,
    Spectrum,
    cut,
    hann_taper,
    homogeneous_regions,
    power_spectra,
    region_powers,
    robust_spectrum,
    sections,
    spectrum_of,
)

SLICES = 16  # of a patient; spread over the volume, its ends left out
TAPER = hann_taper(ROI)  # a denoiser's spectrum is steep: without a taper it leaks into high frequencies
SILENT_HU = 0.05  # less noise has no colour: rounding, or none at all
INSIDE = 0.7  # of an insert's radius: clear of its blurred edge
AROUND = 1.5  # radii; the ring around an insert begins there
RING_MM = 6.0  # its width, or half a radius if that is more


class _Spectra(Protocol):
    """Collects the regions of one image per slice."""

    def add(self, image: Image, corners: NDArray[np.intp]) -> None: ...

    def spectrum(self) -> Spectrum | None: ...

    def sections(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]: ...

    def plane(self) -> NDArray[np.float64]: ...


class _Uniform:
    """Of a phantom: the mean two-dimensional spectrum."""

    def __init__(self, pixel_mm: float) -> None:
        self.pixel_mm, self.n = pixel_mm, 0
        self.total = np.zeros((ROI, ROI))

    def add(self, image: Image, corners: NDArray[np.intp]) -> None:
        self.total += power_spectra(cut(image[None], corners), self.pixel_mm, TAPER).sum(0)
        self.n += len(corners)

    def spectrum(self) -> Spectrum | None:
        return spectrum_of(self.total / self.n, self.pixel_mm) if self.n else None

    def sections(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        frequency, along_x, along_y = sections(self.total / self.n, self.pixel_mm)
        return {"along rows": (frequency, along_x), "along columns": (frequency, along_y)}

    def plane(self) -> NDArray[np.float64]:
        return self.total / self.n


class _Tissue:
    """Of a patient: each region by its own variance, so that a vessel in some of them hardly counts."""

    def __init__(self, pixel_mm: float) -> None:
        self.pixel_mm = pixel_mm
        self.found: list[tuple[NDArray[np.float64], ...]] = []
        self.colour, self.n = np.zeros((ROI, ROI)), 0

    def add(self, image: Image, corners: NDArray[np.intp]) -> None:
        rois = cut(image[None], corners)
        self.found.append(region_powers(rois, self.pixel_mm))
        spectra = power_spectra(rois, self.pixel_mm, TAPER)
        self.colour += (spectra / np.maximum(spectra.mean((1, 2), keepdims=True), 1e-12)).sum(0)
        self.n += len(rois)

    def spectrum(self) -> Spectrum | None:
        if not self.found:
            return None
        return robust_spectrum(self.found[0][0], *(np.concatenate([f[part] for f in self.found]) for part in (1, 2)))

    def sections(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return {}

    def plane(self) -> NDArray[np.float64]:
        """The mean colour of the regions, at the level of their median."""
        spectrum = self.spectrum()
        level = 0.0 if spectrum is None else spectrum.level
        return self.colour / self.colour.mean() * level**2 * self.pixel_mm**2


class Nps:
    """Noise power spectra of candidate, reference and scan."""

    def __init__(self, context: Context) -> None:
        self.context, self.pixel_mm = context, side_mm(context.pixel_mm)
        self.backgrounds = of_role(context, "background")
        ends = 0.05 * (context.n_slices - 1), 0.95 * (context.n_slices - 1)
        self.chosen = set(np.linspace(*ends, SLICES).round().astype(int).tolist())
        self.of = {name: self._spectra() for name in ("candidate", "reference", "input")}

    def _spectra(self) -> _Spectra:
        return _Uniform(self.pixel_mm) if self.backgrounds else _Tissue(self.pixel_mm)

    def add(self, view: View) -> None:
        corners = self._corners(view)
        if not len(corners):
            return
        self.of["candidate"].add(view.candidate, corners)
        if self.context.reference_noise != "none":
            self.of["reference"].add(view.reference, corners)
        if view.scan is not None:
            self.of["input"].add(view.scan, corners)

    def _corners(self, view: View) -> NDArray[np.intp]:
        """(n, 3) regions of one slice."""
        if self.backgrounds:
            found = [b for b in self.backgrounds if is_there(b, view.index)]
            rows, cols = view.candidate.shape
            each = [corners_within(b, (rows, cols), self.context.pixel_mm) for b in found]
            return np.concatenate([np.empty((0, 3), np.intp), *each])
        if self.context.unit != "HU" or view.index not in self.chosen:
            return np.empty((0, 3), np.intp)
        corners = homogeneous_regions((view.reference if view.truth is None else view.truth)[None])
        kept = [view.measured[r : r + ROI, c : c + ROI].all() for _, r, c in corners]
        return corners[np.array(kept, bool)]

    @property
    def coloured(self) -> dict[str, Spectrum]:
        """The spectra that there are, of images that have noise."""
        spectra = {name: found.spectrum() for name, found in self.of.items()}
        return {name: s for name, s in spectra.items() if s is not None and s.level > SILENT_HU}

    def values(self) -> Iterator[Value]:
        seen = self.of["candidate"].spectrum()
        if seen is None:
            return
        yield Value("noise", seen.level, self.context.unit)
        if seen.level <= SILENT_HU:
            return
        yield Value("NPS mean", seen.mean_frequency, "1/mm")
        yield Value("NPS peak", seen.peak_frequency, "1/mm")
        spectra = self.coloured
        for name, metric in (("reference", "NPS shift"), ("input", "NPS shift input")):
            if name in spectra:
                yield Value(metric, seen.mean_frequency - spectra[name].mean_frequency, "1/mm")

    def curves(self) -> Iterator[Function]:
        spectra = self.coloured
        for name, spectrum in spectra.items():
            yield self._curve("NPS" if name == "candidate" else f"NPS {name}", spectrum.frequency, spectrum.power)
        if "candidate" in spectra:
            for direction, (frequency, power) in self.of["candidate"].sections().items():
                yield self._curve(f"NPS {direction}", frequency, power)
            plane = np.fft.fftshift(self.of["candidate"].plane())
            yield self._curve("NPS plane", np.fft.fftshift(np.fft.fftfreq(ROI, self.pixel_mm)), plane.ravel())

    def _curve(self, name: str, frequency: NDArray[np.float64], power: NDArray[np.float64]) -> Function:
        unit = self.context.unit
        return Function(name, tuple(frequency.tolist()), tuple(power.tolist()), "1/mm", f"{unit}^2 mm^2")


def corners_within(background: Feature, shape: tuple[int, int], pixel_mm: tuple[float, float]) -> NDArray[np.intp]:
    """(n, 3) slice 0, first row and column of half overlapping regions that lie in a round feature."""
    x, y = offsets(background, shape, pixel_mm)
    inside = np.hypot(x, y) < background.ellipse.a
    centre = [int(np.argmin(np.abs(axis))) for axis in (y, x)]
    starts = [np.arange((c - ROI // 2) % (ROI // 2), n - ROI + 1, ROI // 2) for c, n in zip(centre, shape, strict=True)]
    found = [(0, r, c) for r in starts[0] for c in starts[1] if inside[r : r + ROI, c : c + ROI].all()]
    return np.array(found, np.intp).reshape(-1, 3)


class Cnr:
    """Contrast of inserts against the ring around them, over the noise in that ring; places of one name together."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.inserts = of_role(context, "rod", "signal")
        self.masks: dict[Feature, tuple[Mask, Mask]] = {}
        self.found: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, view: View) -> None:
        for insert in self.inserts:
            if is_there(insert, view.index):
                inside, around = self._masks(insert, view.candidate)
                ring = view.candidate[around].astype(np.float64)
                contrast = float(view.candidate[inside].mean(dtype=np.float64) - ring.mean())
                self.found[insert.name].append((contrast, float(ring.var(ddof=1))))

    def _masks(self, insert: Feature, image: Image) -> tuple[Mask, Mask]:
        """Pixels inside the insert, and of the ring around it."""
        if insert not in self.masks:
            d, radius = distance(insert, image.shape, self.context.pixel_mm), insert.ellipse.a
            outer = AROUND * radius + max(RING_MM, radius / 2)
            self.masks[insert] = d < max(INSIDE * radius, d.min() * 1.001), (d > AROUND * radius) & (d < outer)
        return self.masks[insert]

    def mean(self, name: str) -> tuple[float, float]:
        """Mean contrast and mean variance over places and slices."""
        contrast, variance = np.mean(self.found[name], axis=0)
        return float(contrast), float(variance)

    def values(self) -> Iterator[Value]:
        for name in self.found:
            contrast, variance = self.mean(name)
            yield Value("contrast", contrast, self.context.unit, region=name)
            if variance > SILENT_HU**2:
                yield Value("CNR", contrast_to_noise(contrast, variance), "1", region=name)

    def curves(self) -> Iterable[Function]:
        return ()


MEASURES: dict[str, Factory] = {"nps": Nps, "cnr": Cnr}
