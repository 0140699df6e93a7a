"""The denoiser: one contract, preconditioned around the low-dose image.

    denoiser.mean(cond)          -> x0_hat      E[x | y]: the sigma -> infinity answer, one evaluation
    denoiser(x_sigma, sigma, cond) -> x0_hat    an estimate of E[x | x_sigma, y]
    denoise = bind(denoiser, cond)              what samplers and guidance see

With x_sigma = x + sigma * n and the local prior x | y ~ N(y, r^2), r the noise level of the low-dose image y:

    x0_hat = y + c_skip * (x_sigma - y) + c_out * F(c_in * (x_sigma - y), features(y, r), log(sigma / r))
    c_skip = r^2 / (sigma^2 + r^2)      c_out = sigma * r / sqrt(sigma^2 + r^2)      c_in = 1 / sqrt(sigma^2 + r^2)

This is EDM (Karras et al. 2022, arXiv:2206.00364, Table 1 and Eq. 7) with its data distribution re-centred on y.
At sigma -> infinity c_skip and c_in vanish, c_out -> r, and F alone is the regression y -> x.
The network sees only ratios to r, never absolute levels: adding a constant to y adds it to the answer, scaling
y and r scales it. That is what lets one checkpoint serve every dose. Without a condition y becomes the data
mean and r the data's standard deviation, which is EDM as published; the flag is embedded, no pixel value means it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medidiff.diffusion.views import column

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_sigma (B, C, *spatial), sigma (B,)) -> x0_hat (B, C, *spatial)."""

FEATURES = 5  # log(sigma / r), mean flag, null flag, two noise colours
LOG_SPREAD = (-6.0, 3.0)  # of the spread relative to r: keeps an untrained network finite
CONTEXT = 8  # pixels over which the local mean of y is taken


