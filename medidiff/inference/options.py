"""What the user chooses: the mode, and the options that this mode uses.

    quantitative   E[x | y], one evaluation: the best estimate of every voxel
    texture        one sample of p(x | y): the mean plus noise at sigma_1, walked down a ladder by a sampler
    uncertainty    E[x | y] as the image, and the standard deviation of `draws` samples as a second one

An option that a mode does not use is refused, not ignored: who gives it expects it to matter.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from medidiff.config import Settings
from medidiff.diffusion.samplers import SAMPLERS
from medidiff.errors import UsageError
from medidiff.io.derived import TRANSFER_SYNTAXES

Mode = Literal["quantitative", "texture", "uncertainty"]

USED_BY: dict[str, tuple[Mode, ...]] = {
    "steps": ("texture", "uncertainty"),
    "sampler": ("texture", "uncertainty"),
    "cfg_scale": ("texture", "uncertainty"),
    "seed": ("texture", "uncertainty"),
    "draws": ("uncertainty",),
}


class Options(Settings):
    """The parameters of a run; None means "the mode's default", read through `Options.value`.

    strength   per cent of the change that is applied: y + strength / 100 * (x_hat - y)
    model      name of an embedded model, or a file
    """

    mode: Mode = "quantitative"
    strength: float = Field(default=100.0, ge=0, le=100)
    model: str = "ct"
    steps: int | None = Field(default=None, ge=1, le=1000)
    sampler: str | None = None
    cfg_scale: float | None = Field(default=None, ge=0, le=20)
    draws: int | None = Field(default=None, ge=2, le=1000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    device: str = "auto"
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

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, sampler: str | None) -> str | None:
        if sampler is not None and sampler not in SAMPLERS:
            raise ValueError(f"'{sampler}' is not a sampler: choose one of {', '.join(SAMPLERS)}")
        return sampler

    @field_validator("transfer_syntax")
    @classmethod
    def _known_syntax(cls, name: str) -> str:
        if name not in TRANSFER_SYNTAXES:
            raise ValueError(f"'{name}' is not offered: choose one of {', '.join(TRANSFER_SYNTAXES)}")
        return name

    @model_validator(mode="after")
    def _refuse_unused(self) -> Options:
        unused = [name for name, modes in USED_BY.items() if getattr(self, name) is not None and self.mode not in modes]
        if unused:
            raise ValueError("; ".join(_unused(name, self.mode) for name in unused))
        return self

    def parameters(self) -> dict[str, Any]:
        """What decides the voxels, defaults filled in; options that the mode does not use are absent."""
        chosen: dict[str, Any] = {"mode": self.mode, "strength": self.strength}
        for name, modes in USED_BY.items():
            if self.mode in modes:
                given = getattr(self, name)
                chosen[name] = DEFAULTS[name] if given is None else given
        return chosen


DEFAULTS: dict[str, Any] = {"steps": 6, "sampler": "dpmpp_2m", "cfg_scale": 1.0, "draws": 8, "seed": 0}


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
