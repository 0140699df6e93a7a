"""A study as its YAML file says it: cases, methods, metrics, regions, statistics, and where the results go.

Paths of scans, references and masks are relative to `data_root`, all others to the working directory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medidiff.config import Settings, load_settings
from medidiff.data.manifest import Split
from medidiff.errors import UsageError
from medidiff.evaluate.phantoms import I0
from medidiff.evaluate.view import ReferenceNoise
from medidiff.inference.options import MODEL, Options
from medidiff.inference.tuned import Found
from medidiff.physics.ct import KERNELS
from medidiff.statistics.settings import StatisticsSettings
from medidiff.units import Unit

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+=@]|-(?!-))*")  # "--" parts case and method in file names
OF_METHODS = {
    "method", "smoothing", "model", "mode", "strength", "dose", "steps", "sampler", "cfg_scale", "draws", "seed",
    "device", "guard", "engine", "precision",
}  # fmt: skip  # the options of `medidiff reconstruct` that decide voxels


def _speakable(name: str) -> str:
    if not NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise ValueError(f"'{name}' cannot name files: use letters, digits, spaces and . _ + = @ -")
    return name


Name = Annotated[str, AfterValidator(_speakable)]
Dose = Annotated[float, Field(gt=0, lt=1)]


class Labels(Settings):
    """What sets a case apart; a case without `patient` is its own patient."""

    name: Name | None = None
    patient: str | None = Field(default=None, min_length=1)
    group: str | None = None


class Sphere(Settings):
    """A sphere of a NEMA phantom: its centre in mm from the middle of the image, x along columns and y along rows.

    slice   that the centre lies in, counted from 0
    ratio   of its activity to the background's
    """

    name: Name
    x_mm: float
    y_mm: float
    slice: int = Field(ge=0)
    diameter_mm: float = Field(gt=0)
    ratio: float = Field(ge=0)


class Nema(Settings):
    """What NEMA NU 2 measures at: spheres, and the centres (x, y) in mm of background discs in some slices."""

    spheres: tuple[Sphere, ...] = Field(min_length=1)
    background: tuple[tuple[float, float], ...] = Field(min_length=2)
    background_slices: tuple[int, ...] = Field(min_length=1)


class Paired(Labels):
    """A low-dose scan, what it is compared with, and, where it is known, the noise-free truth.

    unit   of NIfTI files: HU, or SUV for PET
    """

    scan: Path
    reference: Path
    truth: Path | None = None
    unit: Unit = "HU"
    nema: Nema | None = None
    dose: float | None = Field(default=None, gt=0)
    reference_noise: ReferenceNoise = "independent"
    allow_gaps: bool = False


class Scanner(Settings):
    """Kernel and photons a ray at full dose; None: measured in the scan."""

    kernel: str | None = None
    i0: float | None = Field(default=None, gt=0)

    @field_validator("kernel")
    @classmethod
    def _known(cls, kernel: str | None) -> str | None:
        if kernel is not None and kernel not in KERNELS:
            raise ValueError(f"'{kernel}' is not known: choose one of {', '.join(KERNELS)}")
        return kernel


class Simulation(Scanner):
    """How lower doses are simulated; `fallback` is for scans that show no even tissue to measure the noise in."""

    fallback: Scanner | None = None

    @field_validator("fallback")
    @classmethod
    def _whole(cls, fallback: Scanner | None) -> Scanner | None:
        if fallback is not None and None in (fallback.kernel, fallback.i0):
            raise ValueError("needs both kernel and i0, e.g. {kernel: hann, i0: 4.0e+5}")
        return fallback


class Simulate(Labels, Simulation):
    """A full-dose scan from which lower doses are simulated; it is the reference of each."""

    full: Path
    doses: tuple[Dose, ...] = Field(min_length=1)
    allow_gaps: bool = False


class Phantom(Labels):
    """Drawn objects with known truth, scanned at each of the doses."""

    kind: str
    doses: tuple[float, ...] = Field(min_length=1)
    kernel: str = "hann"
    realisations: int = 50
    matrix: int = 256
    pixel_mm: float = 0.9
    i0: float = I0
    reference_noise: ReferenceNoise = "none"


class Manifest(Simulation):
    """The scans of one split of a CSV file (as for training); those without a measured low dose are simulated."""

    manifest: Path
    split: Split = "test"
    doses: tuple[Dose, ...] = ()


class Entry(Settings):
    """One item of `cases`: exactly one of its keys."""

    paired: Paired | None = None
    simulate: Simulate | None = None
    phantom: Phantom | None = None
    manifest: Manifest | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Entry:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of paired, simulate, phantom, manifest, found {', '.join(given) or 'none'}")
        return self


class MethodEntry(BaseModel):
    """One item of `methods`: options of `medidiff reconstruct`, or a folder of results made elsewhere.

    blend         share of the input that is put back: x_hat + blend (y - x_hat); "tuned": as found by `medidiff tune`
    tuned         file of `medidiff tune` that the strength of a classical method, or the blend, is taken from
    tuned_group   the group of its trials to take them from, e.g. "smooth 0.25"; all trials where there is none
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    external: Path | None = None
    blend: Annotated[float, Field(ge=0, le=1)] | Literal["tuned"] | None = None
    tuned: Path | None = None
    tuned_group: str | None = None

    @property
    def is_model(self) -> bool:
        return (self.model_extra or {}).get("method", MODEL) == MODEL

    @property
    def from_tuned(self) -> list[str]:
        """What is taken from the file."""
        return [*([] if self.is_model else ["smoothing"]), *(["blend"] if self.blend == "tuned" else [])]

    @model_validator(mode="after")
    def _known(self) -> MethodEntry:
        given = set(self.model_extra or {})
        faults = [f"unknown: {', '.join(unknown)}"] if (unknown := sorted(given - OF_METHODS)) else []
        if self.external and (given or self.tuned):
            unused = sorted(given | ({"tuned"} if self.tuned else set()))
            raise ValueError(f"results made elsewhere have no {', '.join(unused)}: leave it out")
        if self.blend is not None and "strength" in given:
            raise ValueError("blend and strength are one thing (blend 0.3 is strength 70): give one of them")
        self._check_tuned(given)
        if not self.external:
            try:
                self.options(0)
            except UsageError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _check_tuned(self, given: set[str]) -> None:
        if self.tuned is None:
            if self.tuned_group is not None or self.blend == "tuned":
                raise ValueError("needs a file of medidiff tune: give tuned, e.g. pipelines/tuned_ct.yaml")
        elif "smoothing" in given:
            raise ValueError("smoothing and tuned both give the strength: leave one of them out")
        elif self.is_model and self.blend != "tuned":
            raise ValueError("a model has no strength to take from a tuned file, only a blend: add blend: tuned")

    def options(self, seed: int, found: Found | None = None) -> Options:
        """As for `medidiff reconstruct`; `seed` where the entry names none and the method draws.

        `found` is what `tuned` holds for the method.
        """
        values = {key: value for key, value in (self.model_extra or {}).items() if key in OF_METHODS}
        blend = (found.alpha if found else None) if self.blend == "tuned" else self.blend
        if blend is not None:
            values["strength"] = 100 * (1 - blend)
        if found is not None and found.smoothing is not None:
            values["smoothing"] = found.smoothing
        options = Options.of(**values)
        if options.seed is None and "seed" in options.parameters():
            options = Options.of(**values, seed=seed)
        return options


