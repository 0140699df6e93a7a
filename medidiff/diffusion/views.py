"""What a network may be said to predict: linear re-readings of `x0_hat`, each with its inverse.

With `x_sigma = x0 + sigma * n` (the noise is added, nothing is shrunk) and, in the variance-preserving
picture, `x_t = x_sigma / sqrt(1 + sigma^2)`:

    eps   = (x_sigma - x0) / sigma                        Ho et al. 2020, eq. 11
    score = (x0 - x_sigma) / sigma^2 = -eps / sigma       Vincent 2011; Song & Ermon 2019 (NCSN)
    v     = (eps - sigma * x0) / sqrt(1 + sigma^2)        Salimans & Ho 2022, appendix D

`x` is (B, C, *spatial), `sigma` is (B,) in the units of `x`; v is dimensionally sound only where x is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def column(sigma: Tensor, x: Tensor) -> Tensor:
    """`sigma` (B,) shaped (B, 1, ..., 1) so that it multiplies `x` (B, C, *spatial) sample by sample."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def eps_from_x0(x_sigma: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
    """The unit-variance noise that `x0` says was added."""
    return (x_sigma - x0) / column(sigma, x_sigma)


def x0_from_eps(x_sigma: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    return x_sigma - column(sigma, x_sigma) * eps


def score_from_x0(x_sigma: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
    """Gradient of log p(x_sigma), by Tweedie's formula."""
    return (x0 - x_sigma) / column(sigma, x_sigma) ** 2


def x0_from_score(x_sigma: Tensor, sigma: Tensor, score: Tensor) -> Tensor:
    return x_sigma + column(sigma, x_sigma) ** 2 * score


def v_from_x0(x_sigma: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
    """Velocity on the circle between image and noise of the variance-preserving picture."""
    s = column(sigma, x_sigma)
    return (eps_from_x0(x_sigma, sigma, x0) - s * x0) / (1 + s**2).sqrt()


def x0_from_v(x_sigma: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    s = column(sigma, x_sigma)
    return x_sigma / (1 + s**2) - s / (1 + s**2).sqrt() * v


@dataclass(frozen=True)
class View:
    """A prediction target: `read` gives it from `x0`, `x0` gives the image back; both `(x_sigma, sigma, .)`."""

    read: Callable[[Tensor, Tensor, Tensor], Tensor]
    x0: Callable[[Tensor, Tensor, Tensor], Tensor]


VIEWS: dict[str, View] = {
    "eps": View(eps_from_x0, x0_from_eps),
    "score": View(score_from_x0, x0_from_score),
    "v": View(v_from_x0, x0_from_v),
}
