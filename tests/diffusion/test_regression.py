"""A regression keeps the denoiser's contract for the mean, and has nothing else."""

from __future__ import annotations

import pytest
import torch

from medidiff.diffusion.denoiser import Condition
from medidiff.diffusion.regression import Regression
from medidiff.networks.plain import REDCNN


def condition(image: torch.Tensor) -> Condition:
    n = len(image)
    return Condition(image, torch.ones(n), torch.zeros(n, 2), torch.zeros(n, dtype=torch.bool))


def test_the_loss_is_the_squared_error_of_the_mean():
    """Whatever sigma and noise are drawn."""
    denoiser = Regression(torch.nn.Conv2d(1, 1, 3, padding=1))
    y, x = torch.randn(2, 3, 1, 16, 16)
    expected = ((denoiser.mean(condition(y)) - x) ** 2).mean((1, 2, 3))
    for sigma in (torch.full((3,), torch.inf), torch.rand(3)):
        torch.testing.assert_close(denoiser.loss(x, condition(y), sigma, torch.randn_like(x)), expected)


def test_an_image_smaller_than_the_network_needs_is_padded_and_cropped_again():
    """RED-CNN takes 20 pixels off each side; a picture of 16 x 30 still comes back in its own size."""
    network = REDCNN()
    image = torch.randn(1, 1, 16, 30)
    assert Regression(network, network.smallest).mean(condition(image)).shape == image.shape


def test_sampling_is_a_mistake():
    """There is no answer to a noisy state."""
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(TypeError, match="regression"):
        Regression(torch.nn.Identity())(image, torch.ones(1), condition(image))
