"""What the user chooses: the method, for a model its mode, and the options that these use.

    quantitative   x_hat = E[x | y], one evaluation: the best estimate of every voxel
    texture        x_hat + sqrt(a) (y - x_hat): of a scan y at the fraction a of a dose, the noise of the whole dose
    uncertainty    x_hat as the image, and its standard deviation as a second one: that of the model itself, in the same
                   evaluation, where it gives one; else, or where asked for, that of `draws` samples
    sample         one sample of p(x | y): x_hat plus noise at sigma_1, walked down a ladder by a sampler

Noise falls with the root of the dose. So `texture` keeps the share sqrt(a) of it, which has the level and the
spectrum of a scan of 1 / a times the dose; it is the blend of strength 100 (1 - sqrt(a)).

    method         "model" in one of these modes, or a classical denoiser (medidiff/baselines) with its `smoothing`

An option that is not used is refused, not ignored: who gives it expects it to matter.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from medidiff.baselines import BASELINES
from medidiff.config import Settings
from medidiff.diffusion.samplers import SAMPLERS
from medidiff.errors import UsageError
from medidiff.inference.engine import Engine, Precision
from medidiff.io.derived import TRANSFER_SYNTAXES

Mode = Literal["quantitative", "texture", "uncertainty", "sample"]
MODEL = "model"
AUTO = "auto"
CT_OF_STUDY = "study"
METHODS = (MODEL, *BASELINES)

USED_BY: dict[str, tuple[Mode, ...]] = {
    "dose": ("texture",),
    "steps": ("uncertainty", "sample"),
    "sampler": ("uncertainty", "sample"),
    "cfg_scale": ("uncertainty", "sample"),
    "seed": ("uncertainty", "sample"),
    "draws": ("uncertainty",),
}
USUAL: dict[str, tuple[str, ...]] = {  # of a classical method
    "mode": ("quantitative",),
    "device": ("auto", "cpu"),
    "engine": ("torch",),
    "precision": ("32",),
}


class Options(Settings):
    """The parameters of a run; None means "the mode's default", read through `Options.value`.

    method     "model", or the name of a classical denoiser
    strength   per cent of the change that is applied: y + strength / 100 * (x_hat - y)
    model      name of an embedded model, or a file; "auto": the embedded one for the unit of the scans
    ct         "study", or a path: the CT that a model for PET is shown as well
    dose       the scan's dose as a fraction of the one whose noise is wanted
    smoothing  strength of a classical denoiser in its own unit
    guard      slices outside of what the model has seen are changed less (medidiff/seen.py)
    engine     what computes the network, and `precision` how finely (medidiff/inference/engine.py)
    """

    method: str = MODEL
    mode: Mode = "quantitative"
    strength: float = Field(default=100.0, ge=0, le=100)
    model: str = AUTO
    dose: float | None = Field(default=None, gt=0, le=1)
    smoothing: float | None = Field(default=None, ge=0)
    guard: bool = True
    ct: str | None = None
    steps: int | None = Field(default=None, ge=1, le=1000)
    sampler: str | None = None
    cfg_scale: float | None = Field(default=None, ge=0, le=20)
    draws: int | None = Field(default=None, ge=0, le=1000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    device: str = "auto"
    engine: Engine = "torch"
    precision: Precision = "32"
    series: str | None = None
    allow_gaps: bool = False
    overwrite: bool = False
    transfer_syntax: str = "explicit"
    deterministic_uids: bool = False

    @classmethod
    def of(cls, **values: Any) -> Options:
        """Options from values that a user gave; raises UsageError naming every fault at once."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise UsageError("; ".join(_sentence(fault) for fault in error.errors())) from None

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"'{name}' is not a method: choose one of {', '.join(METHODS)}")
        return name

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, sampler: str | None) -> str | None:
        if sampler is not None and sampler not in SAMPLERS:
            raise ValueError(f"'{sampler}' is not a sampler: choose one of {', '.join(SAMPLERS)}")
        return sampler

    @field_validator("draws")
    @classmethod
    def _spread_needs_two(cls, draws: int | None) -> int | None:
        if draws == 1:
            raise ValueError("1 was given, but one sample has no spread: use at least 2, or 0 for the model's own")
        return draws

    @field_validator("transfer_syntax")
    @classmethod
    def _known_syntax(cls, name: str) -> str:
        if name not in TRANSFER_SYNTAXES:
            raise ValueError(f"'{name}' is not offered: choose one of {', '.join(TRANSFER_SYNTAXES)}")
        return name

    @model_validator(mode="after")
    def _refuse_unused(self) -> Options:
        faults = self._unused_by_model() if self.method == MODEL else self._unused_by_classical()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _unused_by_model(self) -> list[str]:
        unused = [name for name, modes in USED_BY.items() if getattr(self, name) is not None and self.mode not in modes]
        faults = [_unused(name, self.mode) for name in unused]
        if self.mode == "texture" and self.strength != 100:
            faults.append(
                "--strength is not used by --mode texture, where --dose sets the blend: leave one of them out"
            )
        if self.smoothing is not None:
            faults.append("--smoothing is the strength of a classical method, a model has none: leave it out")
        return faults

    def _unused_by_classical(self) -> list[str]:
        unused = [name for name in USED_BY if getattr(self, name) is not None]
        unused += [name for name, usual in USUAL.items() if getattr(self, name) not in usual]
        unused += ["model"] if "model" in self.model_fields_set else []
        unused += [] if self.guard else ["no_guard"]
        unused += [] if self.ct is None else ["ct"]
        faults = [
            f"{_flag(name)} is not used by --method {self.method}, only by a model: leave it out" for name in unused
        ]
        baseline = BASELINES[self.method]
        if self.smoothing is not None and baseline.smoothing is None:
            faults.append(f"--smoothing: --method {self.method} has no strength: leave it out")
        elif self.smoothing is not None and self.smoothing > baseline.high:
            offered = f"--method {self.method} takes 0 to {baseline.high:g} {baseline.unit}"
            faults.append(f"--smoothing: {self.smoothing:g} was given, but {offered}")
        return faults

    def parameters(self, *, has_spread: bool = False) -> dict[str, Any]:
        """What decides a model's voxels, defaults filled in; options that are not used are absent.

        In texture mode `strength` is that of the blend which `dose` asks for. A model that `has_spread` draws samples
        in uncertainty mode only where `draws` asks for them.
        """
        chosen: dict[str, Any] = {"mode": self.mode, "strength": self.strength}
        if not self.guard:
            chosen["guard"] = False
        if self.mode == "uncertainty" and has_spread and not self.draws:
            return chosen | {"draws": 0}
        for name, modes in USED_BY.items():
            if self.mode in modes:
                given = getattr(self, name)
                chosen[name] = DEFAULTS[name] if given is None else given
        if self.mode == "texture":
            chosen["strength"] = 100 * (1 - math.sqrt(chosen["dose"]))
        return chosen


DEFAULTS: dict[str, Any] = {"dose": 0.25, "steps": 6, "sampler": "dpmpp_2m", "cfg_scale": 1.0, "draws": 8, "seed": 0}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _unused(name: str, mode: str) -> str:
    return f"{_flag(name)} is not used by --mode {mode}, only by {' and '.join(USED_BY[name])}: leave it out"


def _sentence(fault: Any) -> str:
    """One fault found by pydantic, in the words of the command line."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    name = str(fault["loc"][0])
    if name == "mode":
        message = f"'{fault['input']}' is not a mode: choose one of {', '.join(get_args(Mode))}"
    elif fault["type"] != "value_error":
        message = f"{fault['input']} was given, but {message[0].lower()}{message[1:]}"
    return f"{_flag(name)}: {message}"
