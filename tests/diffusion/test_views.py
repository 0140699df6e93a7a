"""eps, score and v are the same estimate read differently."""

from __future__ import annotations

import pytest
import torch

from medidiff.diffusion.schedule import alpha_bar_from_sigma
from medidiff.diffusion.views import VIEWS, column


@pytest.fixture
def state() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 3, 1, 4, 5, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.01, 1.0, 80.0], dtype=torch.float64), x0


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_is_undone_by_its_inverse(name: str, state: tuple[torch.Tensor, ...]) -> None:
    x, sigma, x0 = state
    view = VIEWS[name]
    torch.testing.assert_close(view.x0(x, sigma, view.read(x, sigma, x0)), x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_is_linear_in_the_estimate_for_a_given_state(name: str, state: tuple[torch.Tensor, ...]) -> None:
    x, sigma, x0 = state
    read = VIEWS[name].read
    middle = read(x, sigma, 0.3 * x0 + 0.7 * x)
    torch.testing.assert_close(middle, 0.3 * read(x, sigma, x0) + 0.7 * read(x, sigma, x))


def test_the_true_image_reads_as_the_noise_that_was_added(state: tuple[torch.Tensor, ...]) -> None:
    n, sigma, x0 = state
    x = x0 + column(sigma, x0) * n
    torch.testing.assert_close(VIEWS["eps"].read(x, sigma, x0), n, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(VIEWS["score"].read(x, sigma, x0), -n / column(sigma, n), rtol=1e-9, atol=1e-9)


def test_v_is_the_published_velocity_of_the_variance_preserving_picture(state: tuple[torch.Tensor, ...]) -> None:
    """Salimans & Ho 2022: v = alpha * eps - sqrt(1 - alpha^2) * x0."""
    n, sigma, x0 = state
    alpha = column(alpha_bar_from_sigma(sigma).sqrt(), x0)
    v = VIEWS["v"].read(x0 + column(sigma, x0) * n, sigma, x0)
    torch.testing.assert_close(v, alpha * n - (1 - alpha**2).sqrt() * x0, rtol=1e-9, atol=1e-9)
