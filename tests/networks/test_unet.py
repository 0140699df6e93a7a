"""The folded U-Net is one code for 2-D and 3-D: exact folds, an untrained no-op, shifts by its stride commute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medidiff.networks.unet import UNet, fold, haar, unfold

FEATURES = 5


def awake(dimensions: int, seed: int = 0) -> UNet:
    """A small network whose zero-initialised layers are random."""
    network = UNet(2, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8, dimensions=dimensions)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.requires_grad_(False).double()


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_unfold_undoes_fold_exactly(dimensions: int, factor: int) -> None:
    """Both are permutations: every value survives, bit for bit, in both orders."""
    shape = [2, 3, *[factor * n for n in (2, 4, 3)[:dimensions]]]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    folded = fold(x, factor)
    assert folded.shape == (2, 3 * factor**dimensions, *[n // factor for n in shape[2:]])
    assert torch.equal(unfold(folded, factor), x)
    assert torch.equal(fold(unfold(folded, factor), factor), folded)


def test_fold_is_pixel_unshuffle_in_two_dimensions() -> None:
    """Oracle: torch's own."""
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fold(x, 2), nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_untrained_network_answers_zero(dimensions: int) -> None:
    """The head starts at zero and so do the residual branches: a no-op around the low-dose image."""
    network = UNet(2, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8, dimensions=dimensions)
    x, features = torch.randn(2, 2, *[8] * dimensions), torch.randn(2, FEATURES)
    assert network(x, features).count_nonzero() == 0
    hidden, embedding = torch.randn(2, 4, *[4] * dimensions), torch.randn(2, 8)
    assert torch.equal(network.encoder[0][0](hidden, embedding), hidden)


@pytest.mark.parametrize(("dimensions", "axis"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_a_shift_by_the_stride_shifts_the_answer(dimensions: int, axis: int) -> None:
    """Away from the ends (receptive radius below 28) a shift by the stride commutes; by one pixel it does not."""
    network = awake(dimensions)
    size = [8] * dimensions
    size[axis] = 72
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    features = torch.ones(1, FEATURES, dtype=torch.float64)
    answer = network(x, features)

    def gap(shift: int) -> float:
        difference = network(x.roll(shift, 2 + axis), features) - answer.roll(shift, 2 + axis)
        return float(difference.narrow(2 + axis, 32, 8).abs().max() / answer.std())

    assert gap(network.stride) < 1e-10
    assert gap(1) > 1e-3


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_embedding_reaches_the_answer(dimensions: int) -> None:
    """The same image under other features is answered differently, and every parameter has a gradient."""
    network = awake(dimensions).requires_grad_(True)
    x = torch.randn(1, 2, *[8] * dimensions, dtype=torch.float64)
    one, other = (network(x, torch.full((1, FEATURES), v, dtype=torch.float64)) for v in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-3
    other.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_haar_step_is_orthonormal_and_its_own_inverse(dimensions: int) -> None:
    """Twice is the identity, energy is kept, and what is constant in a block lies in the first channel alone."""
    x = torch.randn(2, 3 * 2**dimensions, *[4] * dimensions, dtype=torch.float64)
    transformed = haar(x, dimensions)
    torch.testing.assert_close(haar(transformed, dimensions), x)
    torch.testing.assert_close(transformed.square().sum(), x.square().sum())
    flat = haar(fold(torch.full((1, 1, *[4] * dimensions), 3.0), 2), dimensions)
    torch.testing.assert_close(flat[:, :1], torch.full_like(flat[:, :1], 3.0 * 2 ** (dimensions / 2)))
    assert flat[:, 1:].abs().max() < 1e-6


@pytest.mark.parametrize(("factor", "wavelet", "stride"), [(2, True, 4), (4, False, 8)])
def test_other_ways_in_keep_size_and_start_as_a_no_op(factor: int, wavelet: bool, stride: int) -> None:
    """A Haar entry and a fold by 4: the same contract."""
    network = UNet(
        2, 2, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8, fold_factor=factor, wavelet=wavelet
    )
    assert network.stride == stride
    answer = network(torch.randn(1, 2, 16, 24), torch.randn(1, FEATURES))
    assert answer.shape == (1, 2, 16, 24)
    assert answer.count_nonzero() == 0
