"""Linear measurements `y = A x` of batches of images, and their adjoints: `<A x, y> = <x, A^T y>`.

An operator says what it maps (`in_shape`, `out_shape`, without the batch) and where it runs (`device`); `apply` and
`adjoint` take (B, *shape) tensors of any device and float type, give the result there, and can be differentiated
(the gradient of one is the other). Implementations write `_forward` and `_backward` for a batch on `device`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medidiff.physics.ct import DEFAULT_GEOMETRY, FanGeometry, fan_lines, line_integrals, spread_lines

Map = Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Map, backward: Map) -> Tensor:
        ctx.maps = forward, backward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        forward, backward = ctx.maps
        return _Linear.apply(gradients[0], backward, forward), None, None


class LinearOperator(ABC):
    """`y = A x`, (B, *in_shape) to (B, *out_shape)."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    device: torch.device

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _backward(self, y: Tensor) -> Tensor: ...

    def apply(self, x: Tensor) -> Tensor:
        """`A x`; raises ValueError when `x` is not (B, *in_shape)."""
        return self._map(x, self.in_shape, self._forward, self._backward)

    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`; raises ValueError when `y` is not (B, *out_shape)."""
        return self._map(y, self.out_shape, self._backward, self._forward)

    def _map(self, x: Tensor, shape: tuple[int, ...], forward: Map, backward: Map) -> Tensor:
        if x.shape[1:] != shape:
            raise ValueError(f"{type(self).__name__} expects (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        return _Linear.apply(x.to(self.device), forward, backward).to(x.device)


class FanBeam(LinearOperator):
    """Line integrals of attenuation images (rows, columns) in 1/mm over a full turn, (views, bins); runs on the CPU.

    The adjoint is the exact transpose of Joseph's interpolation: matched to rounding.
    """

    def __init__(self, matrix: tuple[int, int], pixel_mm: float, geometry: FanGeometry = DEFAULT_GEOMETRY) -> None:
        self.in_shape = matrix
        self.out_shape = (geometry.n_views, geometry.n_bins)
        self.device = torch.device("cpu")
        self.pixel_mm = pixel_mm
        self._theta, self._s_mm = fan_lines(geometry)

    def _forward(self, x: Tensor) -> Tensor:
        images = x.detach().numpy()
        sinograms = [line_integrals(image, self.pixel_mm, self._theta, self._s_mm) for image in images]
        return torch.from_numpy(np.stack(sinograms)).reshape(len(x), *self.out_shape)

    def _backward(self, y: Tensor) -> Tensor:
        rows, cols = self.in_shape
        values = y.detach().reshape(len(y), -1).numpy()
        images = [spread_lines(v, self.pixel_mm, self._theta, self._s_mm, (rows, cols)) for v in values]
        return torch.from_numpy(np.stack(images))
