"""Iterative reconstruction of line integrals: SIRT, CGLS, penalised weighted least squares, total variation.

With weights `W` (one over the variance of each ray) and slices that know nothing of each other:

    SIRT    x <- x + C A^T R (y - A x),   R, C: one over the sums of the rows and columns of A
    CGLS    min 1/2 |y - A x|_W^2 by conjugate gradients, from 0: few iterations are smooth, many are noisy
    PWLS    min 1/2 |y - A x|_W^2 + lam sum_j huber(|grad x|_j),   huber(t) = t^2 / (2 delta) below delta, t - delta / 2
    TV      min 1/2 |y - A x|_W^2 + lam sum_j |grad x|_j           which PWLS tends to for small delta

PWLS repeats conjugate gradients with the penalty's weights `min(1, delta / |grad x|)` (Fessler 1994, IEEE TMI 13:290;
lagged as in Vogel & Oman 1996). TV is FISTA (Beck & Teboulle 2009, SIAM J Imaging Sci 2:183) with their gradient
projection for the denoising inside, whose dual goes on from the last step's; momentum is dropped for a slice when its
step turns back (O'Donoghue & Candes 2015, Found Comput Math 15:715).

The noise of `A^T W (y - A x)` at the truth has the standard deviation `h = sqrt(diag(A^T W A))`; `lam` is given as a
multiple of it (`noise_of_gradient`): a penalty whose slope is below the noise cannot hold it down.

Solvers are generators: each yields its image (B, rows, columns) after every iteration, for ever. `converged` ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.physics.operators import LinearOperator

DENOISING_STEPS = 10  # of the gradient projection in each step of TV
RELINEARISE = 8  # conjugate gradients between two updates of the weights of PWLS
POWER_STEPS, SAFETY = 8, 1.05
SQUARES = 0.75  # sum_i a_ij^2 over pixel * sum_i a_ij, of Joseph's weights, mean over angles
LEAST_SEEN = 1e-3  # share of the largest that a preconditioner goes down to
TINY = 1e-30

Map = Callable[[Tensor], Tensor]
Steps = Iterator[Tensor]


def sirt(operator: LinearOperator, y: Tensor) -> Steps:
    """From 0; |y - A x|_R never grows."""
    row_sums = operator.apply(torch.ones_like(y[:1, :1, :1]).expand(1, *operator.in_shape))
    column_sums = operator.adjoint(torch.ones_like(y[:1]))
    r, c = _inverse(row_sums), _inverse(column_sums)
    x = y.new_zeros(len(y), *operator.in_shape)
    while True:
        x = x + c * operator.adjoint(r * (y - operator.apply(x)))
        yield x


def cgls(operator: LinearOperator, y: Tensor, weights: Tensor | None = None) -> Steps:
    """From 0; |y - A x|_W never grows."""
    start = y.new_zeros(len(y), *operator.in_shape)
    return _conjugate_gradients(operator, y, weights, start)


def pwls(
    operator: LinearOperator, y: Tensor, weights: Tensor | None, lam: Tensor, delta: float, start: Tensor
) -> Steps:
    """`lam` (B,) in the unit of `A^T W y`, `delta` in that of x: steps above it are edges, and kept."""
    if not bool((lam > 0).any()):
        yield from _conjugate_gradients(operator, y, weights, start)
    x, slope = start, _column(lam / delta)
    precondition = Preconditioner.of(operator, weights).inverse(slope * _laplace(start))
    while True:
        edges = torch.clamp(delta / _length(gradient(x)), max=1)

        def penalty(p: Tensor, edges: Tensor = edges) -> Tensor:
            return slope * -divergence(edges[:, None] * gradient(p))

        steps = _conjugate_gradients(operator, y, weights, x, penalty, precondition)
        for _ in range(RELINEARISE):
            x = next(steps)
            yield x


def total_variation(operator: LinearOperator, y: Tensor, weights: Tensor | None, lam: Tensor, start: Tensor) -> Steps:
    """`lam` (B,) in the unit of `A^T W y`."""
    step = 1 / _column(largest_eigenvalue(operator, weights, start))
    x = z = start
    dual, t = torch.zeros_like(gradient(x)), torch.ones_like(lam)
    while True:
        residual = operator.apply(z) - y
        moved = z - step * operator.adjoint(_times(weights, residual))
        new, dual = _denoised(moved, step * _column(lam), dual)
        turned_back = _dot(z - new, new - x) > 0
        t, before = torch.where(turned_back, 1.0, (1 + torch.sqrt(1 + 4 * t**2)) / 2), t
        momentum = torch.where(turned_back, 0.0, (before - 1) / t)
        z, x = new + _column(momentum) * (new - x), new
        yield x


def converged(steps: Steps, iterations: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """The images once the relative change of an iteration is below `tolerance`, and after how many (B,) that was.

    A slice that has converged stays as it is: what it is does not depend on the others of its batch.
    """
    answer = next(steps)
    taken = torch.ones(len(answer), dtype=torch.long, device=answer.device)
    moving = torch.ones(len(answer), dtype=torch.bool, device=answer.device)
    for _ in range(iterations - 1):
        x = next(steps)
        taken += moving
        change = _norm(x - answer) / torch.clamp(_norm(x), min=TINY)
        answer = torch.where(_column(moving), x, answer)
        moving &= change >= tolerance
        if not bool(moving.any()):
            break
    return answer, taken


def noise_of_gradient(operator: LinearOperator, weights: Tensor, pixel: float, inside: Tensor) -> Tensor:
    """(B,) median over the pixels `inside` of `h`; the images' own pixels where there are none."""
    squares = SQUARES * pixel * operator.adjoint(weights)
    chosen = [one[mask] if bool(mask.any()) else one for one, mask in zip(squares, inside, strict=True)]
    return torch.stack([one.median() for one in chosen]).sqrt()


