"""A network as OpenVINO runs it on a CPU: an optional package with fast 16-bit arithmetic on processors that have it.

The graph is taken from the torch module itself (its trace, read by OpenVINO's own front end), one for every shape of
input, so there is no second description of the network. "f32" is asked for by name: left alone, OpenVINO picks
bfloat16 where the processor has it. The converter's command line, which reports usage to its makers, is not involved.
"""

from __future__ import annotations

import threading
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from medidiff.errors import UsageError

HINTS = {"32": "f32", "bf16": "bf16"}


def require_openvino() -> None:
    """Raises UsageError where the package is absent."""
    if find_spec("openvino") is None:
        raise UsageError(
            "--engine openvino: the package openvino is not installed: pip install 'medidiff[openvino]', "
            "or leave --engine out"
        )


def has_bf16() -> bool:
    """Whether the processor computes in bfloat16 itself, as OpenVINO sees it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINONetwork(nn.Module):
    """Tensors of single precision in, one tensor of single precision out, like the network within; no gradients."""

    def __init__(self, network: nn.Module, precision: str = "32") -> None:
        super().__init__()
        self.network, self._hint = network, HINTS[precision]
        self._requests: dict[tuple[torch.Size, ...], Any] = {}
        self._one_at_a_time = threading.Lock()

    def forward(self, *inputs: Tensor) -> Tensor:
        with self._one_at_a_time:
            shapes = tuple(x.shape for x in inputs)
            if shapes not in self._requests:
                self._requests[shapes] = self._compiled(inputs)
            answer = self._requests[shapes].infer([x.contiguous().numpy() for x in inputs], share_inputs=True)
            return torch.from_numpy(answer[0].copy())

    def _compiled(self, inputs: tuple[Tensor, ...]) -> Any:
        """A request for inputs of these shapes."""
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        return openvino.Core().compile_model(_graph(self.network, inputs), "CPU", settings).create_infer_request()


def _graph(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    examples = tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        for kind in (torch.jit._trace.TracerWarning, DeprecationWarning):  # shapes are constants here; torch.export
            warnings.simplefilter("ignore", kind)  # is the successor of trace, and warns of its own parts
        trace = torch.jit.trace(network, tuple(x.clone() for x in examples), check_trace=False)
    decoder = TorchScriptPythonDecoder(trace)  # the front end does not keep it alive
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    graph.reshape({k: list(x.shape) for k, x in enumerate(inputs)})
    return graph
