"""Everything that answers a trial: a model, a classical denoiser at a group's strength, and the scan itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from bars.trials import Trial
from numpy.typing import NDArray

from medidiff.baselines import BASELINES
from medidiff.inference.tuned import TunedMethod
from medidiff.model import Model, load
from medidiff.networks.plain import PLAIN
from medidiff.noise.level import noise_level

Image = NDArray[np.float32]
CLASSICAL = ("bm3d", "nlm", "tv")
INPUT = "input"


class Answers(Protocol):
    """`name` heads a column; `key` says everything that decides an answer to a trial."""

    @property
    def name(self) -> str: ...
    def key(self, trial: Trial) -> str: ...
    def answer(self, trial: Trial) -> Image: ...


@dataclass(frozen=True, eq=False)
class Scan:
    """The low-dose slice as it is."""

    name: str = INPUT

    def key(self, trial: Trial) -> str:
        return INPUT

    def answer(self, trial: Trial) -> Image:
        return trial.y


@dataclass(frozen=True, eq=False)
class Filter:
    """A classical denoiser; a group that was not searched has the strength of all."""

    name: str
    tuned: TunedMethod

    def smoothing(self, trial: Trial) -> float:
        best = self.tuned.groups.get(trial.group, self.tuned.overall).smoothing
        assert best is not None
        return best

    def key(self, trial: Trial) -> str:
        return f"{self.name} {self.smoothing(trial):g}"

    def answer(self, trial: Trial) -> Image:
        return BASELINES[self.name].function(trial.y, noise_level(trial.y), self.smoothing(trial))


@dataclass(frozen=True, eq=False)
class Network:
    """A model in quantitative mode; `run` is the one evaluation."""

    name: str
    model: Model

    @classmethod
    def of(cls, file: str, name: str, device: str) -> Network:
        return cls(name, load(file).to(torch.device(device)))

    @property
    def is_plain(self) -> bool:
        return self.model.architecture.network in PLAIN

    def key(self, trial: Trial) -> str:
        return f"model {self.model.sha256}"

    def answer(self, trial: Trial) -> Image:
        return self.run(trial.slab_of(self.model.slab))

    def run(self, slab: Image) -> Image:
        """The middle slice of a slab (K, rows, columns) restored."""
        with torch.inference_mode():
            return self.model.image(self.model.denoiser.mean(self.model.condition(slab)), slab.shape[1:])


Run = Callable[[Image], Image]