class Regions(Settings):
    """Where to measure beside the whole image.

    masks     region -> a NIfTI file, or a folder with one named after each case that has the region
    lesions   the same for label images: every label above 0 is a lesion of its own
    """

    masks: dict[Name, Path] = Field(default_factory=dict)
    lesions: Path | None = None


class Study(Settings):
    """Everything that a study is.

    slices        at most so many slices from the middle of each scan
    keep_images   write every result as NIfTI beside its numbers
    database      SQLAlchemy URL where the rows are stored as well
    """

    name: Name
    output: Path
    cases: tuple[Entry, ...]
    methods: tuple[MethodEntry, ...]
    data_root: Path = Path()
    seed: int = Field(default=0, ge=0, lt=2**63)
    presets: tuple[str, ...] = Field(default=("hu", "abdomen"), min_length=1)
    metrics: tuple[str, ...] = Field(default=("rmse", "psnr", "ssim", "bias", "companions"), min_length=1)
    regions: Regions = Regions()
    statistics: StatisticsSettings = Field(default_factory=lambda: StatisticsSettings.model_validate({}))
    report: bool = True
    title: str = ""
    database: str | None = None
    slices: int | None = Field(default=None, ge=1)
    keep_images: bool = False
    workers: int = Field(default=1, ge=1)

    def identity(self) -> dict[str, Any]:
        """What makes it this study: everything but where it runs, how fast, and where copies of its rows go."""
        return self.model_dump(mode="json", exclude={"output", "data_root", "workers", "database", "report", "title"})


class _Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def read_study(path: Path, overrides: Sequence[str] = ()) -> tuple[Study | None, list[str]]:
    """The study of a file and what is wrong with its keys and values; what is right is still worth checking further.

    Raises UsageError for what is no YAML mapping at all.
    """
    values = dict(load_settings(_Anything, path, overrides).model_extra or {})
    try:
        return Study.model_validate(values), []
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'study'}: {_plain(e['msg'])}" for e in error.errors()]
        for place in sorted({_dropped(e["type"], e["loc"]) for e in error.errors()}, key=_from_the_end):
            _drop(values, place)
    try:
        return Study.model_validate(values), faults
    except ValidationError:
        return None, faults


Location = tuple[int | str, ...]


def _plain(message: str) -> str:
    if message == "Extra inputs are not permitted":
        return "unknown key"
    return message.removeprefix("Value error, ")


def _dropped(kind: str, place: Location) -> Location:
    """The part of the settings to leave out: a key too many, or the list item or key that holds the fault."""
    if kind == "extra_forbidden":
        return place
    return place[:2] if len(place) > 1 and isinstance(place[1], int) else place[:1]


def _from_the_end(place: Location) -> tuple[int, ...]:
    return (-len(place), *(-part for part in place if isinstance(part, int)))


def _drop(values: Any, place: Location) -> None:
    *parents, last = place
    for parent in parents:
        values = values[parent]
    if not isinstance(values, dict) or last in values:
        del values[last]
