"""From noisy slices to restored ones: one slice, one network evaluation, no volume in memory.

    x_mean = E[x | y]
    x_0    = sampler from x_mean + sigma_1 n down the ladder sigma_i = r l_i          (r the noise level of y)
    out    = y + w strength / 100 * (x_hat - y)              x_hat is x_mean, or x_0 in sample mode; w: see guard.py
    sd     = calibrated standard deviation of x: the network's own, or that of K independent x_0

A slice's answer depends on its slab, the case's seed and its position in the stack: never on a batch, on the
order of slices, or on what was done in an earlier run. Each slice is read once, into a window of slab height.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoise, Denoiser, bind
from medidiff.diffusion.guidance import classifier_free
from medidiff.diffusion.samplers import SAMPLERS, Noise, Step, start
from medidiff.diffusion.schedule import LADDERS, CaseNoise
from medidiff.inference.calibration import Calibration, of_card
from medidiff.inference.guard import held_back, judged
from medidiff.model import Model
from medidiff.patches import crop, slab_indices
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
    traits      what was measured in the slice, where the model knows what it has seen
    weight      share of the change that these traits allow
    """

    index: int
    image: NDArray[np.float32]
    deviation: NDArray[np.float32] | None
    padding: NDArray[np.bool_] | None
    traits: dict[str, float] | None = None
    weight: float = 1.0


