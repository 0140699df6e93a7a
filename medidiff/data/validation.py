"""Is the model getting better? Error against noise-free targets, on patients that training never sees.

Each `tune` case gives one fixed slab for every colour and level, each measured pair its own slab; the figure is the
RMSE of the one-evaluation answer divided by that of the low-dose image, so 1 is useless and 0 is perfect (a measured
truth has noise itself, so there the floor is above 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.data.prepare import Case
from medidiff.data.spectra import GRID, Colour, apply_spectrum
from medidiff.data.transforms import body_deviation
from medidiff.noise.level import noise_level
from medidiff.patches import slab_indices
from medidiff.physics.ct import Kernel

Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A slab (K, rows, columns) in HU -> its middle slice restored, (rows, columns) in HU."""

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


def validate(answer: Answer, questions: Sequence[Probe]) -> tuple[dict[str, float], list[NDArray[np.float32]]]:
    """RMSE ratio per colour (or what else a probe is named after) and over all of at least one question, and the first
    one as (low, answer, truth)."""
    ratios: dict[str, list[float]] = {}
    pictures: list[NDArray[np.float32]] = []
    for probe in questions:
        low, restored = probe.slab[len(probe.slab) // 2], answer(probe.slab)
        ratio = _rmse(restored, probe.target) / _rmse(low, probe.target)
        ratios.setdefault(probe.colour, []).append(ratio)
        pictures = pictures or [low, restored, probe.target]
    figures = {colour: float(np.mean(values)) for colour, values in ratios.items()}
    return figures | {"all": float(np.mean(list(figures.values())))}, pictures


def _rmse(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((image - truth) ** 2, dtype=np.float64)))
