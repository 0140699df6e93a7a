"""What a PSNR against a *noisy* reference must be read beside.

With `a` the dose fraction, `t` the truth, `r` the reference and `y` the scan, all noise of one colour:

    "shared"       y = r + n, the noise inserted into the full dose: var(y - r) = (1 - a) / a var(r - t)
    "independent"  y and r are two scans of one object:               var(y - t) = var(r - t) / a

The mean squared error of an estimate against r, relative to the input's:

                     the truth itself      the best conceivable estimate
    shared           a / (1 - a)           a             (it is t + a (y - t): part of y's noise *is* r's)
    independent      a / (1 + a)           a / (1 + a)   (it is t)

so that the truth gains 10 log10(1/a - 1) dB (4.77 at a quarter, 0 at a half) or 10 log10(1 + 1/a), and nothing can gain
more than 10 log10(1/a) or 10 log10(1 + 1/a). The gains hold exactly where the range clips nothing, and within about
a tenth of a dB where only air and bone are clipped (clipping takes from both errors alike).

`best blend` is the candidate mixed with its input, x_hat + alpha (y - x_hat) with the alpha in [0, 1] of the least
squared error over the volume: what a candidate gains by *keeping* noise that the reference also has. The squared error
is a parabola in alpha; with a clipped range it is one only piecewise, so it is measured at GRID and a parabola laid
through the three values around the best: exact without clipping.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.preset import Mask, Preset

Array = NDArray[np.floating]
Noise = Literal["none", "shared", "independent"]

GRID = np.linspace(0, 1, 11)


def truth_gain_db(dose: float, noise: Noise) -> float:
    """PSNR of the noise-free truth less that of the input, both against a noisy reference; `dose` in (0, 1)."""
    return {"shared": _db(1 / dose - 1), "independent": _db(1 + 1 / dose), "none": float("inf")}[noise]


def limit_gain_db(dose: float, noise: Noise) -> float:
    """PSNR of the best conceivable estimate less that of the input, both against a noisy reference."""
    return {"shared": _db(1 / dose), "independent": _db(1 + 1 / dose), "none": float("inf")}[noise]


def _db(ratio: float) -> float:
    return float(10 * np.log10(ratio)) if ratio > 0 else -float("inf")


def mean_psnr(errors: Array) -> float:
    """Mean over slices of the PSNR of their mean squared errors (slices,) on [0, 1]; infinite if one is 0."""
    with np.errstate(divide="ignore"):
        return float(np.mean(-10 * np.log10(errors)))


def blend_errors(candidate: Array, scan: Array, reference: Array, preset: Preset, mask: Mask | None) -> Array:
    """(GRID,) mean squared error on [0, 1] of candidate + alpha (scan - candidate), any shape."""
    x, y, r = (image if mask is None else image[mask] for image in (candidate, scan, reference))
    low, high = (preset.low, preset.high) if preset.clip else (-np.inf, np.inf)
    images = [np.ascontiguousarray(image, np.float32).ravel() for image in (x, y, r)]
    return _blend_errors(*images, np.float64(low), np.float64(high), GRID.astype(np.float32)) / preset.range**2


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _blend_errors(x: Array, y: Array, r: Array, low: float, high: float, grid: Array) -> Array:
    """Mean squared differences of the clipped values."""
    out = np.zeros(grid.size)
    for k in range(grid.size):
        alpha, total = grid[k], 0.0
        for j in range(x.size):
            blend = np.float64(x[j] + alpha * (y[j] - x[j]))
            difference = min(max(blend, low), high) - min(max(np.float64(r[j]), low), high)
            total += difference * difference
        out[k] = total / x.size
    return out


def best_blend(errors: Array, weights: Array) -> tuple[float, float]:
    """(alpha, mean PSNR over slices) of the blend of least error over the volume.

    errors (slices, GRID) mean squared errors; weights (slices,) pixels measured in each.
    """
    pooled = weights @ errors
    if np.ptp(pooled) <= 1e-12 * pooled.max():  # the candidate is its input, but for rounding of the sums
        return 0.0, mean_psnr(errors[:, 0])
    k = int(np.clip(np.argmin(pooled), 1, GRID.size - 2))
    nodes = GRID[k - 1 : k + 2]
    c2, c1, _ = np.polyfit(nodes, pooled[k - 1 : k + 2] / pooled.max(), 2)
    alpha = float(np.clip(-c1 / (2 * c2), 0, 1)) if c2 > 0 else float(GRID[np.argmin(pooled)])
    lagrange = [np.prod([(alpha - b) / (a - b) for b in nodes if b != a]) for a in nodes]
    return alpha, mean_psnr(np.maximum(errors[:, k - 1 : k + 2] @ lagrange, 0))
