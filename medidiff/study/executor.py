"""Where tasks are worked on: here, or by processes of this machine; a cluster engine is one more class.

    outcomes = executor.run(tasks, work)          in any order, each as soon as it is there

`work` is a module-level function and tasks and outcomes can be pickled. What a task decides depends on the task alone,
so the executor changes when results come, never what they are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Outcome(Generic[TaskT, ResultT]):
    """What became of a task: its result, or None where the process that worked on it died."""

    task: TaskT
    result: ResultT | None


class Executor(Protocol):
    """Works on tasks."""

    def run(self, tasks: Sequence[TaskT], work: Callable[[TaskT], ResultT]) -> Iterator[Outcome[TaskT, ResultT]]: ...


class Serial:
    """One task after the other, in this process."""

    def run(self, tasks: Sequence[TaskT], work: Callable[[TaskT], ResultT]) -> Iterator[Outcome[TaskT, ResultT]]:
        for task in tasks:
            yield Outcome(task, work(task))


@dataclass(frozen=True)
class LocalPool:
    """`workers` processes, each with its share of the processor's threads.

    A process that dies takes its pool with it. Tasks that were under way are then worked on once more, each in a
    process of its own, so that the one to blame is known and no other is lost.
    """

    workers: int

    def run(self, tasks: Sequence[TaskT], work: Callable[[TaskT], ResultT]) -> Iterator[Outcome[TaskT, ResultT]]:
        waiting, suspects = deque(tasks), deque[TaskT]()
        while waiting:
            yield from self._until_broken(waiting, suspects, work, self.workers)
        while suspects:
            lone, died = deque([suspects.popleft()]), deque[TaskT]()
            yield from self._until_broken(lone, died, work, 1)
            yield from (Outcome(task, None) for task in died)

    def _until_broken(
        self, waiting: deque[TaskT], suspects: deque[TaskT], work: Callable[[TaskT], ResultT], workers: int
    ) -> Iterator[Outcome[TaskT, ResultT]]:
        """Work `waiting` off with one pool; tasks under way when a process dies are moved to `suspects`."""
        running: dict[Future[ResultT], TaskT] = {}
        with _pool(workers, threads(self.workers)) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:  # no more than can have been begun
                        running[pool.submit(work, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield Outcome(running.pop(future), result)
            except BrokenProcessPool:
                suspects.extend(running.values())


def threads(workers: int) -> int:
    """Threads of each of so many workers: together no more than there are processors."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = int(os.environ.get("OMP_NUM_THREADS") or available)
    return max(1, min(given, available // workers))


@contextmanager
def _pool(workers: int, threads_each: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that start with few threads, leave Ctrl-C to us, and end when we do."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads_each)))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop, and they would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
