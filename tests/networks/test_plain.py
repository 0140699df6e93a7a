"""The plain baselines are the published networks: their sizes, their shortcuts, their answer at the border."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks.plain import CNN10, REDCNN


@pytest.mark.parametrize(("network", "weights"), [(CNN10, 24_513), (REDCNN, 1_848_865)])
def test_number_of_weights_is_that_of_the_paper(network, weights):
    """24 k and 1.85 M, counted by hand from the layers of the papers."""
    assert sum(p.numel() for p in network().parameters()) == weights


def test_redcnn_without_filters_is_its_outer_shortcut():
    """With every kernel at zero, the first shortcut alone remains: the image itself (residual learning)."""
    network = REDCNN()
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    image = torch.randn(2, 1, 33, 40)
    assert torch.equal(network(image), image)


def test_redcnn_reaches_twenty_pixels_each_way():
    """Five layers of 5 x 5 in and out: a pixel acts up to 20 pixels away, and no further."""
    network = REDCNN().double()
    image = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    touched = image.clone()
    touched[0, 0, 32, 32] = 1
    changed = (network(touched) - network(image)).abs()[0, 0] > 1e-12
    rows = torch.nonzero(changed.any(1)).ravel()
    assert (int(rows.min()), int(rows.max())) == (32 - 20, 32 + 20)
