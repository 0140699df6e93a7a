"""Every sampler against a Gaussian, whose flow is known exactly, and against diffusers."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import samplers
from medidiff.diffusion.gaussian import Gaussian
from medidiff.diffusion.samplers import SAMPLERS, Step, sample_noise
from medidiff.diffusion.schedule import (
    LADDERS,
    CaseNoise,
    alpha_bar_cosine,
    alpha_bar_linear,
    karras,
    sigma_from_alpha_bar,
)

SHAPE = (1, 4, 5)
DETERMINISTIC = ["euler", "ddim", "heun", "plms", "dpmpp_2m"]


@pytest.fixture(scope="module")
def gaussian() -> Gaussian:
    """Variances from 0.01 to 4 along random directions, so that no pixel is alone."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    mean = torch.randn(20, generator=generator, dtype=torch.float64)
    return Gaussian(mean, torch.logspace(-2, 0.6, 20, dtype=torch.float64), basis)


def normal(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generators(seeds: range) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def walk(name: str, denoise: samplers.Denoise, x: Tensor, sigmas: Tensor, first_seed: int = 0) -> list[Step]:
    noise = sample_noise(generators(range(first_seed, first_seed + len(x))))
    return list(SAMPLERS[name](denoise, x, sigmas, noise=noise))


# --- order of accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize(("name", "low", "high"), [("euler", 1.8, 2.3), ("heun", 3.5, 5.5), ("dpmpp_2m", 3.5, 5.5)])
def test_doubling_the_steps_divides_the_error_by_two_to_the_order(
    name: str, low: float, high: float, ladder: str, gaussian: Gaussian
) -> None:
    """Measured where the sampler reaches sigma_min, on any ladder: the last step to 0 is of first order by design."""
    sigma_max, sigma_min = torch.tensor([20.0, 0.05], dtype=torch.float64)[:, None]
    x = sigma_max * normal(1)
    exact = gaussian.flow(x, sigma_max, sigma_min)
    errors = []
    for intervals in (128, 256, 512):
        steps = walk(name, gaussian.denoise, x, LADDERS[ladder](intervals + 1, 0.05, 20.0))
        errors.append((steps[-2].x - exact).norm().item())
    for coarse, fine in pairwise(errors):
        assert low < coarse / fine < high


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_deterministic_sampler_follows_the_flow(name: str, gaussian: Gaussian) -> None:
    sigma_max, sigma_min = torch.tensor([20.0, 0.05], dtype=torch.float64)[:, None]
    x = sigma_max * normal(2)
    steps = walk(name, gaussian.denoise, x, karras(400, 0.05, 20.0))
    tolerance = 2e-2 if name in ("euler", "ddim") else 2e-4
    torch.testing.assert_close(steps[-2].x, gaussian.flow(x, sigma_max, sigma_min), rtol=0, atol=tolerance)


# --- what a step reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_steps_report_levels_and_count_every_evaluation_and_end_at_the_estimate(
    name: str, n: int, gaussian: Gaussian
) -> None:
    seen: list[Tensor] = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return gaussian.denoise(x, sigma)

    sigmas = karras(n, 0.05, 20.0)
    reached = []
    for index, step in enumerate(
        SAMPLERS[name](counted, 20 * normal(3), sigmas, noise=sample_noise(generators(range(3))))
    ):
        assert (step.index, step.evaluations) == (index, len(seen))
        reached.append(step.sigma[0].item())
    assert all(sigma.shape == (3,) for sigma in seen)
    assert reached == [*sigmas[1:].tolist(), 0.0]
    assert torch.equal(step.x, step.x0_hat)
    assert step.evaluations == {"heun": 2 * n - 1, "plms": n + (n > 1)}.get(name, n)


# --- ancestral sampling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 50])
def test_ancestral_variance_is_its_own_recursion(n: int) -> None:
    """20,000 samples of one pixel for each of four variances; 5 standard errors of a variance."""
    variance = torch.tensor([0.01, 0.3, 1.0, 4.0], dtype=torch.float64)
    gaussian = Gaussian(torch.zeros(4, dtype=torch.float64), variance, torch.eye(4, dtype=torch.float64))
    generator, sigmas, size = torch.Generator().manual_seed(3), karras(n, 0.02, 30.0), (20_000, 4, 1, 1)
    x = 30 * torch.randn(size, generator=generator, dtype=torch.float64)
    noise = lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    *_, last = SAMPLERS["ddpm"](gaussian.denoise, x, sigmas, noise=noise)
    expected = gaussian.ancestral_variance(sigmas.tolist(), torch.full((4,), 900.0, dtype=torch.float64))
    torch.testing.assert_close(last.x.flatten(1).var(0), expected, rtol=5 * (2 / 20_000) ** 0.5, atol=0)


