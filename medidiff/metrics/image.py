"""How far one image is from another, in a declared intensity range (see `preset`).

    RMSE  = sqrt(mean((x - y)^2)) * range       in the unit of the image
    NRMSE = RMSE / range                        the range is the declared one: no image decides its own scale
    PSNR  = -10 log10(mean((x - y)^2))          both on the mapped images
    bias  = mean(x - y)                         in the unit of the image, clipped by nothing

Metrics that look at neighbourhoods: `ssim` (SSIM, MS-SSIM), `vif`, `gmsd`, `haarpsi`, all of one signature.
"""

from __future__ import annotations

import numpy as np

from medidiff.metrics.preset import PRESETS, Array, Mask, Preset, window
from medidiff.metrics.ssim import ssim

__all__ = ["PRESETS", "Array", "Mask", "Preset", "hu_bias", "mse", "nrmse", "psnr", "rmse", "ssim", "window"]


def mse(image: Array, reference: Array, preset: Preset, mask: Mask | None = None) -> float:
    """Mean squared error on [0, 1] over all pixels, or those where `mask` is True; any shape."""
    squared = (preset.map(image) - preset.map(reference)) ** 2
    return float(np.mean(squared if mask is None else squared[mask]))


def rmse(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Root mean squared error in HU; any shape."""
    return float(np.sqrt(mse(image, reference, preset.error_range, mask))) * preset.error_range.range


def nrmse(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """RMSE as a fraction of the declared range; any shape."""
    return rmse(image, reference, preset, mask) / preset.error_range.range


def psnr(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB for the declared range; infinite for equal images; any shape."""
    return decibel(mse(image, reference, preset, mask))


def decibel(error: float) -> float:
    """PSNR of a mean squared error on [0, 1]."""
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def hu_bias(image: Array, reference: Array, mask: Mask | None = None) -> float:
    """Mean of `image - reference` in HU, over all pixels or those where `mask` is True; any shape."""
    difference = np.asarray(image, np.float64) - np.asarray(reference, np.float64)
    return float(np.mean(difference if mask is None else difference[mask]))
