"""The denoiser is EDM re-centred on the low-dose image: exact for a Gaussian, equivariant, blind without condition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion.denoiser import FEATURES, Condition, Denoiser, anchored, bind, squash
from medidiff.networks.unet import UNet

DIMENSIONS = [2, 3]


def denoiser(dimensions: int, *, trained: bool, **options: float) -> Denoiser:
    slab = 3 if dimensions == 2 else 1
    network = UNet(slab + 1, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8, dimensions=dimensions)
    if trained:
        generator = torch.Generator().manual_seed(5)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)
    return Denoiser(network, **options).double().requires_grad_(False)


def question(dimensions: int, batch: int = 3, seed: int = 0) -> tuple[Tensor, Condition, Tensor, Tensor]:
    """(x, cond, sigma, noise) in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    space, slab = [16] * dimensions, 3 if dimensions == 2 else 1
    x = 0.3 * normal(batch, 1, *space)
    r = 0.02 * torch.exp(normal(batch))
    y = x + r.reshape(-1, 1, *[1] * dimensions) * normal(batch, slab, *space)
    cond = Condition(y, r, normal(batch, 2), torch.zeros(batch, dtype=torch.bool))
    return x, cond, r * torch.exp(normal(batch)), normal(batch, 1, *space)


def over(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_an_untrained_denoiser_is_the_posterior_mean_of_its_gaussian_prior(dimensions: int) -> None:
    """x ~ N(y, r^2) seen through x + sigma n has the mean (sigma^2 y + r^2 x_sigma) / (sigma^2 + r^2); unseen, y."""
    x, cond, sigma, noise = question(dimensions)
    model = denoiser(dimensions, trained=False)
    s, r = over(sigma, x), over(cond.r, x)
    x_sigma = x + s * noise
    torch.testing.assert_close(model(x_sigma, sigma, cond), (s**2 * cond.y + r**2 * x_sigma) / (s**2 + r**2))
    assert torch.equal(model.mean(cond), cond.y)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("trained", [False, True])
def test_the_loss_is_edm_weighted_error(dimensions: int, trained: bool) -> None:
    """(sigma^2 + r^2) / (sigma r)^2 |x0_hat - x|^2 (Karras et al. 2022, Table 1); its limit 1 / r^2 at infinity."""
    x, cond, sigma, noise = question(dimensions, batch=4)
    cond = replace(cond, null=torch.tensor([False, False, True, False]))
    sigma[1] = torch.inf
    model = denoiser(dimensions, trained=trained)
    losses = model.loss(x, cond, sigma, noise)
    r = torch.where(cond.null, torch.full_like(cond.r, model.data_std), cond.r)
    finite = torch.where(torch.isinf(sigma), torch.ones_like(sigma), sigma)
    answer = model(x + over(finite, x) * noise, finite, cond)
    error = (answer - x).square().flatten(1).mean(1)
    expected = (finite**2 + r**2) / (finite * r) ** 2 * error
    expected[1] = ((model.mean(cond) - x).square().flatten(1).mean(1) / r**2)[1]
    torch.testing.assert_close(losses, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize(("offset", "factor"), [(0.7, 1.0), (0.0, 3.0), (-0.4, 0.25)])
def test_adding_hu_adds_them_and_scaling_scales(dimensions: int, offset: float, factor: float) -> None:
    """Whatever the weights: the network sees ratios to r only. That is why one checkpoint serves every dose."""
    x, cond, sigma, noise = question(dimensions)
    model = denoiser(dimensions, trained=True)
    x_sigma = x + over(sigma, x) * noise
    moved = replace(cond, slab=factor * cond.slab + offset, r=factor * cond.r)
    answer = model(factor * x_sigma + offset, factor * sigma, moved)
    torch.testing.assert_close(answer, factor * model(x_sigma, sigma, cond) + offset)
    torch.testing.assert_close(model.mean(moved), factor * model.mean(cond) + offset)
    assert (model.mean(cond) - cond.y).abs().max() > 1e-4  # not trivially true


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("value", [0.0, 5.0, float("nan"), float("inf")])
def test_without_condition_the_slab_does_not_exist(dimensions: int, value: float) -> None:
    """Slab, level and colour are ignored whatever they hold, NaN included: no magic pixel value, no leak."""
    x, cond, sigma, noise = question(dimensions)
    model = denoiser(dimensions, trained=True)
    other = Condition(*(torch.full_like(t, value) for t in (cond.slab, cond.r, cond.colour)), cond.null).as_null()
    cond = cond.as_null()
    x_sigma = x + over(sigma, x) * noise
    assert torch.equal(model(x_sigma, sigma, other), model(x_sigma, sigma, cond))
    assert torch.equal(model.mean(other), model.mean(cond))
    assert torch.equal(model.loss(x, other, sigma, noise), model.loss(x, cond, sigma, noise))


def test_without_condition_no_gradient_reaches_the_slab() -> None:
    """In a mixed batch the gradient of the loss is zero for the samples without condition, and only for those."""
    x, cond, sigma, noise = question(2)
    cond = replace(cond, slab=cond.slab.requires_grad_(), null=torch.tensor([True, False, True]))
    denoiser(2, trained=True).loss(x, cond, sigma, noise).sum().backward()
    reached = cond.slab.grad.flatten(1).abs().sum(1) > 0
    assert torch.equal(reached, ~cond.null)


def test_without_condition_it_is_edm_around_the_data_mean() -> None:
    """Moving the data mean and the state moves the answer; untrained it is the prior N(data_mean, data_std^2)."""
    x, cond, sigma, noise = question(2)
    x_sigma, cond = x + over(sigma, x) * noise, cond.as_null()
    here = denoiser(2, trained=True, data_mean=-0.4)
    there = denoiser(2, trained=True, data_mean=0.6)
    torch.testing.assert_close(there(x_sigma + 1, sigma, cond), here(x_sigma, sigma, cond) + 1)
    prior = denoiser(2, trained=False, data_mean=-0.4, data_std=0.45)
    s2 = over(sigma, x) ** 2
    torch.testing.assert_close(prior(x_sigma, sigma, cond), (s2 * -0.4 + 0.45**2 * x_sigma) / (s2 + 0.45**2))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_samples_of_a_batch_do_not_know_each_other(dimensions: int) -> None:
    """Each sample alone gives what it gives in the batch, conditional or not."""
    x, cond, sigma, noise = question(dimensions)
    cond = replace(cond, null=torch.tensor([False, True, False]))
    model = denoiser(dimensions, trained=True)
    together = model(x + over(sigma, x) * noise, sigma, cond)
    for i in range(len(x)):
        own = Condition(*(t[i : i + 1] for t in (cond.slab, cond.r, cond.colour, cond.null)))
        alone = bind(model, own)((x + over(sigma, x) * noise)[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-10, atol=1e-12)


def test_mean_is_the_limit_of_growing_sigma_for_an_untrained_network() -> None:
    """sigma -> infinity forgets x_sigma."""
    x, cond, _, noise = question(2)
    model = denoiser(2, trained=False)
    sigma = torch.full((3,), 1e6, dtype=torch.float64)
    torch.testing.assert_close(model(x + over(sigma, x) * noise, sigma, cond), model.mean(cond), rtol=0, atol=1e-6)


def growing() -> Denoiser:
    """A random network in 2-D with a noise map in and a spread out."""
    network = UNet(5, 2, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8)
    generator = torch.Generator().manual_seed(6)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return Denoiser(network, takes_map=True, gives_spread=True).double().requires_grad_(False)


def test_the_spread_comes_with_the_mean_and_scales_with_the_noise() -> None:
    """One evaluation: the same mean; scaling y and r scales both answers."""
    _, cond, _, _ = question(2)
    model = growing()
    mean, spread = model.mean_and_spread(cond)
    assert torch.equal(mean, model.mean(cond))
    assert float(spread.min()) > 0
    twice = model.mean_and_spread(replace(cond, slab=2 * cond.slab, r=2 * cond.r))
    torch.testing.assert_close(twice[0], 2 * mean)
    torch.testing.assert_close(twice[1], 2 * spread)


def test_a_network_without_spread_says_so() -> None:
    """Asking it is a mistake of the program."""
    with pytest.raises(TypeError, match="no spread"):
        denoiser(2, trained=True).mean_and_spread(question(2)[1])


def test_no_noise_map_is_a_flat_one_and_none_reaches_an_unconditional_answer() -> None:
    """log2 of a ratio of one is zero; with the condition goes its map."""
    _, cond, _, _ = question(2)
    model, steep = growing(), torch.randn_like(cond.y)
    assert torch.equal(model.mean(cond), model.mean(replace(cond, noise_map=torch.zeros_like(cond.y))))
    assert not torch.equal(model.mean(cond), model.mean(replace(cond, noise_map=steep)))
    null = cond.as_null()
    assert torch.equal(model.mean(null), model.mean(replace(null, noise_map=steep)))


def test_an_anchored_mean_keeps_the_local_mean_of_the_scan() -> None:
    """y + r (F - G F): what is smooth over the anchor (a shading of one period in 64 pixels) cannot be changed."""
    network = UNet(4, features=FEATURES, widths=(4, 8), blocks=(1, 1), embedding=8)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(7))
    model = Denoiser(network, anchor=4.0).double().requires_grad_(False)
    wave = torch.cos(2 * torch.pi * torch.arange(128, dtype=torch.float64) / 64)
    residual = wave.expand(1, 1, 128, 128) + 5
    kept = anchored(residual, 4.0)[..., 32:-32, 32:-32]
    assert float(kept.abs().max()) < 0.08  # 1 - exp(-2 pi^2 4^2 / 64^2) = 0.074
    noise = torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    assert float(anchored(noise, 4.0).std()) == pytest.approx(float(noise.std()), rel=0.02)
    cond = Condition(noise.expand(1, 3, 64, 64), torch.ones(1).double(), torch.zeros(1, 2).double(), torch.zeros(1) > 1)
    assert float((model.mean(cond) - cond.y).mean().abs()) < 0.02 * float((model.mean(cond) - cond.y).std())


def test_the_loss_of_an_anchored_network_is_that_of_its_mean() -> None:
    """At sigma = infinity the error is (mean - x) / r."""
    x, cond, _, noise = question(2)
    model = denoiser(2, trained=True, anchor=2.0)
    error, _ = model.errors(x, cond, torch.full((3,), torch.inf, dtype=torch.float64), noise)
    torch.testing.assert_close(error, (model.mean(cond) - x) / over(cond.r, x))


def test_squashing_is_asinh_of_a_third() -> None:
    """Oracle: torch's own, over ten decades and both signs."""
    u = torch.cat([s * torch.logspace(-5, 5, 101, dtype=torch.float64) for s in (-1, 1)])
    torch.testing.assert_close(squash(u), torch.asinh(u / 3), rtol=1e-13, atol=0)
    torch.testing.assert_close(squash(u.float()), torch.asinh(u / 3).float(), rtol=3e-7, atol=0)
