"""A whole study: what is not finished is worked on, then tables, statistics and report are made of all that is.

    OUT/.rows       finished pairs (evaluate.journal), from which a stopped or killed run goes on
    OUT/study.json  whose folder this is, what was asked and how it ended

Nothing that fails stops the rest: a method on a case, a case, the database, the report. Each is named in the one
PartialFailure at the end, and the same command does what is missing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medidiff.errors import PartialFailure
from medidiff.evaluate import output
from medidiff.evaluate.images import images_of
from medidiff.evaluate.journal import Entry, Journal
from medidiff.evaluate.pictures import FOLDER as PICTURES
from medidiff.io.files import writing
from medidiff.progress import Progress, silent
from medidiff.results.names import RECORD, file_stem
from medidiff.results.rows import CaseFacts, Row
from medidiff.study.board import Board
from medidiff.study.claim import STUDY, alone, claim
from medidiff.study.executor import Executor, LocalPool, Outcome, Serial
from medidiff.study.plan import Plan
from medidiff.study.work import BOARD, IMAGES, WORK, Report, Task, work

POLL_SECONDS = 0.3
Failure = tuple[str, str]


@dataclass
class Study:
    """A run under way. `failures` are (what, why); `before` counts the pairs that earlier runs finished."""

    plan: Plan
    out: Path
    failures: list[Failure] = field(default_factory=list)
    before: int = 0

    @property
    def journal(self) -> Journal:
        return Journal(self.out)

    def tasks(self) -> list[Task]:
        """What is not finished, the longest first."""
        study, keys = self.plan.study, self.keys()
        tasks: list[Task] = []
        for case in self.plan.cases:
            wanted = [(method, keys[case.name, method.name]) for method in self.plan.methods]
            todo = [(m, key) for m, key in wanted if not self.journal.has(case.name, m.name, key)]
            self.before += len(wanted) - len(todo)
            if todo:
                tasks.append(
                    Task(len(tasks), case, tuple(todo), self.out, study.metrics, study.presets, study.seed,
                         study.keep_images)
                )  # fmt: skip
        return sorted(tasks, key=lambda task: -task.ticks)

    def keys(self) -> dict[tuple[str, str], str]:
        return {(case.name, method.name): self.plan.key(case, method) for case, method in self.plan.pairs}

    def noting(self, what: str) -> AbstractContextManager[None]:
        """What fails inside is one of the failures, and the run goes on."""
        return output.noting(lambda why: self.failures.append((what, why)))

    def entries(self) -> list[Entry]:
        """Everything that is finished and part of this study."""
        found = (self.journal.get(case, method, key) for (case, method), key in self.keys().items())
        return [entry for entry in found if entry is not None]


@dataclass(frozen=True)
class Finished:
    """A study that is whole: its folder, what its statistics say, and the pairs done now and by earlier runs.
    `warnings` have a sentence for each case that lies outside of what a model has seen."""

    folder: Path
    sentences: tuple[str, ...]
    computed: int
    reused: int
    warnings: tuple[str, ...] = ()


def run(plan: Plan, *, workers: int | None = None, overwrite: bool = False, progress: Progress = silent) -> Finished:
    """Run a study. `progress` counts slices, twice each: restored and judged.

    Raises OutputError for a folder that is not this study's, PartialFailure naming what failed (everything else is
    done), and KeyboardInterrupt when Ctrl-C was pressed, once, and the slice under way was finished.
    """
    out, count = plan.study.output, workers or plan.study.workers
    claim(out, plan.identity(), overwrite=overwrite)
    with alone(out):
        study = Study(plan, out)
        tasks = study.tasks()
        output.record(out, _provenance(study, "unfinished"))
        _work(study, tasks, LocalPool(count) if count > 1 and len(tasks) > 1 else Serial(), progress)
        entries = study.entries()
        sentences = _results(study, entries)
    if study.failures:
        raise PartialFailure(_told(study))
    computed = len(plan.pairs) - study.before
    return Finished(out, tuple(sentences), computed, study.before, tuple(warnings_of(entries)))


# ---------------------------------------------------------------- the work


def _work(study: Study, tasks: Sequence[Task], executor: Executor, progress: Progress) -> None:
    """Work on all tasks; raises KeyboardInterrupt when the user stopped it."""
    if not tasks:
        return
    with writing(study.out):
        board = Board.make(study.out / WORK / BOARD, len(tasks))
    total, full = sum(task.ticks for task in tasks), ""
    with _interruptible(board) as interrupted, _watched(board, total, progress):
        for outcome in executor.run(tasks, work):
            report = _report(outcome)
            study.failures += report.failures
            if report.full and not full:
                full = report.full
                board.stop()
    if full:
        study.failures.append(("the disk", f"{full}: make room"))
    if interrupted:
        raise KeyboardInterrupt


def _report(outcome: Outcome[Task, Report]) -> Report:
    if outcome.result is not None:
        return outcome.result
    died = "the process died, for lack of memory perhaps; try fewer workers"
    return Report(failures=[(outcome.task.case.name, died)])


@contextmanager
def _watched(board: Board, total: int, progress: Progress) -> Iterator[None]:
    """Tell `progress` how far all processes are, from a thread."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            progress(board.done(), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        progress(board.done(), total)


