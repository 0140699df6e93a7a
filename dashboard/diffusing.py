"""What a case's slice becomes on its way to noise and back: numbers and grey pictures for the page.

    forward     x + sigma n along a schedule                  no network
    measured    what is still recognisable, by schedule       no network, see medidiff/diffusion/story.py
    reverse     the sampler from the scan, step by step       as `medidiff reconstruct --mode sample` draws it
    compared    the same, one choice varied at a time

The reverse process uses the model, scaling, slab or block, seed, guard and blend of `medidiff reconstruct`, so its
result is the same slice. Only pictures of 8 bits and numbers are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dashboard.library import Image
from medidiff.diffusion.denoiser import Condition, Denoise, Denoiser, bind
from medidiff.diffusion.guidance import classifier_free
from medidiff.diffusion.samplers import SAMPLERS, Noise, Step, start
from medidiff.diffusion.schedule import LADDERS, CaseNoise, alpha_bar_from_sigma, case_seed, slice_noise
from medidiff.diffusion.story import (
    WAYS,
    correlation,
    detectability,
    disc,
    estimates,
    share_right,
    variance_preserving,
)
from medidiff.errors import ModelError
from medidiff.inference.blocks import CORE, HALO, BlockNoise
from medidiff.inference.guard import judged, judged_block
from medidiff.inference.methods import Learned, load_method
from medidiff.inference.options import DEFAULTS, Options
from medidiff.inference.restore import LADDER_OF, LADDER_RANGE, blended, evaluations, exact_convolutions
from medidiff.inference.run import choose_device
from medidiff.metrics.image import psnr, rmse
from medidiff.metrics.preset import PRESETS, WHOLE_RANGE, Preset
from medidiff.metrics.ssim import ssim
from medidiff.noise.activity import BODY_SUV, activity_of
from medidiff.noise.level import noise_level
from medidiff.patches import slab_indices
from medidiff.progress import Progress, silent
from medidiff.units import Unit
from medidiff.volume import SliceSource

Plane = NDArray[np.float32]
Grey = NDArray[np.uint8]
SAMPLED = 5  # slices of a case that its mean and deviation, and what is recognisable, are measured on
LEVELS = np.geomspace(0.01, 1000, 21)  # noise levels that are measured; a large image is seen through much noise
HALF_WAY = 0.5
HALVES = {"structure": 0.5, "window": 0.5, "lesion": 0.75}  # between all and nothing, which of a choice of two is 0.5
MOST_STEPS = 50


@dataclass(frozen=True)
class Window:
    """Grey levels from `low` to `high`; PET is shown inverted."""

    low: float
    high: float
    unit: Unit = "HU"

    def grey(self, plane: Plane) -> Grey:
        share = np.clip((plane - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)
        return np.asarray(np.rint(255 * (1 - share if self.unit == "SUV" else share)), np.uint8)

    @property
    def preset(self) -> Preset:
        return Preset(self.low, self.high, unit=self.unit)


# ------------------------------------------------------------------------------------------------------------- forward


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the pixels of a case, in its unit."""

    mean: float
    deviation: float


@lru_cache(maxsize=64)
def spread_of(image: Image) -> Spread:
    """Over SAMPLED even slices, padding left out. Raises MedidiffError where they cannot be read."""
    source = image.open()
    values = [_measured(source, k) for k in sampled(source.geometry.n_slices)]
    together = np.concatenate(values).astype(np.float64)
    return Spread(float(together.mean()), float(together.std()) or 1.0)


def sampled(n_slices: int) -> list[int]:
    """At most SAMPLED slices, evenly spread, the ends left out."""
    n = min(SAMPLED, n_slices)
    return [int((k + 0.5) * n_slices / n) for k in range(n)]


def _measured(source: SliceSource, k: int) -> Plane:
    plane, padding = source.read(k), source.padding(k)
    return plane.ravel() if padding is None else plane[~padding]


