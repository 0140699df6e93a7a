"""Does a standard deviation that was claimed cover the error that was made?

An interval of nominal level p is `estimate +- z_p sd`, z_p = Phi^-1((1 + p) / 2): 1.645 for 90 %. Its *coverage* is the
share of pixels whose error lies within; the *calibration curve* is coverage against p; *sharpness* is the mean width
of the 90 % interval, the narrower the better at equal coverage (Gneiting, Balabdaoui & Raftery 2007, J R Stat Soc B
69:243). One width for all pixels can be right overall and wrong everywhere, so coverage is also read per tenth of the
claimed deviation.

Errors e with standard deviation s, claimed as s', are covered with `2 Phi(z_p s' / s) - 1`.

`Coverage` and `Reliability` are shown any number of pixels and keep sums only: the claimed deviations go into
logarithmic bins of 1.1 %, so tenths are exact to that; a bin on the boundary of two tenths is shared between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.floating]

NOMINAL = 0.9
Z90 = float(norm.ppf((1 + NOMINAL) / 2))
LEVELS = np.array([*np.arange(5, 100, 5), 99]) / 100
TENTHS = 10
OCTAVES = (-20, 24)  # deviations from 1e-6 (SUV) to 1.7e7 (Bq/mL)
BINS_AN_OCTAVE = 64
BINS = (OCTAVES[1] - OCTAVES[0]) * BINS_AN_OCTAVE


def coverage(error: Array, deviation: Array, level: float = NOMINAL) -> float:
    """Share of pixels, any shape, whose error lies within the interval of nominal `level`."""
    return float(np.mean(np.abs(error) <= norm.ppf((1 + level) / 2) * deviation))


@dataclass
class Coverage:
    """Pixels seen so far: their number, those inside the nominal 90 % interval, the sum of claimed deviations."""

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def add(self, error: Array, deviation: Array) -> None:
        """Take pixels into account; `error` = estimate - truth and the claimed `deviation` have one shape."""
        covered = np.count_nonzero(np.abs(error) <= Z90 * deviation)
        self.sums += np.array([error.size, covered, deviation.sum(dtype=np.float64)])

    @property
    def share(self) -> float:
        """Of the pixels, inside the interval."""
        return float(self.sums[1] / self.sums[0])

    @property
    def sharpness(self) -> float:
        """Mean width of the interval, in the unit of the image."""
        return float(2 * Z90 * self.sums[2] / self.sums[0])


@dataclass(frozen=True)
class Tenths:
    """Pixels in ten equal parts by claimed deviation, smallest first; each (10,)."""

    deviation: NDArray[np.float64]
    rmse: NDArray[np.float64]
    coverage: NDArray[np.float64]


@dataclass
class Reliability:
    """Sums over the pixels seen so far.

    sums    (BINS, 4)     per claimed deviation: pixels, covered at 90 %, sum of deviations, sum of squared errors
    within  (LEVELS + 1,) pixels per interval: inside LEVELS[0], between LEVELS[0] and LEVELS[1], ..., outside all
    """

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((BINS, 4)))
    within: NDArray[np.float64] = field(default_factory=lambda: np.zeros(LEVELS.size + 1))

    def add(self, error: Array, deviation: Array) -> None:
        """Take pixels into account, as `Coverage.add`."""
        e, sd = np.abs(error, dtype=np.float64).ravel(), np.asarray(deviation, np.float64).ravel()
        with np.errstate(divide="ignore", invalid="ignore"):  # a claim of 0 covers an error of 0 only
            z = np.where(e == 0, 0.0, e / sd)
            octave = np.log2(sd)
        place = np.clip((octave - OCTAVES[0]) * BINS_AN_OCTAVE, 0, BINS - 1).astype(np.intp)
        for column, weights in enumerate((None, z <= Z90, sd, e * e)):
            self.sums[:, column] += np.bincount(place, weights, BINS)
        level = np.searchsorted(norm.ppf((1 + LEVELS) / 2), z)
        self.within += np.bincount(level, minlength=LEVELS.size + 1)

    @property
    def pixels(self) -> int:
        return int(self.sums[:, 0].sum())

    def calibration(self) -> NDArray[np.float64]:
        """(LEVELS,) coverage of the intervals of those nominal levels."""
        return np.cumsum(self.within)[:-1] / self.pixels

    def calibration_error(self) -> float:
        """Mean distance of the calibration curve from the diagonal."""
        return float(np.abs(self.calibration() - LEVELS).mean())

    def tenths(self) -> Tenths:
        """Means per tenth of claimed deviation."""
        total = np.vstack([np.zeros(4), np.cumsum(self.sums, axis=0)])
        bounds = np.linspace(0, self.pixels, TENTHS + 1)
        covered, deviation, squared = (
            np.diff(np.interp(bounds, total[:, 0], total[:, column])) / (self.pixels / TENTHS) for column in (1, 2, 3)
        )
        return Tenths(deviation, np.sqrt(squared), covered)