@pytest.mark.parametrize(("n", "share"), [(8, 0.481), (50, 0.884), (1000, 0.993)])
def test_ancestral_variance_approaches_the_truth_only_slowly(n: int, share: float) -> None:
    """The figures of docs/samplers.md: a Karras ladder from 10 to 0.02 standard deviations."""
    one = torch.ones(1, dtype=torch.float64)
    gaussian = Gaussian(0 * one, one, one[:, None])
    variance = gaussian.ancestral_variance(karras(n, 0.02, 10.0).tolist(), 101 * one).item()
    assert variance == pytest.approx(share, abs=6e-4)


def test_no_fresh_noise_makes_ancestral_sampling_euler(gaussian: Gaussian) -> None:
    x, sigmas = 20 * normal(2), karras(7, 0.05, 20.0)
    calm = samplers.ancestral(gaussian.denoise, x, sigmas, noise=torch.zeros_like, eta=0.0)
    for ours, euler in zip(calm, walk("euler", gaussian.denoise, x, sigmas), strict=True):
        torch.testing.assert_close(ours.x, euler.x)


# --- second opinion: diffusers --------------------------------------------------------------------------------

diffusers_warns = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # with NumPy 2
TABLES = {"linear": alpha_bar_linear, "squaredcos_cap_v2": alpha_bar_cosine}


def diffusers_path(scheduler: Any, gaussian: Gaussian, x: Tensor, preserving: bool, **options: Any) -> list[Tensor]:
    """The states of a diffusers scheduler, in our picture: x_sigma = x_t * sqrt(1 + sigma^2) where `preserving`."""
    table = sigma_from_alpha_bar(TABLES[scheduler.config.beta_schedule](1000))
    sigmas = [table[int(t)].reshape(1) for t in scheduler.timesteps]
    shrink: Callable[[Tensor], Tensor] = lambda s: (1 + s**2).sqrt() if preserving else torch.ones_like(s)  # noqa: E731
    state, path = x / shrink(sigmas[0]), []
    for t, sigma, lower in zip(scheduler.timesteps, sigmas, [*sigmas[1:], torch.zeros(1).double()], strict=True):
        x_sigma = state * shrink(sigma)
        eps = (x_sigma - gaussian.denoise(x_sigma, sigma)) / sigma
        scheduler.scale_model_input(state, t)
        state = scheduler.step(eps, t, state, **options).prev_sample
        path.append(state * shrink(lower))
    return path


