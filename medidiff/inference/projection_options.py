"""What can be asked of a reconstruction from projections, and what each method takes for granted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medidiff.errors import UsageError
from medidiff.inference.options import AUTO
from medidiff.io.derived import TRANSFER_SYNTAXES
from medidiff.physics.ct import KERNELS

Guidance = Literal["dds", "diffpir", "pigdm", "dps"]
GUIDANCES: tuple[Guidance, ...] = ("diffpir", "dds", "pigdm", "dps")
MODES = ("quantitative", "uncertainty", "sample")
DIFFUSION = "diffusion"
FULL_VIEWS = 360  # from which on noise decides how much smoothing is best, not their number
LEARNED = ("model", "data_guidance", "steps", "unconditional", "z_smoothing")
MOST_STEPS, MOST_DRAWS = 1000, 100


@dataclass(frozen=True)
class Method:
    """A way to reconstruct projections.

    smoothing   default strength, in `unit`; None for a method that has none
    iterations  the default, the largest number where a small change ends them; None without
    sparse      the default strength grows by this power of FULL_VIEWS / views: fewer of them leave more than noise
    """

    kinds: tuple[Literal["CT", "PET"], ...]
    title: str
    smoothing: float | None = None
    unit: str = ""
    iterations: int | None = None
    sparse: float = 0.0

    def strength(self, views: int) -> float | None:
        """Default for data of so many views."""
        return self.smoothing and round(self.smoothing * max(FULL_VIEWS / views, 1.0) ** self.sparse, 2)


METHODS: dict[str, Method] = {
    "fbp": Method(("CT",), "filtered backprojection"),
    "sirt": Method(("CT",), "simultaneous iterative reconstruction", iterations=100),
    "cgls": Method(("CT",), "conjugate gradients for least squares", iterations=12),
    "pwls": Method(("CT",), "penalised weighted least squares", 1.0, "noise levels", 40, 0.7),
    "tv": Method(("CT",), "total variation", 1.0, "noise levels", 60, 1.0),
    "diffusion": Method(("CT", "PET"), "diffusion model guided by the data", 1.0),
    "osem": Method(("PET",), "ordered subsets expectation maximisation", 5.0, "mm FWHM", 3),
    "map-rdp": Method(("PET",), "maximum a posteriori, relative difference prior", 0.1, "", 8),
}
DEFAULT_STEPS, DEFAULT_PET_STEPS = 16, 1
DEFAULT_DRAWS = 8


@dataclass(frozen=True)
class ProjectionOptions:
    """What was asked for; None is the method's default. `kernel` is that of fbp, what follows `iterations` is of
    diffusion (medidiff/inference/guided.py)."""

    method: str
    smoothing: float | None = None
    iterations: int | None = None
    kernel: str | None = None
    projector: str = "torch"
    device: str = "auto"
    overwrite: bool = False
    transfer_syntax: str = "explicit"
    deterministic_uids: bool = False
    model: str | None = None
    data_guidance: str | None = None
    steps: int | None = None
    unconditional: bool = False
    z_smoothing: float | None = None
    mode: str = "quantitative"
    draws: int | None = None
    seed: int | None = None
    precision: str = "32"

    def __post_init__(self) -> None:
        """Raise UsageError for what is not known or not used."""
        if self.method not in METHODS:
            raise UsageError(
                f"--method: '{self.method}' does not reconstruct projections: choose one of {', '.join(METHODS)}"
            )
        chosen = METHODS[self.method]
        if self.kernel is not None and (self.method != "fbp" or self.kernel not in KERNELS):
            known = f"choose one of {', '.join(KERNELS)}" if self.method == "fbp" else "it is for fbp: leave it out"
            raise UsageError(f"--kernel {self.kernel}: {known}")
        for flag, given, default in (
            ("--smoothing", self.smoothing, chosen.smoothing),
            ("--iterations", self.iterations, chosen.iterations),
        ):
            if given is not None and default is None:
                raise UsageError(f"{flag} is not used by --method {self.method}: leave it out")
        _require_known("--projector", self.projector, ("torch", "astra"))
        _require_known("--transfer-syntax", self.transfer_syntax, tuple(TRANSFER_SYNTAXES))
        _require_known("--precision", self.precision, ("32", "bf16", "auto"))
        _require_between("--iterations", self.iterations, 1, 100_000)
        if self.smoothing is not None and not 0 <= self.smoothing < np.inf:
            raise UsageError(f"--smoothing must be 0 or more, found {self.smoothing:g}")
        self._check_diffusion()

    def _check_diffusion(self) -> None:
        if self.method != DIFFUSION:
            for name in LEARNED:
                if getattr(self, name) not in (None, False):
                    raise UsageError(
                        f"--{name.replace('_', '-')} is for --method diffusion, not for {self.method}: leave it out"
                    )
            if self.precision != "32":
                raise UsageError(f"--precision is for --method diffusion, not for {self.method}: leave it out")
        if self.mode != "quantitative":
            if self.method != DIFFUSION:
                raise UsageError(f"--mode {self.mode} is for --method diffusion, {self.method} gives one image")
            _require_known("--mode", self.mode, MODES)
        if self.data_guidance is not None:
            _require_known("--data-guidance", self.data_guidance, GUIDANCES)
        if self.method == DIFFUSION and self.smoothing == 0:
            raise UsageError("--smoothing 0 would leave nothing to the network: choose more than 0, or --method pwls")
        _require_between("--steps", self.steps, 1, MOST_STEPS)
        _require_between("--draws", self.draws, 2, MOST_DRAWS)
        if self.draws is not None and self.mode != "uncertainty":
            raise UsageError("--draws is for --mode uncertainty: leave it out")
        if self.seed is not None and (self.mode == "quantitative" or self.seed < 0):
            why = "nothing is drawn in this mode: leave it out" if self.seed >= 0 else "it must be 0 or more"
            raise UsageError(f"--seed {self.seed}: {why}")
        if self.z_smoothing is not None:
            if not 0 <= self.z_smoothing < np.inf:
                raise UsageError(f"--z-smoothing must be 0 or more, found {self.z_smoothing:g}")
            if self.data_guidance in ("pigdm", "dps"):
                raise UsageError(f"--z-smoothing: --data-guidance {self.data_guidance} does one slice at a time")

    @property
    def chosen(self) -> Method:
        return METHODS[self.method]

    @property
    def has_deviation(self) -> bool:
        return self.mode == "uncertainty"

    @property
    def only_for_ct(self) -> str | None:
        """An option that was given, and that a reconstruction of PET has no use for."""
        given = {
            "--data-guidance": self.data_guidance is not None,
            "--unconditional": self.unconditional,
            "--z-smoothing": self.z_smoothing is not None,
            f"--mode {self.mode}": self.mode != "quantitative",
        }
        return next((name for name, is_given in given.items() if is_given), None)

    def parameters(self, kind: Literal["CT", "PET"] = "CT", views: int = FULL_VIEWS) -> dict[str, Any]:
        """Everything that decides voxels, but for what a model adds."""
        given = {
            "smoothing": self.chosen.strength(views) if self.smoothing is None else self.smoothing,
            "iterations": self.chosen.iterations if self.iterations is None else self.iterations,
            "kernel": (self.kernel or "hann") if self.method == "fbp" else None,
            "projector": self.projector if kind == "CT" and "CT" in self.chosen.kinds else None,
        }
        if self.method == DIFFUSION and kind == "PET":
            given |= {"model": self.model or AUTO, "steps": self.steps or DEFAULT_PET_STEPS}
        elif self.method == DIFFUSION:
            given |= {
                "model": self.model or AUTO,
                "data_guidance": self.data_guidance or GUIDANCES[0],
                "steps": self.steps or DEFAULT_STEPS,
                "prior": "unconditional" if self.unconditional else "conditional",
                "z_smoothing": self.z_smoothing or 0.0,
                "seed": None if self.mode == "quantitative" else self.seed or 0,
                "draws": (self.draws or DEFAULT_DRAWS) if self.has_deviation else None,
            }
        known = {name: value for name, value in given.items() if value is not None}
        return {"method": self.method, "mode": self.mode, "strength": 100.0, **known}


def _require_known(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{flag}: '{value}' is not known: choose one of {', '.join(known)}")


def _require_between(flag: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"{flag} must be {low} to {high}, found {value}")
