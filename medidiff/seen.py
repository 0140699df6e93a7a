"""What a model has seen, and how much of its change a slice may get that lies outside.

    w = min over measures of clip(1 - d / margin, 0, 1)          out = y + w * strength * (x_hat - y)

`d` is the distance of a measure from the range of training, in octaves (log2; colours are logarithms already). Inside
every range `w` is exactly 1, at `margin` beyond any of them 0: there the scan comes back as it was. Only the noise that
is measured in the slice itself decides `w`, of PET in the block of slices. Headers, and the range of HU, lead to
warnings. A measure that was not taken is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from medidiff.config import Settings

# Octaves. Not the colour at 4 x 4 pixels, which sees anatomy more than noise: half an octave beyond its range a model
# still took the error of a sharp scan from 108 to 19 HU, and was held back to 57. Nor the colours of PET: a model took
# away as much of noise finer than any that it had seen as of any other, left blotches as wide as organs alone, and made
# neither worse (benchmarks/pet_grain.py). The coarse ends of both lie within 0.2 of 0, above which nothing can be.
MARGIN = {"noise_hu": 1.0, "colour_half": 1.0, "frequency": 1 / 3, "relative": 1.0}
LOGARITHMS = ("colour_half", "colour_quarter", "colour_plane", "colour_axis")
HEADING = "## What it has seen"
SHOWN = {
    "noise_hu": ("noise level", "HU"),
    "frequency": ("noise frequency", "cycles a pixel"),
    "colour_half": ("noise colour, log2 of the level after averaging 2 x 2 pixels,", ""),
    "colour_quarter": ("noise colour, log2 of the level after averaging 4 x 4 pixels,", ""),
    "relative": ("noise relative to the activity", ""),
    "colour_plane": ("noise colour, log2 of the level after averaging 2 x 2 voxels of a slice,", ""),
    "colour_axis": ("noise colour, log2 of the level after averaging 2 slices,", ""),
    "dense_hu": ("densest thousandth of a slice", "HU"),
    "pixel_mm": ("pixel size", "mm"),
    "thickness_mm": ("slice thickness", "mm"),
    "spacing_mm": ("slice spacing", "mm"),
}
TOLERANCE = 0.1  # of a size in a header: 0.69 mm is not outside of 0.7 to 1.9 mm
PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class Facts:
    """What headers say of a scan; None, "" or 0 where they are silent."""

    pixel_mm: float
    spacing_mm: float
    thickness_mm: float | None = None
    kernel: str = ""
    manufacturer: str = ""


class Range(Settings):
    """Where a measure lay in training: 1st and 99th percentile, smallest and largest."""

    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Range | None:
        """None where there are no values."""
        found = np.array([value for value in values if math.isfinite(value)])
        if not found.size:
            return None
        low, high = np.percentile(found, PERCENTILES)
        return cls(low=_short(low), high=_short(high), least=_short(found.min()), most=_short(found.max()))

    def widened(self, octaves: float, *, is_logarithm: bool) -> Range:
        """The range with a tolerance at both ends."""

        def moved(value: float, by: float) -> float:
            return _short(value + by if is_logarithm else value * 2**by)

        low, high = moved(self.low, -octaves), moved(self.high, octaves)
        return Range(low=low, high=high, least=min(self.least, low), most=max(self.most, high))

    def at_least(self, floor: float) -> Range:
        """The same, cut off below."""
        return Range(**{name: max(value, floor) for name, value in self.model_dump().items()})

    def holds(self, value: float) -> bool:
        """Whether a size lies between the smallest and the largest, within TOLERANCE."""
        slack = TOLERANCE * np.abs([self.least, self.most])
        return bool(self.least - slack[0] <= value <= self.most + slack[1])


class Seen(Settings):
    """The range of a model's training data; a measure that nobody took is None, and is not judged.

    slices          that were drawn from the recipe to measure what follows; of PET parts of bodies, many slices each
    noise_hu        CT: estimated level
    colour_half, colour_quarter
                    CT: estimated colours, log2 of the level after averaging 2 x 2 and 4 x 4 pixels, relative to it
    frequency       CT: root mean square frequency of the noise along an axis, cycles a pixel
    dense_hu        CT: 99.9th percentile of a slice: bone, contrast medium, metal
    relative        PET: noise as a share of the local activity (medidiff.noise.activity)
    colour_plane, colour_axis
                    PET: log2 of the level after averaging 2 x 2 voxels of a slice, and 2 slices, relative to it
    pixel_mm        CT: after shrinking; thickness and spacing are those of the scans, as are kernels and manufacturers.
                    PET: of what was drawn, as is the spacing
    """

    slices: int = 0
    noise_hu: Range | None = None
    colour_half: Range | None = None
    colour_quarter: Range | None = None
    frequency: Range | None = None
    dense_hu: Range | None = None
    relative: Range | None = None
    colour_plane: Range | None = None
    colour_axis: Range | None = None
    pixel_mm: Range | None = None
    thickness_mm: Range | None = None
    spacing_mm: Range | None = None
    kernels: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()

    def range_of(self, name: str) -> Range | None:
        found: Range | None = getattr(self, name)
        return found

    def octaves_beyond(self, name: str, value: float) -> float:
        """How far a measure of the noise lies outside of its range: above 0 beyond its upper end, below 0 its lower."""
        seen = self.range_of(name)
        if seen is None:
            return 0.0
        if not math.isfinite(value):
            return math.inf
        at, low, high = (v if name in LOGARITHMS else math.log2(max(v, 1e-9)) for v in (value, seen.low, seen.high))
        return max(at - high, 0.0) + min(at - low, 0.0)

    def share(self, name: str, value: float) -> float:
        """Share of the change that one measure allows: all of it where the measure only warns."""
        if name not in MARGIN:
            return 1.0
        return max(1 - abs(self.octaves_beyond(name, value)) / MARGIN[name], 0.0)

    def weight(self, traits: Mapping[str, float]) -> float:
        """Share of the change that a slice of these traits gets."""
        return min(self.share(name, value) for name, value in traits.items())

    def lines(self) -> list[str]:
        """The range in words, for cards."""
        spans = [_span(what, self.range_of(name), unit) for name, (what, unit) in SHOWN.items()]
        lists = {"kernels": self.kernels, "manufacturers": self.manufacturers}
        return [line for line in spans if line] + [f"{name}: {', '.join(all_)}" for name, all_ in lists.items() if all_]


def card_section(seen: Seen | None) -> list[str]:
    """Paragraphs of a Markdown card; none where nobody measured the range."""
    if seen is None:
        return []
    intro = (
        "Outside of it `medidiff reconstruct` warns, and changes a slice less whose noise lies outside. Noise: 1st to "
        "99th percentile; the rest: smallest to largest. `python benchmarks/model_range.py` gives it."
    )
    return [HEADING, intro, *[f"- {line}" for line in seen.lines()]]


def _span(what: str, seen: Range | None, unit: str) -> str:
    """What decides the weight is given by its percentiles, what only warns by its extremes."""
    if seen is None:
        return ""
    low, high = (seen.low, seen.high) if what.startswith("noise") else (seen.least, seen.most)
    return f"{what} {_digits(low)} to {_digits(high)} {unit}".rstrip()


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _short(value: float) -> float:
    """Four digits: a card is read by people."""
    return float(f"{value:.4g}")
