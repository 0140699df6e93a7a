"""Schedules against their publications and diffusers; noise that belongs to a case and a slice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medidiff.diffusion import schedule
from medidiff.diffusion.schedule import LADDERS, CaseNoise, case_seed, slice_noise


def test_linear_and_cosine_are_the_tables_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    for name, ours in [("linear", schedule.alpha_bar_linear), ("squaredcos_cap_v2", schedule.alpha_bar_cosine)]:
        theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).alphas_cumprod
        torch.testing.assert_close(ours(1000).float(), theirs, rtol=2e-4, atol=1e-7)


def test_alpha_bar_and_sigma_undo_each_other() -> None:
    alpha_bar = schedule.alpha_bar_cosine(1000)[:-1]
    back = schedule.alpha_bar_from_sigma(schedule.sigma_from_alpha_bar(alpha_bar))
    torch.testing.assert_close(back, alpha_bar)


@pytest.mark.parametrize(
    ("table", "half"),
    [
        (schedule.alpha_bar_linear, 0.26),
        (schedule.alpha_bar_cosine, 0.50),
        (schedule.alpha_bar_aggressive, 0.08),
    ],
)
def test_half_of_the_power_is_noise_where_the_page_says(table: object, half: float) -> None:
    """And `aggressive` is so before the others: sigma = 1 at t = 2 / pi * atan(1 / 8) = 0.079."""
    alpha_bar = table(1000)  # type: ignore[operator]
    assert (alpha_bar > 0.5).double().mean().item() == pytest.approx(half, abs=0.005)
    assert bool((alpha_bar.diff() < 0).all())


def test_aggressive_is_cosine_with_its_log_snr_shifted_by_two_log_64_over_512() -> None:
    """Hoogeboom et al. 2023, eq. 4: log SNR = -2 log tan(pi t / 2) + 2 log(64 / d)."""
    alpha_bar = schedule.alpha_bar_aggressive(10)
    t = (torch.arange(10).double() + 0.5) / 10
    log_snr = -2 * torch.tan(math.pi * t / 2).log() + 2 * math.log(64 / 512)
    torch.testing.assert_close((alpha_bar / (1 - alpha_bar)).log(), log_snr)


def test_karras_is_equation_5() -> None:
    """Karras et al. 2022: (max^(1/rho) + i / (n - 1) (min^(1/rho) - max^(1/rho)))^rho."""
    n, low, high, rho = 18, 0.002, 80.0, 7
    i = torch.arange(n).double()
    expected = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    torch.testing.assert_close(schedule.karras(n, low, high), expected)


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_a_ladder_falls_from_sigma_max_to_sigma_min(name: str, n: int) -> None:
    ladder = LADDERS[name](n, 0.05, 10.0)
    assert ladder.shape == (n,)
    assert ladder[0].item() == pytest.approx(10.0)
    assert bool((ladder.diff() < 0).all())
    if n > 1:
        assert ladder[-1].item() == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["linear", "cosine", "aggressive"])
def test_a_ladder_of_a_schedule_takes_even_steps_of_its_time(name: str) -> None:
    table = getattr(schedule, f"alpha_bar_{name}")(1000)
    sigmas = schedule.sigma_from_alpha_bar(table)
    walked = LADDERS[name](9, sigmas[100].item(), sigmas[900].item())
    torch.testing.assert_close(walked, sigmas[torch.arange(900, 99, -100)], rtol=1e-9, atol=0)


def test_a_ladder_stays_within_its_schedule() -> None:
    """The linear table knows sigma from 0.01 to 157: a wider wish is cut to that."""
    ladder = LADDERS["linear"](5, 1e-6, 1e6)
    sigmas = schedule.sigma_from_alpha_bar(schedule.alpha_bar_linear(1000))
    torch.testing.assert_close(ladder[[0, -1]], sigmas[[-1, 0]])


def test_the_forward_process_adds_noise_of_each_samples_own_level() -> None:
    x, sigma = torch.full((2, 1, 200, 200), 5.0), torch.tensor([0.5, 4.0])
    noisy = schedule.add_noise(x, sigma, torch.Generator().manual_seed(1)) - x
    torch.testing.assert_close(noisy.flatten(1).std(1), sigma, rtol=0.02, atol=0)
    torch.testing.assert_close(noisy.flatten(1).mean(1) / sigma, torch.zeros(2), rtol=0, atol=0.02)


def test_a_case_seed_is_stable_and_differs_by_case_and_by_seed() -> None:
    """The number is pinned: a change of it would change every stored result."""
    assert case_seed("1.2.840.113619.2.1", 7) == CASE_SEED
    others = {case_seed(f"1.2.840.{i}", s) for i in range(100) for s in range(10)}
    assert len(others) == 1000
    assert case_seed("1", 11) != case_seed("11", 1)


CASE_SEED = 8411824432974382763


def test_neighbouring_slices_share_noise_as_the_weights_say() -> None:
    """(1, 2, 1) / sqrt(6): correlation 2/3 with the neighbour, 1/6 with the next, none beyond; variance 1."""
    noise = torch.stack([slice_noise(3, k, (256, 256)).flatten() for k in range(5)])
    gram = (noise @ noise.T / noise.shape[1]).numpy()
    lags = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    expected = np.choose(np.minimum(lags, 3), [1, 2 / 3, 1 / 6, 0])
    np.testing.assert_allclose(gram, expected, atol=4 * 2 / 256)


def test_slice_noise_is_white_in_plane() -> None:
    noise = slice_noise(3, 0, (256, 256))
    assert abs((noise[1:] * noise[:-1]).mean().item()) < 4 / 256
    assert abs((noise[:, 1:] * noise[:, :-1]).mean().item()) < 4 / 256


def test_noise_of_a_slice_does_not_depend_on_the_batch_or_the_order() -> None:
    shape = (1, 7, 9)
    batch = CaseNoise(5, (2, 0, 1))
    first, second = batch(torch.empty(3, *shape)), batch(torch.empty(3, *shape))
    for b, index in enumerate((2, 0, 1)):
        alone = CaseNoise(5, (index,))
        assert torch.equal(alone(torch.empty(1, *shape))[0], first[b])
        assert torch.equal(alone(torch.empty(1, *shape))[0], second[b])
        assert torch.equal(slice_noise(5, index, shape, draw=1), second[b])


def test_draws_samples_and_cases_have_noise_of_their_own() -> None:
    fields = [
        slice_noise(case, 4, (128, 128), draw=draw, sample=sample).flatten()
        for case in (1, 2)
        for draw in (0, 1)
        for sample in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(fields))
    assert (correlation - torch.eye(8)).abs().max().item() < 5 / 128
