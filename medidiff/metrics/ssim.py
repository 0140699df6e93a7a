"""Structural similarity: Wang et al. (2004), IEEE TIP 13:600, and over scales Wang, Simoncelli and Bovik (2003).

    luminance   l  = (2 mx my + c1) / (mx^2 + my^2 + c1)      c1 = 0.01^2, c2 = 0.03^2 for images on [0, 1]
    contrast    cs = (2 cov + c2) / (vx + vy + c2)
    SSIM    = mean over pixels of l cs                        eq. 13
    MS-SSIM = prod over scales of mean(cs)^w, the last of mean(l cs)^w; each scale is the mean of 2 x 2 of the last,
              a negative mean counts as 0

Means, variances and covariance are taken in a window around each pixel, and pixels whose window leaves the image do
not count, as in the authors' code. The window is a Gaussian of sigma 1.5 pixels on 11 x 11, or what the preset says.
"""

from __future__ import annotations

import numpy as np

from medidiff.metrics.moments import gaussian, moments
from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 11 * 2 ** (len(SCALE_WEIGHTS) - 1)  # pixels a side, so that the window fits at the last scale


WINDOWS = {"gaussian": (gaussian(11, 1.5), 1.0), "flat": (np.full(7, 1 / 7), 49 / 48)}  # and degrees of freedom


def ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Structural similarity of two slices (rows, columns); nan for slices smaller than the window.

    Pixels outside the mask influence nothing.
    """
    weights, freedom = WINDOWS[preset.conventions.ssim_window]
    if min(reference.shape) < weights.size:
        return float("nan")
    luminance, contrast = _components(*preset.pair(image, reference, mask), weights, freedom)
    luminance *= contrast
    return _mean(luminance, mask)


def ms_ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Multi-scale structural similarity of two slices; nan for slices of less than 176 pixels on a side."""
    if min(reference.shape) < SMALLEST:
        return float("nan")
    x, y = preset.pair(image, reference, mask)
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, 1):
        luminance, contrast = _components(x, y, *WINDOWS["gaussian"])
        similarity = luminance * contrast if scale == len(SCALE_WEIGHTS) else contrast
        product *= max(_mean(similarity, mask), 0.0) ** weight
        x, y, mask = halve(x), halve(y), None if mask is None else halve(mask) == 1
    return product


def halve(values: Array | Mask) -> Double:
    """The mean of every 2 x 2 pixels; a last odd row or column is left out."""
    rows, columns = (n // 2 * 2 for n in values.shape)
    blocks = np.asarray(values[:rows, :columns], np.float64).reshape(rows // 2, 2, columns // 2, 2)
    return blocks.mean((1, 3))


def _components(x: Double, y: Double, weights: Double, freedom: float) -> tuple[Double, Double]:
    """Luminance and contrast-structure terms where the window fits."""
    mx, my, vx, vy, covariance = moments(x, y, weights, freedom)
    return (2 * mx * my + C1) / (mx * mx + my * my + C1), (2 * covariance + C2) / (vx + vy + C2)


def _mean(values: Double, mask: Mask | None) -> float:
    """Mean over the pixels of the mask, of which `values` lacks the border that the window took."""
    if mask is not None:
        border = (mask.shape[0] - values.shape[0]) // 2
        values = values[mask[border : mask.shape[0] - border, border : mask.shape[1] - border]]
    return float(values.mean()) if values.size else float("nan")
