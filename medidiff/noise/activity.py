"""The noise of a PET volume, voxel by voxel: a share of the local activity.

In images reconstructed by EM the standard deviation is about proportional to the mean, whatever the counts (Barrett,
Wilson & Tsui 1994, Phys Med Biol 39:833), so one number a slice and the activity around a voxel say how noisy it is:

    S = G y                     local activity, a Gaussian of REACH_MM in three dimensions
    e = y - G2 y                what varies within a slice, the Gaussian of REACH_MM taken out
    c = 25th percentile over the body of sqrt(G2 e^2) / S       relative noise of a slice, smoothed along z
    r = c max(S, FLOOR_SUV)                                     SUV

A network that works on y / r sees noise of one size in liver, lung and a hot lesion at every count level, and what it
gives is E[x | y] in SUV itself: unlike a logarithm, a division by something known bends no mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, median_filter, uniform_filter

REACH_MM = 10.0
FLOOR_SUV = 0.1
BODY_SUV = 0.2
PERCENTILE = 25.0
LEAST, MOST = 0.005, 2.0  # relative noise that a network is told
FEWEST = 50  # voxels of a slice that are body; below it its neighbours decide
USUAL_MM = 4.0
HU_STEP = 100.0  # differences of soft tissue are told apart, bone and air are compressed
FACTS = 4  # relative noise, voxel size in and across the plane, whether there is a guide

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Activity:
    """The noise of a block of slices.

    level     (slices, rows, columns) standard deviation, SUV
    relative  c, mean over the slices, at most MOST
    colour    log2 of what is left of it after averaging 2 x 2 voxels in the plane, and 2 slices
    found     c, mean over the slices, however large: a scan may be noisier than a network can be told
    """

    level: Array
    relative: float
    colour: tuple[float, float]
    found: float

    @property
    def map(self) -> Array:
        """Half of log2 of the local activity in SUV: what a network is told that works in units of `level`."""
        return np.asarray(np.log2(self.level / np.float32(self.relative)) / 2, np.float32)


def activity_of(volume: Array, spacing_mm: tuple[float, float, float]) -> Activity:
    """The noise of (slices, rows, columns) in SUV; spacing is that of slices, rows and columns, 0 for one slice."""
    sigma = [REACH_MM / mm if mm else 0.0 for mm in spacing_mm]
    mean = np.maximum(gaussian_filter(volume, sigma, truncate=3.0), FLOOR_SUV)
    in_plane = (0.0, *sigma[1:])
    rest = volume - gaussian_filter(volume, in_plane, truncate=3.0)
    found = {
        "level": rest,
        "plane": uniform_filter(rest, (1, 2, 2)),
        "axis": uniform_filter(rest, (2, 1, 1)) if len(rest) > 1 else rest,
    }
    measured = {name: _relative(one, mean, in_plane) for name, one in found.items()}
    relative = {name: np.minimum(one, MOST) for name, one in measured.items()}
    c, unlimited = _along_z(relative["level"]), _along_z(measured["level"])
    colour = [float(np.median(np.log2(relative[name] / relative["level"]))) for name in ("plane", "axis")]
    level = (c[:, None, None] * mean).astype(np.float32)
    return Activity(level, float(c.mean()), (colour[0], colour[1]), float(unlimited.mean()))


def _relative(rest: Array, mean: Array, in_plane: tuple[float, ...]) -> NDArray[np.float64]:
    """(slices,) relative noise, at least LEAST; of a slice without a body that of all the others."""
    ratio = np.sqrt(np.maximum(gaussian_filter(rest * rest, in_plane, truncate=3.0), 0)) / mean
    body = mean > BODY_SUV
    counts = body.reshape(len(body), -1).sum(1)
    everywhere = float(np.percentile(ratio[body], PERCENTILE)) if body.any() else LEAST
    found = [
        float(np.percentile(r[b], PERCENTILE)) if n >= FEWEST else everywhere
        for r, b, n in zip(ratio, body, counts, strict=True)
    ]
    return np.maximum(found, LEAST)


def _along_z(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the jumps that single slices make: no seam may come from them."""
    steady = median_filter(relative, size=min(5, len(relative)), mode="nearest")
    return np.asarray(gaussian_filter1d(steady, 2.0, mode="nearest", truncate=3.0))


def facts_of(activity: Activity, spacing_mm: tuple[float, float, float], *, has_guide: bool) -> Array:
    """(FACTS,) what a network is told of a block beside its voxels, each about -2 to 2."""
    across = spacing_mm[0] or USUAL_MM
    sizes = [np.log2(mm / USUAL_MM) for mm in (spacing_mm[1], across)]
    return np.array([np.log2(activity.relative) / 2 + 1.5, *sizes, float(has_guide)], np.float32)


def guide_of(hu: Array) -> Array:
    """A CT on the grid of the PET, HU -> what a network sees: linear near water, a logarithm far from it."""
    return np.arcsinh(hu / np.float32(HU_STEP)).astype(np.float32)
