"""From noisy slices to restored ones for networks of three dimensions: block by block, no volume in memory.

    block = slices of the core, HALO more on each side       cores of CORE slices tile the scan from its first slice on

A slice's answer depends on its block alone, so a run that was stopped gives the same slices when it goes on. The
network works in units of the local noise level `r` (medidiff.noise.activity), where that of the block is 1:

    out = y + w strength / 100 * (r z_hat - y)        sd = r sd_z        w: of the block, see guard.py
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoiser, bind
from medidiff.diffusion.samplers import start
from medidiff.diffusion.schedule import white_field
from medidiff.inference.guard import held_back, judged_block
from medidiff.inference.restore import (
    ONE_ESTIMATE,
    Restored,
    blended,
    calibration,
    exact_convolutions,
    ladder,
    last_step,
    timed,
)
from medidiff.model import Model
from medidiff.noise.activity import activity_of
from medidiff.volume import SliceSource

CORE, HALO = 40, 12  # slices; what lies further away than HALO has no say in a slice

Image = NDArray[np.float32]
Padding = NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Block:
    """Slices first .. first + n - 1 of a scan, of which start .. stop - 1 are to be answered."""

    start: int
    stop: int
    first: int
    values: Image
    guide: Image | None
    paddings: dict[int, Padding]


@dataclass(frozen=True, eq=False)
class Answer:
    """Of all slices of a block, in the source's unit: image, its standard deviation or None, noise of the scan itself;
    what was measured in the block, where the model knows what it has seen, and the share of the change it allows."""

    image: Image
    deviation: Image | None
    noise: Image
    traits: dict[str, float] | None
    weight: float


@dataclass(frozen=True, eq=False)
class BlockRestorer:
    """A model of three dimensions with the parameters of `Options.parameters()` and the seed of one case.

    guide   a CT on the grid of the scan, HU, nan where it does not reach; None: there is none
    """

    model: Model
    parameters: dict[str, Any]
    case: int = 0
    guide: SliceSource | None = None

    def blocks(
        self, source: SliceSource, indices: Iterable[int], io: Executor, seconds: dict[str, float]
    ) -> Iterator[Restored]:
        """Restore the slices `indices` (increasing) of a source, which is read in the one thread of `io`; in order."""
        wanted = list(indices)
        starts = sorted({index // CORE * CORE for index in wanted})
        ahead = [io.submit(self._read, source, first, seconds) for first in starts[:1]]
        for k in range(len(starts)):
            block = ahead.pop(0).result()
            ahead += [io.submit(self._read, source, first, seconds) for first in starts[k + 1 : k + 2]]
            began = time.perf_counter()
            answer = self._answer(block, source)
            seconds["network"] = seconds.get("network", 0.0) + time.perf_counter() - began
            for index in (i for i in wanted if block.start <= i < block.stop):
                yield self._restored(index, block, answer)

    def _read(self, source: SliceSource, start: int, seconds: dict[str, float]) -> Block:
        n = source.geometry.n_slices
        stop = min(start + CORE, n)
        first, last = max(start - HALO, 0), min(stop + HALO, n)
        with timed(seconds, "read"):
            values = np.stack([source.read(k) for k in range(first, last)])
            paddings = {k: source.padding(k) for k in range(start, stop)}
            guide = None if self.guide is None else np.stack([self.guide.read(k) for k in range(first, last)])
        return Block(start, stop, first, values, guide, paddings)

    def _answer(self, block: Block, source: SliceSource) -> Answer:
        geometry = source.geometry
        spacing = (geometry.slice_spacing_mm, *geometry.pixel_spacing_mm)
        activity = activity_of(block.values, spacing)
        level = activity.level
        with torch.inference_mode(), exact_convolutions(self.model.device):
            cond = self.model.told(block.values, activity, spacing, block.guide)
            estimate, deviation = self._estimate(block.first, cond)

            def of(values: Tensor) -> Image:
                return values[0, 0][tuple(slice(n) for n in level.shape)].float().cpu().numpy() * level

            image, sd = of(estimate), None if deviation is None else self._calibrated(of(deviation), level)
        noise = level * np.float32(activity.found / activity.relative)  # where the level is at its limit it is more
        return Answer(image, sd, noise, *judged_block(self.model, activity))

    def _estimate(self, first: int, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """(z_hat, standard deviation or None) in units of the local noise."""
        denoiser = self.model.denoiser
        if self.parameters.get("draws") == 0:
            assert isinstance(denoiser, Denoiser)  # `has_spread`, from which draws = 0 follows, says so
            return denoiser.mean_and_spread(cond)
        mean = denoiser.mean(cond)
        if self.parameters["mode"] in ONE_ESTIMATE:
            return mean, None
        draws = self.parameters.get("draws", 1)
        samples = torch.stack([self._sample(first, cond, mean, k) for k in range(draws)])
        return (samples[0], None) if self.parameters["mode"] == "sample" else (mean, samples.std(dim=0))

    def _sample(self, first: int, cond: Condition, mean: Tensor, k: int) -> Tensor:
        """The k-th posterior sample of a block; blocks that overlap share the noise of their slices."""
        sigmas = ladder(self.parameters)[:, None].to(mean)
        noise = BlockNoise(self.case, first, sample=k)
        denoise = bind(self.model.denoiser, cond)
        return last_step(self.parameters, denoise, start(mean, sigmas[0], noise), sigmas, noise).x

    def _calibrated(self, sd: Image, level: Image) -> Image:
        table = calibration(self.model, self.parameters)
        return sd if table is None else table.by_level(sd, level)

    def _restored(self, index: int, block: Block, answer: Answer) -> Restored:
        at, padding = index - block.first, block.paddings[index]
        applied = answer.weight if self.parameters.get("guard", True) else 1.0
        image = blended(block.values[at], answer.image[at], applied * self.parameters["strength"], padding)
        sd = None if answer.deviation is None else held_back(answer.deviation[at], applied, answer.noise[at])
        if sd is not None and padding is not None:
            sd = np.where(padding, np.float32(0), sd)
        return Restored(index, image, sd, padding, answer.traits, answer.weight)


@dataclass
class BlockNoise:
    """A source of noise for samplers of blocks: slice k of a block always has the noise of slice first + k."""

    case: int
    first: int
    sample: int = 0
    draw: int = field(default=0)

    def __call__(self, x: Tensor) -> Tensor:
        """Noise like `x` (1, 1, slices, rows, columns)."""
        planes = [
            white_field(self.case, self.first + k, x.shape[3:], self.draw, self.sample) for k in range(x.shape[2])
        ]
        self.draw += 1
        return torch.stack(planes)[None, None].to(x)
