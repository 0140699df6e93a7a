"""Local statistics of two images: weighted means, variances and covariance in a separable window around each pixel.

    m_x = sum_k w_k x_k        s_xx = f (sum_k w_k x_k^2 - m_x^2)        s_xy = f (sum_k w_k x_k y_k - m_x m_y)

`w` is the product of one 1-D window along rows and columns, `f` corrects for degrees of freedom. Only pixels whose
window lies in the image have a value: n - 1 rows and columns fewer come out than go in.
"""

from __future__ import annotations

import numba
import numpy as np

from medidiff.metrics.preset import Double


def gaussian(size: int, sigma: float) -> Double:
    """A normalised Gaussian window of `size` pixels."""
    weights = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def moments(x: Double, y: Double, window: Double, freedom: float = 1.0) -> Double:
    """m_x, m_y, s_xx, s_yy and s_xy in this order: (5, rows - n + 1, columns - n + 1), for a window of n pixels."""
    return _moments(np.ascontiguousarray(x), np.ascontiguousarray(y), window, freedom)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _moments(x: Double, y: Double, window: Double, freedom: float) -> Double:
    """Row by row: the columns' sums of x, y, x^2, y^2 and xy into lines, then along the lines.

    The window is symmetric: rows above and below, and pixels left and right, share their weight. The middle one of an
    odd window is its own partner, with half its weight.
    """
    weights = window[: (window.size + 1) // 2].copy()
    if window.size % 2:
        weights[-1] /= 2
    n, (rows, columns) = window.size, x.shape
    out = np.zeros((5, rows - n + 1, columns - n + 1))
    lines = np.empty((5, columns))
    l_x, l_y, l_xx, l_yy, l_xy = lines
    for i in range(rows - n + 1):
        lines[:] = 0
        for k in range(weights.size):
            w, of_x, of_y, then_x, then_y = weights[k], x[i + k], y[i + k], x[i + n - 1 - k], y[i + n - 1 - k]
            for j in range(columns):
                a, b, c, d = of_x[j], of_y[j], then_x[j], then_y[j]
                l_x[j] += w * (a + c)
                l_y[j] += w * (b + d)
                l_xx[j] += w * (a * a + c * c)
                l_yy[j] += w * (b * b + d * d)
                l_xy[j] += w * (a * b + c * d)
        for quantity in range(5):
            line, to = lines[quantity], out[quantity, i]
            for k in range(weights.size):
                w, left, right = weights[k], line[k:], line[n - 1 - k :]
                for j in range(columns - n + 1):
                    to[j] += w * (left[j] + right[j])
        for j in range(columns - n + 1):
            m_x, m_y = out[0, i, j], out[1, i, j]
            out[2, i, j] = freedom * (out[2, i, j] - m_x * m_x)
            out[3, i, j] = freedom * (out[3, i, j] - m_y * m_y)
            out[4, i, j] = freedom * (out[4, i, j] - m_x * m_y)
    return out
