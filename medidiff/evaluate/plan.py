"""What `medidiff evaluate` is asked, checked as a whole before anything is measured.

    Evaluation -> every path listed, one partner of every volume in every other path, options that make sense -> Plan

All faults are in one sentence. A pair (case, method) has a key, the hash of everything that decides its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medidiff import __version__
from medidiff.errors import InputError, UsageError
from medidiff.evaluate.journal import work_key
from medidiff.evaluate.masks import MaskFile, find_masks, masks_of
from medidiff.evaluate.match import Item, find, listed, match
from medidiff.evaluate.registry import MEASURES
from medidiff.evaluate.view import ReferenceNoise
from medidiff.io.nifti import is_nifti_name
from medidiff.metrics.image import PRESETS
from medidiff.results.rows import CaseFacts
from medidiff.units import Unit

METRICS = ("rmse", "nrmse", "psnr", "ssim", "bias")
DEFAULT_PRESETS: dict[Unit, tuple[str, ...]] = {"HU": ("hu", "abdomen"), "SUV": ("suv",)}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@-]{0,59}")
REFERENCE = "--reference"
NEEDS_SCAN = ("companions", "hallucination")


@dataclass(frozen=True)
class Evaluation:
    """What is asked; see `medidiff evaluate --help`. `candidates` is name -> path, the first is the baseline."""

    reference: Path
    candidates: Mapping[str, Path]
    presets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = METRICS
    mask: Path | None = None
    scan: Path | None = None
    truth: Path | None = None
    dose: float | None = None
    reference_noise: ReferenceNoise = "independent"
    unit: Unit = "HU"

    @property
    def measured_in(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.presets)) or DEFAULT_PRESETS[self.unit]

    @property
    def paths(self) -> dict[str, Path]:
        """All paths but the reference's, by what they are called."""
        others = {"--scan": self.scan, "--truth": self.truth}
        return {**self.candidates, **{name: path for name, path in others.items() if path is not None}}

    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside the files."""
        return {
            "metrics": list(self.metrics),
            "presets": list(self.measured_in),
            "dose": self.dose,
            "reference_noise": self.reference_noise,
            "unit": self.unit,
        }


@dataclass(frozen=True, eq=False)
class Case:
    """A volume of the reference with its partners, by the names of `Evaluation.paths`."""

    reference: Item
    partners: Mapping[str, Item]
    masks: Sequence[MaskFile]
    facts: CaseFacts

    @property
    def name(self) -> str:
        return self.reference.case


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will be measured."""

    evaluation: Evaluation
    cases: tuple[Case, ...]
    warnings: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[Case, str]]:
        return [(case, method) for case in self.cases for method in self.evaluation.candidates]

    @property
    def identity(self) -> str:
        """What must agree for a folder to be continued; the content of files may change, and is then measured again."""
        asked = self.evaluation
        paths = [asked.reference, *asked.paths.items(), asked.mask]
        return work_key(__version__, [str(path) for path in paths], asked.settings())

    def key(self, case: Case, method: str) -> str:
        """A hash of everything that decides the numbers of a pair."""
        candidate = case.partners[method]
        items = [case.reference, candidate, candidate.deviation, *(case.partners.get(n) for n in ("--scan", "--truth"))]
        prints = [None if item is None else item.fingerprint for item in items]
        regions = [(mask.fingerprint, mask.regions(case.reference)) for mask in case.masks]
        return work_key(__version__, prints, regions, self.evaluation.settings())


def named(candidates: Sequence[str]) -> dict[str, Path]:
    """`[NAME=]PATH` as name -> path; a path without a name is called by its last part. Raises UsageError."""
    found: dict[str, Path] = {}
    faults = []
    for text in candidates:
        name, separator, path = text.partition("=")
        if not separator or Path(text).exists():
            name, path = _last_part(Path(text)), text
        if not NAME.fullmatch(name):
            faults.append(
                f"'{name}' is no name for a method: give --candidate NAME=PATH with letters, digits, . _ + @ -"
            )
        elif name.lower() in map(str.lower, found):  # they name files, also where "A" and "a" are one
            faults.append(f"two candidates are called {name}: tell them apart with --candidate NAME=PATH")
        found[name] = Path(path)
    if faults:
        raise UsageError("; ".join(faults))
    return found


