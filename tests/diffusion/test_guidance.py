"""Classifier-free guidance is a line through two estimates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.diffusion.guidance import classifier_free


def cond(x: Tensor, sigma: Tensor) -> Tensor:
    return x * 0.3 + sigma[:, None]


def null(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(x)


X, SIGMA = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4), torch.tensor([0.1, 1.0, 5.0]).double()


def test_a_weight_of_one_is_off_and_costs_no_second_evaluation() -> None:
    assert classifier_free(cond, null, 1.0) is cond


def test_a_weight_of_zero_ignores_the_condition() -> None:
    torch.testing.assert_close(classifier_free(cond, null, 0.0)(X, SIGMA), null(X, SIGMA), rtol=0, atol=0)


@pytest.mark.parametrize("w", [-1.0, 0.5, 2.0, 7.5])
def test_guidance_is_linear_in_the_weight(w: float) -> None:
    expected = (1 - w) * null(X, SIGMA) + w * cond(X, SIGMA)
    torch.testing.assert_close(classifier_free(cond, null, w)(X, SIGMA), expected)


def test_a_negative_condition_is_the_same_call_and_swapping_roles_mirrors_the_weight() -> None:
    torch.testing.assert_close(
        classifier_free(cond, null, 1.7)(X, SIGMA), classifier_free(null, cond, 1 - 1.7)(X, SIGMA)
    )
