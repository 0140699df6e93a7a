"""How long a study will take: one slice of each method and all metrics is really done, and multiplied up.

    seconds = sum over unfinished cases of pixels * slices * (input + sum over methods of (restore + judge)) / workers

with the seconds per pixel measured on a middle slice of the first case, the second time it is done (the first time
compiles and loads). What is done once a scan (the fit of a simulation to its noise) is added as it was measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from medidiff.study.plan import Method, Plan
from medidiff.study.run import Study
from medidiff.study.work import WORK, Opened, Task, candidate_of, judged, open_case

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """Seconds a slice that one method takes for restoring and judging, and the slices that are left to do."""

    method: str
    restore: float
    judge: float
    slices: int

    @property
    def seconds(self) -> float:
        return (self.restore + self.judge) * self.slices


@dataclass(frozen=True)
class Estimate:
    """`input` are the seconds for reading and drawing all noise; `finished` pairs are not counted in `seconds`."""

    lines: tuple[Line, ...]
    input: float
    finished: int
    workers: int

    @property
    def seconds(self) -> float:
        """Wall-clock time, when the workers have a processor each and share the work evenly."""
        return (self.input + sum(line.seconds for line in self.lines)) / self.workers


def estimate(plan: Plan, workers: int | None = None) -> Estimate:
    """Time one slice of everything that is unfinished; writes nothing to the study's folder."""
    study = Study(plan, plan.study.output)
    tasks = study.tasks()
    wanted = min(workers or plan.study.workers, max(len(tasks), 1))
    if not tasks:
        return Estimate((), 0.0, study.before, wanted)
    with tempfile.TemporaryDirectory(prefix="medidiff-") as folder:
        (Path(folder) / WORK).mkdir()
        sample = _sample(tasks[0], Path(folder))
        first, _ = _timed(lambda: open_case(sample, Path(folder), _nothing))
        again, opened = _timed(lambda: open_case(sample, Path(folder), _nothing))
        lines = [_line(method, tasks, sample, opened, Path(folder)) for method in plan.methods]
    once = (first - again) * len({task.case.scan for task in tasks})
    every = again * sum(_relative(task, sample) for task in tasks)
    return Estimate(tuple(lines), once + every, study.before, wanted)


def _line(method: Method, tasks: Sequence[Task], sample: Task, opened: Opened, folder: Path) -> Line:
    """One method on the sample, and its slices in all tasks."""
    share = sum(_relative(task, sample) for task in tasks if method in [m for m, _ in task.todo])
    restore, candidate = _second(lambda: candidate_of(sample.case, method, opened, folder, _nothing))
    judge, _ = _second(lambda: judged(sample, opened, candidate, _nothing))
    candidate.remove()
    return Line(method.name, restore, judge, round(share))


def _sample(task: Task, folder: Path) -> Task:
    return replace(task, out=folder, case=replace(task.case, n_slices=1))


def _relative(task: Task, sample: Task) -> float:
    """Slices of a task, in slices of the size of the sample's."""
    return task.case.n_slices * task.case.pixels / sample.case.pixels


def _second(do: Callable[[], T]) -> tuple[float, T]:
    do()
    return _timed(do)


def _timed(do: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    done = do()
    return time.perf_counter() - began, done


def _nothing() -> None:
    pass
