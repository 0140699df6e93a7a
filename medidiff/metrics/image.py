"""Image metrics with a declared intensity range.

A preset states the window [low, high] in HU; both images are clipped to it and mapped to [0, 1], so the data range
is 1 by declaration and never the maximum of an image. `hu` clips nothing and declares the 12-bit CT range.

    RMSE = sqrt(mean((x - y)^2)) * range      PSNR = -10 log10(mean((x - y)^2))      both on the mapped images
    SSIM = mean over pixels of Wang et al. (2004) eq. 13: Gaussian weights, sigma 1.5 pixels, 11 x 11, K1 0.01, K2 0.03

`ldct-benchmark` windows: Eulig et al. (2024), Medical Physics 51:8776 (chest -600/1500, abdomen 50/400, neuro 40/80).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Preset:
    """An intensity range in HU; values outside it are clipped before comparison when `clip` is set."""

    low: float
    high: float
    clip: bool = True

    @property
    def range(self) -> float:
        return self.high - self.low

    def map(self, hu: Array) -> NDArray[np.float64]:
        """Values in HU to the unit of this range: 0 at `low`, 1 at `high`."""
        values = np.asarray(hu, np.float64)
        return ((np.clip(values, self.low, self.high) if self.clip else values) - self.low) / self.range


def window(centre: float, width: float) -> Preset:
    """The preset of a display window."""
    return Preset(centre - width / 2, centre + width / 2)


PRESETS = {
    "hu": Preset(-1024, 3071, clip=False),
    "abdomen": Preset(-160, 240),
    "lung": window(-600, 1500),
    "bone": window(400, 1800),
    "ldct-benchmark-chest": window(-600, 1500),
    "ldct-benchmark-abdomen": window(50, 400),
    "ldct-benchmark-neuro": window(40, 80),
}


def mse(image: Array, reference: Array, preset: Preset, mask: Mask | None = None) -> float:
    """Mean squared error on [0, 1] over all pixels, or those where `mask` is True; any shape."""
    squared = (preset.map(image) - preset.map(reference)) ** 2
    return float(np.mean(squared if mask is None else squared[mask]))


def rmse(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Root mean squared error in HU; any shape."""
    return float(np.sqrt(mse(image, reference, preset, mask))) * preset.range


def psnr(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB for the declared range; infinite for equal images; any shape."""
    error = mse(image, reference, preset, mask)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Structural similarity of two slices (rows, columns), at least 11 pixels on a side.

    Without a mask the mean leaves out the border of 5 pixels, as the authors' code does.
    """
    value, similarity = structural_similarity(
        preset.map(image), preset.map(reference), data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, K1=0.01, K2=0.03, full=True,
    )  # fmt: skip
    return float(value if mask is None else similarity[mask].mean())


def hu_bias(image: Array, reference: Array, mask: Mask | None = None) -> float:
    """Mean of `image - reference` in HU, over all pixels or those where `mask` is True; any shape."""
    difference = np.asarray(image, np.float64) - np.asarray(reference, np.float64)
    return float(np.mean(difference if mask is None else difference[mask]))
