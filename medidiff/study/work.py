"""One task: a case at one dose, with every method that is not finished for it yet.

    open -> scan, reference and truth into plain files (a simulated dose is drawn once, every method reads the same)
    -> for each method: restore slice by slice into a file -> one pass of all measures -> journal -> files removed

A method that fails is named and the next one goes on. Memory holds a few slices, whatever the size of the case.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from medidiff.errors import InputError, MedidiffError, OutputError
from medidiff.evaluate.engine import context_of, judge, look
from medidiff.evaluate.images import digest
from medidiff.evaluate.journal import Journal
from medidiff.evaluate.measure import Function, Value
from medidiff.evaluate.output import FAULTS
from medidiff.evaluate.pictures import FOLDER as PICTURES
from medidiff.evaluate.pictures import WorstSlice
from medidiff.evaluate.registry import measures
from medidiff.evaluate.view import Context
from medidiff.inference.guard import Watch, header_warnings
from medidiff.inference.methods import Method as Ready
from medidiff.inference.methods import load_method
from medidiff.inference.options import Options
from medidiff.inference.restore import Restored, blended, restore
from medidiff.inference.run import choose_device
from medidiff.io.files import file_hash
from medidiff.io.nifti import write_nifti
from medidiff.results.names import file_stem
from medidiff.seen import Facts
from medidiff.study.board import Board, Stopped
from medidiff.study.external import open_result
from medidiff.study.inputs import Inputs, middle, middle_of
from medidiff.study.plan import Case, Method
from medidiff.study.regions import Lookup
from medidiff.study.spool import Spool, spool
from medidiff.volume import SliceSource

WORK, BOARD, IMAGES = ".work", "board", "images"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILURES = (MedidiffError, OSError, *FAULTS)
Tick = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """Everything that a process needs to know; `todo` has (method, key) of what is not finished."""

    index: int
    case: Case
    todo: tuple[tuple[Method, str], ...]
    out: Path
    metrics: tuple[str, ...]
    presets: tuple[str, ...]
    seed: int
    keep_images: bool

    @property
    def ticks(self) -> int:
        """Slices to be restored and judged."""
        return 2 * self.case.n_slices * len(self.todo)


@dataclass
class Report:
    """What became of a task.

    failures   (what, why) of a method, or of the case as a whole
    full       what could not be written, where nothing more can be
    stopped    as the user wished
    """

    failures: list[tuple[str, str]] = field(default_factory=list)
    full: str = ""
    stopped: bool = False


class DiskFull(Exception):
    """Nothing more can be written."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A case ready to be worked on: its images in plain files.

    original   the scan as it was opened, whole
    identity   what random numbers are seeded by
    facts      what headers say of the scan
    """

    original: SliceSource
    identity: str
    facts: Facts
    scan: Spool
    reference: Spool
    truth: Spool | None
    regions: Lookup
    context: Context
    extra: tuple[tuple[str, object], ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a method made of a case, and how the case lies outside of what its model has seen."""

    image: Spool
    deviation: Spool | None
    warnings: tuple[str, ...] = ()

    def remove(self) -> None:
        for part in (self.image, self.deviation):
            if part is not None:
                part.remove()


@dataclass(frozen=True, eq=False)
class Judged:
    """The numbers of a result, and the slice that is furthest from the reference."""

    values: list[Value]
    functions: list[Function]
    worst: WorstSlice


def work(task: Task) -> Report:
    """Work on a task; failures are reported, not raised."""
    report, board = Report(), Board(task.out / WORK / BOARD)
    scratch = task.out / WORK / f"{task.index}"
    try:
        board.check()
        with _failing(report, task.case.name):
            scratch.mkdir()
            opened = open_case(task, scratch, board.check)
            for method, key in task.todo:
                with _failing(report, f"{task.case.name}, {method.name}"):
                    _pair(task, opened, method, key, scratch, lambda: board.tick(task.index))
    except Stopped:
        report.stopped = True
    except DiskFull as error:
        report.full = str(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


@contextmanager
def _failing(report: Report, what: str) -> Iterator[None]:
    """Note what goes wrong inside the block under `what`; raise DiskFull when nothing more can be written."""
    try:
        yield
    except OutputError as error:
        raise DiskFull(str(error)) from error
    except FAILURES as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFull(f"{error.filename or what}: {error.strerror}") from error
        report.failures.append((what, _sentence(error)))


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, MedidiffError) else f"{type(error).__name__}: {text}".removesuffix(": ")


# ---------------------------------------------------------------- the case


