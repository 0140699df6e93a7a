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

from dataclasses import dataclass

import numpy as np

from medidiff.metrics.moments import gaussian, moments
from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 11 * 2 ** (len(SCALE_WEIGHTS) - 1)  # pixels a side, so that the window fits at the last scale


WINDOWS = {"gaussian": (gaussian(11, 1.5), 1.0), "flat": (np.full(7, 1 / 7), 49 / 48)}  # and degrees of freedom


@dataclass(frozen=True, eq=False)
class Structure:
    """What both indices begin with: two mapped slices, and their terms where the window fits.

    mask   pixels that count, None where all do
    """

    x: Double
    y: Double
    mask: Mask | None
    luminance: Double
    contrast: Double

    @classmethod
    def of(
        cls, image: Array, reference: Array, preset: Preset, mask: Mask | None = None, window: str = "gaussian"
    ) -> Structure:
        x, y = preset.pair(image, reference, mask)
        return cls(x, y, mask, *_components(x, y, *WINDOWS[window]))

    def ssim(self) -> float:
        return _mean(self.luminance * self.contrast, self.mask)

    def ms_ssim(self) -> float:
        """With the Gaussian window."""
        x, y, mask, luminance, contrast = self.x, self.y, self.mask, self.luminance, self.contrast
        product = 1.0
        for weight in SCALE_WEIGHTS[:-1]:
            product *= max(_mean(contrast, mask), 0.0) ** weight
            x, y, mask = halve(x), halve(y), None if mask is None else halve(mask) == 1
            luminance, contrast = _components(x, y, *WINDOWS["gaussian"])
        return float(product * max(_mean(luminance * contrast, mask), 0.0) ** SCALE_WEIGHTS[-1])


def ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Structural similarity of two slices (rows, columns); nan for slices smaller than the window.

    Pixels outside the mask influence nothing.
    """
    window = preset.conventions.ssim_window
    if not fits(reference, window):
        return float("nan")
    return Structure.of(image, reference, preset, mask, window).ssim()


def ms_ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Multi-scale structural similarity of two slices; nan for slices of less than 176 pixels on a side."""
    if min(reference.shape) < SMALLEST:
        return float("nan")
    return Structure.of(image, reference, preset, mask).ms_ssim()


def fits(image: Array, window: str) -> bool:
    """Whether a slice is as large as the window."""
    return min(image.shape) >= WINDOWS[window][0].size


def halve(values: Array | Mask) -> Double:
    """The mean of every 2 x 2 pixels; a last odd row or column is left out."""
    rows, columns = (n // 2 * 2 for n in values.shape)
    even = np.asarray(values[:rows, :columns], np.float64)
    return (even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]) / 4


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
