"""Guidance by measured data: denoisers whose estimate is pulled towards images that explain a measurement.

    y = A x + n,  n ~ N(0, W^-1)        any linear A, W diagonal: the inverse variances of the measurement

Each function wraps a denoiser and returns one, so that samplers never learn of it:

    dds      a few conjugate-gradient steps on |x - x0|^2 + gamma |A x - y|_W^2 from x0      Chung et al. 2024
    diffpir  the same minimum with gamma = sigma^2 / trust, solved to the end                Zhu et al. 2023
    pigdm    x0 + sigma^2 J^T A^T (r^2 A A^T + W^-1)^-1 (y - A x0), J = d x0 / d x_sigma     Song et al. 2023
    dps      x0 + step sigma^2 J^T A^T W (y - A x0)                                          Chung et al. 2023

`pigdm` is exact where x | x_sigma is Gaussian with covariance r^2 I. The proximal two take the estimate for independent
of x_sigma, and `dps` takes it for certain: on a Gaussian prior their samples spread too little. A denoiser that was
conditioned on an image made of the same data counts these data twice: the spread of its samples is no uncertainty then.

x, x0 are (B, *image), y and W (B, *data). Cost is counted in calls of A and of its adjoint. Where the samples of a
batch are neighbouring slices, `Across` adds a penalty of their differences to the data term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Denoise
from medidiff.diffusion.views import column


class Operator(Protocol):
    """A linear map of batches and its exact transpose."""

    def apply(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Across:
    """The penalty `weight sum huber(x_k+1 - x_k)` of neighbouring slices, the samples of a batch in their order.

    huber(t) = t^2 / (2 delta) below `delta`, t - delta / 2 above: total variation along z that small steps do not feel,
    its weights taken at the estimate that a data step begins with. `weight` is one over the unit of x.
    """

    weight: float
    delta: float

    def at(self, x: Tensor) -> Map:
        """Its gradient, linear, with the weights of `x`."""
        edges = self.weight / torch.clamp((x[1:] - x[:-1]).abs(), min=self.delta)

        def gradient(p: Tensor) -> Tensor:
            pulled, flow = torch.zeros_like(p), edges * (p[1:] - p[:-1])
            pulled[:-1] -= flow
            pulled[1:] += flow
            return pulled

        return gradient


@dataclass(frozen=True, eq=False)
class Measurement:
    """Data `y` (B, *data) of `operator`, with inverse variances `weight` (B, *data), 0 where nothing was measured.

    preconditioner   gives, of gamma (B,), nearly the inverse of I + gamma A^T W A; None: conjugate gradients do without
    across           what else is asked of the samples of a batch; None: they know nothing of each other
    """

    operator: Operator
    y: Tensor
    weight: Tensor
    preconditioner: Callable[[Tensor], Map] | None = None
    across: Across | None = None

    def residual(self, x: Tensor) -> Tensor:
        """`y - A x`."""
        return self.y - self.operator.apply(x)

    def back(self, z: Tensor) -> Tensor:
        """`A^T W z`."""
        return self.operator.adjoint(self.weight * z)

    def terms(self, x0: Tensor) -> tuple[Tensor, Map]:
        """Minus the gradient of the data term at `x0`, and its curvature there, `A^T W A` and that of `across`."""
        pull, penalty = self.back(self.residual(x0)), self.across.at(x0) if self.across else None
        if penalty is None:
            return pull, lambda p: self.back(self.operator.apply(p))
        return pull - penalty(x0), lambda p: self.back(self.operator.apply(p)) + penalty(p)

    def solved(self, x0: Tensor, gamma: Tensor, steps: int) -> Tensor:
        """(I + gamma H)^-1 of the pull at `x0`, H the curvature, by `steps` of conjugate gradients; gamma is (B,)."""
        (pull, curvature), g = self.terms(x0), column(gamma, x0)
        precondition = self.preconditioner(gamma) if self.preconditioner else None
        coupled = self.across is not None
        return conjugate_gradients(
            lambda p: p + g * curvature(p),
            pull,
            torch.zeros_like(x0),
            steps,
            precondition=precondition,
            coupled=coupled,
        )

    def chi_square(self, x: Tensor) -> Tensor:
        """(B,) mean over measured rays of the squared residual in standard deviations; 1 for the truth."""
        return _dot(self.residual(x) ** 2, self.weight) / (self.weight > 0).flatten(1).sum(1)


def conjugate_gradients(
    system: Map,
    b: Tensor,
    x: Tensor,
    steps: int,
    tolerance: float = 1e-6,
    precondition: Map | None = None,
    *,
    coupled: bool = False,
) -> Tensor:
    """Solve `system(x) = b` from `x`; `system` is symmetric and positive definite, and so is `precondition`, nearly its
    inverse.

    Each sample is solved on its own, unless they are `coupled` by the system. Ends after `steps`, each one call of
    `system`, or when every residual has fallen below `tolerance` times |b|; a sample that has come there stays.
    """
    nearly = precondition or (lambda r: r)

    def dot(u: Tensor, v: Tensor) -> Tensor:
        found = _dot(u, v)
        return found.sum().expand(len(found)) if coupled else found

    r = b - system(x) if bool(x.any()) else b
    z = nearly(r)
    p, rho = z, dot(r, z)
    enough = tolerance**2 * dot(b, b)
    for _ in range(steps):
        moving = dot(r, r) > enough
        if not bool(moving.any()):
            break
        q = system(p)
        alpha = torch.where(moving, _ratio(rho, dot(p, q)), torch.zeros_like(rho))
        x, r = x + column(alpha, x) * p, r - column(alpha, x) * q
        z = nearly(r)
        rho, before = dot(r, z), rho
        p = z + column(_ratio(rho, before), x) * p
    return x


def dds(denoise: Denoise, data: Measurement, gamma: float | Tensor, steps: int = 5) -> Denoise:
    """Decomposed diffusion sampling (Chung, Lee and Ye 2024, arXiv:2303.05754, algorithm 3).

    (I + gamma A^T W A) x = x0 + gamma A^T W y by `steps` of conjugate gradients from x0; few of them leave what the
    data do not determine to the denoiser. `gamma`, one or (B,), is a variance, in the units of x squared.
    """

    def guided(x_sigma: Tensor, sigma: Tensor) -> Tensor:
        return _proximal(denoise(x_sigma, sigma), data, torch.as_tensor(gamma).to(sigma).expand_as(sigma), steps)

    return guided


def diffpir(denoise: Denoise, data: Measurement, trust: float = 1.0, steps: int = 20) -> Denoise:
    """The proximal step of DiffPIR (Zhu et al. 2023, arXiv:2305.08995, equation 13): gamma = sigma^2 / trust.

    The data rule while the noise is high, the denoiser when it is low. The noise that DiffPIR adds anew is that of the
    ancestral sampler.
    """

    def guided(x_sigma: Tensor, sigma: Tensor) -> Tensor:
        return _proximal(denoise(x_sigma, sigma), data, sigma**2 / trust, steps)

    return guided


def pigdm(denoise: Denoise, data: Measurement, spread: Callable[[Tensor], Tensor], steps: int = 20) -> Denoise:
    """Pseudoinverse guidance (Song et al. 2023, ICLR, equation 7) with a noisy measurement.

    `spread` gives r^2 (B,), the variance that x is taken to have about x0, of sigma (B,); for data of variance c it is
    sigma^2 c / (sigma^2 + c). The inverse is taken by conjugate gradients in the space of the image:
    A^T (r^2 A A^T + W^-1)^-1 = (I + r^2 A^T W A)^-1 A^T W, which has no trouble with weights of 0.
    """

    def guided(x_sigma: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            state = x_sigma.detach().requires_grad_()
            x0 = denoise(state, sigma)
        z = data.solved(x0.detach(), spread(sigma), steps)
        (pull,) = torch.autograd.grad(x0, state, z)
        return x0.detach() + column(sigma**2, x_sigma) * pull

    return guided


def dps(denoise: Denoise, data: Measurement, step: float | Callable[[Tensor], Tensor] = 1.0) -> Denoise:
    """Diffusion posterior sampling (Chung et al. 2023, arXiv:2209.14687, equation 15) with the likelihood's own weight.

    `step` 1 is the gradient of log p(y | x0_hat); with precise data it needs a ladder of very many levels, or a smaller
    step, which the paper sets by trial; a function gives that of each sigma (B,).
    """

    def guided(x_sigma: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            state = x_sigma.detach().requires_grad_()
            x0 = denoise(state, sigma)
        z, _ = data.terms(x0.detach())
        (pull,) = torch.autograd.grad(x0, state, z)
        share = step(sigma) if callable(step) else step
        return x0.detach() + column(share * sigma**2, x_sigma) * pull

    return guided


def _proximal(x0: Tensor, data: Measurement, gamma: Tensor, steps: int) -> Tensor:
    """The x that minimises |x - x0|^2 + gamma |A x - y|_W^2, by `steps` from x0; gamma is (B,)."""
    return x0 + column(gamma, x0) * data.solved(x0, gamma, steps)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B,) summed in double precision, so that the order of the sum, which changes with B, does not show."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64).to(a.dtype)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where both have come to 0: a sample that is solved stays as it is."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))
