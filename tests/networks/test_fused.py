"""The fused network is the plain one, computed in another order."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoiser
from medidiff.model import Architecture, build, load
from medidiff.networks.fused import FusedUNet, fused
from medidiff.networks.plain import CNN10
from medidiff.networks.unet import UNet

HU = 1024.0  # of one unit of the model


def random_unet(**options: object) -> UNet:
    """A network whose every weight matters: nothing is left at its zero start."""
    torch.manual_seed(0)
    network = UNet(4, features=5, widths=(8, 16, 24), blocks=(2, 1, 1), embedding=16, **options)  # type: ignore[arg-type]
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def answers(network: UNet, images: int = 1, side: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x, features = torch.randn(images, 4, side, side), torch.randn(images, 5)
    with torch.inference_mode():
        return network(x, features), fused(network)(x, features)


@pytest.mark.parametrize(
    "options",
    [{}, {"fold_factor": 4}, {"wavelet": True}, {"out_channels": 2}, {"wavelet": True, "out_channels": 2}],
    ids=str,
)
def test_the_fused_network_answers_like_the_plain_one(options: dict[str, object]) -> None:
    """Every form of the U-Net: to 1e-5 of its answer's scale, which is the rounding of single precision."""
    plain, ours = answers(random_unet(**options), images=2)
    assert ours.shape == plain.shape
    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()


def test_the_embedded_model_keeps_its_hounsfield_units() -> None:
    """A noisy disc of 30 HU noise through the model people use: 0.001 HU at most."""
    denoiser = load("ct").denoiser
    torch.manual_seed(2)
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    disc = torch.where((y - 64) ** 2 + (x - 64) ** 2 < 2000, 0.04, -0.98)
    slab = (disc + 30 / HU * torch.randn(1, 3, 128, 128)).contiguous()
    cond = Condition(slab, torch.tensor([30 / HU]), torch.tensor([[0.5, 0.25]]), torch.zeros(1, dtype=torch.bool))
    assert isinstance(denoiser, Denoiser)
    with torch.inference_mode():
        plain = denoiser.mean(cond)
        denoiser.network = fused(denoiser.network)
        ours = denoiser.mean(cond)
    assert isinstance(denoiser.network, FusedUNet)
    assert (ours - plain).abs().max() * HU < 1e-3


@pytest.mark.parametrize("fold", ["unshuffle", "haar"])
def test_mean_and_spread_of_an_anchored_model_are_those_of_the_plain_network(
    fold: Literal["unshuffle", "haar"],
) -> None:
    """What recipes train last: two outputs through the fused network, the first one anchored to the scan."""
    torch.manual_seed(3)
    denoiser = build(Architecture(widths=(8, 16), blocks=(1, 1), embedding=8, fold=fold, spread=True, anchor=4.0))
    assert isinstance(denoiser, Denoiser)
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    slab = 0.05 * torch.randn(1, 3, 64, 48)
    cond = Condition(slab, torch.tensor([0.05]), torch.tensor([[-0.9, -1.8]]), torch.zeros(1, dtype=torch.bool))
    with torch.inference_mode():
        plain = denoiser.mean_and_spread(cond)
        denoiser.network = fused(denoiser.network)
        assert isinstance(denoiser.network, FusedUNet)
        ours = denoiser.mean_and_spread(cond)
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(denoiser.mean(cond), ours[0])


def test_an_answer_depends_neither_on_the_batch_nor_on_the_run() -> None:
    """Bit for bit: alone, in a batch, and again."""
    network = random_unet()
    ours = fused(network)
    x, features = torch.randn(3, 4, 32, 48), torch.randn(3, 5)
    with torch.inference_mode():
        together = ours(x, features)
        alone = torch.cat([ours(x[k : k + 1], features[k : k + 1]) for k in range(3)])
        assert torch.equal(together, alone)
        assert torch.equal(together, ours(x, features))


def test_an_answer_does_not_depend_on_threads() -> None:
    """One thread or two, bit for bit: a study with many workers gives what a single run gives."""
    network, x, features = load("ct").denoiser.network, torch.randn(1, 4, 128, 128), torch.zeros(1, 5)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(fused(network)(x, features))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_inputs_are_not_changed() -> None:
    """The network works in place on its own memory only."""
    x, features = torch.randn(1, 4, 32, 32), torch.randn(1, 5)
    before = x.clone()
    with torch.inference_mode():
        fused(random_unet())(x, features)
    assert torch.equal(x, before)


def test_gradients_come_from_the_plain_network() -> None:
    """Guidance and training differentiate; the fused operators cannot, and do not pretend."""
    network = random_unet()
    x = torch.randn(1, 4, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused(network)(x, torch.zeros(1, 5)).sum(), x)
    (expected,) = torch.autograd.grad(network(x, torch.zeros(1, 5)).sum(), x)
    assert torch.equal(gradient, expected)


def test_what_has_no_fused_form_stays_as_it_is() -> None:
    """Three dimensions, double precision, other networks: returned unchanged."""
    volume = UNet(2, features=5, widths=(4, 8), blocks=(1, 1), embedding=8, dimensions=3)
    double = UNet(2, features=5, widths=(4, 8), blocks=(1, 1), embedding=8).double()
    plain = CNN10()
    assert fused(volume) is volume
    assert fused(double) is double
    assert fused(plain) is plain


def test_the_untrained_network_still_does_nothing() -> None:
    """Residual branches and head start at zero: so does the fused answer."""
    network = build(Architecture(widths=(8, 16), blocks=(1, 1))).network
    with torch.inference_mode():
        answer = fused(network)(torch.randn(1, 4, 32, 32), torch.zeros(1, 5))
    assert not answer.any()
