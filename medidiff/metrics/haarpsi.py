"""Haar wavelet-based perceptual similarity: Reisenhofer et al. (2018), Signal Processing: Image Communication 61:33.

Of both images, halved by 2 x 2 means and on 0 to 255, take |Haar coefficients| g_j of windows 2^j = 2, 4, 8 pixels,
horizontal and vertical, none left out. Then per orientation and pixel (eqs. 7 to 10)

    HS = mean over j = 1, 2 of (2 gx_j gy_j + C) / (gx_j^2 + gy_j^2 + C)          C = 30
    W  = max(gx_3, gy_3)
    HaarPSI = l^-1(sum l(HS) W / sum W)^2          l(x) = 1 / (1 + exp(-alpha x)), alpha = 4.2

1 for equal images. The image ends in zeros, as in the authors' code.
"""

from __future__ import annotations

import numpy as np

from medidiff.metrics.gmsd import halve_padded
from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

C = 30 / 255**2  # on [0, 1]
ALPHA = 4.2
SMALLEST = 16  # pixels a side: the largest window, on the halved image


def haarpsi(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """HaarPSI of two slices; nan for less than 16 pixels on a side or two images of zeros.

    Pixels outside the mask influence nothing.
    """
    if min(reference.shape) < SMALLEST:
        return float("nan")
    x, y = (halve_padded(values) for values in preset.pair(image, reference, mask))
    score = total = 0.0
    for axis in (0, 1):
        g_x, g_y = ([_coefficients(values, 2**j, axis) for j in (1, 2, 3)] for values in (x, y))
        similar = sum((2 * a * b + C) / (a * a + b * b + C) for a, b in zip(g_x[:2], g_y[:2], strict=True)) / 2
        weight = np.maximum(g_x[2], g_y[2])
        score += float((weight / (1 + np.exp(-ALPHA * similar))).sum())
        total += float(weight.sum())
    return float(np.log(score / (total - score)) / ALPHA) ** 2 if total > 0 else float("nan")


def _coefficients(values: Double, size: int, axis: int) -> Double:
    """|Haar coefficients| of windows of `size` pixels, for changes along `axis`."""
    half = size // 2
    lines = _sums(np.pad(values, (half - 1, half)), size, 1 - axis)
    halves = _sums(lines, half, axis)
    change = halves[:-half] - halves[half:] if axis == 0 else halves[:, :-half] - halves[:, half:]
    return np.asarray(np.abs(change) / size)


def _sums(values: Double, size: int, axis: int) -> Double:
    """Sums of `size` neighbours along an axis, where they exist: twice as many each time, up to a power of two."""
    run = 1
    while run < size:
        values = values[:-run] + values[run:] if axis == 0 else values[:, :-run] + values[:, run:]
        run *= 2
    return values