@dataclass(frozen=True, eq=False)
class Noised:
    """A slice at one place of a schedule; sigma relative to the spread of the case."""

    schedule: str
    t: float
    sigma: float
    plane: Plane

    @property
    def alpha_bar(self) -> float:
        return float(alpha_bar_from_sigma(torch.tensor(self.sigma, dtype=torch.float64)))


def forward(
    image: Image, index: int, ts: Sequence[float], seed: int = 0, *, preserving: bool = True,
    schedules: Sequence[str] = tuple(WAYS),
) -> Iterator[Noised]:  # fmt: skip
    """The slice at each of `ts` of each schedule, with one realisation of the noise throughout.

    `preserving`: shrunk as the literature shows it; otherwise x + sigma n itself.
    """
    x, spread = image.open().read(index), spread_of(image)
    noise = slice_noise(case_seed(identity(image), seed), index, (1, *x.shape))[0].numpy()
    for schedule in schedules:
        for t, sigma in zip(ts, WAYS[schedule](np.asarray(ts, np.float64)), strict=True):
            level = float(sigma) * spread.deviation
            plane = np.asarray(x + np.float32(level) * noise, np.float32)
            if preserving:
                plane = variance_preserving(plane, level, spread.mean, spread.deviation)
            yield Noised(schedule, float(t), float(sigma), plane)


