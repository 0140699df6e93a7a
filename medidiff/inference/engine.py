"""How a model's network is computed: by which program, and in which precision.

    torch      on a CPU the fused form of the network where there is one (networks/fused.py), else the network as it is
    openvino   on a CPU, an optional package (networks/openvino_graph.py)

    32         single precision
    bf16       products of 16-bit numbers, for processors and GPUs that have them; an RMS of about 1 % of the noise
               level away (0.2 to 0.4 HU where it is 30 HU), so it is never the default
    auto       bf16 where a short measurement at the start finds it at least 10 % faster

All are the same network, and each is repeatable bit for bit; between them a result differs by rounding. So what was
used is a parameter of a run like any other: a run is not continued with another.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medidiff.errors import UsageError
from medidiff.model import Model
from medidiff.networks.fused import FusedUNet, fused

Engine = Literal["torch", "openvino"]
Precision = Literal["32", "bf16", "auto"]

MOST_AT_ONCE = 8  # slices; each takes some 100 MB
GAIN = 0.9  # of the seconds in single precision: what bf16 must stay below to be chosen
SIDE = 128  # pixels of the image that is measured with


class InBfloat16(nn.Module):
    """Convolutions and products in bfloat16, the rest and the answer in single precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            answer: Tensor = self.network(*inputs)
        return answer.float()


def in_bfloat16(network: nn.Module) -> nn.Module:
    """The network with its products in bfloat16: fused where that exists, else by autocast."""
    ours = fused(network, torch.bfloat16)
    return ours if ours is not network else InBfloat16(network)


def prepare(model: Model, engine: Engine = "torch", precision: Precision = "32") -> str:
    """Put the model's network into the form in which it is to run, in place; returns its name for the record.

    Raises UsageError where the engine is not there, or not for the model's device.
    """
    denoiser = model.denoiser
    if engine == "openvino":
        denoiser.network, chosen = _by_openvino(denoiser.network, model.device, precision)
        return f"openvino, {chosen}"
    network = denoiser.network
    chosen = fastest(fused(network), in_bfloat16(network), model) if precision == "auto" else precision
    denoiser.network = in_bfloat16(network) if chosen == "bf16" else fused(network)
    return f"torch{' fused' if isinstance(denoiser.network, FusedUNet) else ''}, {chosen}"


def slices_at_once(model: Model, engine: Engine) -> int:
    """How many slices to compute side by side, each with its share of the processor's threads.

    Threads that share a convolution wait for each other after each of its 40 and while one slice's noise is measured;
    threads with a slice of their own do not. OpenVINO has its own threads, a GPU its own queue.
    """
    by_torch_on_cpu = engine == "torch" and model.device.type == "cpu"
    return min(torch.get_num_threads(), MOST_AT_ONCE) if by_torch_on_cpu else 1


def _by_openvino(network: nn.Module, device: torch.device, precision: Precision) -> tuple[nn.Module, str]:
    from medidiff.networks.openvino_graph import OpenVINONetwork, has_bf16, require_openvino

    require_openvino()
    if device.type != "cpu":
        raise UsageError(f"--engine openvino: runs on the CPU, --device {device} was chosen: leave one of them out")
    if precision == "bf16" and not has_bf16():
        raise UsageError("--precision bf16: this processor has none for --engine openvino: leave it out")
    chosen = precision if precision != "auto" else "bf16" if has_bf16() else "32"
    return OpenVINONetwork(network, chosen), chosen


def fastest(single: nn.Module, half: nn.Module, model: Model) -> str:
    """ "bf16" where the second network is clearly faster than the first on this machine, else "32"."""
    side = SIDE // model.stride * model.stride
    inputs = network_inputs(model, np.zeros((model.slab, side, side), np.float32))
    return "bf16" if _seconds(half, inputs) < GAIN * _seconds(single, inputs) else "32"


def network_inputs(model: Model, slab: NDArray[np.float32]) -> tuple[Tensor, ...]:
    """What the denoiser gives its network for a slab (K, rows, columns) in HU."""
    seen: list[tuple[Tensor, ...]] = []
    handle = model.denoiser.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.inference_mode():
        model.denoiser.mean(model.condition(slab))
    handle.remove()
    return seen[0]


def _seconds(network: nn.Module, inputs: tuple[Any, ...], repeats: int = 3) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first one sets up
            began = time.perf_counter()
            network(*inputs)[..., 0].cpu()  # waits for a GPU
            times.append(time.perf_counter() - began)
    return min(times[1:])