def make_plan(evaluation: Evaluation) -> Plan:
    """List and match everything; raises UsageError or InputError with every fault at once."""
    _check(evaluation)
    found, faults = _listed(evaluation)
    references = found.pop(REFERENCE, [])
    partners: list[dict[str, Item]] = [{} for _ in references]
    warnings = list[str]()
    for name, items in found.items() if references else ():
        matched, unmatched = match(references, items)
        if unmatched:
            faults.append(f"{name} ({evaluation.paths[name]}) does not match the reference: {listed(unmatched)}")
        for of_case, item in zip(partners, matched, strict=False):
            of_case[name] = item
        warnings += _foreign_frames(name, references, matched)
    if faults:
        advice = "every volume needs exactly one partner, by name or by position" if found else "check the paths"
        raise InputError(f"{'; '.join(faults)}; {advice}; nothing was measured")
    masks = masks_of(references, find_masks(evaluation.mask)) if evaluation.mask else [[] for _ in references]
    facts = _facts(references, evaluation)
    cases = map(Case, references, partners, masks, facts)
    return Plan(evaluation, tuple(cases), tuple(warnings))


def _last_part(path: Path) -> str:
    name = path.resolve().name
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE) if is_nifti_name(path) else name


def _check(asked: Evaluation) -> None:
    """Raise UsageError naming everything that cannot be."""
    faults = []
    if asked.unit not in get_args(Unit):
        raise UsageError(f"--unit: '{asked.unit}' is unknown; choose HU or SUV")
    if not asked.candidates:
        faults.append("--candidate: name at least one folder or file to compare with the reference")
    if unknown := [name for name in asked.metrics if name not in MEASURES]:
        faults.append(f"--metric: {', '.join(unknown)} unknown; choose from {', '.join(MEASURES)}")
    if unknown := [name for name in asked.measured_in if name not in PRESETS]:
        faults.append(f"--preset: {', '.join(unknown)} unknown; choose from {', '.join(PRESETS)}")
    foreign = [name for name in asked.measured_in if name in PRESETS and PRESETS[name].unit != asked.unit]
    if foreign:
        faults.append(f"--preset: {', '.join(foreign)} is for {PRESETS[foreign[0]].unit}, the data are in {asked.unit}")
    if asked.reference_noise not in get_args(ReferenceNoise):
        faults.append(f"--reference-noise: '{asked.reference_noise}' is unknown; choose none, shared or independent")
    if asked.dose is not None and not 0 < asked.dose <= 1:
        faults.append(f"--dose: {asked.dose:g} is not a fraction of the full dose (above 0, at most 1)")
    if asked.scan is None and (lacking := [name for name in asked.metrics if name in NEEDS_SCAN]):
        faults.append(f"--metric: {', '.join(lacking)} needs --scan, what the candidates were made from")
    paths = (asked.reference, *asked.paths.values(), *filter(None, [asked.mask]))
    faults += [f"{path}: no such file or folder" for path in paths if not path.exists()]
    if faults:
        raise UsageError("; ".join(faults))


def _foreign_frames(name: str, references: Sequence[Item], matched: Sequence[Item]) -> list[str]:
    """A warning for volumes that a name pairs, while their headers do not say that they show one position."""
    doubtful = [
        reference.case
        for reference, item in zip(references, matched, strict=False)
        if len({reference.frame_of_reference, item.frame_of_reference} - {None}) > 1
    ]
    if not doubtful:
        return []
    return [f"{name}: matched by name, though the frame of reference differs: {listed(doubtful)}"]


def _facts(references: Sequence[Item], asked: Evaluation) -> list[CaseFacts]:
    """Patients are numbered: who they are stays in the headers."""
    patients = list(dict.fromkeys(item.patient for item in references))
    return [
        CaseFacts(
            case=item.case,
            patient=f"P{patients.index(item.patient) + 1:03d}",
            group=item.kernel,
            dose=asked.dose,
            reference_noise=asked.reference_noise,
            n_slices=0 if item.place is None else item.place.n_slices,
        )
        for item in references
    ]


def _listed(asked: Evaluation) -> tuple[dict[str, list[Item]], list[str]]:
    """The volumes of every path, and what is wrong with paths that hold none."""
    found, faults = dict[str, list[Item]](), list[str]()
    for name, path in {REFERENCE: asked.reference, **asked.paths}.items():
        try:
            found[name] = find(path, asked.unit)
        except InputError as error:
            faults.append(str(error))
    return found, faults
