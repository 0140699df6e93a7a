"""Outside of what the model has seen: how much of its change a slice gets, and the sentences that say so.

    out = y + w * strength / 100 * (x_hat - y)        w of `medidiff.seen`: 1 inside the range, 0 far from it

Before a run headers are judged (pixel size, slice thickness and spacing, kernel), during it every slice (level and
colour of its noise, HU); of PET the block that a slice is answered from (noise relative to the activity, colour). Each
measure leads to one sentence a case at most, with the number of slices it holds for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medidiff.diffusion.denoiser import Condition
from medidiff.model import Model
from medidiff.noise.activity import Activity
from medidiff.noise.level import NoiseEstimate
from medidiff.noise.traits import block_traits_of, traits_of
from medidiff.seen import MARGIN, Facts, Range, Seen

SIZES = {"pixel_mm": "pixels", "thickness_mm": "slice thickness", "spacing_mm": "slice spacing"}
LEVELS = {"noise_hu": ("noise", " HU"), "relative": ("relative noise", "")}
GRAIN = {
    "frequency": "frequency",
    "colour_half": "colour at 2 x 2 pixels",
    "colour_plane": "colour at 2 x 2 voxels",
    "colour_axis": "colour over 2 slices",
}
TOLD = 0.95  # a slice that gets more of its change is not worth a sentence
UNKNOWN = "how well it works there was not measured"


def judged(model: Model, y: NDArray[np.float32], cond: Condition) -> tuple[dict[str, float] | None, float]:
    """Measures of a slice (rows, columns), and the share of the change that they allow; (None, 1) without a range.

    Noise level and colours are those that the network is told.
    """
    seen = model.card.seen
    if seen is None:
        return None, 1.0
    half, quarter = (float(value) for value in cond.colour[0])
    traits = traits_of(y, NoiseEstimate(float(cond.r[0]) * model.scaling.factor, (half, quarter)))
    return traits, seen.weight(traits)


def judged_block(model: Model, activity: Activity) -> tuple[dict[str, float] | None, float]:
    """The same of a block of PET, whose slices all get one share."""
    seen = model.card.seen
    if seen is None:
        return None, 1.0
    traits = block_traits_of(activity)
    return traits, seen.weight(traits)


def held_back(sd: NDArray[np.float32], weight: float, level: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of y + w (x_hat - y): x_hat is off by `sd`, y by its noise, as if independently."""
    if weight == 1:
        return sd
    left = np.asarray((1 - weight) * level, np.float32)
    return np.hypot(np.float32(weight) * sd, left)


def header_warnings(seen: Seen | None, facts: Facts) -> tuple[str, ...]:
    """One sentence for each header that lies outside of what the model has seen."""
    if seen is None:
        return ()
    sizes = ((what, seen.range_of(name), getattr(facts, name)) for name, what in SIZES.items())
    found = [_size(what, inside, value) for what, inside, value in sizes if inside and value]
    return tuple(sentence for sentence in (*found, _kernel(seen, facts.kernel)) if sentence)


def _size(what: str, inside: Range, value: float) -> str:
    if inside.holds(value):
        return ""
    limits = f"{inside.least:.3g} to {inside.most:.3g} mm"
    return f"{what} of {value:.3g} mm, outside of the {limits} that the model has seen: {UNKNOWN}"


def _kernel(seen: Seen, kernel: str) -> str:
    if not kernel or not seen.kernels or _family(kernel) in map(_family, seen.kernels):
        return ""
    known = f"{len(seen.kernels)} kernels that the model has seen (medidiff models lists them)"
    return f"kernel {kernel}, none of the {known}: compare the result with the original"


class Slice(NamedTuple):
    """What one slice was found to be, and the share of the change that it got."""

    traits: dict[str, float]
    weight: float


class Outlier(NamedTuple):
    """A slice that lies outside by one measure: how many octaves, and the share of the change that this allows (1 where
    the measure only warns)."""

    value: float
    octaves: float
    share: float


