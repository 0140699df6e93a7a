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
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

WINDOW = 9
STRIDE = 2
PERCENTILE = 20.0
MAP_BLOCK = 16  # windows on a side, 32 pixels
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
    middle = np.float32(np.median(image))
    u = image.astype(np.float32) - middle
    r = (np.arange(rows, dtype=np.float32) - rows / 2)[:, None]
    c = (np.arange(columns, dtype=np.float32) - columns / 2)[None, :]

    m = _window_mean(u)
    slope_r = _window_mean(u * r) - m * r[::STRIDE]  # covariance with the row coordinate
    slope_c = _window_mean(u * c) - m * c[:, ::STRIDE]
    spread = (WINDOW**2 - 1) / 12.0  # variance of the coordinate within a window
    variance = _window_mean(u * u) - m * m - (slope_r**2 + slope_c**2) / spread
    n = WINDOW**2
    deviation = np.sqrt(np.maximum(variance, 0) * n / (n - 3))  # three parameters were fitted
    edge = WINDOW // (2 * STRIDE) + 1
    inner = (slice(edge, -edge), slice(edge, -edge))
    return deviation[inner], m[inner] + middle


def _window_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of every STRIDE-th window each way; rows first, so that the columns left out are not filtered."""
    down = uniform_filter1d(np.ascontiguousarray(values.T), WINDOW, axis=1, mode="nearest")[:, ::STRIDE]
    return uniform_filter1d(np.ascontiguousarray(down.T), WINDOW, axis=1, mode="nearest")[:, ::STRIDE]


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


def noise_map(image: NDArray[np.floating], level: float) -> NDArray[np.float32]:
    """log2 of the local noise level relative to `level`, (rows, columns), smooth over about 64 pixels, in -1..1.

    The estimator of `noise_level` in blocks of 32 x 32 pixels; where a block has no body, its neighbours decide.
    """
    if min(image.shape) <= 3 * WINDOW:
        return np.zeros(image.shape, np.float32)
    deviation, mean = local_deviation(image)
    inside = (deviation > 0) & (mean > BODY_HU[0]) & (mean < BODY_HU[1])
    rows, columns = (-(-n // MAP_BLOCK) for n in deviation.shape)
    grid = np.full((rows * MAP_BLOCK, columns * MAP_BLOCK), np.inf, np.float32)
    grid[: deviation.shape[0], : deviation.shape[1]] = np.where(inside, deviation, np.inf)
    blocks = grid.reshape(rows, MAP_BLOCK, columns, MAP_BLOCK).swapaxes(1, 2).reshape(rows, columns, -1)
    count = np.isfinite(blocks).sum(-1)
    rank = (count * PERCENTILE / 100).astype(int)[..., None]
    found = np.take_along_axis(np.sort(blocks, axis=-1), rank, -1)[..., 0]
    known = count >= MAP_BLOCK**2 // 8
    ratio = np.clip(np.log2(np.where(known, found, level) / level), -1, 1)
    weight = gaussian_filter(known.astype(np.float32), 1.0)
    smooth = gaussian_filter(np.where(known, ratio, 0).astype(np.float32), 1.0) / np.maximum(weight, 0.05)
    step, first = STRIDE * MAP_BLOCK, STRIDE * (WINDOW // (2 * STRIDE) + 1)
    where = [(np.arange(n, dtype=np.float32) - first + 0.5) / step - 0.5 for n in image.shape]
    return map_coordinates(smooth, np.meshgrid(*where, indexing="ij"), order=1, mode="nearest", output=np.float32)


def noise_level(image: NDArray[np.floating]) -> float:
    """Standard deviation of the noise of one slice, (rows, columns) in HU."""
    return _level(image)
