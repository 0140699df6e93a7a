"""Every way to compute the network gives the same Hounsfield units, and says what it is."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medidiff.errors import UsageError
from medidiff.inference import engine
from medidiff.inference.engine import InBfloat16, prepare
from medidiff.model import Architecture, Model, build, load
from medidiff.networks import openvino_graph
from medidiff.networks.fused import FusedUNet


@pytest.fixture(scope="module")
def openvino() -> None:
    """The optional package; a missing one skips on a user's machine and fails in CI."""
    if find_spec("openvino") is None:
        message = "PACKAGE openvino IS MISSING: pip install 'medidiff[openvino]'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def slab(side: int = 64) -> NDArray[np.float32]:
    """A disc of water in air with noise of 30 HU, three slices."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = np.where(x**2 + y**2 < (0.4 * side) ** 2, 40, -1000)
    return (disc + np.random.default_rng(0).normal(0, 30, (3, side, side))).astype(np.float32)


def answer(model: Model) -> NDArray[np.float32]:
    noisy = slab()[: model.slab]
    with torch.inference_mode():
        return model.image(model.denoiser.mean(model.condition(noisy)), noisy.shape[1:])


@pytest.fixture(scope="module")
def plain() -> NDArray[np.float32]:
    """The answer of the network as it was trained."""
    return answer(load("ct"))


def run_by(**how: str) -> tuple[str, NDArray[np.float32]]:
    model = load("ct")
    name = prepare(model, **how)  # type: ignore[arg-type]
    return name, answer(model)


def test_the_usual_engine_is_the_fused_network_in_single_precision(plain: NDArray[np.float32]) -> None:
    """To a thousandth of an HU, where a stored image has steps of 1 HU; and the same bits each time."""
    name, ours = run_by()
    assert name == "torch fused, 32"
    assert np.abs(ours - plain).max() < 1e-3
    assert np.array_equal(ours, run_by()[1])


def test_openvino_gives_the_same_hounsfield_units(plain: NDArray[np.float32], openvino: None) -> None:
    """Single precision to a thousandth of an HU, for the diffusion model; and the same bits each time."""
    name, ours = run_by(engine="openvino")
    assert name == "openvino, 32"
    assert np.abs(ours - plain).max() < 1e-3
    assert np.array_equal(ours, run_by(engine="openvino")[1])


def test_openvino_runs_every_network(openvino: None) -> None:
    """A plain regression has one input and no embedding: same answer."""
    torch.manual_seed(0)
    architecture = Architecture(network="cnn10")
    model = Model(build(architecture).eval(), load("ct").scaling, architecture, load("ct").card)
    before = answer(model)
    prepare(model, "openvino")
    assert np.abs(answer(model) - before).max() < 1e-3


@pytest.mark.parametrize("is_fused", [True, False])
def test_bfloat16_stays_within_two_per_cent_of_the_noise(
    is_fused: bool, plain: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RMS; 8 bits of mantissa on a correction of 30 HU. Fused, and where the processor or network is not fit for it."""
    if is_fused and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 for the fused network")
    if not is_fused:
        monkeypatch.setattr(engine, "fused", lambda network, dtype=torch.float32: network)
    name, ours = run_by(precision="bf16")
    assert name == ("torch fused, bf16" if is_fused else "torch, bf16")
    assert 0 < np.sqrt(np.mean((ours - plain) ** 2)) < 0.02 * 30
    assert np.array_equal(ours, run_by(precision="bf16")[1])


@pytest.mark.parametrize(("half", "chosen"), [(0.5, "bf16"), (0.95, "32"), (2.0, "32")])
def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(
    half: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is won by 5 %: single precision stays."""
    model = load("ct")
    plain = model.denoiser.network
    forms = {"32": FusedUNet(plain), "bf16": InBfloat16(plain)}  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "fused", lambda network, dtype=torch.float32: forms["32"])
    monkeypatch.setattr(engine, "in_bfloat16", lambda network: forms["bf16"])
    monkeypatch.setattr(engine, "_seconds", lambda network, inputs: half if network is forms["bf16"] else 1.0)
    assert prepare(model, precision="auto").endswith(chosen)


def test_auto_measures_both() -> None:
    """Whichever it is on this machine, it has a name and an answer."""
    name, ours = run_by(precision="auto")
    assert name in ("torch fused, 32", "torch fused, bf16", "torch, bf16")
    assert np.isfinite(ours).all()


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setattr(openvino_graph, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'medidiff\[openvino\]'"):
        prepare(load("ct"), "openvino")
