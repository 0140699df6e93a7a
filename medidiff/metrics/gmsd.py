"""Gradient magnitude similarity deviation: Xue et al. (2014), IEEE TIP 23:684.

    m = |Prewitt gradient| of the image halved by 2 x 2 means      GMS = (2 mx my + c) / (mx^2 + my^2 + c)
    GMSD = standard deviation of GMS over pixels                   c = 170 for images on 0 to 255

0 for equal images; the larger, the more unevenly structure is lost. The image ends in zeros, as in the authors' code.
"""

from __future__ import annotations

import numpy as np

from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

C = 170 / 255**2  # on [0, 1]


def gmsd(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Gradient magnitude similarity deviation of two slices of any size; pixels outside the mask influence nothing."""
    x, y = (_gradient(halve_padded(values)) for values in preset.pair(image, reference, mask))
    similarity = (2 * x * y + C) / (x * x + y * y + C)
    chosen = similarity if mask is None else similarity[halve_padded(~mask) == 0]
    return float(chosen.std()) if chosen.size else float("nan")


def halve_padded(values: Array | Mask) -> Double:
    """The mean of every 2 x 2 pixels; an odd last row or column is met by zeros."""
    even = np.pad(np.asarray(values, np.float64), [(0, n % 2) for n in values.shape])
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def _gradient(values: Double) -> Double:
    """Magnitude of the Prewitt gradient."""
    p = np.pad(values, 1)
    rows, columns = p[:-2] + p[1:-1] + p[2:], p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    down, across = columns[2:] - columns[:-2], rows[:, 2:] - rows[:, :-2]
    return np.asarray(np.sqrt(down * down + across * across) / 3)
