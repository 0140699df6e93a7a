"""CT from projections by a diffusion model with the measured data in the loop.

    y      filtered backprojection of the data, what the network is told (with `unconditional` nothing)
    x      <- E[x | y], pulled to the data; without a condition the network takes y for an image with white noise
    x      <- D(x, sigma | y), pulled to the data, down a ladder of sigma        (diffusion/consistency.py)

The ladder falls from LADDER[0] to LADDER[1] times the noise level of y. In `quantitative` no noise is added: the
estimate itself takes the place of x_sigma, and its errors that of the noise (plug-and-play; Venkatakrishnan et al.
2013, Zhang et al. 2022, arXiv:2008.13751), which has a smaller square error than any sample. `sample` starts with noise
and draws it anew at each level (the ancestral sampler). `uncertainty` is the quantitative image and the deviation of
`draws` samples, times the card's factors. These samples are drawn without a condition: a network that is told y, and
then pulled to the same data, counts them twice, and its samples hardly differ (docs/projections.md).

`smoothing` s says how far the network is trusted: DiffPIR's gamma = sigma^2 / s, DDS with the constant variance of y
over s, Pi-GDM's r^2 over s, DPS' step over s, no larger than a gradient can take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.consistency import Across, Map, Measurement, dds, diffpir, dps, pigdm
from medidiff.diffusion.denoiser import Condition, Denoise, Denoiser
from medidiff.diffusion.samplers import Step, ancestral, euler
from medidiff.diffusion.schedule import CaseNoise, case_seed, karras
from medidiff.errors import ModelError
from medidiff.inference.calibration import Calibration, of_card
from medidiff.inference.classical import BLOCK, Array, Ct, Done, Pet, trusted
from medidiff.inference.engine import prepare
from medidiff.inference.guided_pet import TRUST, guided_osem
from medidiff.inference.methods import NOT_CALIBRATED
from medidiff.inference.options import AUTO
from medidiff.inference.projection_options import DIFFUSION, ProjectionOptions
from medidiff.inference.restore import exact_convolutions
from medidiff.io.projections import Projections
from medidiff.model import DEFAULT_FOR, FOR_PROJECTIONS, Model, load
from medidiff.patches import crop, pad_to_multiple, slab_indices
from medidiff.physics.iterative import Preconditioner, chi_square, largest_eigenvalue
from medidiff.physics.operators import LinearOperator
from medidiff.physics.pet import Sinograms
from medidiff.seen import Range
from medidiff.units import MU_WATER_PER_MM, Unit, mu_to_hu

KERNEL = "hann"  # of the backprojection that networks are trained on
LADDER = (8.0, 0.3)  # times the noise level of the backprojection
CG_STEPS = 10
DIFFERENCE_HU = 5.0  # between neighbouring slices, below which a penalty does not feel it
DECIDE_ERRORS = ("smoothing", "data_guidance", "steps", "z_smoothing", "prior")
ONE_BY_ONE = ("pigdm", "dps")  # gradients through the network: its memory does for one slice


@dataclass(frozen=True, eq=False)
class InModelUnits:
    """A projector of images (B, 1, rows, columns) in the units of a model: A (water + slope x) - A water."""

    operator: LinearOperator
    slope: float

    def apply(self, x: Tensor) -> Tensor:
        return self.slope * self.operator.apply(x[:, 0])

    def adjoint(self, y: Tensor) -> Tensor:
        return self.slope * self.operator.adjoint(y)[:, None]


class GuidedPet(Pet):
    """`--method diffusion` of PET: see guided_pet.py."""

    def __init__(self, projections: Projections, options: ProjectionOptions, device: torch.device) -> None:
        super().__init__(projections, options)
        self.model = _model(options, "SUV").to(device)
        self.parameters = self.parameters | {"engine": prepare(self.model, "torch", options.precision)}  # type: ignore[arg-type]
        self.parameters |= {"model": self.model.card.name, "model_sha256": self.model.sha256}
        self.nfe = self.parameters["steps"]
        self._calls: dict[str, int] = {}

    @property
    def calls(self) -> dict[str, int]:
        return self._calls

    def _image(self, data: Sinograms) -> tuple[Array, NDArray[np.floating]]:
        trust, steps = TRUST / self.parameters["smoothing"], self.parameters["steps"]
        found = guided_osem(
            data, self.beam, self.model, self.spacing_mm, trust=trust, steps=steps, subsets=self.subsets
        )
        self._calls = {**found.calls, "apply": found.calls["apply"] + 1}
        return found.images, self._residuals(data, found.images)


class Guided(Ct):
    """`--method diffusion` of CT."""

    def __init__(
        self, projections: Projections, options: ProjectionOptions, device: torch.device, identity: str
    ) -> None:
        super().__init__(projections, options, device)
        self.model = _model(options).to(device)
        self.engine = prepare(self.model, "torch", options.precision)  # type: ignore[arg-type]  # options know better
        self.parameters = self.parameters | {"engine": self.engine}
        self.parameters |= {"model": self.model.card.name, "model_sha256": self.model.sha256}
        self.mode, self.case = options.mode, case_seed(identity, self.parameters.get("seed", 0))
        self.table = self._table() if self.mode == "uncertainty" else None
        self.warnings = _warnings(self.model, options)
        if self.mode == "uncertainty" and self.table is None:
            self.warnings.append(NOT_CALIBRATED.format("samples"))
        walks = 1 + self.parameters.get("draws", 0)
        self.nfe = walks * self.parameters["steps"] + self.is_conditional
        self.slope = MU_WATER_PER_MM * self.model.scaling.factor / 1000

    @property
    def is_conditional(self) -> bool:
        return bool(self.parameters["prior"] == "conditional")

    def _table(self) -> Calibration | None:
        """The card's factors, which were fitted to the image and the samples of the default options."""
        usual = ProjectionOptions(DIFFUSION).parameters()
        is_usual = all(self.parameters[name] == usual[name] for name in DECIDE_ERRORS)
        known = is_usual and self.model.card.input == "projections"
        return of_card(self.model.card.uncertainty, "draws") if known else None

    def slices(self, missing: list[int]) -> Iterator[Done]:
        size = 1 if self.parameters["data_guidance"] in ONE_BY_ONE else BLOCK
        if not self.parameters["z_smoothing"]:
            for start in range(0, len(missing), size):
                yield self.block(missing[start : start + size])
            return
        n = self.projections.header.shape[0]
        for start in range(0, n, size):  # always the same blocks, with a slice more at each end: a slice sees the same
            wanted = [k for k in range(start, min(start + size, n)) if k in missing]
            if wanted:
                yield _only(self.block(list(range(max(start - 1, 0), min(start + size + 1, n)))), wanted)

    def block(self, indices: list[int]) -> Done:
        line, weights = self.data(indices)
        self.operator.applied = self.operator.adjoined = 0
        grad = self.parameters["data_guidance"] in ONE_BY_ONE
        with torch.inference_mode(not grad), torch.set_grad_enabled(grad), exact_convolutions(self.operator.device):
            images, deviations = self._estimate(indices, line, weights)
        x = MU_WATER_PER_MM + self.slope * images[:, 0]
        residuals = chi_square(self.operator, line, weights, x).cpu().numpy()
        self.count()
        hu = np.asarray(mu_to_hu(x.cpu().numpy()), np.float32)
        return Done(indices, hu, residuals, deviations)

    def _estimate(self, indices: list[int], line: Tensor, weights: Tensor) -> tuple[Tensor, Array | None]:
        """(B, 1, rows, columns) in model units, and where asked for (B, rows, columns) deviations in HU."""
        conditions = self._conditions(indices, line)
        data = self._measurement(line, weights)
        level = torch.cat([cond.r for cond in conditions])
        if self.parameters["z_smoothing"]:  # slices that are solved together have one weight: else no symmetric system
            level = level.mean().expand_as(level)
        start, told = self._start(indices, conditions, data)
        denoise = self._guided(self._network(told), data, level)
        sigmas = karras(self.parameters["steps"], LADDER[1], LADDER[0])[:, None].to(level) * level
        if self.mode == "sample":
            return self._sample(denoise, start, sigmas, indices, 0), None
        image = _last(euler(denoise, start, sigmas))
        if self.mode == "quantitative":
            return image, None
        denoise = self._guided(self._network([cond.as_null() for cond in conditions]), data, level)
        y = torch.cat([self._cropped(cond.y) for cond in conditions])
        samples = [self._sample(denoise, y, sigmas, indices, k) for k in range(self.parameters["draws"])]
        return image, self._deviations(torch.stack(samples).std(dim=0), image, conditions)

    def _network(self, conditions: list[Condition]) -> Denoise:
        """The network for a batch of slices, each with its condition; one at a time, so that none depends on others."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            padded = [pad_to_multiple(one, self.model.stride) for one in x.split(1)]
            answers = [self._denoiser(*one) for one in zip(padded, sigma.split(1), conditions, strict=True)]
            return torch.cat([self._cropped(answer) for answer in answers])

        return denoise

    def _cropped(self, padded: Tensor) -> Tensor:
        return crop(padded, self.projections.header.geometry.matrix)

    def _deviations(self, spread: Tensor, images: Tensor, conditions: list[Condition]) -> Array:
        """(B, rows, columns) in HU, from the spread of samples in model units."""
        factor = self.model.scaling.factor
        raw, estimates = ((factor * stack[:, 0]).float().cpu().numpy() for stack in (spread, images))
        if self.table is None:
            return np.asarray(raw)
        calibrated = [
            self.table(sd, image, factor * float(cond.r[0]), float(cond.colour[0, 0]))
            for sd, image, cond in zip(raw, estimates, conditions, strict=True)
        ]
        return np.stack(calibrated)

    @property
    def _denoiser(self) -> Denoiser:
        assert isinstance(self.model.denoiser, Denoiser)  # `_model` has seen to it
        return self.model.denoiser

    def _start(
        self, indices: list[int], conditions: list[Condition], data: Measurement
    ) -> tuple[Tensor, list[Condition]]:
        """(B, 1, rows, columns) E[x | y], and what the network goes on being told.

        Without a condition y itself and nothing. So it is of a slice whose estimate explains the data worse than y: it
        is unlike all that the network has seen.
        """
        y = torch.cat([self._cropped(cond.y) for cond in conditions])
        nothing = [cond.as_null() for cond in conditions]
        if not self.is_conditional:
            return y, nothing
        mean = torch.cat([self._cropped(self._denoiser.mean(cond)) for cond in conditions])
        worse = data.chi_square(mean) > data.chi_square(y)
        if bool(worse.any()):
            which = ", ".join(str(k + 1) for k, is_worse in zip(indices, worse.tolist(), strict=True) if is_worse)
            self.warnings.append(
                f"slice {which}: unlike all that model '{self.model.card.name}' has seen, its estimate explains the "
                "data worse than their backprojection; the slice was done as with --unconditional"
            )
        told = [none if is_worse else cond for cond, none, is_worse in zip(conditions, nothing, worse, strict=True)]
        return torch.where(worse[:, None, None, None], y, mean), told

    def _sample(self, denoise: Denoise, start: Tensor, sigmas: Tensor, indices: list[int], k: int) -> Tensor:
        noise = CaseNoise(self.case, indices, sample=k)
        x = start + sigmas[0][:, None, None, None] * noise(start)
        return _last(ancestral(denoise, x, sigmas, noise=noise))

    def _guided(self, denoise: Denoise, data: Measurement, level: Tensor) -> Denoise:
        s, name = self.parameters["smoothing"], self.parameters["data_guidance"]
        if name == "diffpir":
            return diffpir(denoise, data, s, CG_STEPS)
        if name == "dds":
            return dds(denoise, data, level**2 / s, CG_STEPS)
        if name == "dps":  # the step of the likelihood where it is stable, above it the largest that is
            steepest = self.slope**2 * largest_eigenvalue(
                self.operator, data.weight, data.operator.adjoint(data.y)[:, 0]
            )
            return dps(denoise, data, lambda sigma: 1 / (s * (1 + sigma**2 * steepest)))
        spread: Callable[[Tensor], Tensor] = lambda sigma: sigma**2 * level**2 / (sigma**2 + level**2) / s  # noqa: E731
        return pigdm(denoise, data, spread, CG_STEPS)

    def _conditions(self, indices: list[int], line: Tensor) -> list[Condition]:
        """What the network is told of each slice: its backprojection between those of its neighbours."""
        n = self.projections.header.shape[0]
        slabs = {k: slab_indices(k, n, self.model.slab) for k in indices}
        others = sorted({j for slab in slabs.values() for j in slab} - set(indices))
        images = dict(zip(indices, self._backprojected(line), strict=True))
        if others:
            images |= dict(zip(others, self._backprojected(self.data(others)[0]), strict=True))
        told = (self.model.condition(np.stack([images[j] for j in slabs[k]])) for k in indices)
        return [_as_seen(cond, self.model) for cond in told]

    def _backprojected(self, line: Tensor) -> Array:
        return np.asarray(mu_to_hu(self.fbp(line, KERNEL).cpu().numpy()), np.float32)

    def _measurement(self, line: Tensor, weights: Tensor) -> Measurement:
        weights = trusted(weights)
        operator = InModelUnits(self.operator, self.slope)
        water = self.operator.apply(
            torch.full_like(line[:1, :1, :1], MU_WATER_PER_MM).expand(1, *self.operator.in_shape)
        )
        nearly = Preconditioner.of(self.operator, weights)

        def preconditioner(gamma: Tensor) -> Map:
            scale = gamma * self.slope**2
            inverse = nearly.inverse((1 / scale)[:, None, None])
            return lambda r: (inverse(r[:, 0]) / scale[:, None, None])[:, None]

        z = self.parameters["z_smoothing"]
        across = None
        if z:
            factor = self.model.scaling.factor
            across = Across(z * factor, DIFFERENCE_HU / factor)
        return Measurement(operator, line - water, weights, preconditioner, across)


def _as_seen(cond: Condition, model: Model) -> Condition:
    """The level and colours of the noise brought into the range of training: there may be next to none in an even
    object, and a network that is told of a colour that it never saw can answer anything."""
    seen, factor = model.card.seen, model.scaling.factor
    if seen is None:
        return cond

    def within(values: Tensor, known: Range | None, unit: float = 1.0) -> Tensor:
        return values if known is None else values.clamp(known.low / unit, known.high / unit)

    colours = zip(cond.colour.split(1, dim=1), (seen.colour_half, seen.colour_quarter), strict=True)
    colour = torch.cat([within(values, known) for values, known in colours], dim=1)
    return replace(cond, r=within(cond.r, seen.noise_hu, factor), colour=colour)


def _only(done: Done, wanted: list[int]) -> Done:
    """The slices that were asked for."""
    rows = [done.indices.index(k) for k in wanted]
    deviations = None if done.deviations is None else done.deviations[rows]
    return Done(wanted, done.images[rows], done.residuals[rows], deviations)


def _last(steps: Iterator[Step]) -> Tensor:
    """Where a sampler ends."""
    return deque(steps, maxlen=1).pop().x


def _model(options: ProjectionOptions, unit: Unit = "HU") -> Model:
    """Raises ModelError for a model in another unit than the image will have, or that gives one estimate only."""
    named = options.model if options.model not in (None, AUTO) else None
    model = load(named or (FOR_PROJECTIONS if unit == "HU" else DEFAULT_FOR[unit]))
    if model.scaling.unit != unit:
        kind = "CT, which become HU" if unit == "HU" else "PET, which become SUV"
        raise ModelError(
            f"model '{model.card.name}' works on {model.card.modality} in {model.scaling.unit}, the projections are of "
            f"{kind}: choose another model"
        )
    if not model.can_sample:
        raise ModelError(
            f"model '{model.card.name}' ({model.architecture.network}) gives one best estimate and cannot be guided by "
            "data: choose a diffusion model"
        )
    return model


def _warnings(model: Model, options: ProjectionOptions) -> list[str]:
    told = []
    if model.card.input != "projections" and not options.unconditional:
        told.append(
            f"model '{model.card.name}' was not trained on backprojections: its first estimate may keep their streaks"
        )
    return told
