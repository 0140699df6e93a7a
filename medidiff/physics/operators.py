"""Linear measurements `y = A x` of batches of images, and their adjoints: `<A x, y> = <x, A^T y>`.

An operator says what it maps (`in_shape`, `out_shape`, without the batch) and where it runs (`device`); `apply` and
`adjoint` take (B, *shape) tensors of any device and float type, give the result there, and can be differentiated
(the gradient of one is the other). Implementations write `_forward` and `_backward` for a batch on `device`.

A sparse matrix is kept twice, by rows for `A` and by columns for `A^T`. Its product with a batch is the weighted sum
of rows of a table that networks use for words (`embedding_bag`): one code for CPU and GPU, threads over the rows of
the result, and each column summed in the same order, whatever else is in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

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


@dataclass(eq=False)
class Counted(LinearOperator):
    """Another operator, and how often it was used."""

    operator: LinearOperator
    applied: int = 0
    adjoined: int = 0

    def __post_init__(self) -> None:
        self.in_shape, self.out_shape = self.operator.in_shape, self.operator.out_shape
        self.device = self.operator.device

    def _forward(self, x: Tensor) -> Tensor:
        self.applied += 1
        return self.operator.apply(x)

    def _backward(self, y: Tensor) -> Tensor:
        self.adjoined += 1
        return self.operator.adjoint(y)


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix by rows: row `r` has `weight[k]` at column `index[k]` for `offsets[r] <= k < offsets[r + 1]`."""

    offsets: Tensor
    index: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, offsets: NDArray[np.int32], index: NDArray[np.int32], weight: NDArray[np.float32], device: torch.device
    ) -> SparseRows:
        return cls(*(torch.from_numpy(part).to(device) for part in (offsets, index, weight)))

    def times(self, columns: Tensor) -> Tensor:
        """(rows, B) product with (columns, B), in the precision of the latter."""
        # `contiguous` leaves the stride of a single column, which may be anything: other sums and six times as slow
        packed = columns.reshape(-1).contiguous().view(columns.shape)
        return embedding_bag(
            self.index,
            packed,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weight.to(columns.dtype),
            include_last_offset=True,
        )

    @property
    def n_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.offsets, self.index, self.weight))


def as_columns(batch: Tensor) -> Tensor:
    """(B, ...) to (everything else, B)."""
    return batch.reshape(len(batch), -1).t()


def as_batch(columns: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(everything else, B) to (B, *shape)."""
    return columns.t().reshape(-1, *shape)
