"""Noise levels: schedules and ladders of sigma, the forward process, and seeds that belong to a case.

Everything is a list of sigmas. A schedule of the variance-preserving literature is `alpha_bar(t)`, and

    sigma = sqrt((1 - alpha_bar) / alpha_bar)        x_t = sqrt(alpha_bar) * x_sigma

    linear      beta from 1e-4 to 0.02 in 1,000 steps                       Ho et al. 2020
    cosine      alpha_bar = f(t) / f(0), f = cos^2((t + 0.008) / 1.008 * pi / 2)   Nichol & Dhariwal 2021, eq. 17
    aggressive  sigma = 8 tan(pi t / 2): cosine with its log-SNR shifted by 2 log(64 / 512),
                the shift of Hoogeboom et al. 2023 ("simple diffusion") for 512 x 512 images. Large images
                stay legible under noise that hides small ones, so it destroys them early: half of the
                power is noise after 8 % of the way (linear: 26 %, cosine: 50 %)
    karras      sigma^(1/7) evenly spaced                                    Karras et al. 2022, eq. 5

A ladder is what a sampler walks down: n decreasing, dimensionless sigmas, `sigmas = s * ladder`. The step
from the last one to 0 is the sampler's own and not listed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from medidiff.diffusion.views import column

Z_WEIGHTS = (1.0, 2.0, 1.0)  # neighbouring slices correlate by 2/3, next neighbours by 1/6
AGGRESSIVE_SHIFT = 512 / 64
FINE_STEPS = 1000  # steps of the table that a ladder is read from


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Noise level relative to the image; any shape."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """Share of the image in the power of `x_t`; any shape."""
    return 1 / (1 + sigma**2)


def add_noise(x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """The forward process `x + sigma * n`; `x` (B, C, *spatial), `sigma` (B,), the generator on x's device."""
    n = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + column(sigma, x) * n


def alpha_bar_linear(n: int) -> Tensor:
    """(n,) float64; the betas are scaled by 1000 / n so that the end does not depend on n (n > 20)."""
    return (1 - torch.linspace(1e-4, 0.02, n, dtype=torch.float64) * (1000 / n)).cumprod(0)


def alpha_bar_cosine(n: int) -> Tensor:
    """(n,) float64; no beta exceeds 0.999, as published."""
    t = torch.arange(n + 1, dtype=torch.float64) / n
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (f[1:] / f[:-1]).clamp(min=0.001).cumprod(0)


def alpha_bar_aggressive(n: int) -> Tensor:
    """(n,) float64, at the middles of n even intervals of t (sigma is 0 and infinite at the ends)."""
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return alpha_bar_from_sigma(AGGRESSIVE_SHIFT * torch.tan(math.pi / 2 * t))


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """(n,) float64 from `sigma_max` down to `sigma_min`; a larger rho spends more steps at the bottom."""
    return torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, dtype=torch.float64) ** rho


def _ladder(schedule: Callable[[int], Tensor]) -> Callable[[int, float, float], Tensor]:
    """A ladder evenly spaced in the t of a schedule, where it lies between sigma_min and sigma_max."""

    def ladder(n: int, sigma_min: float, sigma_max: float) -> Tensor:
        log_sigma = sigma_from_alpha_bar(schedule(FINE_STEPS)).log().numpy()
        t = np.arange(FINE_STEPS)
        t_max, t_min = np.interp(np.log([sigma_max, sigma_min]), log_sigma, t)
        return torch.from_numpy(np.exp(np.interp(np.linspace(t_max, t_min, n), t, log_sigma)))

    return ladder


LADDERS: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": _ladder(alpha_bar_linear),
    "cosine": _ladder(alpha_bar_cosine),
    "aggressive": _ladder(alpha_bar_aggressive),
    "karras": karras,
}
"""name -> (n, sigma_min, sigma_max) -> (n,) float64, decreasing; within the schedule's own range of sigma."""


def case_seed(identity: str, seed: int) -> int:
    """One seed for one case: 63 bits of SHA-256 of its identity (a SeriesInstanceUID) and the user's seed."""
    digest = hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def white_field(case: int, index: int, shape: Sequence[int], draw: int = 0, sample: int = 0) -> Tensor:
    """`shape` float32 standard normal values that belong to slice position `index` of a case, and to nothing else.

    From NumPy: torch.Generator keeps 32 bits of its seed, and its CPU and GPU streams differ.
    """
    key = [case, sample, draw, index + 2**31]  # a seed has no sign, and neighbours of slice 0 are needed
    return torch.from_numpy(np.random.default_rng(key).standard_normal(tuple(shape), dtype=np.float32))


def slice_noise(
    case: int, index: int, shape: Sequence[int], *, weights: Sequence[float] = Z_WEIGHTS, draw: int = 0, sample: int = 0
) -> Tensor:
    """Unit-variance noise `shape` of one slice, white in plane and correlated with its neighbours in z.

        n_k = sum_j w_j e_(k+j) / |w|        e_k white fields seeded by (case, k)

    Each slice alone is exactly N(0, I), and none depends on which others are computed, in what order.
    """
    return CaseNoise(case, (index,), weights, sample, draw)(torch.empty(1, *shape))[0]


@dataclass
class CaseNoise:
    """A source of noise for samplers: the k-th call gives the k-th draw of each slice position of a batch.

    `case` is from `case_seed`; `indices` are the slice positions (B,) of the batch; `sample` tells repeated
    samples of one case apart; `draw` counts the calls.
    """

    case: int
    indices: Sequence[int]
    weights: Sequence[float] = Z_WEIGHTS
    sample: int = 0
    draw: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Noise like `x` (B, C, *spatial), with `slice_noise` of `indices[b]` as its b-th sample."""
        reach = len(self.weights) // 2
        weights = [w / math.hypot(*self.weights) for w in self.weights]
        needed = {k + j for k in self.indices for j in range(-reach, reach + 1)}
        white = {k: white_field(self.case, k, x.shape[1:], self.draw, self.sample) for k in needed}
        self.draw += 1
        return torch.stack([self._blend(white, k - reach, weights) for k in self.indices]).to(x)

    @staticmethod
    def _blend(white: dict[int, Tensor], first: int, weights: Sequence[float]) -> Tensor:
        return reduce(torch.add, [w * white[first + j] for j, w in enumerate(weights)])