def chi_square(operator: LinearOperator, y: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """(B,) mean over the rays of (y - A x)^2 over its variance: 1 where nothing but noise is left."""
    return (weights * (y - operator.apply(x)) ** 2).mean((1, 2))


def largest_eigenvalue(operator: LinearOperator, weights: Tensor | None, like: Tensor) -> Tensor:
    """(B,) of `A^T W A`, a little above: the power method from an even image, to which the answer is close."""
    x = torch.ones_like(like)
    for _ in range(POWER_STEPS):
        x = x / _column(torch.clamp(_norm(x), min=TINY))
        x = operator.adjoint(_times(weights, operator.apply(x)))
    return torch.clamp(SAFETY * _norm(x), min=TINY)


def _conjugate_gradients(
    operator: LinearOperator,
    y: Tensor,
    weights: Tensor | None,
    x: Tensor,
    penalty: Map | None = None,
    precondition: Map = lambda g: g,
) -> Steps:
    """Of `A^T W A + P`; Bjorck 1996, algorithm 7.4.1, with weights, a penalty and a preconditioner."""
    pull = torch.zeros_like(x) if penalty is None else penalty(x)
    residual = y - operator.apply(x)
    g = operator.adjoint(_times(weights, residual)) - pull
    p = precondition(g)
    power = _dot(g, p)
    while True:
        q = operator.apply(p)
        pulled = torch.zeros_like(p) if penalty is None else penalty(p)
        curvature = _dot(q, _times(weights, q)) + _dot(p, pulled)
        alpha = _column(power / torch.clamp(curvature, min=TINY))
        x, residual, pull = x + alpha * p, residual - alpha * q, pull + alpha * pulled
        yield x
        g = operator.adjoint(_times(weights, residual)) - pull
        better = precondition(g)
        power, before = _dot(g, better), power
        p = better + _column(power / torch.clamp(before, min=TINY)) * p


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """Nearly the inverse of `A^T W A + P`, `P` a filter with the spectrum `p`: `E^-1 F^-1 (G + p / E^2)^-1 F E^-1`,
    `E^2` the mean weight of the rays through a pixel, `G` the transform of `A^T A` at the middle (Fessler & Booth 1999,
    IEEE TIP 8:688).
    """

    response: Tensor  # (rows, frequencies) G
    squares: Tensor  # (B, rows, columns) E^2
    typical: Tensor  # (B, 1, 1) their median

    @classmethod
    def of(cls, operator: LinearOperator, weights: Tensor | None) -> Preconditioner:
        """`weights` (B, views, bins); None is 1."""
        rows, columns = operator.in_shape
        like = torch.ones((), device=operator.device) if weights is None else weights
        middle = like.new_zeros(1, rows, columns)
        middle[0, rows // 2, columns // 2] = 1
        response = torch.fft.rfft2(operator.adjoint(operator.apply(middle))).abs()
        seen = operator.adjoint(like.new_ones(1, *operator.out_shape))
        squares = torch.ones_like(seen) if weights is None else operator.adjoint(weights) * _inverse(seen)
        typical = squares.flatten(1).median(1).values[:, None, None]
        return cls(response, torch.clamp(squares, min=LEAST_SEEN * typical), typical)

    def inverse(self, penalty: Tensor) -> Map:
        """`penalty` is `p`, (B, rows, frequencies) or what broadcasts to it."""
        response = torch.clamp(self.response, min=LEAST_SEEN * self.response.max())
        filtered, root, shape = response + penalty / self.typical, self.squares.sqrt(), self.squares.shape[1:]

        def precondition(g: Tensor) -> Tensor:
            spectra = torch.fft.rfft2(g / root) / filtered
            # one by one: the last bits of the library's inverse depend on how many it is given
            return torch.cat([torch.fft.irfft2(one, s=shape) for one in spectra.split(1)]) / root

        return precondition


def _laplace(like: Tensor) -> Tensor:
    """(rows, frequencies) the spectrum of `-divergence(gradient)` of images (B, rows, columns), periodic."""
    rows, columns = like.shape[1:]
    down, across = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)
    return (4 - 2 * torch.cos(2 * torch.pi * down) - 2 * torch.cos(2 * torch.pi * across)).to(like)


def gradient(u: Tensor) -> Tensor:
    """(B, 2, rows, columns) forward differences down and right, 0 across the last row and column."""
    g = torch.zeros_like(u[:, None]).repeat(1, 2, 1, 1)
    g[:, 0, :-1] = u[:, 1:] - u[:, :-1]
    g[:, 1, :, :-1] = u[:, :, 1:] - u[:, :, :-1]
    return g


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `gradient`."""
    down, right = p[:, 0, :-1], p[:, 1, :, :-1]
    d = torch.zeros_like(p[:, 0])
    d[:, :-1] += down
    d[:, 1:] -= down
    d[:, :, :-1] += right
    d[:, :, 1:] -= right
    return d


def _denoised(y: Tensor, weight: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """argmin_u 1/2 |u - y|^2 + weight TV(u), nearly, from a dual that is nearly right, and the better dual."""
    step = 1 / (8 * torch.clamp(weight, min=TINY))
    p = q = dual
    t = 1.0
    for _ in range(DENOISING_STEPS):
        ascended = q + step[:, None] * gradient(y + weight * divergence(q))
        new = ascended / torch.clamp(_length(ascended), min=1)[:, None]
        t, before = (1 + (1 + 4 * t**2) ** 0.5) / 2, t
        q, p = new + (before - 1) / t * (new - p), new
    return y + weight * divergence(p), p


def _length(p: Tensor) -> Tensor:
    """(B, rows, columns) of vectors (B, 2, rows, columns), never 0."""
    return torch.sqrt((p**2).sum(1) + TINY)


def _times(weights: Tensor | None, y: Tensor) -> Tensor:
    return y if weights is None else weights * y


def _inverse(sums: Tensor) -> Tensor:
    """One over what is above 0."""
    return torch.where(sums > 0, 1 / torch.clamp(sums, min=TINY), 0)


def _column(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1)."""
    return values[:, None, None]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B,) in double precision of the sum, in the type of `a`."""
    return (a * b).sum((1, 2), dtype=torch.float64).to(a.dtype)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
