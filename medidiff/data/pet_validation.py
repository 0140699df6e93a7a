"""Is a PET model getting better? Error against the reconstruction of expected counts, in bodies never trained on.

rmse   RMSE of the answer over that of the low count, inside the body: 1 is useless, 0 is perfect
bias   mean over lesions of the error of SUVmean, per cent of the target's, within each lesion's own mask
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medidiff.data.pet_cases import PetCase
from medidiff.noise.activity import BODY_SUV

Image = NDArray[np.float32]
Answer = Callable[[Image, tuple[float, float, float], Image | None], Image]
"""(low count (slices, rows, columns) in SUV, spacing in mm, guide in HU or None) -> restored, SUV."""

FEWEST_VOXELS = 4  # of a lesion


def judge_blocks(restore: Answer, cases: Sequence[PetCase]) -> tuple[dict[str, float], list[Image]]:
    """Figures over all realisations of at least one case, and a slice of the first as (low, answer, truth)."""
    errors: dict[str, list[float]] = {}
    biases: list[float] = []
    pictures: list[Image] = []
    for case in cases:
        for low, drf in zip(case.low, case.drf, strict=True):
            guide = None if case.guide is None else np.asarray(case.guide)
            answer = restore(np.asarray(low), case.spacing_mm, guide)
            body = case.target > BODY_SUV
            errors.setdefault(band(drf), []).append(_rmse(answer, case.target, body) / _rmse(low, case.target, body))
            biases += lesion_biases(answer, case)
            middle = len(answer) // 2
            pictures = pictures or [low[middle], answer[middle], case.target[middle]]
    figures = {name: float(np.mean(values)) for name, values in sorted(errors.items())}
    everything = float(np.mean(list(figures.values())))
    return figures | {"all": everything, "lesion bias %": 100 * float(np.mean(biases or [0.0]))}, pictures


def lesion_biases(answer: Image, case: PetCase) -> list[float]:
    """Error of SUVmean over SUVmean of the target, lesion by lesion."""
    sizes = np.bincount(case.lesions.ravel())
    found = []
    for number in range(1, len(sizes)):
        if sizes[number] >= FEWEST_VOXELS:
            inside = case.lesions == number
            found.append(float(answer[inside].mean() / case.target[inside].mean() - 1))
    return found


def band(drf: float) -> str:
    """In which band of reduction factors a realisation counts."""
    return f"drf {2 ** round(np.log2(drf))}"


def _rmse(a: Image, b: Image, where: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean((a - b)[where] ** 2, dtype=np.float64)))
