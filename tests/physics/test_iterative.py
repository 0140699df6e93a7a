"""Iterative reconstruction: laws of each solver, and known answers on small problems."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.physics.ellipses import Ellipse, image
from medidiff.physics.iterative import (
    SQUARES,
    cgls,
    chi_square,
    converged,
    divergence,
    gradient,
    largest_eigenvalue,
    noise_of_gradient,
    pwls,
    sirt,
    total_variation,
)
from medidiff.physics.projectors import Beam, Projector, evenly

N, PIXEL_MM = 24, 8.0
OPERATOR = Projector((N, N), PIXEL_MM, Beam("parallel", evenly(60, 180), 40, 6.0))
BODY = [Ellipse(80, 60, 0.02), Ellipse(20, 20, 0.01, x0=30)]
TRUTH = torch.from_numpy(image(BODY, (N, N), PIXEL_MM))[None]
NOISE = 0.02


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DATA = OPERATOR.apply(TRUTH) + NOISE * _random((2, *OPERATOR.out_shape), 0)
WEIGHTS = 1 / NOISE**2 * torch.exp(0.5 * _random(tuple(DATA.shape), 1))


def _dense() -> Tensor:
    """(rays, pixels) the operator as a matrix."""
    basis = torch.eye(N * N, dtype=torch.float64).reshape(-1, N, N)
    return OPERATOR.apply(basis).reshape(N * N, -1).T


def _objective(x: Tensor, lam: float, delta: float | None = None) -> Tensor:
    lengths = gradient(x).norm(dim=1)
    if delta is not None:
        lengths = torch.where(lengths < delta, lengths**2 / (2 * delta), lengths - delta / 2)
    data = (WEIGHTS * (DATA - OPERATOR.apply(x)) ** 2).sum((1, 2)) / 2
    return data + lam * lengths.sum((1, 2))


def test_divergence_is_minus_the_adjoint_of_the_gradient() -> None:
    u, p = _random((2, 7, 9), 0), _random((2, 2, 7, 9), 1)
    assert float((gradient(u) * p).sum()) == pytest.approx(-float((u * divergence(p)).sum()), rel=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_cgls_lowers_the_residual_and_ends_at_least_squares(weights: Tensor | None) -> None:
    """|y - A x|_W never grows, and in the end A^T W (y - A x) is 0, as for the solution of the normal equations."""
    w = torch.ones_like(DATA) if weights is None else weights
    images = list(islice(cgls(OPERATOR, DATA, weights), 200))
    residuals = [float((w * (DATA - OPERATOR.apply(x)) ** 2).sum()) for x in images]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(residuals))
    a = _dense()
    for k in range(2):
        normal = a.T @ (w[k].ravel()[:, None] * a)
        wanted = torch.linalg.lstsq(normal, a.T @ (w[k] * DATA[k]).ravel()[:, None], driver="gelsd").solution
        least = float((w[k] * (DATA[k] - (a @ wanted).reshape(DATA[k].shape)) ** 2).sum())
        reached = float((w[k] * (DATA[k] - OPERATOR.apply(images[-1])[k]) ** 2).sum())
        assert reached == pytest.approx(least, rel=1e-4)


def test_sirt_lowers_the_residual() -> None:
    """|y - A x|_R never grows, and it is far below that of an empty image."""
    images = list(islice(sirt(OPERATOR, DATA), 60))
    sums = OPERATOR.apply(torch.ones_like(TRUTH))
    r = torch.where(sums > 0, 1 / sums.clamp(min=1e-30), 0)
    residuals = [float((r * (DATA - OPERATOR.apply(x)) ** 2).sum()) for x in images]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(residuals))
    assert residuals[-1] < 0.02 * float((r * DATA**2).sum())


def test_pwls_without_a_penalty_and_with_equal_weights_is_cgls() -> None:
    none = torch.zeros(2, dtype=torch.float64)
    start = torch.zeros(2, N, N, dtype=torch.float64)
    theirs = islice(cgls(OPERATOR, DATA), 15)
    ours = islice(pwls(OPERATOR, DATA, torch.ones_like(DATA), none, 1e-4, start), 15)
    for x, z in zip(theirs, ours, strict=True):
        torch.testing.assert_close(x, z, rtol=1e-9, atol=1e-12)


def test_pwls_reaches_the_minimum() -> None:
    """Nothing near has a lower objective: its gradient, by differentiation, is 0."""
    lam, delta = 400.0, 2e-3
    steps = pwls(
        OPERATOR, DATA, WEIGHTS, torch.full((2,), lam, dtype=torch.float64), delta, torch.zeros(2, N, N).double()
    )
    x = next(islice(steps, 600, None)).requires_grad_()
    _objective(x, lam, delta).sum().backward()
    at_zero = torch.zeros(2, N, N, dtype=torch.float64, requires_grad=True)
    _objective(at_zero, lam, delta).sum().backward()
    assert float(x.grad.norm()) < 1e-4 * float(at_zero.grad.norm())


def test_total_variation_reaches_the_minimum() -> None:
    """The objective is that of PWLS with a tiny delta, which goes another way, to 1e-4; random steps raise it."""
    lam = torch.full((2,), 400.0, dtype=torch.float64)
    start = torch.zeros(2, N, N, dtype=torch.float64)
    x = next(islice(total_variation(OPERATOR, DATA, WEIGHTS, lam, start), 1500, None))
    other = next(islice(pwls(OPERATOR, DATA, WEIGHTS, lam, 1e-6, x), 400, None))
    reached = _objective(x, 400.0)
    assert torch.all(reached <= _objective(other, 400.0) * (1 + 1e-4))
    for seed in range(5):
        assert torch.all(_objective(x + 1e-4 * _random(tuple(x.shape), seed), 400.0) > reached)


def test_total_variation_without_weight_is_least_squares() -> None:
    """For lam -> 0 it tends to what CGLS tends to: the residual of both is the same."""
    none = torch.full((2,), 1e-9, dtype=torch.float64)
    start = torch.zeros(2, N, N, dtype=torch.float64)
    x = next(islice(total_variation(OPERATOR, DATA, WEIGHTS, none, start), 3000, None))
    least = next(islice(cgls(OPERATOR, DATA, WEIGHTS), 300, None))
    assert torch.allclose(_objective(x, 0.0), _objective(least, 0.0), rtol=2e-3)


def test_total_variation_flattens_a_flat_object() -> None:
    """At three noise levels the image is nearer to a piecewise flat truth than least squares is, by far."""
    noise = noise_of_gradient(OPERATOR, WEIGHTS, PIXEL_MM, TRUTH.repeat(2, 1, 1) > 0.01)
    start = next(islice(cgls(OPERATOR, DATA), 8, None))
    x = next(islice(total_variation(OPERATOR, DATA, WEIGHTS, 3 * noise, start), 300, None))
    worse = next(islice(cgls(OPERATOR, DATA, WEIGHTS), 60, None))
    assert float((x - TRUTH).norm()) < 0.6 * float((worse - TRUTH).norm())


def test_the_largest_eigenvalue_is_a_bound() -> None:
    a = _dense()
    exact = torch.linalg.eigvalsh(a.T @ (WEIGHTS[0].ravel()[:, None] * a))[-1]
    found = largest_eigenvalue(OPERATOR, WEIGHTS, torch.zeros(2, N, N, dtype=torch.float64))[0]
    assert float(exact) <= float(found) <= 1.1 * float(exact)


def test_the_noise_of_the_gradient_is_that_of_drawn_noise() -> None:
    """Its standard deviation over many draws of the data's noise, within 5 %."""
    draws = _random((400, *OPERATOR.out_shape), 3) / WEIGHTS[0].sqrt()
    seen = OPERATOR.adjoint(WEIGHTS[0] * draws).std(0)
    inside = TRUTH > 0.01
    found = noise_of_gradient(OPERATOR, WEIGHTS[:1], PIXEL_MM, inside)
    assert float(found) == pytest.approx(float(seen[inside[0]].median()), rel=0.05)
    a = _dense()
    assert float((a**2).sum() / a.sum() / PIXEL_MM) == pytest.approx(SQUARES, rel=0.02)


def test_chi_square_of_the_truth_is_one_per_ray() -> None:
    """Within four standard errors, sqrt(2 / rays)."""
    weights = torch.full_like(DATA, 1 / NOISE**2)
    found = chi_square(OPERATOR, DATA, weights, TRUTH.repeat(2, 1, 1))
    rays = DATA[0].numel()
    assert np.abs(found.numpy() - 1).max() < 4 * np.sqrt(2 / rays)


def test_a_slice_does_not_depend_on_its_batch() -> None:
    """Solved alone or with another slice that needs longer, a slice becomes the same."""
    hard = torch.cat([DATA[:1], 5 * DATA[1:].flip(1)])
    lam, start = torch.full((2,), 400.0, dtype=torch.float64), torch.zeros(2, N, N, dtype=torch.float64)
    both, taken = converged(total_variation(OPERATOR, hard, WEIGHTS, lam, start), 400, 1e-4)
    alone, taken_alone = converged(total_variation(OPERATOR, hard[:1], WEIGHTS[:1], lam[:1], start[:1]), 400, 1e-4)
    assert taken[0] == taken_alone[0]
    torch.testing.assert_close(both[:1], alone, rtol=1e-9, atol=1e-12)
