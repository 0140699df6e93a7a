"""`medidiff evaluate`: results in folders against a reference, as a table.

each pair     one pass of all measures -> picture of the worst slice -> journal (a stopped run goes on from there)
at the end    tables and statistics of everything that is finished, also where something failed
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medidiff.errors import InputError, MedidiffError, OutputError
from medidiff.evaluate import output
from medidiff.evaluate.claim import EVALUATION, claim
from medidiff.evaluate.engine import context_of, look, show
from medidiff.evaluate.images import images_of
from medidiff.evaluate.journal import Entry, Journal
from medidiff.evaluate.masks import open_masks
from medidiff.evaluate.match import Item, run_parameters
from medidiff.evaluate.pictures import FOLDER as PICTURES
from medidiff.evaluate.pictures import WorstSlice
from medidiff.evaluate.plan import Case, Plan
from medidiff.evaluate.registry import measures
from medidiff.metrics.preset import WHOLE_RANGE
from medidiff.progress import Progress, silent
from medidiff.results.names import RECORD, file_stem
from medidiff.results.rows import CaseFacts, Row
from medidiff.volume import SliceSource

if TYPE_CHECKING:
    from medidiff.statistics import StatisticsSettings


@dataclass
class Outcome:
    """What came of it. `failures` are (case, method, why); `measured` counts the pairs done now, not before."""

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
    result = candidate.open(wanted)
    views = look(
        result,
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
    seconds, furthest = round(time.perf_counter() - began, 3), worst.found(reference.geometry)
    journal.put(case.name, method, key, values, functions, case.facts, seconds, worst=furthest)
    mute = [name for name, (some, curves) in zip(evaluation.metrics, said, strict=True) if not some and not curves]
    said_of = [f"{', '.join(mute)} had nothing to measure"] if mute else []
    if candidate.is_nifti and (lost := _lost(result, reference)):
        said_of.append(f"{lost} voxels of the reference do not count, as the candidate holds no measurement there")
    return [f"{case.name}, {method}: {text}" for text in said_of]


def _lost(candidate: SliceSource, reference: SliceSource) -> int:
    """Voxels that are measured in the reference and are padding, or no numbers, in the candidate."""
    lost = 0
    for index in range(reference.geometry.n_slices):
        if (missing := candidate.padding(index)) is not None:
            outside = reference.padding(index)
            lost += int(np.count_nonzero(missing if outside is None else missing & ~outside))
    return lost


def _opened(item: Item | None, wanted: Item) -> SliceSource | None:
    return None if item is None else item.open(wanted)


def _finished(asked: Plan, journal: Journal) -> list[Entry]:
    found = (journal.get(case.name, method, asked.key(case, method)) for case, method in asked.pairs)
    return [entry for entry in found if entry is not None]


def _write(asked: Plan, entries: Sequence[Entry], outcome: Outcome) -> None:
    """Tables, statistics and record; whatever cannot be written is a failure, and the rest is."""
    out, facts = outcome.folder, {case.name: case.facts for case in asked.cases}
    outcome.rows = [row for entry in entries for row in entry.rows]
    outcome.cases = list({entry.case: facts[entry.case] for entry in entries}.values())
    with outcome.noting("tables"):
        output.tabulate(out, entries, outcome.cases)
    with outcome.noting("statistics"):
        outcome.sentences += output.conclude(out, entries[0].method, _statistics(asked))
    with outcome.noting(RECORD):
        status = "failed" if outcome.failures else "finished"
        output.record(out, _provenance(asked, status, entries, outcome.failures))


def _statistics(asked: Plan) -> StatisticsSettings:
    """The usual ones, with the primary outcome in the unit of the scans."""
    from medidiff.statistics import StatisticsSettings

    return StatisticsSettings.model_validate({}).in_range(WHOLE_RANGE[asked.evaluation.unit])


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
        "settings": {**evaluation.settings(), **inputs, "statistics": _statistics(asked).model_dump(mode="json")},
        "baseline": next(iter(evaluation.candidates)),
        "methods": made_by,
        "images": {case.name: _images(case, evaluation.candidates) for case in asked.cases},
        "warnings": list(asked.warnings),
        "seeds": {"evaluation": 0},
    }


def _images(case: Case, methods: Iterable[str]) -> dict[str, Any]:
    """Digests of what a case was measured on."""
    partners = {"reference": case.reference, "scan": case.partners.get("--scan"), "truth": case.partners.get("--truth")}
    known = {role: item.digest for role, item in partners.items() if item is not None}
    return images_of(known, {method: case.partners[method].digest for method in methods})
