"""How noisy an image is, estimated from the image itself: one level and two colours.

In every window of WINDOW x WINDOW pixels a plane is fitted and removed; what is left is noise, or structure. Of
all windows in soft tissue (or in the body, or anywhere, when there is no soft tissue) the 20th percentile of
the standard deviations is the level: low enough to avoid vessels and edges, high enough not to be chance.
The same estimate on the image averaged over 2 x 2 and 4 x 4 blocks gives the colour, log2 of the ratio of
levels: -1 and -2 for white noise, near 0 for noise of a smooth kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

WINDOW = 9
STRIDE = 2
PERCENTILE = 20.0
FLOOR_HU = 0.5  # nothing measured is quieter; keeps ratios finite on phantoms without noise
SOFT_TISSUE_HU = (-150.0, 200.0)
BODY_HU = (-950.0, 1500.0)


@dataclass(frozen=True)
class NoiseEstimate:
    """level in the image's unit (standard deviation); colour = log2 ratios after 2x and 4x averaging."""

    level: float
    colour: tuple[float, float]


def local_deviation(image: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standard deviation about a fitted plane, and mean, of every window; (rows, columns) / STRIDE each."""
    rows, columns = image.shape
    u = image.astype(np.float32) - np.float32(np.median(image))
    r = (np.arange(rows, dtype=np.float32) - rows / 2)[:, None]
    c = (np.arange(columns, dtype=np.float32) - columns / 2)[None, :]

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return uniform_filter(values, WINDOW, mode="nearest")[::STRIDE, ::STRIDE]

    m = mean(u)
    slope_r = mean(u * r) - m * r[::STRIDE]  # covariance with the row coordinate
    slope_c = mean(u * c) - m * c[:, ::STRIDE]
    spread = (WINDOW**2 - 1) / 12.0  # variance of the coordinate within a window
    variance = mean(u * u) - m * m - (slope_r**2 + slope_c**2) / spread
    n = WINDOW**2
    deviation = np.sqrt(np.maximum(variance, 0) * n / (n - 3))  # three parameters were fitted
    edge = WINDOW // (2 * STRIDE) + 1
    inner = (slice(edge, -edge), slice(edge, -edge))
    return deviation[inner], m[inner] + np.float32(np.median(image))


def _level(image: NDArray[np.floating]) -> float:
    if min(image.shape) <= 3 * WINDOW:
        return FLOOR_HU
    deviation, mean = local_deviation(image)
    for low, high in (SOFT_TISSUE_HU, BODY_HU, (-np.inf, np.inf)):
        inside = deviation[(mean > low) & (mean < high)]
        inside = inside[inside > 0]  # constant regions are padding or filled air, not measurements
        if inside.size >= max(0.01 * deviation.size, 30):
            return max(float(np.percentile(inside, PERCENTILE)), FLOOR_HU)
    return FLOOR_HU


def block_mean(image: NDArray[np.floating], factor: int) -> NDArray[np.floating]:
    """Average over factor x factor blocks; incomplete blocks at the end are dropped."""
    rows, columns = (n // factor * factor for n in image.shape)
    return image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor).mean(axis=(1, 3))


def noise_estimate(image: NDArray[np.floating]) -> NoiseEstimate:
    """Level and colour of the noise of one slice, (rows, columns) in HU."""
    level, half, quarter = _level(image), _level(block_mean(image, 2)), _level(block_mean(image, 4))
    return NoiseEstimate(level, (float(np.log2(half / level)), float(np.log2(quarter / level))))


def noise_level(image: NDArray[np.floating]) -> float:
    """Standard deviation of the noise of one slice, (rows, columns) in HU."""
    return _level(image)