@dataclass(frozen=True, eq=False)
class Condition:
    """What is known about the clean image, in model units.

    slab    (B, K, *spatial)  the low-dose image between its neighbours, K odd, the image itself in the middle
    r       (B,)              its noise level (standard deviation)
    colour  (B, 2)            how much noise survives 2- and 4-fold averaging (see medidiff.noise.level)
    null    (B,) bool         True: no condition, the slab is ignored
    noise_map (B, 1, *spatial)  log2 of the local noise level relative to r; None: the same everywhere. Of PET, whose
                                unit is that level, half of log2 of the local activity in SUV
    guide     (B, 1, *spatial)  another image of the same anatomy; None: there is none
    facts     (B, F)            what else a network is told of the image; None: nothing
    """

    slab: Tensor
    r: Tensor
    colour: Tensor
    null: Tensor
    noise_map: Tensor | None = None
    guide: Tensor | None = None
    facts: Tensor | None = None

    @property
    def y(self) -> Tensor:
        """(B, 1, *spatial) the low-dose image."""
        middle = self.slab.shape[1] // 2
        return self.slab[:, middle : middle + 1]

    def to(self, device: torch.device) -> Condition:
        """The same batch on another device."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return Condition(**{name: value.to(device) for name, value in known.items()})

    def as_null(self) -> Condition:
        """The same batch with the condition taken away."""
        return replace(self, null=torch.ones_like(self.null))


def bind(denoiser: Callable[[Tensor, Tensor, Condition], Tensor], cond: Condition) -> Denoise:
    """Fix the condition: what samplers and guidance see."""
    return lambda x_sigma, sigma: denoiser(x_sigma, sigma, cond)


def local_mean(y: Tensor) -> Tensor:
    """Average over blocks of CONTEXT pixels, interpolated back; (B, 1, *spatial)."""
    pool = {4: F.avg_pool2d, 5: F.avg_pool3d}[y.ndim]
    mode = {4: "bilinear", 5: "trilinear"}[y.ndim]
    return F.interpolate(pool(y, CONTEXT), size=y.shape[2:], mode=mode, align_corners=False)


def squash(u: Tensor) -> Tensor:
    """Compress edges, keep noise linear: asinh is ~u within the noise and ~log u at bone and air."""
    a = u.abs() / 3  # as log1p, because torch.asinh is not vectorised on a CPU: 11 to 13 ms a slice
    return torch.copysign(torch.log1p(a + a * a / (1 + torch.sqrt(1 + a * a))), u)


def anchored(residual: Tensor, pixels: float) -> Tensor:
    """The residual (B, 1, *spatial) less its Gaussian average over `pixels`; reflected at the borders."""
    if not pixels:
        return residual
    reach = min(math.ceil(3 * pixels), *(n - 1 for n in residual.shape[2:]))
    taps = torch.arange(-reach, reach + 1, dtype=residual.dtype, device=residual.device)
    taps = torch.exp(-0.5 * (taps / pixels) ** 2)
    taps, smooth, d = taps / taps.sum(), residual, residual.ndim - 2
    convolve = {2: F.conv2d, 3: F.conv3d}[d]
    for axis in range(d):
        padding = [0] * (2 * d)
        padding[2 * (d - 1 - axis)] = padding[2 * (d - 1 - axis) + 1] = reach
        shape = [1] * (d + 2)
        shape[2 + axis] = len(taps)
        with torch.autocast(residual.device.type, enabled=False):  # a mean of many pixels: rounding would show
            smooth = convolve(F.pad(smooth, padding, mode="reflect"), taps.reshape(shape))
    return residual - smooth


class Denoiser(nn.Module):
    """A network with its preconditioning.

    network    (B, K + 1, *spatial), (B, FEATURES + F) -> (B, 1, *spatial); with `takes_map` and with `takes_guide` one
               channel more comes in, with `gives_spread` one more goes out
    data_mean, data_std   of clean images in model units; used when there is no condition
    anchor     pixels, the Gaussian over which `mean` keeps the local mean of y: E[x | y] = y + r (F - G F). A mean of a
               hundred pixels is measured better than any training set knows it, so neither HU nor the contrast of what
               is larger can drift. 0: no anchor
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        data_mean: float = -0.4,
        data_std: float = 0.45,
        takes_map: bool = False,
        takes_guide: bool = False,
        gives_spread: bool = False,
        anchor: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.takes_map, self.takes_guide = takes_map, takes_guide
        self.gives_spread, self.anchor = gives_spread, anchor
        self.data_mean, self.data_std = data_mean, data_std

    def mean(self, cond: Condition) -> Tensor:
        """E[x | y] in one evaluation, (B, 1, *spatial)."""
        y, r = self._centre(cond)
        residual, _ = self._evaluate(torch.zeros_like(y), None, y, r, cond)
        return y + column(r, y) * anchored(residual, self.anchor)

    def mean_and_spread(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """E[x | y] and the standard deviation of x about it, each (B, 1, *spatial), in the same one evaluation.

        The deviation is what a Gaussian of the training errors has (Nix & Weigend 1994); it is not yet calibrated.
        """
        y, r = self._centre(cond)
        residual, log_spread = self._evaluate(torch.zeros_like(y), None, y, r, cond)
        if log_spread is None:
            raise TypeError("this network has no spread: draw samples instead")
        return y + column(r, y) * anchored(residual, self.anchor), column(r, y) * torch.exp(log_spread)

    def forward(self, x_sigma: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """E[x | x_sigma, y]; x_sigma (B, 1, *spatial), sigma (B,) > 0, both in model units."""
        y, r = self._centre(cond)
        total = torch.sqrt(sigma**2 + r**2)
        c_skip, c_out, c_in = (column(c, y) for c in (r**2 / total**2, sigma * r / total, 1 / total))
        state = x_sigma - y
        return y + c_skip * state + c_out * self._evaluate(c_in * state, sigma / r, y, r, cond)[0]

    def loss(self, x: Tensor, cond: Condition, sigma: Tensor, noise: Tensor) -> Tensor:
        """(B,) squared error of F, that is EDM's weighting (sigma^2 + r^2) / (sigma r)^2 of |x0_hat - x|^2."""
        return self.errors(x, cond, sigma, noise)[0].square().flatten(1).mean(1)

    def errors(self, x: Tensor, cond: Condition, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """(error of F, log of its spread or None), each (B, 1, *spatial); where sigma is infinite in units of r.

        sigma (B,) may hold infinity: those samples train `mean`. noise (B, 1, *spatial) is unit white.
        """
        y, r = self._centre(cond)
        infinite = torch.isinf(sigma)
        finite = torch.where(infinite, torch.ones_like(sigma), sigma)
        state = torch.where(column(infinite, x), torch.zeros_like(x), x + column(finite, x) * noise - y)
        total = torch.sqrt(finite**2 + r**2)
        c_skip = torch.where(infinite, torch.zeros_like(r), r**2 / total**2)
        c_out = torch.where(infinite, r, finite * r / total)
        ratio = torch.where(infinite, torch.full_like(r, torch.inf), finite / r)
        network, log_spread = self._evaluate(column(1 / total, x) * state, ratio, y, r, cond)
        if self.anchor:
            network = torch.where(column(infinite, x), anchored(network, self.anchor), network)
        target = (x - y - column(c_skip, x) * state) / column(c_out, x)
        return network - target, log_spread

    def _centre(self, cond: Condition) -> tuple[Tensor, Tensor]:
        y = torch.where(column(cond.null, cond.slab), torch.full_like(cond.y, self.data_mean), cond.y)
        return y, torch.where(cond.null, torch.full_like(cond.r, self.data_std), cond.r)

    def _evaluate(
        self, state: Tensor, ratio: Tensor | None, y: Tensor, r: Tensor, cond: Condition
    ) -> tuple[Tensor, Tensor | None]:
        """F, and the log of its spread where the network has one."""
        images = squash((cond.slab - local_mean(cond.y)) / column(cond.r, y))
        known = (~cond.null).to(state.dtype)
        images = torch.where(column(cond.null, images), torch.zeros_like(images), images)  # not `* 0`: NaN would leak
        colour = torch.where(cond.null[:, None], torch.zeros_like(cond.colour), cond.colour)
        is_mean = torch.ones_like(r) if ratio is None else torch.isinf(ratio).to(state.dtype)
        log_ratio = torch.zeros_like(r) if ratio is None else torch.nan_to_num(torch.log(ratio), posinf=0.0)
        features = torch.stack([log_ratio / 2, is_mean, 1 - known, colour[:, 0], colour[:, 1]], dim=1)
        if cond.facts is not None:
            features = torch.cat([features, cond.facts], dim=1)
        stacked = torch.cat([state, images, *self._guide(y, cond), *self._map(y, cond)], dim=1)
        if stacked.ndim == 4:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        out = self.network(stacked, features).to(stacked.dtype)  # the network alone may be in half precision
        return (out[:, :1], out[:, 1:].clamp(*LOG_SPREAD)) if self.gives_spread else (out, None)

    def _map(self, y: Tensor, cond: Condition) -> list[Tensor]:
        if not self.takes_map:
            return []
        level = torch.zeros_like(y) if cond.noise_map is None else cond.noise_map
        return [torch.where(column(cond.null, level), torch.zeros_like(level), level)]

    def _guide(self, y: Tensor, cond: Condition) -> list[Tensor]:
        if not self.takes_guide:
            return []
        return [torch.zeros_like(y) if cond.guide is None else cond.guide]
