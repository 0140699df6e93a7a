"""Sums of ellipses: their images and their exact line integrals, the truth that projectors are tested against.

The line `x cos(theta) + y sin(theta) = s` crosses an ellipse of half axes `a, b`, turned by `phi`, with its centre at
`(x0, y0)`, over

    2 a b sqrt(r^2 - d^2) / r^2,   r^2 = a^2 cos^2(theta - phi) + b^2 sin^2(theta - phi),
                                   d = s - x0 cos(theta) - y0 sin(theta)

(Kak & Slaney 1988, eq. 3.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ellipse:
    """Half axes and centre in mm (x along columns, y along rows), turn in radians, `value` added inside."""

    a: float
    b: float
    value: float
    x0: float = 0.0
    y0: float = 0.0
    phi: float = 0.0


def integrals(
    ellipses: Sequence[Ellipse], theta: NDArray[np.floating], s_mm: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Exact integrals along the lines (theta, s), any shape that broadcasts; unit of `value` times mm."""
    total = np.zeros(np.broadcast_shapes(theta.shape, s_mm.shape))
    for e in ellipses:
        r2 = (e.a * np.cos(theta - e.phi)) ** 2 + (e.b * np.sin(theta - e.phi)) ** 2
        d = s_mm - e.x0 * np.cos(theta) - e.y0 * np.sin(theta)
        total += e.value * 2 * e.a * e.b * np.sqrt(np.maximum(r2 - d**2, 0)) / r2
    return total


def image(
    ellipses: Sequence[Ellipse], matrix: tuple[int, int], pixel_mm: float, subsamples: int = 4
) -> NDArray[np.float64]:
    """(rows, columns) mean over each pixel of the sum of ellipses, by `subsamples`^2 points a pixel."""
    rows, cols = ((np.arange(n * subsamples) - (n * subsamples - 1) / 2) * pixel_mm / subsamples for n in matrix)
    fine = np.zeros((rows.size, cols.size))
    for e in ellipses:
        x, y = cols - e.x0, rows[:, None] - e.y0
        along, across = x * np.cos(e.phi) + y * np.sin(e.phi), y * np.cos(e.phi) - x * np.sin(e.phi)
        fine += e.value * ((along / e.a) ** 2 + (across / e.b) ** 2 <= 1)
    return fine.reshape(matrix[0], subsamples, matrix[1], subsamples).mean((1, 3))
