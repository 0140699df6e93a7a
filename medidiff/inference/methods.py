"""One interface for every way to restore a slice: a trained model, or a classical denoiser with one strength.

    method     made once a process: what decides the voxels, and what it needs of a scan
    restorer   the method for one case (noise is seeded by its identity), slice by slice

    out = y + strength / 100 * (x_hat - y)        for every method: the blend with the scan is part of the interface

A classical denoiser works on the slice alone. Its strength is in units of the noise level measured in that slice
(pixels for the Gaussian); pixels without a measurement are filled from their neighbours before, and kept after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.baselines import BASELINES, Baseline, filled
from medidiff.diffusion.schedule import case_seed
from medidiff.errors import ModelError, UnitError, UsageError
from medidiff.inference.blocks import BlockRestorer
from medidiff.inference.engine import prepare, slices_at_once
from medidiff.inference.options import AUTO, DEFAULTS, Options
from medidiff.inference.restore import (
    ONE_ESTIMATE,
    AnyRestorer,
    Restored,
    Restorer,
    blended,
    calibration,
    evaluations,
)
from medidiff.io.derived import Derivation
from medidiff.model import DEFAULT_FOR, Model, load
from medidiff.noise.level import noise_level
from medidiff.seen import Seen
from medidiff.units import Unit
from medidiff.volume import SliceSource

NETWORK_CODE = ("MDIFF-NETWORK", "99MEDIDIFF", "Neural network denoising")  # one that is no diffusion model
CLASSICAL_CODE = ("MDIFF-FILTER", "99MEDIDIFF", "Classical denoising filter")
NOT_CALIBRATED = "the uncertainty map is not calibrated: it is the raw spread of {}"
MODALITIES: dict[Unit, str] = {"HU": "CT", "SUV": "PT"}
DETAILS = ("sampler", "steps", "cfg_scale", "draws", "seed")


class Method(Protocol):
    """What a run, a study and a search need to know of a way to restore.

    name           of the method, or of the model
    parameters     everything that decides voxels
    has_deviation  whether a slice comes with its standard deviation
    sha256         of the model's file; None for a classical denoiser
    nfe            network evaluations a slice
    warnings       what a user of the results must know
    seen           the range that the model has seen, where it knows
    is_guarded     whether slices outside of it are changed less
    units          of the scans that it works on
    derivation     what headers of results say
    """

    @property
    def name(self) -> str: ...
    @property
    def slab(self) -> int: ...
    @property
    def parameters(self) -> dict[str, Any]: ...
    @property
    def has_deviation(self) -> bool: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def nfe(self) -> int: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def derivation(self) -> Derivation: ...
    @property
    def seen(self) -> Seen | None: ...
    @property
    def is_guarded(self) -> bool: ...
    @property
    def units(self) -> tuple[Unit, ...]: ...

    def require(self, unit: str) -> None:
        """Raise UnitError for data in another unit than the method works on."""

    def require_modality(self, modality: str) -> None:
        """Raise ModelError for data of another modality than the method was made for."""

    def for_case(self, identity: str, guide: SliceSource | None = None) -> AnyRestorer:
        """The method for the slices of one case, seeded by its identity; `guide` is a CT on its grid."""


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained model in one mode; `engine` is the name of what computes it, `at_once` how many slices it takes."""

    model: Model
    options: Options
    engine: str = "torch, 32"
    at_once: int = 1

    @property
    def name(self) -> str:
        return self.model.card.name

    @property
    def slab(self) -> int:
        return self.model.slab

    @property
    def parameters(self) -> dict[str, Any]:
        chosen = {**self._chosen, "engine": self.engine, "model": self.name, "model_sha256": self.sha256}
        return chosen if self.options.ct is None else chosen | {"ct": self.options.ct}

    @property
    def _chosen(self) -> dict[str, Any]:
        return self.options.parameters(has_spread=self.model.has_spread)

    @property
    def has_deviation(self) -> bool:
        return self.options.mode == "uncertainty"

    @property
    def sha256(self) -> str:
        return self.model.sha256

    @property
    def nfe(self) -> int:
        return evaluations(self._chosen)

    @property
    def seen(self) -> Seen | None:
        return self.model.card.seen

    @property
    def is_guarded(self) -> bool:
        return self.options.guard

    @property
    def units(self) -> tuple[Unit, ...]:
        return (self.model.scaling.unit,)

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.has_deviation or calibration(self.model, self._chosen) is not None:
            return ()
        return (NOT_CALIBRATED.format("samples" if self._chosen["draws"] else "the network"),)

    @property
    def derivation(self) -> Derivation:
        parameters = self._chosen
        texts = [
            f"medidiff {__version__} model {self.name} sha256 {self.sha256}",
            f"mode {parameters['mode']}{_noise(parameters)}",
            f"strength {parameters['strength']:g} %",
            *(() if self.is_guarded else ("not held back outside of what the model has seen",)),
            *(() if self.options.ct is None else ("guided by a CT",)),
            f"{self.nfe} network evaluations per slice",
            *(f"{key} {parameters[key]}" for key in DETAILS if parameters.get(key) is not None),
        ]
        derivation = Derivation(", ".join(texts), f"medidiff {self.options.mode}")
        return derivation if self.model.can_sample else replace(derivation, code=NETWORK_CODE)

    def require(self, unit: str) -> None:
        self.model.scaling.require(unit)

    def require_modality(self, modality: str) -> None:
        made_for = self.model.card.modality
        if modality != made_for:
            raise ModelError(
                f"model '{self.name}' is made for {made_for}, the series is {modality}: choose another model"
            )

    def for_case(self, identity: str, guide: SliceSource | None = None) -> Restorer | BlockRestorer:
        parameters = self._chosen
        seed = case_seed(identity, parameters.get("seed", 0))
        if self.model.architecture.dimensions == 3:
            return BlockRestorer(self.model, parameters, seed, guide)
        return Restorer(self.model, parameters, seed, self.at_once)


