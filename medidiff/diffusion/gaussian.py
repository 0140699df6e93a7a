"""The one distribution whose denoiser, flow and samples are known exactly: the oracle for every sampler.

    x ~ N(mean, Q diag(v) Q^T)        E[x | x_sigma] = mean + Q diag(v / (v + sigma^2)) Q^T (x_sigma - mean)

The probability flow from sigma to tau stretches direction i by sqrt((v_i + tau^2) / (v_i + sigma^2)).
An ancestral step from sigma to tau (eta = 1) with a = v / (v + sigma^2), k = a + (1 - a) tau^2 / sigma^2 takes
a variance w about the mean to k^2 w + tau^2 (1 - tau^2 / sigma^2); the last step to 0 takes it to a^2 w.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean (d,), variance (d,) along the columns of the orthogonal basis (d, d); samples are (B, C, *spatial)
    with C * prod(spatial) = d."""

    mean: Tensor
    variance: Tensor
    basis: Tensor

    def denoise(self, x_sigma: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_sigma], `sigma` (B,)."""
        return self._stretch(x_sigma, self.variance / (self.variance + sigma[:, None] ** 2))

    def flow(self, x_sigma: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
        """Where the probability flow takes `x_sigma` from level `sigma` (B,) to level `tau` (B,)."""
        stretch = (self.variance + tau[:, None] ** 2) / (self.variance + sigma[:, None] ** 2)
        return self._stretch(x_sigma, stretch.sqrt())

    def ancestral_variance(self, sigmas: Iterable[float], start: Tensor) -> Tensor:
        """(d,) variance at 0 of the ancestral sampler that starts with variance `start` (d,) at sigmas[0]."""
        w = start
        levels = [*sigmas, 0.0]
        for sigma, tau in pairwise(levels):
            a, keep = self.variance / (self.variance + sigma**2), (tau / sigma) ** 2
            w = (a + (1 - a) * keep) ** 2 * w + tau**2 * (1 - keep)
        return w

    def _stretch(self, x: Tensor, factors: Tensor) -> Tensor:
        deviation = (x.flatten(1) - self.mean) @ self.basis
        return (self.mean + (factors * deviation) @ self.basis.T).reshape(x.shape)
