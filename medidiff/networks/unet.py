"""A folded U-Net: the one network of medidiff, in two or three dimensions.

    fold (space to channels) -> stem -> [residual blocks, halve] x levels -> [double, add skip, residual blocks]
    -> head -> unfold

Convolutions at full resolution are what makes CT networks slow, so the image enters through an invertible
fold (pixel unshuffle by 2) and the network works at half resolution and below. There is no normalisation
layer: the input is already in units of its own noise level, statistics of a training patch would differ from
those of a whole slice, and on a CPU normalising costs as much memory traffic as a convolution. Residual
branches start at zero instead (Fixup, Zhang et al. 2019, arXiv:1901.09321), so the untrained network is a no-op.
The embedding (noise ratio, noise colour, flags) scales and shifts the hidden channels of every block
(FiLM, Perez et al. 2018, arXiv:1709.07871).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def fold(x: Tensor, factor: int = 2) -> Tensor:
    """(B, C, *spatial) -> (B, C * factor^d, *spatial / factor); exactly undone by `unfold`."""
    b, c, *spatial = x.shape
    d = len(spatial)
    split = [size for n in spatial for size in (n // factor, factor)]
    x = x.reshape(b, c, *split)
    blocks, offsets = [2 + 2 * i for i in range(d)], [3 + 2 * i for i in range(d)]
    return x.permute(0, 1, *offsets, *blocks).reshape(b, c * factor**d, *(n // factor for n in spatial))


def unfold(x: Tensor, factor: int = 2) -> Tensor:
    """(B, C * factor^d, *spatial) -> (B, C, *spatial * factor), the inverse of `fold`."""
    b, c, *spatial = x.shape
    d = len(spatial)
    x = x.reshape(b, c // factor**d, *[factor] * d, *spatial)
    order = [axis for i in range(d) for axis in (2 + d + i, 2 + i)]
    return x.permute(0, 1, *order).reshape(b, c // factor**d, *(n * factor for n in spatial))


def haar(x: Tensor, dimensions: int) -> Tensor:
    """The corners of a 2-fold `fold` as sums and differences: an orthonormal Haar step, its own inverse.

    (B, C * 2^d, *spatial) -> the same shape; of each group of 2^d channels the first is the low-pass.
    """
    corners = 2**dimensions
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=x.dtype, device=x.device) / 2**0.5
    matrix = signs
    for _ in range(dimensions - 1):
        matrix = torch.kron(matrix, signs)
    grouped = x.reshape(len(x), -1, corners, *x.shape[2:])
    return torch.einsum("kc,bgc...->bgk...", matrix, grouped).reshape(x.shape)


class Block(nn.Module):
    """Two 3^d convolutions around one activation, modulated by the embedding, added to the input."""

    def __init__(self, width: int, embedding: int, conv: type[nn.Module]) -> None:
        super().__init__()
        self.first = conv(width, width, 3, padding=1)
        self.second = conv(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        for parameter in (self.second.weight, self.second.bias, self.modulation.weight, self.modulation.bias):
            nn.init.zeros_(parameter)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.modulation(embedding).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        hidden = self.first(torch.relu(x))
        return x + self.second(torch.relu(hidden * (1 + gain) + shift))


class UNet(nn.Module):
    """Folded U-Net (B, in_channels, *spatial), (B, features) -> (B, out_channels, *spatial).

    Spatial sizes must be multiples of `stride`; the caller pads. With `wavelet` (fold_factor 2 only) the folded
    channels are Haar coefficients instead of pixels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        *,
        features: int,
        widths: Sequence[int] = (40, 80, 160),
        blocks: Sequence[int] = (2, 2, 4),
        embedding: int = 64,
        dimensions: int = 2,
        fold_factor: int = 2,
        wavelet: bool = False,
    ) -> None:
        super().__init__()
        conv: type[nn.Module] = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        corners = 2**dimensions
        self.fold_factor, self.wavelet, self.dimensions = fold_factor, wavelet, dimensions
        self.stride = fold_factor * 2 ** (len(widths) - 1)
        self.embed = nn.Sequential(nn.Linear(features, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = conv(in_channels * fold_factor**dimensions, widths[0], 3, padding=1)

        def stage(level: int) -> nn.ModuleList:
            return nn.ModuleList(Block(widths[level], embedding, conv) for _ in range(blocks[level]))

        self.encoder = nn.ModuleList(stage(level) for level in range(len(widths)))
        self.decoder = nn.ModuleList(stage(level) for level in range(len(widths) - 1))
        self.reduce = nn.ModuleList(conv(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.enlarge = nn.ModuleList(conv(b, a * corners, 1) for a, b in pairwise(widths))
        self.head = conv(widths[0], out_channels * fold_factor**dimensions, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        embedding = torch.nn.functional.silu(self.embed(features))
        x = fold(x, self.fold_factor)
        x = self.stem(haar(x, self.dimensions) if self.wavelet else x)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.reduce[level - 1](x)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, embedding)
        for level in reversed(range(len(self.decoder))):
            x = skips[level] + unfold(self.enlarge[level](x))
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                x = block(x, embedding)
        x = self.head(torch.relu(x))
        return unfold(haar(x, self.dimensions) if self.wavelet else x, self.fold_factor)
