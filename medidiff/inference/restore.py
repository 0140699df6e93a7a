"""From noisy slices to restored ones: one slice, one network evaluation, no volume in memory.

    x_mean = E[x | y]
    x_0    = sampler from x_mean + sigma_1 n down the ladder sigma_i = r l_i          (r the noise level of y)
    out    = y + strength / 100 * (x_hat - y)                x_hat is x_mean, or x_0 in sample mode
    sd     = calibration * standard deviation of K independent x_0

A slice's answer depends on its slab, the case's seed and its position in the stack: never on a batch, on the
order of slices, or on what was done in an earlier run. Each slice is read once, into a window of slab height.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoise, bind
from medidiff.diffusion.guidance import classifier_free
from medidiff.diffusion.samplers import SAMPLERS, Noise, Step, start
from medidiff.diffusion.schedule import LADDERS, CaseNoise
from medidiff.model import Model
from medidiff.patches import slab_indices
from medidiff.volume import SliceSource

LADDER_OF = {"ddpm": "linear", "ddim": "linear"}  # what sets them apart from euler_a and euler; others: karras
LADDER_RANGE = (0.02, 1.5)  # in noise levels of y; 1.5 r is at least three posterior standard deviations
ONE_ESTIMATE = ("quantitative", "texture")  # modes of one evaluation: they differ in the blend
AHEAD = 2  # slices decoded while the network works


@dataclass(frozen=True, eq=False)
class Restored:
    """One finished slice.

    image       (rows, columns) float32 in the source's unit
    deviation   (rows, columns) its standard deviation, uncertainty mode only
    padding     (rows, columns) True where the source's value was kept, or None
    """

    index: int
    image: NDArray[np.float32]
    deviation: NDArray[np.float32] | None
    padding: NDArray[np.bool_] | None


class SliceRestorer(Protocol):
    """Restores the slices of one case, in any order."""

    @property
    def slab(self) -> int:
        """Number of neighbouring slices that it looks at, odd."""

    def slice(self, index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> Restored:
        """Restore slice `index` from its slab (K, rows, columns); `padding` of that slice comes back untouched."""


def restore(
    restorer: SliceRestorer, source: SliceSource, indices: Iterable[int], io: Executor, seconds: dict[str, float]
) -> Iterator[Restored]:
    """Restore the slices `indices` (increasing) of a source, which is read in the one thread of `io`.

    The time of each stage is added to `seconds`; reading runs beside the network, so the stages overlap.
    """
    for index, slab, padding in slabs(source, indices, restorer.slab, io, seconds):
        with timed(seconds, "network"):
            restored = restorer.slice(index, slab, padding)
        yield restored


@dataclass(frozen=True, eq=False)
class Restorer:
    """A model with the parameters of `Options.parameters()` and the seed of one case."""

    model: Model
    parameters: dict[str, Any]
    case: int = 0

    @property
    def slab(self) -> int:
        return self.model.slab

    def slice(self, index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None = None) -> Restored:
        """Restore one slice from its slab (K, rows, columns)."""
        y = slab[len(slab) // 2]
        with torch.inference_mode(), exact_convolutions():
            estimate, deviation = self._estimate(index, self.model.condition(slab))
            x_hat = self.model.image(estimate, y.shape)
            sd = None if deviation is None else self._calibrated(deviation, y.shape)
        image = blended(y, x_hat, self.parameters["strength"], padding)
        if sd is not None and padding is not None:
            sd = np.where(padding, np.float32(0), sd)
        return Restored(index, image, sd, padding)

    def _estimate(self, index: int, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """(x_hat, standard deviation or None), in model units."""
        mean = self.model.denoiser.mean(cond)
        if self.parameters["mode"] in ONE_ESTIMATE:
            return mean, None
        if self.parameters["mode"] == "sample":
            return self._sample(index, cond, mean, 0), None
        samples = [self._sample(index, cond, mean, k) for k in range(self.parameters["draws"])]
        return mean, torch.stack(samples).std(dim=0)

    def _sample(self, index: int, cond: Condition, mean: Tensor, k: int) -> Tensor:
        """The k-th posterior sample of a slice."""
        denoiser = self.model.denoiser
        denoise = classifier_free(bind(denoiser, cond), bind(denoiser, cond.as_null()), self.parameters["cfg_scale"])
        sigmas = (ladder(self.parameters)[:, None].to(cond.r.device) * cond.r).to(cond.r.dtype)
        noise = CaseNoise(self.case, (index,), sample=k)
        return _last(self.parameters, denoise, start(mean, sigmas[0], noise), sigmas, noise).x

    def _calibrated(self, deviation: Tensor, matrix: tuple[int, ...]) -> NDArray[np.float32]:
        scaling = self.model.scaling
        sd = deviation[0, 0, : matrix[0], : matrix[1]].float().cpu().numpy() * np.float32(scaling.factor)
        return sd * np.float32(calibration(self.model) or 1.0)


def blended(
    y: NDArray[np.float32], x_hat: NDArray[np.float32], strength: float, padding: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """y + strength / 100 * (x_hat - y), and y where nothing was measured."""
    image = y + np.float32(strength / 100) * (x_hat - y)
    return image if padding is None else np.where(padding, y, image)


def ladder(parameters: dict[str, Any]) -> Tensor:
    """(steps,) noise levels of the sampler, relative to that of the image."""
    return LADDERS[LADDER_OF.get(parameters["sampler"], "karras")](parameters["steps"], *LADDER_RANGE)


def evaluations(parameters: dict[str, Any]) -> int:
    """Network evaluations a slice takes (NFE), counted by the sampler itself on a single voxel."""
    if parameters["mode"] in ONE_ESTIMATE:
        return 1
    voxel = torch.zeros(1, 1, 1, 1)
    once = _last(parameters, lambda x, _: x, voxel, ladder(parameters), torch.zeros_like).evaluations
    return 1 + parameters.get("draws", 1) * once * (1 if parameters["cfg_scale"] == 1 else 2)


def _last(parameters: dict[str, Any], denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Step:
    steps = SAMPLERS[parameters["sampler"]](denoise, x, sigmas, noise=noise)
    return deque(steps, maxlen=1).pop()


def calibration(model: Model) -> float | None:
    """What the spread of samples is multiplied by, from the model's card; None where it holds no factor."""
    factor = model.card.uncertainty.get("factor")
    return None if factor is None else float(factor)


def exact_convolutions() -> Any:
    """On a GPU: the same algorithm every time, in full single precision; without effect on a CPU."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the block takes to `seconds[stage]`."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began


Slice = tuple[NDArray[np.float32], NDArray[np.bool_] | None]


def slabs(
    source: SliceSource, indices: Iterable[int], height: int, io: Executor, seconds: dict[str, float]
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_] | None]]:
    """(index, slab (height, rows, columns), padding of the slice) for each of `indices` (increasing).

    Each slice is read once, in order, up to AHEAD slices early, by `io`.
    """
    wanted = list(indices)
    n = source.geometry.n_slices
    order = deque(sorted({k for index in wanted for k in slab_indices(index, n, height)}))
    window: dict[int, Future[Slice]] = {}

    def fetch(k: int) -> Slice:
        with timed(seconds, "read"):
            return source.read(k), source.padding(k)

    for index in wanted:
        needed = slab_indices(index, n, height)
        while order and order[0] <= needed[-1] + AHEAD:
            k = order.popleft()
            window[k] = io.submit(fetch, k)
        for k in [k for k in window if k < needed[0]]:
            del window[k]
        yield index, np.stack([window[k].result()[0] for k in needed]), window[index].result()[1]
