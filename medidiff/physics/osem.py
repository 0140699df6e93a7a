"""Reconstruction of PET counts: OSEM, and maximum a posteriori with the relative difference prior.

With `ybar = f (P x) + b` (attenuation and calibration `f`, scatter and randoms `b`), over the counts of a subset,

    x <- x / s  P^T f (y / ybar),    s = P^T f

never lowers the Poisson log-likelihood `sum y ln ybar - ybar` when there is one subset (Shepp & Vardi 1982, IEEE TMI
1:113), and is many times faster with more (Hudson & Larkin 1994, IEEE TMI 13:601).

MAP adds the relative difference prior (Nuyts et al. 2002, IEEE TNS 49:56) over the 26 neighbours of a voxel,

    U(x) = beta sum_{j, k} w_jk (x_j - x_k)^2 / (x_j + x_k + gamma |x_j - x_k|)

each pair once, `w` the inverse distance in pixels, and goes up the gradient of `L - U` by relaxed, scaled subset
steps (BSREM: De Pierro & Yamagishi 2001; Ahn & Fessler 2003, IEEE TMI 22:613):

    x <- x + alpha_n x / (s + x h) (P_m^T f (y / ybar - 1) M - grad U)        h(x): a bound of the prior's curvature

`beta` counts as the likelihood does, in events: one value smooths a low scan more than a full one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medidiff.physics.pet import ParallelBeam, Sinograms

Array = NDArray[np.float32]

ITERATIONS, SUBSETS = 3, 21
GAMMA = 2.0
RELAXATION = 0.1  # alpha_n = 1 / (1 + RELAXATION n)
TINY = np.float32(1e-9)
LEAST = 1e-4  # of the mean activity: where OSEM found none, MAP starts from this, for a step is proportional to x


def osem(
    data: Sinograms,
    beam: ParallelBeam,
    iterations: int = ITERATIONS,
    subsets: int = SUBSETS,
    start: Array | None = None,
) -> Array:
    """(slices, rows, columns) activity; `subsets` divides the number of angles, 1 is plain EM.

    Starts from `start`, or an even image that has the counts of the slice.
    """
    steps = Subsets(data, beam, subsets)
    x = steps.even() if start is None else columns_of(start)
    for m in steps.order * iterations:
        sensitivity = steps.sensitivity[m]
        x = x * np.divide(steps.ratio(m, x), sensitivity, out=np.zeros_like(x), where=sensitivity > 0)
    return images_of(x, beam)


def log_likelihood(data: Sinograms, beam: ParallelBeam, images: Array) -> NDArray[np.float64]:
    """(slices,) `sum y ln ybar - ybar`, bins that can hold no counts left out."""
    n = len(images)
    projected = (beam.matrix @ columns_of(images)).T.reshape(n, *beam.out_shape)
    means = (data.factors * projected + data.additive).astype(np.float64)
    seen = means > 0
    terms = np.where(seen, data.counts * np.log(np.where(seen, means, 1)) - means, 0)
    return terms.sum((1, 2))


def map_rdp(
    data: Sinograms,
    beam: ParallelBeam,
    beta: float,
    *,
    gamma: float = GAMMA,
    slice_mm: float | None = None,
    iterations: int = 8,
    subsets: int = SUBSETS,
) -> Array:
    """(slices, rows, columns) activity of neighbouring slices `slice_mm` apart; None takes every slice by itself.

    Starts from one iteration of OSEM.
    """
    steps = Subsets(data, beam, subsets)
    x = osem(data, beam, iterations=1, subsets=subsets)
    x = np.maximum(x, LEAST * x.mean(), dtype=np.float32) * _seen(steps.total, beam)
    weights = neighbours(None if slice_mm is None else slice_mm / beam.pixel_mm)
    for n, m in ((n, m) for n in range(iterations) for m in steps.order):
        alpha = np.float32(1 / (1 + RELAXATION * n))
        push = images_of((steps.ratio(m, columns_of(x)) - steps.sensitivity[m]) * np.float32(subsets), beam)
        pull, curvature = rdp_gradient(x, weights, beta, gamma)
        scale = np.divide(x, images_of(steps.total, beam) + x * curvature, out=np.zeros_like(x), where=x > 0)
        x = np.maximum(x + alpha * scale * (push - pull), np.float32(0.1) * x)
    return x


def neighbours(slice_pixels: float | None) -> dict[tuple[int, int, int], float]:
    """Half of a voxel's neighbours, each pair once, and their weights; slices `slice_pixels` pixels apart."""
    offsets = [o for o in product((0, 1), (-1, 0, 1), (-1, 0, 1)) if o > (0, 0, 0)]
    step = slice_pixels or np.inf
    return {o: 1 / float(np.hypot(np.hypot(o[1], o[2]), o[0] * step if o[0] else 0)) for o in offsets if not (
        o[0] and slice_pixels is None)}  # fmt: skip