@lru_cache(maxsize=64)
def noise_of(image: Image) -> float:
    """Of its middle slice: HU of CT, a share of the local activity of PET. Raises MedidiffError as `open` does."""
    source = image.open()
    geometry = source.geometry
    plane = source.read(geometry.n_slices // 2)
    return (
        noise_level(plane) if image.unit == "HU" else activity_of(plane[None], (0.0, *geometry.pixel_spacing_mm)).found
    )


def identity(image: Image) -> str:
    """What the noise of a case is seeded by, as in `medidiff reconstruct`."""
    return image.uid or image.fingerprint


# -------------------------------------------------------------------------------------------------------- recognisable


@dataclass(frozen=True, eq=False)
class Recognised:
    """What is left of a case at noise levels relative to its spread, from 1 (all) downwards.

    structure   (levels,) correlation with the best linear estimate
    window      (levels,) SSIM of that estimate in the window, where the scan is neither black nor white in it
    d_prime     of the lesion at level 1, from which its share of right answers is known at all others
    """

    levels: NDArray[np.float64]
    structure: NDArray[np.float64]
    window: NDArray[np.float64]
    d_prime: float
    slices: int

    @property
    def nbytes(self) -> int:
        return 3 * self.levels.nbytes

    def along(self, schedule: str, ts: Sequence[float]) -> dict[str, NDArray[np.float64]]:
        """Each measure at the places `ts` of a schedule; what was measured is interpolated in log sigma."""
        sigma = WAYS[schedule](np.asarray(ts, np.float64))
        at = np.log(np.maximum(sigma, self.levels[0] / 100))
        known = np.log(np.concatenate([[self.levels[0] / 100], self.levels]))
        measures = {"structure": self.structure, "window": self.window}
        found = {name: np.interp(at, known, np.concatenate([[1.0], values])) for name, values in measures.items()}
        right = [share_right(self.d_prime / level if level else np.inf) for level in sigma]
        return found | {"lesion": np.array(right)}

    def halves(self, schedule: str) -> dict[str, float | None]:
        """The share of the way at which each measure has fallen half-way to nothing; None where it never does."""
        t = np.linspace(0, 1, 1001)
        below = {name: values < HALVES[name] for name, values in self.along(schedule, t.tolist()).items()}
        return {name: float(t[np.argmax(fallen)]) if fallen.any() else None for name, fallen in below.items()}


@dataclass(frozen=True)
class Lesion:
    """A disc: diameter in mm, contrast in the unit of the case."""

    diameter_mm: float
    contrast: float


def measured(image: Image, window: Window, lesion: Lesion, tell: Progress = silent) -> Recognised:
    """On SAMPLED slices of the case; levels include those half-way along every schedule, so that these are measured."""
    source, spread = image.open(), spread_of(image)
    images = np.stack([source.read(k) for k in sampled(source.geometry.n_slices)])
    deviation = float(images.std(dtype=np.float64)) or 1.0
    levels = np.unique([*LEVELS, *(float(way(np.array(HALF_WAY))) for way in WAYS.values())])
    structure, seen = np.empty((2, len(levels), len(images)))
    inside = (images > window.low) & (images < window.high)
    found = estimates(images, (levels * spread.deviation / deviation).tolist(), case_seed(identity(image), 0))
    for n, (i, k, estimate) in enumerate(found):
        tell(n, len(levels) * len(images))
        structure[i, k] = correlation(estimate, images[k])
        seen[i, k] = ssim(estimate, images[k], window.preset, inside[k])
    signal = disc(source.geometry.pixel_spacing_mm, lesion.diameter_mm, lesion.contrast)
    d_prime = detectability(signal, spread.deviation)
    return Recognised(levels, structure.mean(1), seen.mean(1), d_prime, len(images))


# ------------------------------------------------------------------------------------------------------------- reverse


@dataclass(frozen=True)
class Walk:
    """How a sample is drawn; `ladder` None is the sampler's own, as in `medidiff reconstruct`."""

    sampler: str = DEFAULTS["sampler"]
    steps: int = DEFAULTS["steps"]
    ladder: str | None = None
    cfg_scale: float = DEFAULTS["cfg_scale"]
    strength: float = 100.0
    seed: int = DEFAULTS["seed"]

    @property
    def options(self) -> Options:
        """Those of `medidiff reconstruct`; raises UsageError for what is none."""
        return Options.of(
            mode="sample", sampler=self.sampler, steps=self.steps, cfg_scale=self.cfg_scale, seed=self.seed,
            strength=self.strength,
        )  # fmt: skip

    @property
    def evaluations(self) -> int:
        """Of the network, with the one for the mean."""
        return evaluations(self.options.parameters())

    @property
    def levels(self) -> Tensor:
        """(steps,) noise levels relative to the scan's own noise."""
        name = self.ladder or LADDER_OF.get(self.sampler, "karras")
        return LADDERS[name](self.steps, *LADDER_RANGE)


@lru_cache(maxsize=2)
def embedded_for(unit: Unit) -> Learned:
    """The embedded model of a unit, ready to run. Raises ModelError where it gives no samples."""
    method = load_method(Options(mode="sample"), choose_device("auto"), unit)
    assert isinstance(method, Learned)
    return method


@dataclass(frozen=True)
class Abilities:
    """What a model's card says that matters here.

    trained   the range of noise levels, relative to that of the scan, that 95 % of its training draws with noise had
    mean      share of the draws that trained the mean alone
    guided    it was trained without its condition as well, so that guidance means something, and it is two-dimensional
    """

    name: str
    can_sample: bool
    trained: tuple[float, float] | None
    mean: float
    guided: bool

    @classmethod
    def of(cls, method: Learned) -> Abilities:
        model = method.model
        stages = model.card.training.get("stages") or [{}]
        recipe = stages[-1].get("recipe", {})
        centre, width = recipe.get("log_sigma", (None, None))
        reach = None if centre is None else (np.exp(centre - 1.96 * width), np.exp(centre + 1.96 * width))
        guided = model.architecture.dimensions == 2 and recipe.get("null_share", 0) > 0
        trained = None if reach is None else (float(reach[0]), float(reach[1]))
        return cls(method.name, model.can_sample, trained, float(recipe.get("mean_share", 0)), guided)


@dataclass(frozen=True, eq=False)
class Given:
    """A slice as its model sees it, the same for a slab and for a block.

    level   of the noise of the scan in its unit; of PET the median over the body in the slice
    weight  share of the change that the model's range allows
    image   from a network answer to the slice in the scan's unit
    noise   the source of noise of a case seed
    """

    y: Plane
    padding: NDArray[np.bool_] | None
    cond: Condition
    denoiser: Denoiser
    level: float
    weight: float
    image: Callable[[Tensor], Plane]
    noise: Callable[[int], Noise]

    @cached_property
    def mean(self) -> Tensor:
        """E[x | y], once."""
        return self.denoiser.mean(self.cond)


def given(image: Image, index: int) -> Given:
    """Raises MedidiffError where the slice cannot be read or its model cannot sample."""
    source, method = image.open(), embedded_for(image.unit)
    method.require(source.unit)
    if not isinstance(method.model.denoiser, Denoiser):
        raise ModelError(f"model '{method.name}' cannot draw samples: it is a regression, with a mean alone")
    return _block(source, index, method) if method.model.architecture.dimensions == 3 else _slab(source, index, method)


def _slab(source: SliceSource, index: int, method: Learned) -> Given:
    """As `Restorer` does it."""
    model, y = method.model, source.read(index)
    slab = np.stack([source.read(k) for k in slab_indices(index, source.geometry.n_slices, model.slab)])
    cond = model.condition(slab)
    level = float(cond.r[0]) * model.scaling.factor
    assert isinstance(model.denoiser, Denoiser)
    return Given(
        y,
        source.padding(index),
        cond,
        model.denoiser,
        level,
        judged(model, y, cond)[1],
        lambda answer: model.image(answer, (y.shape[0], y.shape[1])),
        lambda case: CaseNoise(case, (index,)),
    )


def _block(source: SliceSource, index: int, method: Learned) -> Given:
    """As `BlockRestorer` does it, without a CT."""
    model, geometry = method.model, source.geometry
    begin = index // CORE * CORE
    first = max(begin - HALO, 0)
    values = np.stack([source.read(k) for k in range(first, min(begin + CORE + HALO, geometry.n_slices))])
    spacing = (geometry.slice_spacing_mm, *geometry.pixel_spacing_mm)
    activity, at = activity_of(values, spacing), index - first
    level, y = activity.level[at], values[at]
    body = level > activity.relative * BODY_SUV
    assert isinstance(model.denoiser, Denoiser)

    def of(answer: Tensor) -> Plane:
        return answer[0, 0, at][tuple(slice(n) for n in level.shape)].float().cpu().numpy() * level

    return Given(
        y,
        source.padding(index),
        model.told(values, activity, spacing, None),
        model.denoiser,
        float(np.median(level[body] if body.any() else level)),
        judged_block(model, activity)[1],
        of,
        lambda case: BlockNoise(case, first),
    )


def steps(of: Given, walk: Walk, case: int, count: Callable[[], None]) -> Iterator[Step]:
    """The sampler's steps, after one of index -1 that holds where it starts; `count` is called before an evaluation."""

    def counted(denoise: Denoise) -> Denoise:
        def one(x: Tensor, sigma: Tensor) -> Tensor:
            count()
            return denoise(x, sigma)

        return one

    known, unknown = (counted(bind(of.denoiser, cond)) for cond in (of.cond, of.cond.as_null()))
    denoise = classifier_free(known, unknown, walk.cfg_scale)
    sigmas = (walk.levels[:, None].to(of.cond.r.device) * of.cond.r).to(of.cond.r.dtype)
    noise = of.noise(case)
    x = start(of.mean, sigmas[0], noise)
    yield Step(-1, sigmas[0], x, of.mean, 0)
    yield from SAMPLERS[walk.sampler](denoise, x, sigmas, noise=noise)


def result(of: Given, x_hat: Plane, strength: float) -> Plane:
    """What `medidiff reconstruct` writes for an answer."""
    return blended(of.y, x_hat, of.weight * strength, of.padding)


@dataclass(frozen=True)
class Scores:
    """Of a slice against a reference: RMSE in the unit of the case over the whole range; PSNR, dB, and SSIM in the
    window."""

    rmse: float
    psnr: float
    ssim: float

    @classmethod
    def of(cls, plane: Plane, reference: Plane, window: Window, padding: NDArray[np.bool_] | None) -> Scores:
        mask = None if padding is None else ~padding
        whole = PRESETS[WHOLE_RANGE[window.unit]]
        preset = window.preset
        return cls(
            rmse(plane, reference, whole, mask),
            psnr(plane, reference, preset, mask),
            ssim(plane, reference, preset, mask),
        )


@dataclass(frozen=True, eq=False)
class Stage:
    """Where the reverse process stands: the state at a noise level relative to the scan's, and the estimate of the
    clean image that is made of it; at the end the sample, and the result, which is the sample blended with the scan.

    evaluations  of the network until the step was done, with the one for the mean
    """

    sigma: float
    evaluations: int
    state: Grey
    estimate: Grey


@dataclass(frozen=True, eq=False)
class Reverse:
    """A sample and how it came about; `stages` are one a step, and the end."""

    scan: Grey
    mean: Grey
    stages: tuple[Stage, ...]
    level: float
    unit: Unit
    weight: float
    seconds: float
    scores: Mapping[str, Scores]

    @property
    def nbytes(self) -> int:
        return (2 * len(self.stages) + 2) * self.scan.nbytes


def reverse(
    image: Image, index: int, walk: Walk, window: Window, reference: Image | None = None, tell: Progress = silent
) -> Reverse:
    """One sample of a slice, step by step; scores of scan, mean, sample and result where there is a reference."""
    total, done, began = walk.evaluations, 0, time.perf_counter()

    def count() -> None:
        nonlocal done
        tell(done, total)
        done += 1

    with torch.inference_mode(), exact_convolutions(embedded_for(image.unit).model.device):
        of = given(image, index)
        count()
        mean = of.image(of.mean)
        stages: list[Stage] = []
        last: Step | None = None
        for step in steps(of, walk, case_seed(identity(image), walk.seed), count):
            if last is not None:
                estimate = window.grey(of.image(step.x0_hat))
                stages.append(Stage(_relative(last, of), done, window.grey(of.image(last.x)), estimate))
            last = step
        assert last is not None
        sample = of.image(last.x)
        made = result(of, sample, walk.strength)
    stages.append(Stage(0.0, done, window.grey(sample), window.grey(made)))
    planes = {"scan": of.y, "mean": mean, "sample": sample, "result": made}
    scores = _scores(planes, reference, index, window, of)
    seconds = time.perf_counter() - began
    return Reverse(
        window.grey(of.y), window.grey(mean), tuple(stages), of.level, image.unit, of.weight, seconds, scores
    )


def _relative(step: Step, of: Given) -> float:
    return float(step.sigma[0] / of.cond.r[0])


def _scores(
    planes: Mapping[str, Plane], reference: Image | None, index: int, window: Window, of: Given
) -> dict[str, Scores]:
    if reference is None:
        return {}
    truth = reference.open().read(index)
    return {name: Scores.of(plane, truth, window, of.padding) for name, plane in planes.items()}


# ------------------------------------------------------------------------------------------------------------ compared

STEPS, GUIDANCE, STRENGTHS, SEEDS = (1, 2, 4, 8), (0.5, 1.0, 2.0, 4.0), (25.0, 50.0, 75.0, 100.0), 4


@dataclass(frozen=True, eq=False)
class Cell:
    """One result of a comparison, with its cost: seconds and network evaluations."""

    label: str
    grey: Grey
    seconds: float
    evaluations: int
    scores: Scores | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Rows of results by what is varied in them.

    deviation       of the samples of different seeds at full strength, grey from 0 to `reach`; None without such a row
    deviation_mean  its root mean square over the slice, in the unit of the case
    """

    rows: Mapping[str, tuple[Cell, ...]]
    first: tuple[Cell, ...]
    deviation: Grey | None = None
    deviation_rms: float = 0.0
    reach: float = 0.0

    @property
    def nbytes(self) -> int:
        cells = [cell for row in (self.first, *self.rows.values()) for cell in row]
        return sum(cell.grey.nbytes for cell in cells) + (0 if self.deviation is None else self.deviation.nbytes)


def varied(base: Walk, name: str) -> dict[str, Walk]:
    """What a row holds, by label; `name` is one of ROWS."""
    return {
        "steps": {f"{n} steps" if n > 1 else "1 step": replace(base, steps=n) for n in STEPS},
        "guidance": {f"guidance {w:g}": replace(base, cfg_scale=w) for w in GUIDANCE},
        "strength": {f"strength {s:g} %": replace(base, strength=s) for s in STRENGTHS},
        "seed": {f"seed {s}": replace(base, seed=s) for s in range(base.seed, base.seed + SEEDS)},
    }[name]


ROWS = ("steps", "guidance", "strength", "seed")
DEVIATIONS: dict[Unit, float] = {"HU": 50.0, "SUV": 1.0}  # what is white in a map of the deviation


def cost(base: Walk, names: Sequence[str]) -> int:
    """Network evaluations of a comparison: a sample that several rows show is drawn once, and the mean is shared."""
    return 1 + sum(walk.evaluations - 1 for walk in _drawn(base, names))


def _drawn(base: Walk, names: Sequence[str]) -> set[Walk]:
    return {_full(walk) for name in names for walk in varied(base, name).values()}


def _full(walk: Walk) -> Walk:
    """The sample behind a result: strength is applied afterwards."""
    return replace(walk, strength=100.0)


@dataclass(eq=False)
class _Samples:
    """Samples of one slice, each drawn once, with the seconds that it took."""

    of: Given
    case: Callable[[int], int]
    count: Callable[[], None]
    mean_seconds: float
    known: dict[Walk, tuple[Plane, float]] = field(default_factory=dict)

    def __call__(self, walk: Walk) -> tuple[Plane, float]:
        walk = _full(walk)
        if walk not in self.known:
            began = time.perf_counter()
            *_, last = steps(self.of, walk, self.case(walk.seed), self.count)
            self.known[walk] = self.of.image(last.x), self.mean_seconds + time.perf_counter() - began
        return self.known[walk]


def compared(
    image: Image, index: int, base: Walk, names: Sequence[str], window: Window, reference: Image | None = None,
    tell: Progress = silent,
) -> Compared:  # fmt: skip
    """A row for each of `names`; the first row has the scan, the mean and the reference."""
    total, done = cost(base, names), 0

    def count() -> None:
        nonlocal done
        tell(done, total)
        done += 1

    with torch.inference_mode(), exact_convolutions(embedded_for(image.unit).model.device):
        of = given(image, index)
        count()
        began = time.perf_counter()
        mean = of.image(of.mean)
        took = time.perf_counter() - began
        samples = _Samples(of, lambda seed: case_seed(identity(image), seed), count, took)

        def cell(label: str, plane: Plane, seconds: float = 0.0, evaluations: int = 0) -> Cell:
            scores = _scores({"": plane}, reference, index, window, of).get("")
            return Cell(label, window.grey(plane), seconds, evaluations, scores)

        rows = {
            name: tuple(
                cell(label, result(of, samples(walk)[0], walk.strength), samples(walk)[1], walk.evaluations)
                for label, walk in varied(base, name).items()
            )
            for name in names
        }
        drawn = [samples(walk)[0] for walk in varied(base, "seed").values()] if "seed" in names else []
    first = [cell("scan", of.y), cell("mean, no sampling", result(of, mean, base.strength), took, 1)]
    if reference is not None:
        first.append(Cell("reference", window.grey(reference.open().read(index)), 0.0, 0, None))
    if not drawn:
        return Compared(rows, tuple(first))
    deviation, reach = np.stack(drawn).std(0, ddof=1), DEVIATIONS[image.unit]
    grey = Window(0, reach).grey(deviation)
    return Compared(rows, tuple(first), grey, float(np.sqrt((deviation**2).mean())), reach)
