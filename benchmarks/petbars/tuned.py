"""Strengths of the classical PET methods for each reduction factor, found on split `tune` and kept in a YAML file.

    objective(s) = mean over torsos of NRMSE(method_s(low), full) in the body, of the slices in the middle

A search climbs from a start by even steps of the logarithm until the least value lies between two others, and ends at
the vertex of the parabola through the three.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from medidiff import DISCLAIMER, __version__
from medidiff.config import Settings, load_settings
from medidiff.io.files import write_whole

MOST_STEPS = 8


class Strength(Settings):
    """The best of a method at one reduction factor.

    value      mm, noise levels or beta
    filter_mm  of the Gaussian after MAP
    nrmse      of the least one that was tried, and of the low-count images
    at_end     True where the search ended at MOST_STEPS without a least value in between
    """

    value: float
    filter_mm: float | None = None
    nrmse: float
    nrmse_input: float
    at_end: bool = False


class TunedPet(Settings):
    """The contents of the file; `methods`: name -> reduction factor -> strength."""

    format: Literal["medidiff-tuned-pet-1"] = "medidiff-tuned-pet-1"
    medidiff: str = __version__
    note: str = DISCLAIMER
    objective: str = "mean over torsos of NRMSE in the body against the full-count reconstruction"
    split: str = "tune"
    torsos: int
    slices: int
    methods: dict[str, dict[float, Strength]]

    def added_to(self, known: TunedPet | None) -> TunedPet:
        """With what another file knows of other methods and reduction factors."""
        old = {} if known is None else known.methods
        names = dict.fromkeys([*old, *self.methods])
        return self.model_copy(
            update={"methods": {name: old.get(name, {}) | self.methods.get(name, {}) for name in names}}
        )


def load_tuned(path: Path) -> TunedPet:
    """Raises UsageError where the file is absent or another one."""
    return load_settings(TunedPet, path)


def save_tuned(path: Path, tuned: TunedPet) -> None:
    """Write the file, whole or not at all."""
    text = yaml.safe_dump(tuned.model_dump(exclude_none=True), sort_keys=False, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def absent(tuned: TunedPet | None, methods: list[str], drfs: list[float]) -> list[str]:
    """The methods of which a strength that is needed was not searched."""
    known = {} if tuned is None else tuned.methods
    return [name for name in methods if not set(drfs) <= set(known.get(name, {}))]


def climb(objective: Callable[[float], float], start: float, factor: float) -> tuple[float, float, bool]:
    """(strength, least value that was found, whether no bracket was) by steps of `factor` from `start`."""
    tried = {0: objective(start)}
    for _ in range(MOST_STEPS):
        best = min(tried, key=lambda k: tried[k])
        missing = [k for k in (best - 1, best + 1) if k not in tried]
        if not missing:
            return start * factor ** (best + _vertex(*(tried[best + k] for k in (-1, 0, 1)))), tried[best], False
        tried[missing[0]] = objective(start * factor ** missing[0])
    best = min(tried, key=lambda k: tried[k])
    return start * factor**best, tried[best], True


def _vertex(left: float, middle: float, right: float) -> float:
    """Where the parabola through values at -1, 0 and 1 is least."""
    curvature = left - 2 * middle + right
    return float(np.clip((left - right) / (2 * curvature), -1, 1)) if curvature > 0 else 0.0
