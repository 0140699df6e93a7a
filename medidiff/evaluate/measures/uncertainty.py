"""Coverage and sharpness of the deviation that a method claims.

The claim is about the truth. Where that is known (`View.truth`, or a reference without noise), figures are named
"coverage", "calibration error" and so on. A noisy reference strays from the truth by its own noise, which no claim
about the truth can cover: what is then measured is named "... of reference", lies below the nominal level for a method
that is right about the truth, and says how well the claim predicts *another scan*. The sharpness needs neither.

In CT the region "patient" is everything but air, by the truth or the smoothed reference: tenths and curves are taken
there, for air around the patient is half of an image and of no interest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.evaluate.measure import Factory, Function, Value
from medidiff.evaluate.view import Context, View
from medidiff.metrics.tissue import SMOOTHING, TISSUES_HU
from medidiff.metrics.uncertainty import LEVELS, NOMINAL, Coverage, Reliability
from medidiff.results.rows import WHOLE

PATIENT = "patient"


class Uncertainty:
    """Says nothing for a method that claims no deviation."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.regions: dict[str, Coverage] = {}
        self.main = PATIENT if context.unit == "HU" else WHOLE  # the region of tenths and curves
        self.reliability = Reliability()
        self.of_truth = context.reference_noise == "none"

    def add(self, view: View) -> None:
        if view.deviation is None:
            return
        self.of_truth |= view.truth is not None
        target = view.reference if view.truth is None else view.truth
        error = view.candidate - target
        for name, mask in self._regions(view):
            if mask.any():
                self.regions.setdefault(name, Coverage()).add(error[mask], view.deviation[mask])
                if name == self.main:
                    self.reliability.add(error[mask], view.deviation[mask])

    def _regions(self, view: View) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        yield WHOLE, view.measured
        if self.context.unit == "HU":
            yield PATIENT, view.measured & _not_air(view)
            yield from view.tissues.items()
        yield from ((name, mask & view.measured) for name, mask in view.regions.items())

    @property
    def _suffix(self) -> str:
        return "" if self.of_truth else " of reference"

    def values(self) -> Iterable[Value]:
        for region, seen in self.regions.items():
            yield Value(f"coverage{self._suffix}", 100 * seen.share, "%", region=region)
            yield Value("sharpness", seen.sharpness, self.context.unit, region=region)
        if not self.reliability.pixels:
            return
        covered = 100 * self.reliability.tenths().coverage
        for k, share in enumerate(covered, 1):
            yield Value(f"coverage{self._suffix}", float(share), "%", region=f"deviation tenth {k}")
        worst = covered[np.argmax(np.abs(covered - 100 * NOMINAL))]
        yield Value(f"worst tenth's coverage{self._suffix}", float(worst), "%", region=self.main)
        error = 100 * self.reliability.calibration_error()
        yield Value(f"calibration error{self._suffix}", error, "%", region=self.main)

    def curves(self) -> Iterable[Function]:
        if not self.reliability.pixels:
            return
        tenths, unit = self.reliability.tenths(), self.context.unit
        for name, x, y, x_unit, y_unit in (
            ("calibration", 100 * LEVELS, 100 * self.reliability.calibration(), "%", "%"),
            ("coverage by deviation", tenths.deviation, 100 * tenths.coverage, unit, "%"),
            ("error by deviation", tenths.deviation, tenths.rmse, unit, unit),
        ):
            yield Function(name + self._suffix, tuple(map(float, x)), tuple(map(float, y)), x_unit, y_unit, self.main)


def _not_air(view: View) -> NDArray[np.bool_]:
    seen = gaussian_filter(view.reference, SMOOTHING) if view.truth is None else view.truth
    return np.asarray(seen >= TISSUES_HU["air"][1])


MEASURES: dict[str, Factory] = {"uncertainty": Uncertainty}
