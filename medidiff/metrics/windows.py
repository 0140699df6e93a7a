"""Sliding windows over a slice: weighted sums, Gaussians, and the least and greatest value, as scipy.ndimage has them.

    weighted    sum_kl a_k b_l x[i + k, j + l]     where the window fits, at every `step`-th pixel only
    least       the lesser of two overlapping runs of 2^m neighbours: log2(n) comparisons for a window of n

Metrics look through such windows at every slice of every case, so they are written for speed: several times that of
scipy.ndimage, with the same numbers but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.preset import Double

Edge = Literal["edge", "symmetric", "constant"]  # as numpy.pad has it: scipy's nearest, reflect, and zeros


def gaussian_weights(sigma: float, truncate: float) -> Double:
    """A normalised Gaussian that reaches `truncate` standard deviations, to the next pixel."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def smoothed(
    image: NDArray[np.floating],
    sigma: tuple[float, float],
    truncate: float,
    edge: Edge,
    step: tuple[int, int] = (1, 1),
) -> NDArray[np.float32]:
    """(rows, columns) image under a Gaussian of `sigma` pixels, at every `step`-th row and column."""
    down, across = (gaussian_weights(s, truncate) for s in sigma)
    return weighted(_padded(image.astype(np.float64), (down.size, across.size), edge), down, across, step).astype(
        np.float32
    )


def weighted(values: Double, down: Double, across: Double, step: tuple[int, int] = (1, 1)) -> Double:
    """Sums under the window down x across where it fits, at every `step`-th row and column of those.

    Both are symmetric and of odd length.
    """
    return _weighted(np.ascontiguousarray(values), down, across, *step)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _weighted(values: Double, down: Double, across: Double, rows: int, columns: int) -> Double:
    """Row by row: sums along columns into a line, then along the line; two weights that are equal at a time."""
    n, m = values.shape[0] - down.size + 1, values.shape[1] - across.size + 1
    out = np.empty(((n + rows - 1) // rows, (m + columns - 1) // columns))
    line, sums = np.empty(values.shape[1]), np.empty(m)
    for k in range(out.shape[0]):
        seen = values[k * rows : k * rows + down.size]
        weight, above = down[down.size // 2], seen[down.size // 2]
        for j in range(line.size):
            line[j] = weight * above[j]
        for i in range(down.size // 2):
            weight, above, below = down[i], seen[i], seen[down.size - 1 - i]
            for j in range(line.size):
                line[j] += weight * (above[j] + below[j])
        weight, left = across[across.size // 2], line[across.size // 2 :]
        for j in range(m):
            sums[j] = weight * left[j]
        for i in range(across.size // 2):
            weight, left, right = across[i], line[i:], line[across.size - 1 - i :]
            for j in range(m):
                sums[j] += weight * (left[j] + right[j])
        out[k] = sums[::columns]
    return out


def least(values: NDArray[Any], window: tuple[int, int], edge: Edge = "edge") -> NDArray[Any]:
    """The least value of the window (odd sides) around each pixel."""
    return _extreme(values, window, edge, np.minimum)


def greatest(values: NDArray[Any], window: tuple[int, int], edge: Edge = "edge") -> NDArray[Any]:
    """The greatest value of the window (odd sides) around each pixel."""
    return _extreme(values, window, edge, np.maximum)


def _extreme(values: NDArray[Any], window: tuple[int, int], edge: Edge, pick: Callable[..., Any]) -> NDArray[Any]:
    values = _padded(values, window, edge)
    for n in window:  # one axis after the other: the transposed view brings the next one to the front
        values = _along(values, n, pick).T
    return np.ascontiguousarray(values)


def _along(values: NDArray[Any], n: int, pick: Callable[..., Any]) -> NDArray[Any]:
    run = 1
    while 2 * run <= n:
        values = pick(values[:-run], values[run:])
        run *= 2
    return values if run == n else pick(values[: run - n], values[n - run :])


def _padded(values: NDArray[Any], window: tuple[int, int], edge: Edge) -> NDArray[Any]:
    return np.pad(values, [(n // 2, n // 2) for n in window], mode=edge)