def leading(n: int, beta_schedule: str) -> tuple[Tensor, Tensor]:
    """Time steps 0, 1000 / n, ... in falling order ("leading" spacing), and their sigmas."""
    t = torch.arange(n).flip(0) * (1000 // n)
    return t, sigma_from_alpha_bar(TABLES[beta_schedule](1000))[t]


def second_opinion(class_name: str, n: int, beta_schedule: str, **config: Any) -> tuple[Any, Tensor]:
    import diffusers

    ends = {"beta_start": 1e-4, "beta_end": 0.02}  # HeunDiscreteScheduler has others by default
    scheduler = getattr(diffusers, class_name)(beta_schedule=beta_schedule, **ends, **config)
    scheduler.set_timesteps(n)
    return scheduler, leading(n, beta_schedule)[1]


def assert_same(ours: list[Step], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for step, x in zip(ours, theirs, strict=True):
        torch.testing.assert_close(step.x, x.double(), rtol=1e-3, atol=1e-3)


@diffusers_warns
@pytest.mark.parametrize("beta_schedule", TABLES)
@pytest.mark.parametrize("class_name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_euler_is_ddim_and_diffusers_agrees_with_both(class_name: str, beta_schedule: str, gaussian: Gaussian) -> None:
    preserving = class_name == "DDIMScheduler"
    config = {"clip_sample": False, "set_alpha_to_one": True} if preserving else {}
    scheduler, sigmas = second_opinion(class_name, 20, beta_schedule, timestep_spacing="leading", **config)
    x = sigmas[0] * normal(1)
    theirs = diffusers_path(scheduler, gaussian, x, preserving)
    assert_same(walk("ddim", gaussian.denoise, x, sigmas), theirs)


@diffusers_warns
@pytest.mark.parametrize("class_name", ["DDPMScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_ancestral_is_ddpm_and_ddim_with_eta_one_and_euler_a(class_name: str, gaussian: Gaussian) -> None:
    preserving = not class_name.startswith("Euler")
    config = {"clip_sample": False} if preserving else {}
    config |= {"set_alpha_to_one": True} if class_name == "DDIMScheduler" else {}
    scheduler, sigmas = second_opinion(class_name, 20, "linear", timestep_spacing="leading", **config)
    x = sigmas[0] * normal(1)
    options = {"eta": 1.0} if class_name == "DDIMScheduler" else {}
    theirs = diffusers_path(scheduler, gaussian, x, preserving, generator=generators(range(1))[0], **options)
    assert_same(walk("ddpm", gaussian.denoise, x, sigmas), theirs)


@diffusers_warns
def test_plms_is_the_pndm_of_diffusers(gaussian: Gaussian) -> None:
    """diffusers lists the second time step twice, for the extra evaluation of the first step, and extrapolates
    the last one, which we do not."""
    scheduler, sigmas = second_opinion("PNDMScheduler", 20, "linear", skip_prk_steps=True, timestep_spacing="leading")
    x = sigmas[0] * normal(1)
    theirs = diffusers_path(scheduler, gaussian, x, preserving=True)
    assert_same(walk("plms", gaussian.denoise, x, sigmas)[:-1], theirs[1:-1])


@diffusers_warns
def test_heun_is_the_heun_of_diffusers(gaussian: Gaussian) -> None:
    """diffusers counts the two halves of a step as two."""
    scheduler, sigmas = second_opinion("HeunDiscreteScheduler", 20, "linear", timestep_spacing="leading")
    x = sigmas[0] * normal(1)
    theirs = diffusers_path(scheduler, gaussian, x, preserving=False)
    assert_same(walk("heun", gaussian.denoise, x, sigmas), [*theirs[1:-1:2], theirs[-1]])


@diffusers_warns
@pytest.mark.parametrize("beta_schedule", TABLES)
def test_dpmpp_2m_is_the_second_order_multistep_solver_of_diffusers(beta_schedule: str, gaussian: Gaussian) -> None:
    from diffusers import DPMSolverMultistepScheduler

    t, sigmas = leading(20, beta_schedule)
    scheduler = DPMSolverMultistepScheduler(beta_schedule=beta_schedule, final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=t.tolist())
    x = sigmas[0] * normal(1)
    assert_same(walk("dpmpp_2m", gaussian.denoise, x, sigmas), diffusers_path(scheduler, gaussian, x, preserving=True))


# --- independence of the batch --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("batch", [2, 11])
def test_a_batch_equals_its_samples_one_by_one_bit_by_bit(name: str, batch: int) -> None:
    """Each sample has its own generator and its own scale; 11 is past the width of a vector register."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x) / (1 + sigma[:, None, None, None])

    scale = torch.linspace(0.5, 3, batch)
    x = normal(batch).float()
    sigmas = karras(6, 0.05, 20.0)[:, None] * scale
    together = walk(name, denoise, x, sigmas)[-1].x
    for b in range(batch):
        alone = walk(name, denoise, x[b : b + 1], sigmas[:, b : b + 1], first_seed=b)[-1].x
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("name", SAMPLERS)
def test_scaling_image_and_ladder_together_scales_the_result(name: str, gaussian: Gaussian) -> None:
    """Only ratios count: `sigmas = s * ladder` in the units of x, with an s for each sample."""
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64)
    column = scale[:, None, None, None]
    x = (20 * normal(1)).expand(2, *SHAPE)
    sigmas = karras(6, 0.05, 20.0)

    def scaled(x: Tensor, sigma: Tensor) -> Tensor:
        return column * gaussian.denoise(x / column, sigma / scale)

    def same_noise(x: Tensor) -> Tensor:
        return torch.ones_like(x)

    *_, last = SAMPLERS[name](scaled, x * column, sigmas[:, None] * scale, noise=same_noise)
    torch.testing.assert_close(last.x[1], 4 * last.x[0])


# --- starting from the mean -------------------------------------------------------------------------------------


def test_starting_from_the_mean_is_the_euler_step_from_infinity(gaussian: Gaussian) -> None:
    """A step from sigma = 1e9 with the same noise lands at the same place."""
    n, far, sigma = normal(2), torch.full((2,), 1e9, dtype=torch.float64), torch.full((2,), 6.0, dtype=torch.float64)
    mean = gaussian.mean.reshape(1, *SHAPE).expand(2, *SHAPE)
    begun = samplers.start(mean, sigma, lambda _: n)
    first, _ = samplers.euler(gaussian.denoise, 1e9 * n, torch.stack([far, sigma]))
    torch.testing.assert_close(begun, first.x, rtol=1e-6, atol=1e-6)


def test_a_case_gives_a_sampler_noise_for_each_slice_and_step() -> None:
    """Slices of one case in any batches give the same volume."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma[:, None, None, None] ** 2)

    def texture(indices: tuple[int, ...]) -> Tensor:
        noise, zero = CaseNoise(42, indices), torch.zeros(len(indices), *SHAPE)
        x = samplers.start(zero, torch.full((len(indices),), 5.0), noise)
        *_, last = SAMPLERS["euler_a"](denoise, x, karras(5, 0.1, 5.0), noise=noise)
        return last.x

    whole = texture((0, 1, 2, 3))
    assert torch.equal(torch.cat([texture((0,)), texture((1, 2)), texture((3,))]), whole)


def test_the_documentation_prints_what_the_benchmark_measures(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    runpy.run_path(str(root / "benchmarks" / "sampler_spread.py"), run_name="__main__")
    text = (root / "docs" / "samplers.md").read_text(encoding="utf-8")
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in text
