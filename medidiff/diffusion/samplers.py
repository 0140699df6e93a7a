"""Samplers: ways to walk x_sigma down a ladder of noise levels, as plain functions of one signature.

    sampler(denoise, x, sigmas, *, noise) -> Iterator[Step]

All of them solve, or follow at random, the probability-flow equation dx/dsigma = (x - x0_hat) / sigma
(Karras et al. 2022, eq. 1 with sigma(t) = t). `x` is (B, C, *spatial) at level `sigmas[0]`; `sigmas`
is (n,), or (n, B) where samples have scales of their own, decreasing, without a trailing 0, in the units
of x. Step i evaluates at sigmas[i] and ends at sigmas[i + 1]; the last one ends at 0 with x = x0_hat,
which is the Euler step to 0 and what every one of the published methods does there.

    euler      first order; with the ladder of a DDPM schedule it is DDIM (Song et al. 2021, eq. 13)
    ancestral  DDIM's eq. 12 with fresh noise; eta = 1 is DDPM (Ho et al. 2020, variance beta_tilde) and Euler a
    heun       second order, two evaluations a step (Karras et al. 2022, algorithm 1)
    plms       four-step linear multistep with fixed coefficients (Liu et al. 2022, PNDM, eq. 12 and 13)
    dpmpp_2m   second-order multistep in log sigma (Lu et al. 2022, DPM-Solver++, algorithm 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Denoise
from medidiff.diffusion.views import column, eps_from_x0

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise like the tensor given, new at each call: `sample_noise`, or schedule.CaseNoise."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step down the ladder.

    index        0 ... n - 1
    sigma        (B,) the level that was reached; 0 after the last step
    x            (B, C, *spatial) the state at that level
    x0_hat       (B, C, *spatial) the estimate that the step began with
    evaluations  calls of `denoise` so far
    """

    index: int
    sigma: Tensor
    x: Tensor
    x0_hat: Tensor
    evaluations: int


class Sampler(Protocol):
    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise) -> Iterator[Step]: ...


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
    """First order, deterministic: keep the estimate and shrink what is left of the noise."""
    levels = _levels(sigmas, x)
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        x0_hat = denoise(x, sigma)
        x = x0_hat + column(lower / sigma, x) * (x - x0_hat)
        yield Step(i, lower, x, x0_hat, i + 1)
    yield _last(denoise, x, levels, len(levels))


def ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise, eta: float = 1.0) -> Iterator[Step]:
    """First order, random: as `euler`, but part of the remaining noise is drawn anew."""
    levels = _levels(sigmas, x)
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        x0_hat = denoise(x, sigma)
        up = eta * lower * (1 - (lower / sigma) ** 2).sqrt()
        down = (lower**2 - up**2).sqrt()
        x = x0_hat + column(down / sigma, x) * (x - x0_hat) + column(up, x) * noise(x)
        yield Step(i, lower, x, x0_hat, i + 1)
    yield _last(denoise, x, levels, len(levels))


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
    """Second order: the mean of the slopes at both ends of the step."""
    levels = _levels(sigmas, x)
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        x0_hat = denoise(x, sigma)
        slope, step = eps_from_x0(x, sigma, x0_hat), column(lower - sigma, x)
        x = x + step * (slope + _slope(denoise, x + step * slope, lower)) / 2
        yield Step(i, lower, x, x0_hat, 2 * i + 2)
    yield _last(denoise, x, levels, 2 * len(levels) - 1)


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
    """Multistep on the last four slopes; the first step is Heun's, which costs one extra evaluation."""
    levels = _levels(sigmas, x)
    slopes: list[Tensor] = []
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        x0_hat = denoise(x, sigma)
        slopes = [eps_from_x0(x, sigma, x0_hat), *slopes[:3]]
        slope, step = _weighted(ADAMS_BASHFORTH[len(slopes) - 1], slopes), column(lower - sigma, x)
        if i == 0:
            slope = (slope + _slope(denoise, x + step * slope, lower)) / 2
        x = x + step * slope
        yield Step(i, lower, x, x0_hat, i + 2)
    yield _last(denoise, x, levels, len(levels) + (len(levels) > 1))


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
    """Second-order multistep: as `euler`, from an estimate extrapolated to the middle of the step in log sigma."""
    levels = _levels(sigmas, x)
    depths = -_levels(sigmas.log(), x)  # lambda, the log signal-to-noise ratio halved
    previous = x
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        x0_hat = middle = denoise(x, sigma)
        if i > 0:
            ratio = (depths[i + 1] - depths[i]) / (depths[i] - depths[i - 1])
            middle = x0_hat + column(ratio / 2, x) * (x0_hat - previous)
        x, previous = middle + column(lower / sigma, x) * (x - middle), x0_hat
        yield Step(i, lower, x, x0_hat, i + 1)
    yield _last(denoise, x, levels, len(levels))


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ancestral,
    "ddim": euler,
    "plms": plms,
    "euler": euler,
    "euler_a": ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}
"""By the names people know. DDPM and DDIM are Euler a and Euler seen from another schedule: choose their ladder."""


def start(mean: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
    """`mean + sigma * n`: the Euler step from sigma = infinity, where the estimate is E[x | cond], to `sigma` (B,).

    A sampler then runs on the ladder that begins with `sigma`; `mean` is one evaluation more. What is
    lost is the posterior's own spread at that level: take at least three of its standard deviations.
    """
    return mean + column(sigma, mean) * noise(mean)


def sample_noise(generators: Sequence[torch.Generator]) -> Noise:
    """Noise from one generator a sample, so that a sample does not depend on the batch it is in."""

    def noise(x: Tensor) -> Tensor:
        draws = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generators]
        return torch.stack(draws).to(x.device)

    return noise


def _levels(sigmas: Tensor, x: Tensor) -> Tensor:
    """(n, B) levels on the device and in the precision of `x`."""
    return sigmas.to(x).reshape(len(sigmas), -1).expand(-1, len(x))


def _slope(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    return eps_from_x0(x, sigma, denoise(x, sigma))


def _weighted(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, [w * term for w, term in zip(weights, terms, strict=True)])


def _last(denoise: Denoise, x: Tensor, levels: Tensor, evaluations: int) -> Step:
    x0_hat = denoise(x, levels[-1])
    return Step(len(levels) - 1, torch.zeros_like(levels[-1]), x0_hat, x0_hat, evaluations)
