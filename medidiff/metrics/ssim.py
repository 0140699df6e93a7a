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

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 11 * 2 ** (len(SCALE_WEIGHTS) - 1)  # pixels a side, so that the window fits at the last scale


class Window(NamedTuple):
    """A window of 2 `border` + 1 pixels a side; `freedom` corrects variances for their degrees of freedom."""

    border: int
    sigma: float | None
    freedom: float = 1.0

    def mean(self, values: Double) -> Double:
        if self.sigma is None:
            return uniform_filter(values, 2 * self.border + 1)
        return gaussian_filter(values, self.sigma, radius=self.border)

    def crop(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[self.border : -self.border, self.border : -self.border]


WINDOWS = {"gaussian": Window(5, 1.5), "flat": Window(3, None, 49 / 48)}


def ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Structural similarity of two slices (rows, columns); nan for slices smaller than the window.

    Pixels outside the mask influence nothing.
    """
    form = WINDOWS[preset.conventions.ssim_window]
    if min(reference.shape) <= 2 * form.border:
        return float("nan")
    luminance, contrast = _components(*preset.pair(image, reference, mask), form)
    return _mean(luminance * contrast, None if mask is None else form.crop(mask))


def ms_ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Multi-scale structural similarity of two slices; nan for slices of less than 176 pixels on a side."""
    if min(reference.shape) < SMALLEST:
        return float("nan")
    form = WINDOWS["gaussian"]
    x, y = preset.pair(image, reference, mask)
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, 1):
        luminance, contrast = _components(x, y, form)
        similarity = luminance * contrast if scale == len(SCALE_WEIGHTS) else contrast
        product *= max(_mean(similarity, None if mask is None else form.crop(mask)), 0.0) ** weight
        x, y, mask = halve(x), halve(y), None if mask is None else halve(mask) == 1
    return product


def halve(values: Array | Mask) -> Double:
    """The mean of every 2 x 2 pixels; a last odd row or column is left out."""
    rows, columns = (n // 2 * 2 for n in values.shape)
    blocks = np.asarray(values[:rows, :columns], np.float64).reshape(rows // 2, 2, columns // 2, 2)
    return blocks.mean((1, 3))


def _components(x: Double, y: Double, form: Window) -> tuple[Double, Double]:
    """Luminance and contrast-structure terms where the window fits."""
    mx, my = form.crop(form.mean(x)), form.crop(form.mean(y))
    powers, product = mx * mx + my * my, mx * my
    variances = form.freedom * (form.crop(form.mean(x * x + y * y)) - powers)
    covariance = form.freedom * (form.crop(form.mean(x * y)) - product)
    return (2 * product + C1) / (powers + C1), (2 * covariance + C2) / (variances + C2)


def _mean(values: Double, mask: Mask | None) -> float:
    chosen = values if mask is None else values[mask]
    return float(chosen.mean()) if chosen.size else float("nan")