def open_case(task: Task, scratch: Path, check: Tick) -> Opened:
    """Draw or read every image of a case once, into files in `scratch`."""
    case = task.case
    whole = case.kind.open(task.out / WORK)
    inputs = middle_of(whole, case.n_slices)
    scan = spool(inputs.scan, scratch / "scan", check)
    context = context_of(
        scan, task.presets, dose=case.kind.dose, reference_noise=case.kind.reference_noise, seed=task.seed
    )
    return Opened(
        whole.scan,
        whole.identity,
        whole.facts,
        scan,
        spool(inputs.reference, scratch / "reference", check),
        None if inputs.truth is None else spool(inputs.truth, scratch / "truth", check),
        case.regions.open(whole.scan, case.n_slices),
        replace(context, features=inputs.features),
        _extra(case, inputs),
    )


def _extra(case: Case, inputs: Inputs) -> tuple[tuple[str, object], ...]:
    kernel = (("kernel", case.kernel),) if case.kernel else ()
    return (*kernel, *((("simulation", dict(inputs.parameters)),) if inputs.parameters else ()))


# ---------------------------------------------------------------- a method


def _pair(task: Task, opened: Opened, method: Method, key: str, scratch: Path, tick: Tick) -> None:
    """Restore, judge and note one method on one case."""
    began = time.perf_counter()
    candidate = candidate_of(task.case, method, opened, scratch, tick)
    found = judged(task, opened, candidate, tick)
    stem = file_stem(task.case.name, method.name)
    found.worst.save(task.out / PICTURES / f"{stem}.npz", opened.scan.geometry)
    kept = _kept(candidate, task.out / IMAGES / f"{stem}.nii.gz") if task.keep_images else ""
    facts = replace(task.case.facts, extra=opened.extra)
    seconds = round(time.perf_counter() - began, 3)
    numbers, worst = (found.values, found.functions), found.worst.found(opened.scan.geometry)
    Journal(task.out).put(task.case.name, method.name, key, *numbers, facts, seconds, candidate.warnings, worst, kept)
    candidate.remove()


def _kept(candidate: Candidate, path: Path) -> str:
    """Write the image of a result; its digest."""
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, candidate.image, allow_uneven=True)
    return digest(file_hash(path))


def candidate_of(case: Case, method: Method, opened: Opened, scratch: Path, tick: Tick) -> Candidate:
    """The result of a method, slice by slice into files; raises InputError where it is not a number."""
    place, unit = opened.scan.geometry, opened.scan.unit
    image, deviation = Spool(scratch / "candidate", place, unit), Spool(scratch / "deviation", place, unit)
    draws, watch = False, _watch(method)
    for restored in _restored(case, method, opened):
        if not np.isfinite(restored.image).all():
            raise InputError(f"slice {restored.index + 1} of the result holds values that are not numbers")
        image.write(restored.index, restored.image, restored.padding)
        watch.add(restored.traits, restored.weight)
        if restored.deviation is not None:
            draws = True
            deviation.write(restored.index, restored.deviation, None)
        tick()
    warnings = (*header_warnings(watch.seen, opened.facts), *watch.warnings())
    return Candidate(image, deviation if draws else None, warnings)


def _watch(method: Method) -> Watch:
    """What looks for slices outside of the range of the method's model, where it has one."""
    if method.options is None:
        return Watch(None)
    ready = prepared(method.options)
    return Watch(ready.seen, ready.is_guarded)


def _restored(case: Case, method: Method, opened: Opened) -> Iterator[Restored]:
    if method.options is None:
        yield from _made_elsewhere(case, method, opened)
        return
    restorer = prepared(method.options).for_case(opened.identity)
    with ThreadPoolExecutor(1, thread_name_prefix="files") as io:
        try:
            yield from restore(restorer, opened.scan, range(opened.context.n_slices), io, {})
        finally:
            io.shutdown(cancel_futures=True)


def _made_elsewhere(case: Case, method: Method, opened: Opened) -> Iterator[Restored]:
    result = case.result(method.name)
    assert result is not None  # the plan found it
    source = middle(open_result(result.path, opened.original), case.n_slices)
    for index in range(opened.context.n_slices):
        image, padding = source.read(index), source.padding(index)
        if method.blend:
            image = blended(opened.scan.read(index), image, 100 * (1 - method.blend), padding)
        yield Restored(index, image, None, padding)


@lru_cache(maxsize=4)
def prepared(options: Options) -> Ready:
    """A method, loaded once a process."""
    return load_method(options, choose_device(options.device))


def judged(task: Task, opened: Opened, candidate: Candidate, tick: Tick) -> Judged:
    """Show a result to all measures, in one pass."""
    worst = WorstSlice()
    views = look(
        candidate.image,
        opened.reference,
        scan=opened.scan,
        truth=opened.truth,
        deviation=candidate.deviation,
        regions=opened.regions,
    )
    asked = measures(task.metrics, opened.context)
    return Judged(*judge(worst.watch(views), asked, lambda done, total: tick()), worst)