def rdp(x: Array, weights: dict[tuple[int, int, int], float], beta: float, gamma: float = GAMMA) -> float:
    """The prior `U(x)` of (slices, rows, columns)."""
    total = 0.0
    for w, here, there in _pairs(x, weights):
        a, b = x[here].astype(np.float64), x[there].astype(np.float64)
        total += w * float(((a - b) ** 2 / np.maximum(a + b + gamma * np.abs(a - b), TINY)).sum())
    return beta * total


def rdp_gradient(
    x: Array, weights: dict[tuple[int, int, int], float], beta: float, gamma: float = GAMMA
) -> tuple[Array, Array]:
    """`dU/dx` and a bound of the curvature, `2 beta sum w 2 / (x_j + x_k)`, as `x`."""
    gradient, curvature = np.zeros_like(x), np.zeros_like(x)
    for w, here, there in _pairs(x, weights):
        a, b = x[here], x[there]
        difference, total = a - b, np.maximum(a + b, TINY)
        apart = np.abs(difference)
        share = np.float32(beta * w) / (total + np.float32(gamma) * apart) ** 2
        slope = share * difference * np.float32(gamma) * apart
        gradient[here] += slope + share * difference * (a + 3 * b)
        gradient[there] -= slope + share * difference * (b + 3 * a)
        bound = np.float32(4 * beta * w) / total
        curvature[here] += bound
        curvature[there] += bound
    return gradient, curvature


Box = tuple[slice, ...]


def _pairs(x: Array, weights: dict[tuple[int, int, int], float]) -> Iterator[tuple[float, Box, Box]]:
    """Weight and the two overlapping parts of `x` for every kind of neighbour."""
    for offset, w in weights.items():
        here = tuple(slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, x.shape, strict=True))
        there = tuple(slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, x.shape, strict=True))
        yield w, here, there


class Subsets:
    """Counts, factors and matrix of every subset, images as columns (pixels, slices)."""

    def __init__(self, data: Sinograms, beam: ParallelBeam, n: int) -> None:
        parts = [tuple(columns_of(s[:, k::n]) for s in (data.counts, data.factors, data.additive)) for k in range(n)]
        self.parts, self.matrices = parts, beam.subsets(n)
        self.sensitivity = [_back(m, f) for m, (_, f, _) in zip(self.matrices, parts, strict=True)]
        self.total = np.sum(self.sensitivity, axis=0)
        self.order = [k * _stride(n) % n for k in range(n)]

    def ratio(self, m: int, x: Array) -> Array:
        """`P^T f (y / ybar)` of a subset."""
        counts, factors, additive = self.parts[m]
        means = factors * (self.matrices[m] @ x) + additive
        return _back(self.matrices[m], factors * np.divide(counts, means, out=np.zeros_like(means), where=means > 0))

    def even(self) -> Array:
        """An even image where the scanner sees, with as many counts as there are."""
        net = sum(np.sum(y - b, axis=0, dtype=np.float64) for y, _, b in self.parts)
        level = np.maximum(net, 1) / np.maximum(self.total.sum(0, dtype=np.float64), TINY)
        return ((self.total > 0) * level).astype(np.float32)


def _back(matrix: sparse.csr_array, columns: Array) -> Array:
    return np.asarray(matrix.T @ columns)


def _stride(n: int) -> int:
    """A step through the subsets that goes far each time and reaches all of them."""
    return next(k for k in range(max(round(0.382 * n), 1), 2 * n) if np.gcd(k, n) == 1)


def columns_of(stack: NDArray[np.floating]) -> Array:
    """(slices, ...) to (everything else, slices)."""
    return np.ascontiguousarray(stack.reshape(len(stack), -1).T, dtype=np.float32)


def images_of(columns: Array, beam: ParallelBeam) -> Array:
    return np.ascontiguousarray(columns.T).reshape(-1, *beam.in_shape)


def _seen(total: Array, beam: ParallelBeam) -> NDArray[np.bool_]:
    return images_of(total, beam) > 0
