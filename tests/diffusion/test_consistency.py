"""Guidance by data, where the posterior is known: a Gaussian prior and a small matrix.

For x ~ N(m, c I), y = A x + n, n ~ N(0, s^2 I):  x | y ~ N(m + K (y - A m), c (I - K A)) with
K = c A^T (c A A^T + s^2)^-1; the same holds of x | x_sigma, y with x0_hat for m and c sigma^2 / (c + sigma^2) for c.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medidiff.diffusion.consistency import (
    Across,
    Measurement,
    conjugate_gradients,
    dds,
    diffpir,
    dps,
    pigdm,
)
from medidiff.diffusion.denoiser import Denoise
from medidiff.diffusion.gaussian import Gaussian
from medidiff.diffusion.samplers import heun
from medidiff.diffusion.schedule import karras

D, K, C, S, N = 6, 3, 1.0, 0.5, 2000
GENERATOR = torch.Generator().manual_seed(0)
MATRIX = torch.randn(K, D, generator=GENERATOR, dtype=torch.float64) / D**0.5
PRIOR = Gaussian(torch.linspace(-1, 1, D).double(), torch.full((D,), C).double(), torch.eye(D).double())
Y = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


class Matrix:
    def apply(self, x: Tensor) -> Tensor:
        return x @ MATRIX.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ MATRIX


class Counting(Matrix):
    def __init__(self) -> None:
        self.calls = 0

    def apply(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self.calls += 1
        return super().adjoint(y)


def measured(n: int, operator: Matrix | None = None) -> Measurement:
    return Measurement(operator or Matrix(), Y.expand(n, K), torch.full((n, K), S**-2, dtype=torch.float64))


def posterior(mean: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Mean (.., D) and covariance (D, D) given Y, of a prior N(mean, variance I)."""
    gain = variance * MATRIX.T @ torch.linalg.inv(variance * MATRIX @ MATRIX.T + S**2 * torch.eye(K).double())
    return mean + (Y - mean @ MATRIX.T) @ gain.T, variance * (torch.eye(D).double() - gain @ MATRIX)


def spread(sigma: Tensor) -> Tensor:
    return C * sigma**2 / (C + sigma**2)


def states(n: int, sigma: float) -> tuple[Tensor, Tensor]:
    x = sigma * torch.randn(n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.full((n,), sigma, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_pigdm_gives_the_mean_of_the_posterior_at_every_level(sigma: float) -> None:
    x, levels = states(5, sigma)
    expected, _ = posterior(PRIOR.denoise(x, levels), float(spread(levels)[0]))
    torch.testing.assert_close(pigdm(PRIOR.denoise, measured(5), spread)(x, levels), expected, rtol=1e-6, atol=1e-7)


def sampled(guide: Callable[[Measurement], Denoise], steps: int = 80) -> Tensor:
    """Samples (N, D) at the end of the probability flow."""
    start = 60.0
    x, _ = states(N, start)
    ladder = karras(steps, 2e-3, start)[:, None].expand(-1, N)
    *_, last = heun(guide(measured(N)), x, ladder)
    return last.x


def test_samples_of_pigdm_have_mean_and_covariance_of_the_posterior() -> None:
    mean, covariance = posterior(PRIOR.mean, C)
    samples = sampled(lambda data: pigdm(PRIOR.denoise, data, spread))
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.07)


def measured_variance(samples: Tensor) -> float:
    """Of the projections of samples over that of the posterior: what the data determine."""
    _, covariance = posterior(PRIOR.mean, C)
    return float(((samples @ MATRIX.T).T.cov().diagonal() / (MATRIX @ covariance @ MATRIX.T).diagonal()).mean())


def test_the_others_have_their_known_bias() -> None:
    """All spread too little where the data speak, those of dps by far the least; none does where they are silent."""
    small = sampled(lambda data: diffpir(PRIOR.denoise, data))
    smaller = sampled(lambda data: dps(PRIOR.denoise, data))
    assert 0.5 < measured_variance(small) < 0.95
    assert measured_variance(smaller) < 0.7 * measured_variance(small)
    silent = torch.linalg.svd(MATRIX)[2][K:]
    for samples in (small, smaller):
        torch.testing.assert_close((samples @ silent.T).T.cov(), C * torch.eye(D - K).double(), rtol=0, atol=0.08)


def test_the_proximal_step_is_the_minimum_of_its_two_terms() -> None:
    """Where it is solved to the end: the gradient vanishes; `dds` is the same with a constant weight."""
    x, levels = states(4, 0.8)
    data, x0 = measured(4), PRIOR.denoise(x, levels)
    for guided, gamma in (
        (diffpir(PRIOR.denoise, data, trust=2.0), 0.8**2 / 2),
        (dds(PRIOR.denoise, data, 0.9, 50), 0.9),
    ):
        found = guided(x, levels)
        torch.testing.assert_close(found - x0, gamma * data.back(data.residual(found)), rtol=1e-5, atol=1e-6)


def test_data_without_weight_change_nothing() -> None:
    x, levels = states(4, 0.8)
    data = Measurement(Matrix(), Y.expand(4, K), torch.zeros(4, K).double())
    for guided in (
        dds(PRIOR.denoise, data, 1.0), diffpir(PRIOR.denoise, data), pigdm(PRIOR.denoise, data, spread),
        dps(PRIOR.denoise, data),
    ):  # fmt: skip
        torch.testing.assert_close(guided(x, levels), PRIOR.denoise(x, levels))


def test_the_guided_estimate_explains_the_data_better() -> None:
    x, levels = states(50, 0.8)
    data = measured(50)
    before = data.chi_square(PRIOR.denoise(x, levels)).mean()
    for guided in (dds(PRIOR.denoise, data, 1.0), diffpir(PRIOR.denoise, data), pigdm(PRIOR.denoise, data, spread)):
        assert data.chi_square(guided(x, levels)).mean() < 0.6 * before


def test_the_truth_has_a_chi_square_of_one() -> None:
    x = torch.randn(1, D, generator=GENERATOR).double().expand(20000, D)
    noise = S * torch.randn(20000, K, generator=GENERATOR).double()
    weight = torch.full((20000, K), S**-2).double()
    weight[:, 1] = 0  # a dead detector
    assert Measurement(Matrix(), x @ MATRIX.T + noise, weight).chi_square(x).mean() == pytest.approx(1, abs=0.03)


def test_calls_of_the_operator_are_counted() -> None:
    """One residual and its way back, and two for each step of conjugate gradients."""
    x, levels = states(2, 0.8)
    counting = Counting()
    dds(PRIOR.denoise, measured(2, counting), 1.0, steps=2)(x, levels)
    assert counting.calls == 2 + 2 * 2


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns() -> None:
    """Samples of any size side by side, one of them solved from the beginning."""
    system = MATRIX.T @ MATRIX + torch.eye(D).double()
    truth = torch.stack([torch.zeros(D), torch.ones(D), 1e6 * torch.arange(D)]).double()
    found = conjugate_gradients(lambda p: p @ system, truth @ system, torch.zeros(3, D).double(), D, 1e-12)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)