def _noise(parameters: dict[str, Any]) -> str:
    """What noise is left in texture mode, in words of a header."""
    dose = parameters.get("dose")
    return "" if dose is None else f" (blend with the scan: noise of {1 / dose:.4g} times its dose)"


@dataclass(frozen=True, eq=False)
class Classical:
    """A classical denoiser with its strength; also its own restorer, as nothing is drawn."""

    name: str
    smoothing: float | None
    strength: float = 100.0
    slab: int = 1
    at_once: int = 1
    nfe: int = 0
    has_deviation: bool = False
    sha256: None = None
    warnings: tuple[str, ...] = ()
    seen: None = None
    is_guarded: bool = False

    @property
    def baseline(self) -> Baseline:
        return BASELINES[self.name]

    @property
    def units(self) -> tuple[Unit, ...]:
        """PET before CT: of a PET/CT study the PET is meant."""
        return tuple(sorted(self.baseline.units, reverse=True))

    @property
    def parameters(self) -> dict[str, Any]:
        chosen = {"method": self.name, "mode": "quantitative", "strength": self.strength}
        return chosen if self.smoothing is None else chosen | {"smoothing": self.smoothing}

    @property
    def derivation(self) -> Derivation:
        what = f"medidiff {__version__} method {self.name} ({self.baseline.title}, {self.baseline.source})"
        smoothing = () if self.smoothing is None else (f"smoothing {self.smoothing:g} {self.baseline.unit}",)
        description = ", ".join([what, *smoothing, f"strength {self.strength:g} %", "no neural network"])
        return Derivation(description, f"medidiff {self.name}", CLASSICAL_CODE, is_ai=False, classical=self.name)

    def require(self, unit: str) -> None:
        if unit not in self.baseline.units:
            made_for = " and ".join(self.baseline.units)
            raise UnitError(
                f"method '{self.name}' works on {made_for}, the data are in {unit}: choose a model made for {unit}"
            )

    def require_modality(self, modality: str) -> None:
        made_for = [MODALITIES[unit] for unit in self.units]
        if modality not in made_for:
            raise ModelError(
                f"method '{self.name}' is set up for {' and '.join(made_for)}, the series is {modality}: choose another"
            )

    def for_case(self, identity: str, guide: SliceSource | None = None) -> Classical:
        return self

    def slice(self, index: int, slab: NDArray[np.float32], padding: NDArray[np.bool_] | None = None) -> Restored:
        """Restore the middle slice of a slab (K, rows, columns)."""
        y = slab[len(slab) // 2]
        measured = y if padding is None else filled(y, padding)
        x_hat = self.baseline.function(measured, noise_level(measured), self.smoothing or 0.0)
        return Restored(index, blended(y, x_hat, self.strength, padding), None, padding)


def load_method(options: Options, device: torch.device | None = None, unit: Unit = "HU") -> Method:
    """The method that the options name, ready for use; `device` (default CPU) is where a model goes, `unit` that of the
    scans, by which an embedded model is chosen where none is named.

    Raises ModelError for a model that cannot be loaded, UsageError for a mode that it does not have or for a
    package that is absent.
    """
    if options.method == "model":
        name = DEFAULT_FOR[unit] if options.model == AUTO else options.model
        model = load(name).to(device or torch.device("cpu"))
        if model.card.input == "projections":
            raise ModelError(
                f"model '{model.card.name}' is for projections (FILE.h5 of medidiff project), these are images: choose "
                "another model"
            )
        _require_a_use_for_ct(model, options)
        if options.mode not in ONE_ESTIMATE and not model.can_sample:
            raise UsageError(
                f"--mode {options.mode}: model '{model.card.name}' ({model.architecture.network}) gives one best "
                "estimate and cannot draw samples: use --mode quantitative or texture, or a diffusion model"
            )
        _require_a_use_for_samples(model, options)
        engine = prepare(model, options.engine, options.precision)
        return Learned(model, options, engine, slices_at_once(model, options.engine))
    baseline = BASELINES[options.method]
    baseline.require()
    smoothing = baseline.smoothing if options.smoothing is None else options.smoothing
    return Classical(options.method, smoothing, options.strength)


def _require_a_use_for_ct(model: Model, options: Options) -> None:
    if options.ct is not None and not model.architecture.guide:
        raise UsageError(f"--ct: model '{model.card.name}' takes no CT beside the scan: leave it out")


def _require_a_use_for_samples(model: Model, options: Options) -> None:
    """Raise UsageError where options of samples are given and none are drawn; a seed may be the study's."""
    if options.cfg_scale not in (None, 1) and model.architecture.dimensions == 3:
        raise UsageError(
            f"--cfg-scale: model '{model.card.name}' was never trained without its scan and cannot be guided by the "
            "difference: leave it out"
        )
    if options.mode != "uncertainty" or options.draws:
        return
    if not model.has_spread and options.draws == 0:
        raise UsageError(
            f"--draws 0: model '{model.card.name}' has no spread of its own: leave it out, or ask for at least 2"
        )
    given = [name for name in ("steps", "sampler", "cfg_scale") if getattr(options, name) is not None]
    if model.has_spread and given:
        raise UsageError(
            f"--{given[0].replace('_', '-')}: model '{model.card.name}' gives its uncertainty without samples: "
            f"leave it out, or ask for samples with --draws {DEFAULTS['draws']}"
        )
