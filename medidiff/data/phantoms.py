"""Random overlapping shapes with CT numbers of tissue: ground truth that no scanner has touched.

A "dead leaves" image (Lee, Mumford & Huang 2001) has the edge and scale statistics of natural images; here the
leaves are ellipses inside an elliptical body, their contrasts from 2 HU (lesions) to bone and air.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medidiff.noise.level import block_mean

OVERSAMPLING = 2
BACKGROUNDS_HU = (-900.0, -800.0, -100.0, 0.0, 40.0, 60.0, 110.0, 180.0, 400.0, 900.0)
BACKGROUND_SHARES = (0.05, 0.05, 0.2, 0.1, 0.25, 0.15, 0.1, 0.04, 0.04, 0.02)


def dead_leaves(size: int, n_slices: int, generator: np.random.Generator, n_leaves: int = 160) -> NDArray[np.float32]:
    """(n_slices, size, size) in HU; shapes change slowly from slice to slice."""
    fine = size * OVERSAMPLING
    rows, columns = np.mgrid[:fine, :fine].astype(np.float32) / fine - 0.5
    images = np.full((n_slices, fine, fine), -1000.0, np.float32)
    body = _ellipse(rows, columns, np.zeros(2), generator.uniform(0.3, 0.48, 2), 0.0)
    images[:, body] = 40.0
    for _ in range(n_leaves):
        centre, drift = generator.uniform(-0.45, 0.45, 2), generator.normal(0, 0.01, 2)
        radii = 0.004 * np.exp(generator.uniform(0, 3.4)) * generator.uniform(0.4, 1.6, 2)
        angle, value = generator.uniform(0, np.pi), _value(generator)
        for k in range(n_slices):
            box = tuple(_span(c, radii.max(), fine) for c in centre + k * drift)
            inside = _ellipse(rows[box], columns[box], centre + k * drift, radii, angle)
            images[k][box][inside & body[box]] = value
    return np.stack([block_mean(image, OVERSAMPLING) for image in images]).astype(np.float32)


def _value(generator: np.random.Generator) -> float:
    if generator.random() < 0.4:  # a lesion: faint against the organ
        return 40.0 + float(generator.choice([-1, 1]) * np.exp(generator.uniform(np.log(2), np.log(60))))
    return float(generator.choice(BACKGROUNDS_HU, p=BACKGROUND_SHARES) + generator.normal(0, 8))


def _span(centre: float, radius: float, size: int) -> slice:
    """The rows or columns that a leaf can touch."""
    low, high = ((centre + side * radius + 0.5) * size for side in (-1, 1))
    return slice(max(int(low) - 1, 0), max(int(high) + 2, 0))


def _ellipse(
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    centre: NDArray[np.float64],
    radii: NDArray[np.float64],
    angle: float,
) -> NDArray[np.bool_]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    r, q = rows - np.float32(centre[0]), columns - np.float32(centre[1])
    return ((c * r + s * q) / np.float32(radii[0])) ** 2 + ((c * q - s * r) / np.float32(radii[1])) ** 2 < 1
