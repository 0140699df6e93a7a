"""A whole study: what is not finished is worked on, then tables, statistics and report are made of all that is.

    OUT/.rows       finished pairs (evaluate.journal), from which a stopped or killed run goes on
    OUT/.work       files of the tasks under way; removed at the end, and by the next run after a kill
    OUT/study.json  whose folder this is, what was asked and how it ended

Nothing that fails stops the rest: a method on a case, a case, the database, the report. Each is named in the one
PartialFailure at the end, and the same command does what is missing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff import DISCLAIMER, __version__
from medidiff.errors import MedidiffError, OutputError, PartialFailure
from medidiff.evaluate.journal import Entry, Journal
from medidiff.evaluate.pictures import FOLDER as PICTURES
from medidiff.io.derived import write_whole
from medidiff.progress import Progress, silent
from medidiff.results.names import file_stem
from medidiff.results.rows import CaseFacts, Row
from medidiff.results.tables import read_tables, write_curves, write_statistics, write_tables
from medidiff.statistics import analyse
from medidiff.study.board import Board
from medidiff.study.executor import Executor, LocalPool, Outcome, Serial
from medidiff.study.plan import Plan
from medidiff.study.work import BOARD, IMAGES, WORK, Report, Task, work

FORMAT, RECORD, LOCK = "medidiff-study-1", "study.json", ".lock"
TABLES = ("results.csv", "results.parquet", "cases.csv", "curves.json", "statistics.csv", "comparisons.csv",
          "agreement.csv", "conclusions.txt", "report.html", "methods.txt")  # fmt: skip
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

    def entries(self) -> list[Entry]:
        """Everything that is finished and part of this study."""
        found = (self.journal.get(case, method, key) for (case, method), key in self.keys().items())
        return [entry for entry in found if entry is not None]


@dataclass(frozen=True)
class Finished:
    """A study that is whole: its folder, what its statistics say, and the pairs done now and by earlier runs."""

    folder: Path
    sentences: tuple[str, ...]
    computed: int
    reused: int


def run(plan: Plan, *, workers: int | None = None, overwrite: bool = False, progress: Progress = silent) -> Finished:
    """Run a study. `progress` counts slices, twice each: restored and judged.

    Raises OutputError for a folder that is not this study's, PartialFailure naming what failed (everything else is
    done), and KeyboardInterrupt when Ctrl-C was pressed, once, and the slice under way was finished.
    """
    out, count = plan.study.output, workers or plan.study.workers
    _claim(plan, out, overwrite)
    with _alone(out):
        study = Study(plan, out)
        tasks = study.tasks()
        _record(study, "unfinished", [])
        _work(study, tasks, LocalPool(count) if count > 1 and len(tasks) > 1 else Serial(), progress)
        sentences = _results(study)
    if study.failures:
        raise PartialFailure(_told(study))
    return Finished(out, tuple(sentences), len(plan.pairs) - study.before, study.before)


# ---------------------------------------------------------------- the folder


def _claim(plan: Plan, out: Path, overwrite: bool) -> None:
    """Make the folder ours; raises OutputError where it holds something else, or another study without `overwrite`."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a new folder with output=FOLDER")
    if not out.exists() or not {path.name for path in out.iterdir()} - {LOCK, WORK}:
        _writing(out, lambda: out.mkdir(parents=True, exist_ok=True))
        return
    found = _found(out)
    if found is None:
        raise OutputError(f"{out}: already holds files that are no study of medidiff; name a new folder with output=")
    if found == plan.identity():
        return
    if not overwrite:
        raise OutputError(
            f"{out}: holds another study, or this one with other settings; name a new folder with output=FOLDER, or "
            "replace it with --overwrite (what is finished and still holds is kept)"
        )
    for name in TABLES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tables", ignore_errors=True)