def test_a_preconditioner_leaves_the_answer_and_saves_steps() -> None:
    """A system whose scales differ by 1e4: with the inverse of its diagonal a third of the steps do."""
    scale = torch.logspace(0, 4, D).double()
    matrix = torch.diag(scale) + 0.1 * MATRIX.T @ MATRIX
    b = torch.ones(2, D).double()
    exact = torch.linalg.solve(matrix, b.T).T

    def solved(steps: int, precondition: Callable[[Tensor], Tensor] | None) -> float:
        x = conjugate_gradients(lambda p: p @ matrix, b, torch.zeros_like(b), steps, precondition=precondition)
        return float((x - exact).norm() / exact.norm())

    assert solved(3, lambda r: r / scale) < 1e-4
    assert solved(2, None) > 1e-2
    assert solved(30, lambda r: r / scale) < 1e-9


def test_a_sample_that_is_solved_does_not_depend_on_the_others() -> None:
    """Alone, and beside one that takes many more steps: the same to the last bit."""
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 10.0, 100.0, 1e4])).double()
    easy, hard = torch.eye(D).double()[:1], torch.ones(1, D).double()

    def solve(b: Tensor) -> Tensor:
        return conjugate_gradients(lambda p: p @ matrix, b, torch.zeros_like(b), 20)

    torch.testing.assert_close(solve(torch.cat([easy, hard]))[:1], solve(easy), rtol=0, atol=0)


def test_across_is_the_gradient_of_its_penalty() -> None:
    """Huber's, of the differences of neighbours, by automatic differentiation."""
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    across = Across(weight=0.7, delta=0.5)
    t = (x[1:] - x[:-1]).abs()
    penalty = 0.7 * torch.where(t < 0.5, t**2 / (2 * 0.5), t - 0.5 / 2).sum()
    (expected,) = torch.autograd.grad(penalty, x)
    torch.testing.assert_close(across.at(x.detach())(x.detach()), expected)


def test_across_draws_neighbours_together() -> None:
    """Estimates that flicker do so less after a data step with the penalty than after one without."""
    x, levels = states(8, 0.8)
    steps = []
    for across in (None, Across(2.0, 0.05)):
        data = Measurement(Matrix(), Y.expand(8, K), torch.full((8, K), S**-2).double(), across=across)
        steps.append(dds(PRIOR.denoise, data, 1.0, 50)(x, levels).diff(dim=0).norm())
    assert steps[1] < 0.7 * steps[0]
