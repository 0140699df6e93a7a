"""Everything that answers a trial: a model, a classical denoiser at a group's strength, and the scan itself."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from bars.trials import Trial
from numpy.typing import NDArray

from medidiff.baselines import BASELINES
from medidiff.inference.methods import Learned, load_method
from medidiff.inference.options import Options
from medidiff.inference.tuned import TunedMethod
from medidiff.model import Model
from medidiff.networks.plain import PLAIN
from medidiff.noise.level import block_mean, noise_level

Image = NDArray[np.float32]
CLASSICAL = ("bm3d", "nlm", "tv")
INPUT = "input"
PROBE = 128  # pixels a side


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
    """A model in quantitative mode as users run it, guard and all."""

    name: str
    method: Learned

    @classmethod
    def of(cls, file: str, name: str, device: str) -> Network:
        method = load_method(Options.of(model=file), torch.device(device))
        assert isinstance(method, Learned)
        return cls(name, method)

    @property
    def model(self) -> Model:
        return self.method.model

    @property
    def is_plain(self) -> bool:
        return self.model.architecture.network in PLAIN

    @cached_property
    def identity(self) -> str:
        """Weights, and what the code makes of them: the answer to a small fixed question, to 0.1 HU."""
        generator = np.random.default_rng(0)
        question = generator.normal(40, 25, (self.model.slab, PROBE, PROBE)).astype(np.float32)
        question[:, : PROBE // 2] -= 400
        blocks = block_mean(self.run(question), PROBE // 8)
        return f"model {self.model.sha256} {zlib.crc32(np.round(10 * blocks).astype(np.int32).tobytes()):08x}"

    def key(self, trial: Trial) -> str:
        return self.identity

    def answer(self, trial: Trial) -> Image:
        return self.run(trial.slab_of(self.model.slab))

    def run(self, slab: Image) -> Image:
        """The middle slice of a slab (K, rows, columns) restored."""
        return self.method.for_case("").slice(0, slab).image


Run = Callable[[Image], Image]