def _found(out: Path) -> str | None:
    """The identity of the study that a folder holds."""
    try:
        record = json.loads((out / RECORD).read_bytes())
        return str(record["identity"]) if record["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder, and remove the files of tasks at the end; a kill frees the folder."""
    import fcntl

    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{out}: another run is at work in this folder; wait for it, or stop it") from None
        try:
            _writing(out, lambda: (out / WORK).mkdir(exist_ok=True))
            for path in (out / WORK).iterdir():
                if path.is_dir():  # of a task that was killed; what is worth computing once stays
                    shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            shutil.rmtree(out / WORK, ignore_errors=True)
            (out / LOCK).unlink(missing_ok=True)


def _writing(path: Path, write: Callable[[], Any]) -> Any:
    try:
        return write()
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise OutputError(f"{path}: {reason}; check the path, its permissions and the free space") from error


# ---------------------------------------------------------------- the work


def _work(study: Study, tasks: Sequence[Task], executor: Executor, progress: Progress) -> None:
    """Work on all tasks; raises KeyboardInterrupt when the user stopped it."""
    if not tasks:
        return
    board = _writing(study.out, lambda: Board.make(study.out / WORK / BOARD, len(tasks)))
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


def _results(study: Study) -> list[str]:
    """Tables, statistics, record, report and database from all that is finished; what fails is noted."""
    entries, sentences = study.entries(), list[str]()
    rows = [row for entry in entries for row in entry.rows]
    facts = list({entry.case: entry.facts for entry in entries}.values())
    if rows:
        with _noting(study, "the tables"):
            write_tables(study.out, rows, facts)
            write_curves(study.out, [curve for entry in entries for curve in entry.curves])
        with _noting(study, "the statistics"):
            sentences = _statistics(study)
        _forget_images(study, entries)
        if study.plan.study.database is not None:
            with _noting(study, "the database"):
                _store(study, study.plan.study.database, rows, facts, entries)
    with _noting(study, RECORD):
        _record(study, "failed" if study.failures else "finished", entries)
    if rows and study.plan.study.report:
        from medidiff.report import build

        with _noting(study, "the report"):
            build(study.out, title=study.plan.study.title or study.plan.study.name)
    return sentences


@contextmanager
def _noting(study: Study, what: str) -> Iterator[None]:
    try:
        yield
    except (MedidiffError, OSError) as error:
        study.failures.append((what, str(error)))


def _statistics(study: Study) -> list[str]:
    analysis = analyse(read_tables(study.out)[0], study.plan.study.statistics, study.plan.baseline)
    write_statistics(study.out, analysis)
    return list(analysis.sentences)


def _store(study: Study, url: str, rows: Sequence[Row], facts: Sequence[CaseFacts], entries: Sequence[Entry]) -> None:
    from medidiff.results.database import open_database, store

    engine = open_database(url)
    try:
        store(engine, study.plan.study.name, rows, facts, _provenance(study, "finished", entries))
    finally:
        engine.dispose()


def _forget_images(study: Study, entries: Sequence[Entry]) -> None:
    """Remove pictures and images of pairs that are no part of the study any more."""
    kept = {file_stem(entry.case, entry.method) for entry in entries}
    for folder, ending in ((PICTURES, ".npz"), (IMAGES, ".nii.gz")):
        for path in (study.out / folder).glob(f"*{ending}"):
            if path.name.removesuffix(ending) not in kept:
                path.unlink(missing_ok=True)


def _record(study: Study, status: str, entries: Sequence[Entry]) -> None:
    text = json.dumps(_provenance(study, status, entries), indent=2, ensure_ascii=False, default=str)
    write_whole(study.out / RECORD, text.encode())


def _provenance(study: Study, status: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """What was asked, with what it was done, and how it ended; no paths of scans, and no password of a database."""
    plan, seconds = study.plan, dict[str, dict[str, float]]()
    for entry in entries:
        seconds.setdefault(entry.case, {})[entry.method] = entry.seconds
    return {
        "format": FORMAT,
        "medidiff": __version__,
        "note": DISCLAIMER,
        "status": status,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": plan.identity(),
        "settings": _settings(plan),
        "baseline": plan.baseline,
        "cases": {case.name: case.kind.decides() | {"sha256": case.fingerprint} for case in plan.cases},
        "methods": {method.name: method.parameters for method in plan.methods},
        "seeds": {"study": plan.study.seed},
        "software": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": {"processors": os.cpu_count()},
        "failures": [f"{what}: {_private(why, plan)}" for what, why in study.failures],
        "seconds": seconds,
    }


def _settings(plan: Plan) -> dict[str, Any]:
    """The settings that are no paths; what cases and methods are is told beside them."""
    regions = plan.study.regions
    names = [*regions.masks, *(["lesions"] if regions.lesions else [])]
    paths = {"cases", "methods", "data_root", "database", "output", "regions"}
    return plan.study.model_dump(mode="json", exclude=paths) | {"regions": names}


def _private(sentence: str, plan: Plan) -> str:
    """A sentence without the paths in it: folders may be called by patients."""
    paths = {str(path) for case in plan.cases for path in vars(case.kind).values() if isinstance(path, Path)}
    paths |= {str(result.path) for case in plan.cases for result in case.results}
    for path in sorted(paths, key=len, reverse=True):
        sentence = re.sub(r"(?<!\w)" + re.escape(path) + r".*?(?=: |; |$)", "a file", sentence)
    return sentence


def _told(study: Study) -> str:
    """One sentence with every failure."""
    total, done = len(study.plan.pairs), len(study.entries())
    failures = "; ".join(f"{what}: {why.rstrip('.')}" for what, why in study.failures)
    return f"{done} of {total} results are finished and kept, the same command does the rest; failed: {failures}"
