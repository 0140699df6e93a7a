"""The bilateral filter (Tomasi and Manduchi 1998): an average over neighbours that are near and alike.

    x_hat(p) = sum_q w(p, q) y(q) / sum_q w(p, q)
    w(p, q)  = exp(-|p - q|^2 / (2 s^2)) exp(-(y(p) - y(q))^2 / (2 r^2))        s in pixels, r in HU

Summed over whole shifted images: 48 offsets of a 512 x 512 slice take a tenth of a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPATIAL_SIGMA_PX = 1.0  # the best of 1, 1.5, 2 and 3 on the tune split
RADIUS_PX = 3


def bilateral(image: NDArray[np.float32], noise: float, smoothing: float) -> NDArray[np.float32]:
    """(rows, columns) in HU; the range sigma is `smoothing` times the noise level."""
    if smoothing * noise == 0:
        return image.copy()
    offset = np.float32(np.median(image))  # keeps single precision exact far from 0 HU
    centred = image - offset
    padded = np.pad(centred, RADIUS_PX, mode="symmetric")
    total, weights = centred.copy(), np.ones_like(centred)
    sharpness = np.float32(-0.5 / (smoothing * noise) ** 2)
    for dr, dc in _offsets():
        rows, columns = slice(RADIUS_PX + dr, RADIUS_PX + dr + len(image)), RADIUS_PX + dc
        neighbour = padded[rows, columns : columns + image.shape[1]]
        near = np.float32(-0.5 * (dr**2 + dc**2) / SPATIAL_SIGMA_PX**2)
        weight = np.exp((neighbour - centred) ** 2 * sharpness + near)
        total += weight * neighbour
        weights += weight
    return np.asarray(total / weights + offset, dtype=np.float32)


def _offsets() -> list[tuple[int, int]]:
    """Every offset of the window but (0, 0), whose weight is 1."""
    reach = range(-RADIUS_PX, RADIUS_PX + 1)
    return [(dr, dc) for dr in reach for dc in reach if (dr, dc) != (0, 0)]