def _family(kernel: str) -> str:
    """Siemens names end in the scan's resolution mode: B30f and B30s are one kernel."""
    return re.sub(r"^([A-Z][A-Z]?\d\d)[A-Z]$", r"\1", kernel.upper())


@dataclass(eq=False)
class Watch:
    """Looks at the slices of one case as they are restored; `is_on` tells whether the shares were applied."""

    seen: Seen | None
    is_on: bool = True
    slices: list[Slice] = field(default_factory=list)

    def add(self, traits: dict[str, float] | None, weight: float) -> None:
        if traits is not None:
            self.slices.append(Slice(traits, weight))

    def record(self) -> dict[str, float] | None:
        """Smallest and median share of the change over the slices looked at, for run.json; None where none was set."""
        if not self.slices or not self.is_on:
            return None
        weights = [one.weight for one in self.slices]
        return {"slices": len(weights), "min": round(min(weights), 4), "median": round(median(weights), 4)}

    def warnings(self) -> list[str]:
        """A sentence for the noise level, the grain and the HU of slices that lie outside."""
        if self.seen is None or not self.slices:
            return []
        sentences = (self._level(self.seen), self._grain(self.seen), self._dense(self.seen.dense_hu))
        return [sentence for sentence in sentences if sentence]

    def _level(self, seen: Seen) -> str:
        """Of CT and of PET; a scan has one of the two."""
        name = max(LEVELS, key=lambda name: len(self._outside(seen, name)))
        outside = self._outside(seen, name)
        if not outside:
            return ""
        side, (what, unit) = "above" if _is_above(outside) else "below", LEVELS[name]
        found = f"{what} of {_middle(outside):.3g}{unit}, {side} the {_limits(seen, name)}{unit}"
        return f"{found} {self._rest(outside)}"

    def _grain(self, seen: Seen) -> str:
        """The measure of colour by which most slices fail; averaging leaves more of a coarse grain."""
        name = max(GRAIN, key=lambda name: len(self._outside(seen, name)))
        outside = self._outside(seen, name)
        if not outside:
            return ""
        grain = "finer" if _is_above(outside) == (name == "frequency") else "coarser"
        found = f"noise of {grain} grain ({GRAIN[name]} {_middle(outside):.2g}) than the {_limits(seen, name)}"
        return f"{found} {self._rest(outside)}"

    def _dense(self, inside: Range | None) -> str:
        values = [one.traits["dense_hu"] for one in self.slices if "dense_hu" in one.traits]
        if inside is None or not values or max(values) <= inside.most or inside.holds(max(values)):
            return ""
        n = sum(value > inside.most for value in values)
        found = f"{max(values):.0f} HU, above the {inside.most:.0f} HU that the model has seen"
        return f"{found}, in {n} of {len(values)} slices (metal, dense contrast medium): {UNKNOWN}"

    def _outside(self, seen: Seen, name: str) -> list[Outlier]:
        values = [one.traits[name] for one in self.slices if name in one.traits]
        found = [Outlier(value, seen.octaves_beyond(name, value), seen.share(name, value)) for value in values]
        return [one for one in found if (one.share < TOLD if name in MARGIN else one.octaves)]

    def _rest(self, outside: list[Outlier]) -> str:
        share = median(outlier.share for outlier in outside)
        came = (
            f"allows {100 * share:.0f} % of the change (median)" if self.is_on else f"changed all the same, {UNKNOWN}"
        )
        told = UNKNOWN if share == 1 else came
        return f"that the model has seen, in {len(outside)} of {len(self.slices)} slices: {told}"


def _is_above(outside: list[Outlier]) -> bool:
    return median(outlier.octaves for outlier in outside) > 0


def _middle(outside: list[Outlier]) -> float:
    return median(outlier.value for outlier in outside)


def _limits(seen: Seen, name: str) -> str:
    inside = seen.range_of(name)
    return f"{inside.low:.3g} to {inside.high:.3g}" if inside else ""
