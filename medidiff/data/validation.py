"""Is the model getting better? Error against noise-free targets, on patients that training never sees.

Each `tune` case gives one fixed slab for every colour and level, each measured pair its own slab; the figure is the
RMSE of the one-evaluation answer divided by that of the low-dose image, so 1 is useless and 0 is perfect (a measured
truth has noise itself, so there the floor is above 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.data.prepare import Case
from medidiff.data.spectra import GRID, Colour, apply_spectrum
from medidiff.data.transforms import body_deviation
from medidiff.diffusion.denoiser import Condition, Denoiser
from medidiff.diffusion.regression import Regression
from medidiff.noise.level import noise_estimate, noise_level, noise_map
from medidiff.patches import crop, pad_to_multiple, slab_indices
from medidiff.physics.ct import Kernel
from medidiff.scaling import LinearScaling

MEASURED = "measured"
# Mean noise frequency 0.14, 0.21, 0.36 cycles a pixel; measured in real series: smooth 0.19 to 0.28, sharp 0.34 to 0.44
KERNELS = {
    "smoothest": Kernel("hann", 0.8),
    "smooth": Kernel("hann", 1.2),
    "sharp": Kernel("shepp-logan", 1.5, 0.5, 1.5),
}
LEVELS_HU = (12.0, 30.0, 70.0)


@dataclass(frozen=True, eq=False)
class Probe:
    """One fixed question: a slab in HU, its truth, and which colour and level it has (estimated where measured)."""

    colour: str
    level: float
    slab: NDArray[np.float32]
    target: NDArray[np.float32]


def probes(cases: Sequence[Case], slab: int) -> list[Probe]:
    """The middle slab of every case: with noise-free anatomy at every colour and level, of a measured pair as it is."""
    made = []
    for case in cases:
        n = len(case.clean)
        slices = slab_indices(n // 2, n, slab)
        if case.low is not None:
            low = np.asarray(case.low[slices])
            made.append(Probe(MEASURED, noise_level(low[slab // 2]), low, np.asarray(case.clean[n // 2])))
            continue
        assert case.noise is not None
        stack = np.stack([case.clean[slices], case.noise[slices]])
        for colour, kernel in KERNELS.items():
            response = np.asarray(kernel.response(GRID), np.float64)
            clean, noise = apply_spectrum(stack[0], stack[1], Colour(response, GRID * response**2))
            unit = noise / body_deviation(noise, clean)
            made += [Probe(colour, level, clean + level * unit, clean[slab // 2]) for level in LEVELS_HU]
    return made


def condition(
    probe_slab: NDArray[np.float32], scaling: LinearScaling, stride: int, with_map: bool = False
) -> Condition:
    """The condition of one slab, (K, rows, columns) in HU, padded to the network's stride."""
    middle = probe_slab[len(probe_slab) // 2]
    estimate = noise_estimate(middle)
    level_map = torch.from_numpy(noise_map(middle, estimate.level))[None, None] if with_map else None
    return Condition(
        slab=pad_to_multiple(scaling.forward(torch.from_numpy(probe_slab)[None]), stride),
        r=torch.tensor([estimate.level / scaling.factor], dtype=torch.float32),
        colour=torch.tensor([estimate.colour], dtype=torch.float32),
        null=torch.zeros(1, dtype=torch.bool),
        noise_map=None if level_map is None else pad_to_multiple(level_map, stride),
    )


@torch.inference_mode()
def validate(
    denoiser: Denoiser | Regression, questions: Sequence[Probe], scaling: LinearScaling, stride: int
) -> tuple[dict[str, float], list[NDArray[np.float32]]]:
    """RMSE ratio per colour and over all of at least one question, and the first one as (low, answer, truth)."""
    device = next(denoiser.parameters()).device
    ratios: dict[str, list[float]] = {colour: [] for colour in (*KERNELS, MEASURED)}
    pictures: list[NDArray[np.float32]] = []
    for probe in questions:
        cond = condition(probe.slab, scaling, stride, getattr(denoiser, "takes_map", False)).to(device)
        inside = crop(denoiser.mean(cond), (probe.target.shape[0], probe.target.shape[1]))
        answer = scaling.inverse(inside)[0, 0].float().cpu().numpy()
        low = probe.slab[len(probe.slab) // 2]
        ratios[probe.colour].append(_rmse(answer, probe.target) / _rmse(low, probe.target))
        pictures = pictures or [low, answer, probe.target]
    figures = {colour: float(np.mean(values)) for colour, values in ratios.items() if values}
    return figures | {"all": float(np.mean(list(figures.values())))}, pictures


def _rmse(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((image - truth) ** 2, dtype=np.float64)))
