"""The strength of every classical method, found by one search for all on the tune split.

Golden-section search (Kiefer 1953) over the logarithm of the strength, with the same number of evaluations for
every method, over all trials and over each group of them:

    two inner points divide the bracket by 1/phi = 0.618 from either end; the part beyond the worse one is dropped,
    the better one is an inner point of what is left: n evaluations shrink the bracket to 0.618^(n - 1)

The objective (see medidiff/inference/tuned.py) is measured against the noise-free truth of pseudo-clean trials, or
against the given full dose of measured pairs, in a square window in the middle of the slice. For the blend three
moments of the error e = x_hat - t and the change d = y - x_hat are kept a slice, as its error is a polynomial:

    RMSE(x_hat + alpha d)^2 = <e^2> + 2 alpha <e d> + alpha^2 <d^2>

Moments of strengths that were tried go to a file beside the result, from which a stopped search goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize_scalar

from medidiff import __version__
from medidiff.baselines import BASELINES, filled
from medidiff.config import Settings
from medidiff.data.manifest import Pair, load_pair, read_manifest
from medidiff.data.trials import cases, low_dose, spread
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.inference.methods import Learned
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.inference.tuned import Best, Tuned, TunedMethod, load_tuned, save_tuned
from medidiff.io.files import file_hash
from medidiff.model import load
from medidiff.noise.level import noise_level
from medidiff.patches import slab_indices
from medidiff.progress import Progress, silent

SPLIT = "tune"  # never another: strengths chosen on test patients would flatter the baselines
GROUP = "reference"  # of measured pairs, which are one group
DIGITS = 4  # of a strength: what is written is what was tried
DECIMALS = 3  # of an RMSE
INVERSE_PHI = (5**0.5 - 1) / 2

Moments = tuple[float, float, float]
Image = NDArray[np.float32]


class TuneSettings(Settings):
    """What is searched and on what.

    methods      classical methods
    models       embedded models or files, of which the blend is searched
    against      "truth": pseudo-clean trials; "reference": the manifest's measured pairs as they are
    slices       of a series
    size         side of the window that is judged, in pixels; None judges whole slices
    evaluations  strengths tried in each search
    """

    methods: tuple[str, ...] = tuple(name for name, baseline in BASELINES.items() if baseline.smoothing is not None)
    models: tuple[str, ...] = ()
    against: Literal["truth", "reference"] = "truth"
    kernels: tuple[Literal["smoothest", "smooth", "sharp"], ...] = ("smooth", "sharp")
    doses: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.25, 0.1)
    slices: int = Field(default=2, ge=1)
    size: int | None = Field(default=256, ge=32)
    evaluations: int = Field(default=10, ge=3)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Trial:
    """One slice to restore: y and its truth in the window, the noise level of the whole slice, all in HU."""

    patient: str
    group: str
    y: Image
    truth: Image
    level: float


@dataclass
class Search:
    """All trials, and the moments of every strength tried so far, by (method, strength).

    notebook   file of the moments; what it holds from a stopped search is not computed again
    """

    trials: list[Trial]
    notebook: Path
    identity: str
    moments: dict[tuple[str, float], dict[int, Moments]] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[int]]:
        """Group -> numbers of its trials."""
        found: dict[str, list[int]] = {}
        for number, trial in enumerate(self.trials):
            found.setdefault(trial.group, []).append(number)
        return found

    def recall(self) -> None:
        """Read what a stopped search of the same identity left, else begin a new notebook."""
        text = self.notebook.read_text(encoding="utf-8") if self.notebook.exists() else ""
        identity, *lines = text.split("\n")
        if identity != self.identity:
            self._write("w", self.identity)
            return
        if lines and lines[-1]:  # the line that was being written when it was stopped
            self._write("a", "")
        for line in lines[:-1]:
            with suppress(ValueError):
                method, smoothing, number, a, b, c = json.loads(line)
                self.moments.setdefault((method, smoothing), {})[number] = (a, b, c)

    def note(self, method: str, smoothing: float, number: int, moments: Moments) -> None:
        self.moments.setdefault((method, smoothing), {})[number] = moments
        self._write("a", json.dumps([method, smoothing, number, *moments]))

    def objective(self, method: str, smoothing: float, numbers: Iterable[int], alpha: float = 0.0) -> float:
        """Mean over patients of the mean over their slices of RMSE, in HU; filters what is not known yet."""
        patients: dict[str, list[float]] = {}
        for number in numbers:
            known = self.moments.get((method, smoothing), {})
            if number not in known:
                trial = self.trials[number]
                x_hat = BASELINES[method].function(trial.y, trial.level, smoothing)
                self.note(method, smoothing, number, moments_of(x_hat, trial.y, trial.truth))
            a, b, c = self.moments[method, smoothing][number]
            error = np.sqrt(max(a + 2 * alpha * b + alpha**2 * c, 0.0))
            patients.setdefault(self.trials[number].patient, []).append(float(error))
        return float(np.mean([np.mean(errors) for errors in patients.values()]))

    def best(self, method: str, smoothing: float | None, numbers: Sequence[int]) -> Best:
        """What is to be said of a strength over some trials, with the best blend."""
        s = smoothing or 0.0
        found = minimize_scalar(
            lambda alpha: self.objective(method, s, numbers, alpha), bounds=(0, 1), method="bounded"
        )
        rmse, alpha = self.objective(method, s, numbers), round(float(found.x), DECIMALS)
        if self.objective(method, s, numbers, alpha) >= rmse:
            alpha = 0.0
        return Best(
            patients=len({self.trials[number].patient for number in numbers}),
            slices=len(numbers),
            smoothing=smoothing,
            rmse_input=round(self.objective(method, s, numbers, 1.0), DECIMALS),
            rmse=round(rmse, DECIMALS),
            alpha=alpha,
            rmse_blend=round(self.objective(method, s, numbers, alpha), DECIMALS),
        )

    def _write(self, mode: str, line: str) -> None:
        try:
            with self.notebook.open(mode, encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.notebook}: cannot be written ({error.strerror}); make room and start again"
            ) from None


def tune(manifest: Path, data: Path, out: Path, settings: TuneSettings, *, progress: Progress = silent) -> Tuned:
    """Search, and write `out` (YAML). `progress` counts trials made, then objectives.

    Raises UsageError for a method that does not exist or is not installed, InputError when the manifest's tune
    split has nothing to search on, OutputError when `out` is something else.
    """
    _require_free(out)
    models = _require(settings)
    pairs = _pairs(manifest, data, settings)
    sha256 = file_hash(manifest)
    asked = [__version__, sha256, str(data.resolve()), settings.model_dump(), [model.sha256 for model in models]]
    identity = json.dumps(asked, sort_keys=True)
    search = Search([], out.with_name(f".{out.name}.partial"), hashlib.sha256(identity.encode()).hexdigest())
    out.parent.mkdir(parents=True, exist_ok=True)
    search.recall()
    _gather(search, pairs, models, settings, progress)
    methods = _search_all(search, models, settings, progress)
    tuned = Tuned(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest=manifest.name,
        manifest_sha256=sha256,
        settings=settings.model_dump(mode="json", exclude={"models"}),
        methods=methods,
    )
    save_tuned(out, tuned)
    search.notebook.unlink(missing_ok=True)
    return tuned


def golden(objective: Callable[[float], float], low: float, high: float, evaluations: int) -> float:
    """The best strength tried between low and high, after exactly so many evaluations."""
    tried: dict[float, float] = {}

    def value(x: float) -> float:
        strength = float(f"{np.exp(x):.{DIGITS}g}")
        tried[strength] = objective(strength)
        return tried[strength]

    a, b = np.log(low), np.log(high)
    x, y = b - INVERSE_PHI * (b - a), a + INVERSE_PHI * (b - a)
    at_x, at_y = value(x), value(y)
    for _ in range(evaluations - 2):
        if at_x < at_y:
            b, y, at_y = y, x, at_x
            x = b - INVERSE_PHI * (b - a)
            at_x = value(x)
        else:
            a, x, at_x = x, y, at_y
            y = a + INVERSE_PHI * (b - a)
            at_y = value(y)
    return min(tried, key=lambda strength: tried[strength])


def moments_of(x_hat: Image, y: Image, truth: Image) -> Moments:
    """<e^2>, <e d>, <d^2> of the error e = x_hat - truth and the change d = y - x_hat."""
    e, d = (x_hat - truth).astype(np.float64), (y - x_hat).astype(np.float64)
    return float(np.mean(e * e)), float(np.mean(e * d)), float(np.mean(d * d))


def _require_free(out: Path) -> None:
    """Raise OutputError unless `out` is absent, or what an earlier search found."""
    if not out.exists():
        return
    try:
        load_tuned(out)
    except UsageError:
        raise OutputError(f"{out}: is there and is not a result of medidiff tune; name another file with -o") from None


def _require(settings: TuneSettings) -> list[Learned]:
    """The models, loaded; raises UsageError for methods that cannot be tuned."""
    tunable = [name for name, baseline in BASELINES.items() if baseline.smoothing is not None]
    unknown = [name for name in settings.methods if name not in tunable]
    if unknown:
        raise UsageError(f"--method {', '.join(unknown)}: has no strength to find; choose among {', '.join(tunable)}")
    for name in settings.methods:
        BASELINES[name].require()
    models = [Learned(load(name), Options.of(model=name)) for name in settings.models]
    for model in models:
        model.require("HU")
    names = [*settings.methods, *(model.name for model in models)]
    if len(set(names)) < len(names):
        raise UsageError(f"--method, --model: {', '.join(sorted(names))}: each name may be there once")
    return models


def _pairs(manifest: Path, data: Path, settings: TuneSettings) -> list[Pair]:
    pairs = [pair for pair in read_manifest(manifest, data) if pair.split == SPLIT]
    if settings.against == "reference":
        pairs = [pair for pair in pairs if pair.low is not None]
    if not pairs:
        what = "measured pair (a line with 'low')" if settings.against == "reference" else "scan"
        raise InputError(
            f"{manifest}: its '{SPLIT}' split has no {what}; strengths are never searched on another split"
        )
    return pairs


def _gather(
    search: Search, pairs: Sequence[Pair], models: Sequence[Learned], settings: TuneSettings, progress: Progress
) -> None:
    """Make every trial; models answer at once, as only their blend is searched."""
    slab = max((model.slab for model in models), default=1)
    make = _simulated if settings.against == "truth" else _measured
    for done, pair in enumerate(pairs):
        progress(done, len(pairs))
        for group, low, truth in make(done, pair, slab, settings):
            y = low[slab // 2]
            window = _window(y.shape, settings.size)
            trial = Trial(pair.patient, group, y[window].copy(), truth[window].copy(), noise_level(y))
            for model in models:
                if len(search.trials) not in search.moments.get((model.name, 0.0), {}):
                    x_hat = _answer(model, low)[window]
                    search.note(model.name, 0.0, len(search.trials), moments_of(x_hat, trial.y, trial.truth))
            search.trials.append(trial)
    progress(len(pairs), len(pairs))


def _answer(model: Learned, slab: Image) -> Image:
    surplus = (len(slab) - model.slab) // 2
    restorer = model.for_case("")
    assert isinstance(restorer, Restorer)  # `_require`: it is a model for CT, of slices
    return restorer.slice(0, slab[surplus : len(slab) - surplus]).image


def _simulated(number: int, pair: Pair, slab: int, settings: TuneSettings) -> Iterator[tuple[str, Image, Image]]:
    """(group, slab, truth) of pseudo-clean slices at each kernel and dose."""
    for k, (clean, pixel_mm) in enumerate(cases(pair, slab, settings.slices)):
        for kernel in settings.kernels:
            for dose in settings.doses:
                generator = np.random.default_rng([settings.seed, number, k, int(1000 * dose)])
                low, truth = low_dose(clean, pixel_mm, dose, kernel, generator)
                yield f"{kernel} {dose:g}", low, truth


def _measured(number: int, pair: Pair, slab: int, settings: TuneSettings) -> Iterator[tuple[str, Image, Image]]:
    """(group, slab, full dose) of slices of a measured pair."""
    full, low = load_pair(pair)
    assert low is not None
    for k in spread(len(full.array), settings.slices):
        indices = slab_indices(k, len(full.array), slab)
        paddings = [low.padding(i) for i in indices]
        images = [
            low.array[i] if p is None else filled(low.array[i], p) for i, p in zip(indices, paddings, strict=True)
        ]
        padding = full.padding(k)
        yield GROUP, np.stack(images), full.array[k] if padding is None else filled(full.array[k], padding)


def _window(shape: tuple[int, ...], size: int | None) -> tuple[slice, ...]:
    """The square of `size` pixels in the middle of a slice."""
    sides = [n if size is None else min(n, size) for n in shape]
    return tuple(slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(shape, sides, strict=True))


def _search_all(
    search: Search, models: Sequence[Learned], settings: TuneSettings, progress: Progress
) -> dict[str, TunedMethod]:
    total = len(settings.methods) * (1 + len(search.groups)) * settings.evaluations
    done = count(1)

    def tick() -> None:
        progress(next(done), total)

    found = {method: _classical(search, method, settings.evaluations, tick) for method in settings.methods}
    return found | {model.name: _learned(search, model) for model in models}


def _classical(search: Search, method: str, evaluations: int, tick: Callable[[], None]) -> TunedMethod:
    baseline = BASELINES[method]
    everything = range(len(search.trials))
    overall = _strength(search, method, everything, evaluations, tick)
    smoothing = overall.smoothing or 0.0
    groups = {}
    for group, numbers in search.groups.items():
        best = _strength(search, method, numbers, evaluations, tick)
        at_overall = round(search.objective(method, smoothing, numbers), DECIMALS)
        groups[group] = best.model_copy(update={"rmse_at_overall": at_overall})
    return TunedMethod(
        evaluations=evaluations,
        unit=baseline.unit,
        low=baseline.low,
        high=baseline.high,
        overall=overall,
        groups=groups,
    )


def _strength(search: Search, method: str, numbers: Sequence[int], evaluations: int, tick: Callable[[], None]) -> Best:
    """One search over some trials."""
    low, high = BASELINES[method].low, BASELINES[method].high

    def objective(smoothing: float) -> float:
        value = search.objective(method, smoothing, numbers)
        tick()
        return value

    smoothing = golden(objective, low, high, evaluations)
    near = (high / low) ** (1.01 * INVERSE_PHI**evaluations)  # the last point of a search that always went one way
    at_end = not low * near < smoothing < high / near
    return search.best(method, smoothing, numbers).model_copy(update={"at_end": at_end})


def _learned(search: Search, model: Learned) -> TunedMethod:
    return TunedMethod(
        evaluations=1,
        model_sha256=model.sha256,
        overall=search.best(model.name, None, range(len(search.trials))),
        groups={group: search.best(model.name, None, numbers) for group, numbers in search.groups.items()},
    )