@contextmanager
def _interruptible(board: Board) -> Iterator[list[int]]:
    """Ctrl-C stops all processes after the slice under way; a second one stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        board.stop()
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- the results


def _results(study: Study, entries: Sequence[Entry]) -> list[str]:
    """Tables, statistics, record, report and database from all that is finished; what fails is noted."""
    sentences, asked = list[str](), study.plan.study
    rows = [row for entry in entries for row in entry.rows]
    facts = list({entry.case: entry.facts for entry in entries}.values())
    if rows:
        with study.noting("the tables"):
            output.tabulate(study.out, entries, facts)
        with study.noting("the statistics"):
            sentences = output.conclude(study.out, study.plan.baseline, asked.statistics)
        _forget_images(study, entries)
        if asked.database is not None:
            with study.noting("the database"):
                _store(study, asked.database, rows, facts, entries)
    _record(study, entries)
    if rows and asked.report:
        _page(study, entries)
    return sentences


def _record(study: Study, entries: Sequence[Entry]) -> None:
    with study.noting(RECORD):
        status = "failed" if study.failures else "finished"
        output.record(study.out, _provenance(study, status, entries))


def _page(study: Study, entries: Sequence[Entry]) -> None:
    """Build the page from the folder; where it cannot be, the record says so."""
    from medidiff.report import build

    before = len(study.failures)
    with study.noting("the report"):
        build(study.out, title=study.plan.study.title or study.plan.study.name)
    if len(study.failures) > before:
        _record(study, entries)


def _store(study: Study, url: str, rows: Sequence[Row], facts: Sequence[CaseFacts], entries: Sequence[Entry]) -> None:
    from medidiff.results.database import open_database, store

    engine = open_database(url)
    try:
        store(engine, study.plan.study.name, rows, facts, _provenance(study, "finished", entries))
    finally:
        engine.dispose()


def warnings_of(entries: Iterable[Entry]) -> list[str]:
    """A sentence for each case that lies outside of what a model has seen; methods of which one thing is to be said are
    named together."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for entry in entries:
        if entry.warnings:
            found.setdefault(entry.case, {}).setdefault(entry.warnings, []).append(entry.method)
    return [
        f"{case}, " + "; ".join(f"{', '.join(methods)}: {'; '.join(told)}" for told, methods in by_method.items())
        for case, by_method in found.items()
    ]


def _forget_images(study: Study, entries: Sequence[Entry]) -> None:
    """Remove pictures and images of pairs that are no part of the study any more."""
    kept = {file_stem(entry.case, entry.method) for entry in entries}
    for folder, ending in ((PICTURES, ".npz"), (IMAGES, ".nii.gz")):
        for path in (study.out / folder).glob(f"*{ending}"):
            if path.name.removesuffix(ending) not in kept:
                path.unlink(missing_ok=True)


def _provenance(study: Study, status: str, entries: Sequence[Entry] = ()) -> dict[str, Any]:
    """What was asked, with what it was done, and how it ended; no paths of scans, and no password of a database."""
    plan = study.plan
    about = {
        "settings": _settings(plan),
        "baseline": plan.baseline,
        "cases": {case.name: case.kind.decides() | {"sha256": case.fingerprint} for case in plan.cases},
        "methods": {method.name: method.parameters for method in plan.methods},
        "images": _images(plan, entries),
        "seeds": {"study": plan.study.seed},
        "warnings": warnings_of(entries),
    }
    paths = _paths(plan)
    failures = (f"{what}: {output.without_paths(why, paths)}" for what, why in study.failures)
    return output.provenance(STUDY, status, plan.identity(), about, entries, failures)


def _images(plan: Plan, entries: Sequence[Entry]) -> dict[str, Any]:
    """Digests of what each case was measured on: files that were given, but for blends of them, and images kept."""
    blends = {method.name for method in plan.methods if method.blend}
    found = {
        case.name: {result.method: result.digest for result in case.results if result.method not in blends}
        for case in plan.cases
    }
    for entry in entries:
        if entry.image:
            found[entry.case][entry.method] = entry.image
    return {case.name: images_of(dict(case.images), found[case.name]) for case in plan.cases}


def _settings(plan: Plan) -> dict[str, Any]:
    """The settings that are no paths; what cases and methods are is told beside them."""
    regions = plan.study.regions
    names = [*regions.masks, *(["lesions"] if regions.lesions else [])]
    paths = {"cases", "methods", "data_root", "database", "output", "regions"}
    return plan.study.model_dump(mode="json", exclude=paths) | {"regions": names}


def _paths(plan: Plan) -> set[Path]:
    """Everything on the disk that is read."""
    files = {path for case in plan.cases for path in vars(case.kind).values() if isinstance(path, Path)}
    return files | {result.path for case in plan.cases for result in case.results}


def _told(study: Study) -> str:
    """One sentence with every failure."""
    total, done = len(study.plan.pairs), len(study.entries())
    failures = "; ".join(f"{what}: {why.rstrip('.')}" for what, why in study.failures)
    return f"{done} of {total} results are finished and kept, the same command does the rest; failed: {failures}"