class SliceRestorer(Protocol):
    """Restores the slices of one case, in any order."""

    @property
    def slab(self) -> int:
        """Number of neighbouring slices that it looks at, odd."""

    @property
    def at_once(self) -> int:
        """Number of slices that it is quickest to restore side by side, in threads."""

    def slice(self, index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> Restored:
        """Restore slice `index` from its slab (K, rows, columns); `padding` of that slice comes back untouched."""


@runtime_checkable
class BlockwiseRestorer(Protocol):
    """Restores the slices of one case many at a time."""

    def blocks(
        self, source: SliceSource, indices: Iterable[int], io: Executor, seconds: dict[str, float]
    ) -> Iterator[Restored]:
        """See `restore`."""


AnyRestorer = SliceRestorer | BlockwiseRestorer


def restore(
    restorer: AnyRestorer, source: SliceSource, indices: Iterable[int], io: Executor, seconds: dict[str, float]
) -> Iterator[Restored]:
    """Restore the slices `indices` (increasing) of a source, which is read in the one thread of `io`; in order.

    The time of each stage is added to `seconds`; reading runs beside the network, so the stages overlap.
    """
    if isinstance(restorer, BlockwiseRestorer):
        return restorer.blocks(source, indices, io, seconds)
    return _slice_by_slice(restorer, source, indices, io, seconds)


def _slice_by_slice(
    restorer: SliceRestorer, source: SliceSource, indices: Iterable[int], io: Executor, seconds: dict[str, float]
) -> Iterator[Restored]:
    def work(index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> tuple[Restored, float]:
        began = time.perf_counter()
        return restorer.slice(index, slab, padding), time.perf_counter() - began

    def settle(leave: int) -> Iterator[Restored]:
        while len(waiting) > leave:
            restored, took = waiting.popleft().result()
            seconds["network"] = seconds.get("network", 0.0) + took / restorer.at_once
            yield restored

    waiting: deque[Future[tuple[Restored, float]]] = deque()
    with _side_by_side(restorer.at_once) as pool:
        for slice_ in slabs(source, indices, restorer.slab, io, seconds):
            waiting.append(pool.submit(work, *slice_))
            yield from settle(leave=restorer.at_once)  # one more than there are threads: none waits for this one
        yield from settle(leave=0)


@contextmanager
def _side_by_side(workers: int) -> Iterator[Executor]:
    """Threads that have the processor's threads between them."""
    threads = torch.get_num_threads()
    share = max(threads // workers, 1)
    pool = ThreadPoolExecutor(workers, "slices", torch.set_num_threads, (share,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # torch counts by thread, but remembers the last for threads to come


@dataclass(frozen=True, eq=False)
class Restorer:
    """A model with the parameters of `Options.parameters()` and the seed of one case."""

    model: Model
    parameters: dict[str, Any]
    case: int = 0
    at_once: int = 1

    @property
    def slab(self) -> int:
        return self.model.slab

    def slice(self, index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None = None) -> Restored:
        """Restore one slice from its slab (K, rows, columns)."""
        y = slab[len(slab) // 2]
        with torch.inference_mode(), exact_convolutions(self.model.device):
            cond = self.model.condition(slab)
            estimate, deviation = self._estimate(index, cond)
            x_hat = self.model.image(estimate, y.shape)
            sd = None if deviation is None else self._calibrated(deviation, x_hat, cond)
            traits, weight = judged(self.model, y, cond)
        applied = weight if self.parameters.get("guard", True) else 1.0
        image = blended(y, x_hat, applied * self.parameters["strength"], padding)
        if sd is not None and traits is not None:
            sd = held_back(sd, applied, traits["noise_hu"])
        if sd is not None and padding is not None:
            sd = np.where(padding, np.float32(0), sd)
        return Restored(index, image, sd, padding, traits, weight)

    def _estimate(self, index: int, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """(x_hat, standard deviation or None), in model units."""
        if self.parameters.get("draws") == 0:
            assert isinstance(self.model.denoiser, Denoiser)  # `has_spread`, from which draws = 0 follows, says so
            return self.model.denoiser.mean_and_spread(cond)
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
        return last_step(self.parameters, denoise, start(mean, sigmas[0], noise), sigmas, noise).x

    def _calibrated(self, deviation: Tensor, x_hat: NDArray[np.float32], cond: Condition) -> NDArray[np.float32]:
        """(rows, columns) in the scaling's unit."""
        factor = self.model.scaling.factor
        sd = crop(deviation[0, 0], x_hat.shape).float().cpu().numpy() * np.float32(factor)
        found = calibration(self.model, self.parameters)
        return sd if found is None else found(sd, x_hat, float(cond.r[0]) * factor, float(cond.colour[0, 0]))


def blended(
    y: NDArray[np.float32], x_hat: NDArray[np.float32], strength: float, padding: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """y + strength / 100 * (x_hat - y), and y where nothing was measured, or is to be changed, whatever x_hat is."""
    if not strength:
        return y.copy()
    image = y + np.float32(strength / 100) * (x_hat - y)
    return image if padding is None else np.where(padding, y, image)


def ladder(parameters: dict[str, Any]) -> Tensor:
    """(steps,) noise levels of the sampler, relative to that of the image."""
    return LADDERS[LADDER_OF.get(parameters["sampler"], "karras")](parameters["steps"], *LADDER_RANGE)


def evaluations(parameters: dict[str, Any]) -> int:
    """Network evaluations a slice takes (NFE), counted by the sampler itself on a single voxel."""
    if parameters["mode"] in ONE_ESTIMATE or parameters.get("draws") == 0:
        return 1
    voxel = torch.zeros(1, 1, 1, 1)
    once = last_step(parameters, lambda x, _: x, voxel, ladder(parameters), torch.zeros_like).evaluations
    return 1 + parameters.get("draws", 1) * once * (1 if parameters["cfg_scale"] == 1 else 2)


def last_step(parameters: dict[str, Any], denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Step:
    """Where the sampler of these parameters ends."""
    steps = SAMPLERS[parameters["sampler"]](denoise, x, sigmas, noise=noise)
    return deque(steps, maxlen=1).pop()


def calibration(model: Model, parameters: dict[str, Any]) -> Calibration | None:
    """That of the model's card for the deviations of these parameters; None where it holds none."""
    return of_card(model.card.uncertainty, "spread" if parameters["draws"] == 0 else "draws")


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU: the same algorithm every time, in full single precision. One switch for all threads of a process."""
    if device.type != "cuda":
        return nullcontext()
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
