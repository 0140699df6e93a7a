"""How much of a posterior's spread each sampler reaches, exactly: prints the tables of docs/samplers.md.

On a Gaussian every sampler is linear in the noise it is given, so its standard deviation is the root of the
summed squares of its responses to one unit impulse for each draw: no sampling error, one batched run.

    python benchmarks/sampler_spread.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medidiff.diffusion.gaussian import Gaussian
from medidiff.diffusion.samplers import SAMPLERS, start
from medidiff.diffusion.schedule import LADDERS

ONE = torch.ones(1, dtype=torch.float64)
STANDARD = Gaussian(0 * ONE, ONE, ONE[:, None])  # posterior standard deviation 1: sigmas are in units of it
NAMES = {"dpmpp_2m": "DPM++ 2M", "plms": "PLMS", "heun": "Heun", "euler": "Euler, DDIM", "ddpm": "DDPM, Euler a"}
EVALUATIONS = (2, 3, 4, 5, 6, 7, 8, 12, 20, 50)


def impulses() -> Callable[[Tensor], Tensor]:
    """A noise source whose k-th draw is 1 in the k-th sample and 0 elsewhere."""
    draws = iter(range(10**9))

    def noise(x: Tensor) -> Tensor:
        field = torch.zeros_like(x)
        field[next(draws)] = 1
        return field

    return noise


def spread(sampler: str, sigmas: Tensor) -> tuple[float, int]:
    """Standard deviation of samples that start from the mean, and evaluations with the one for the mean."""
    draws, noise = len(sigmas) + 1, impulses()
    x = start(torch.zeros(draws, 1, dtype=torch.float64), sigmas[:1].expand(draws), noise)
    *_, last = SAMPLERS[sampler](STANDARD.denoise, x, sigmas, noise=noise)
    return last.x.square().sum().sqrt().item(), 1 + last.evaluations


def percent(sampler: str, ladder: str, evaluations: int, sigma_min: float, sigma_max: float) -> str:
    """The spread reached with exactly so many evaluations; a dash where the sampler cannot have that number."""
    for n in (evaluations - 1, max(evaluations - 2, 1), evaluations // 2):  # most samplers, PLMS, Heun
        reached, used = spread(sampler, LADDERS[ladder](n, sigma_min, sigma_max))
        if used == evaluations:
            return f"{100 * reached:.0f}"
    return "–"


def table(head: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [[head, *columns], ["---"] + ["---:"] * len(columns), *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_sampler() -> str:
    rows = {title: [percent(name, "karras", count, 0.1, 3.0) for count in EVALUATIONS] for name, title in NAMES.items()}
    return table("sampler, % of the spread at", [str(count) for count in EVALUATIONS], rows)


def by_ladder() -> str:
    ranges = [(0.05, 3.0), (0.1, 3.0), (0.2, 3.0), (0.3, 3.0), (0.1, 5.0), (0.1, 10.0), (0.1, 1.5)]
    rows = {name: [percent("dpmpp_2m", name, 6, low, high) for low, high in ranges] for name in LADDERS}
    return table("ladder, % with DPM++ 2M at 6", [f"{high:g} to {low:g}" for low, high in ranges], rows)


def ancestral() -> str:
    counts, (low, high) = (8, 50, 1000), (0.02, 10.0)
    rows = {}
    for name, ladder in LADDERS.items():
        variances = [
            STANDARD.ancestral_variance(ladder(n, low, high).tolist(), (high**2 + 1) * ONE).item() for n in counts
        ]
        rows[name] = [f"{variance:.3f}" for variance in variances]
    return table("ladder, variance / truth at", [str(count) for count in counts], rows)


if __name__ == "__main__":
    print(by_sampler(), by_ladder(), ancestral(), sep="\n\n")
