"""The U-Net as it runs on a CPU: the same algebra with fewer journeys of the image through memory.

    plain     hidden = W1 * relu(x) + b1;  hidden (1 + gain) + shift;  relu;  W2 * . + b2;  x + .
    fused     hidden = relu((1 + gain) W1 * relu(x) + (1 + gain) b1 + shift);           x += W2 * hidden + b2

A convolution here costs some 8 ms and every elementwise pass at full width 1 to 3 ms, so the passes between the
convolutions are a third of the time. All of them but one relu a block go: gain and shift of the embedding (FiLM) into
the weights of the image at hand, relu and sum into the convolution that writes the result, the Haar step into stem and
head, the channel order of `unfold` into the weights that come before it. The fused convolutions are oneDNN's, in the
operators that torch's own compiler emits for a CPU.

The answer is that of the plain network but for rounding (tests: 1e-5 of its scale). One image is computed at a time:
its answer cannot depend on a batch. In bfloat16 images and weights between fold and unfold are of 16 bits, sums within
a convolution are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medidiff.networks.unet import UNet, fold, haar, unfold

ORDER = torch.channels_last
Weights = tuple[Tensor, Tensor]
"""(weight, bias) of a convolution."""


def fused(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network in its fused form where that exists, else the network itself.

    It exists for a two-dimensional `UNet` in single precision on a CPU with oneDNN, and computes in float32 or, where
    the processor can, in bfloat16. Weights are taken over, not watched: fuse again after changing them.
    """
    return FusedUNet(network, dtype) if isinstance(network, UNet) and _is_fusible(network, dtype) else network


def _is_fusible(network: UNet, dtype: torch.dtype) -> bool:
    weight = network.stem.weight
    has_operators = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
    fits = network.dimensions == 2 and weight.device.type == "cpu" and weight.dtype == torch.float32
    if not (has_operators and fits):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class FusedUNet(nn.Module):
    """(B, in_channels, rows, columns), (B, features) -> (B, out_channels, rows, columns), like the `UNet` within.

    In and out are of single precision whatever `dtype`. Where gradients are wanted, the plain network answers.
    """

    def __init__(self, network: UNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        self._stem, self._head = self._cast(*_stem(network)), self._cast(*_head(network))
        self._reduce = [self._cast(*_weights(layer)) for layer in network.reduce]
        self._enlarge = [self._cast(*_corner_major(layer)) for layer in network.enlarge]
        stages = (*network.encoder, *network.decoder)
        self._second = {block: self._cast(*_weights(block.second)) for stage in stages for block in stage}

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.network(x, features)
        return torch.cat([self._image(x[k : k + 1], features[k : k + 1]) for k in range(len(x))])

    def _cast(self, weight: Tensor, bias: Tensor) -> Weights:
        return weight.to(self.dtype), bias.to(self.dtype)

    def _image(self, x: Tensor, features: Tensor) -> Tensor:
        net = self.network
        embedding = F.silu(net.embed(features))
        folded = fold(x, net.fold_factor).to(self.dtype)
        x = _conv(folded.contiguous(memory_format=ORDER), *self._stem, padding=1)
        skips: list[Tensor] = []
        for level, stage in enumerate(net.encoder):
            if level:
                skips.append(x)
                x = _conv(x, *self._reduce[level - 1], stride=2)
            self._stage(stage, x, embedding)
        for level in reversed(range(len(net.decoder))):
            corners = _conv(x, *self._enlarge[level])
            x = _add_corners(skips.pop(), corners)
            self._stage(net.decoder[level], x, embedding)
        return unfold(_conv(x.relu_(), *self._head, padding=1).float(), net.fold_factor)

    def _stage(self, blocks: Any, x: Tensor, embedding: Tensor) -> None:
        """Apply residual blocks to x, in place."""
        for block in blocks:
            gain, shift = block.modulation(embedding)[0].chunk(2)
            first = block.first
            weight, bias = self._cast(first.weight * (1 + gain)[:, None, None, None], first.bias * (1 + gain) + shift)
            hidden = _conv(torch.relu(x), weight, bias, padding=1, then="relu")
            _conv_onto(x, hidden, *self._second[block])


def _conv(x: Tensor, weight: Any, bias: Any, *, padding: int = 0, stride: int = 1, then: str = "none") -> Tensor:
    """then(weight * x + bias), written once."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], 1, then, [], ""
    )


def _conv_onto(total: Tensor, x: Tensor, weight: Any, bias: Any) -> None:
    """total += weight * x + bias."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        total, x, weight, bias, [1, 1], [1, 1], [1, 1], 1, "add", 1.0, None, [], ""
    )


def _stem(network: UNet) -> Weights:
    """Weights that take pixels where the network takes Haar coefficients: W (H x) = (W H) x, as H is symmetric."""
    weight, bias = _weights(network.stem)
    return (haar(weight, 2) if network.wavelet else weight), bias


def _head(network: UNet) -> Weights:
    """Weights that give pixels where the network gives Haar coefficients: H (W x + b) = (H W) x + H b."""
    weight, bias = _weights(network.head)
    if not network.wavelet:
        return weight, bias
    rotated = haar(weight.transpose(0, 1), 2).transpose(0, 1)
    return rotated.contiguous(memory_format=ORDER), haar(bias[None, :, None, None], 2).flatten()


def _weights(layer: Any) -> Weights:
    return layer.weight.detach(), layer.bias.detach()


def _corner_major(layer: Any) -> Weights:
    """Weights of a 1 x 1 convolution before `unfold`, its outputs in the order (corner, channel)."""
    weight, bias = (part.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for part in _weights(layer))
    return weight.contiguous(memory_format=ORDER), bias


def _add_corners(skip: Tensor, corners: Tensor) -> Tensor:
    """skip += unfold(corners), with the channels of `corners` ordered (corner row, corner column, channel)."""
    _, channels, rows, columns = skip.shape
    by_pixel = skip.permute(0, 2, 3, 1).view(1, rows // 2, 2, columns // 2, 2, channels)
    by_pixel += corners.permute(0, 2, 3, 1).view(1, rows // 2, columns // 2, 2, 2, channels).transpose(2, 3)
    return skip
