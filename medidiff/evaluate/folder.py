"""`medidiff evaluate`: results in folders against a reference, as a table.

plan          every path is listed, every volume has one partner in every other path, every option makes sense:
              all faults in one sentence, before anything is measured
each pair     one pass of all measures -> picture of the worst slice -> journal (a stopped run goes on from there)
at the end    tables and statistics of everything that is finished, also where something failed
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from medidiff import __version__
from medidiff.errors import InputError, MedidiffError, OutputError, UsageError
from medidiff.evaluate import output
from medidiff.evaluate.claim import EVALUATION, claim
from medidiff.evaluate.engine import context_of, look, show
from medidiff.evaluate.journal import Entry, Journal, work_key
from medidiff.evaluate.masks import MaskFile, find_masks, masks_of, open_masks
from medidiff.evaluate.match import Item, find, listed, match, run_parameters
from medidiff.evaluate.pictures import FOLDER as PICTURES
from medidiff.evaluate.pictures import WorstSlice
from medidiff.evaluate.registry import MEASURES, measures
from medidiff.evaluate.view import ReferenceNoise
from medidiff.io.nifti import is_nifti_name
from medidiff.metrics.image import PRESETS
from medidiff.progress import Progress, silent
from medidiff.results.names import RECORD, file_stem
from medidiff.results.rows import CaseFacts, Row
from medidiff.units import Unit
from medidiff.volume import SliceSource

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


@dataclass
class Outcome:
    """What came of it. `failures` are (case, method, why); `silent` are metrics that had nothing to say of a method."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    cases: list[CaseFacts] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    measured: int = 0

    def noting(self, what: str) -> AbstractContextManager[None]:
        """What fails inside is one of the failures, and the rest is written."""
        return output.noting(lambda why: self.failures.append(("all", what, why)))


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
        elif name in found:
            faults.append(f"two candidates are called {name}: tell them apart with --candidate NAME=PATH")
        found[name] = Path(path)
    if faults:
        raise UsageError("; ".join(faults))
    return found


def plan(evaluation: Evaluation) -> Plan:
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


def evaluate(asked: Plan, out: Path, *, overwrite: bool = False, progress: Progress = silent) -> Outcome:
    """Measure what is not finished yet, and write the tables of everything that is.

    Failures of single cases are in the outcome. Raises OutputError for a folder that is not to be written, and
    InputError where every case failed.
    """
    claim(out, asked.identity, overwrite=overwrite)
    outcome, journal = Outcome(out, warnings=list(asked.warnings)), Journal(out)
    output.record(out, _provenance(asked, "unfinished"))
    _measure(asked, journal, outcome, progress)
    entries = _finished(asked, journal)
    if not entries:
        raise InputError("; ".join(f"{case}, {method}: {why}" for case, method, why in outcome.failures))
    _write(asked, entries, outcome)
    return outcome


# --- before


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


# --- the work


def _measure(asked: Plan, journal: Journal, outcome: Outcome, progress: Progress) -> None:
    """Measure every pair that is not finished; a pair that fails does not stop the others, a full disk does."""
    todo = [(c, m, key) for c, m in asked.pairs if not journal.has(c.name, m, key := asked.key(c, m))]
    total, done = sum(case.facts.n_slices for case, _, _ in todo), 0
    for case, method, key in todo:
        try:
            outcome.warnings += _pair(asked, case, method, key, journal, _after(done, total, progress))
            outcome.measured += 1
        except OutputError as error:
            outcome.failures.append((case.name, method, str(error)))
            return
        except (MedidiffError, OSError) as error:
            outcome.failures.append((case.name, method, str(error)))
        done += case.facts.n_slices
        progress(done, total)


def _after(before: int, total: int, progress: Progress) -> Progress:
    return lambda done, _: progress(before + done, total)


def _pair(asked: Plan, case: Case, method: str, key: str, journal: Journal, progress: Progress) -> list[str]:
    """Measure one result, note its numbers, and return warnings."""
    began = time.perf_counter()
    wanted, evaluation = case.reference, asked.evaluation
    candidate, scan, truth = (case.partners.get(name) for name in (method, "--scan", "--truth"))
    assert candidate is not None  # the plan matched it
    reference = wanted.open()
    context = context_of(
        reference, evaluation.measured_in, dose=evaluation.dose, reference_noise=evaluation.reference_noise
    )
    asked_of, worst = measures(evaluation.metrics, context), WorstSlice()
    views = look(
        candidate.open(wanted),
        reference,
        scan=_opened(scan, wanted),
        truth=_opened(truth, wanted),
        deviation=_opened(candidate.deviation, wanted),
        regions=open_masks(case.masks, wanted),
    )
    show(worst.watch(views), asked_of, progress, context.n_slices)
    said = [(list(measure.values()), list(measure.curves())) for measure in asked_of]
    worst.save(journal.folder.parent / PICTURES / f"{file_stem(case.name, method)}.npz", reference.geometry)
    values, functions = ([one for part in parts for one in part] for parts in zip(*said, strict=True))
    journal.put(case.name, method, key, values, functions, case.facts, round(time.perf_counter() - began, 3))
    mute = [name for name, (some, curves) in zip(evaluation.metrics, said, strict=True) if not some and not curves]
    return [f"{case.name}, {method}: {', '.join(mute)} had nothing to measure"] if mute else []


def _opened(item: Item | None, wanted: Item) -> SliceSource | None:
    return None if item is None else item.open(wanted)


def _finished(asked: Plan, journal: Journal) -> list[Entry]:
    found = (journal.get(case.name, method, asked.key(case, method)) for case, method in asked.pairs)
    return [entry for entry in found if entry is not None]


# --- the results


def _write(asked: Plan, entries: Sequence[Entry], outcome: Outcome) -> None:
    """Tables, statistics and record; whatever cannot be written is a failure, and the rest is."""
    out, facts = outcome.folder, {case.name: case.facts for case in asked.cases}
    outcome.rows = [row for entry in entries for row in entry.rows]
    outcome.cases = list({entry.case: facts[entry.case] for entry in entries}.values())
    with outcome.noting("tables"):
        output.tabulate(out, entries, outcome.cases)
    with outcome.noting("statistics"):
        outcome.sentences += output.conclude(out, entries[0].method)
    with outcome.noting(RECORD):
        status = "failed" if outcome.failures else "finished"
        output.record(out, _provenance(asked, status, entries, outcome.failures))


def _provenance(
    asked: Plan, status: str, entries: Sequence[Entry] = (), failures: Sequence[tuple[str, str, str]] = ()
) -> dict[str, Any]:
    evaluation = asked.evaluation
    paths = (evaluation.reference, *evaluation.paths.values(), *filter(None, [evaluation.mask]))
    said = [f"{case}, {method}: {output.without_paths(why, paths)}" for case, method, why in failures]
    return output.provenance(EVALUATION, status, asked.identity, _about(asked), entries, said)


def _about(asked: Plan) -> dict[str, Any]:
    """What was asked: names that the user chose, and no path, as folders may be called by patients."""
    evaluation = asked.evaluation
    made_by = {name: run_parameters(path) or {"external": True} for name, path in evaluation.candidates.items()}
    inputs = {"scan": evaluation.scan is not None, "truth": evaluation.truth is not None}
    return {
        "command": "evaluate",
        "settings": {**evaluation.settings(), **inputs},
        "baseline": next(iter(evaluation.candidates)),
        "methods": made_by,
        "warnings": list(asked.warnings),
        "seeds": {"evaluation": 0},
    }
