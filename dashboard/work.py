"""Computations that take seconds: in threads beside the pages, with progress, shared by who asks for the same.

A reader has one computation at a time: asking for another gives the first one up, and what nobody waits for any more
is stopped. Results that were finished are kept, the last ones up to a number and a size.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Literal, Protocol

import torch

from medidiff.errors import MedidiffError
from medidiff.progress import Progress

State = Literal["waiting", "running", "finished", "failed", "stopped"]
ACTIVE = ("waiting", "running")
AT_ONCE = 2
KEPT = 16
LIMIT_BYTES = 256 * 2**20


class Sized(Protocol):
    """What can be kept: its size in memory is known."""

    @property
    def nbytes(self) -> int: ...


Make = Callable[[Progress], Sized]
"""Computes; calls its argument with (done, total) between parts, where it may be stopped."""


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Task:
    """One computation. `result` is there when it has finished; `told` says in one sentence why it failed."""

    def __init__(self, make: Make) -> None:
        self.state: State = "waiting"
        self.done = self.total = 0
        self.result: Sized | None = None
        self.told = ""
        self.readers: set[str] = set()
        self.future: Future[None]
        self._make, self._stop = make, threading.Event()

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    def leave(self, reader: str) -> None:
        """This reader no longer waits; without any it stops before its next part."""
        self.readers.discard(reader)
        if not self.readers:
            self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        return not wait([self.future], seconds).not_done

    def run(self) -> None:
        """What a thread does."""
        try:
            self._tell(0, 0)
            self.state = "running"
            self.result = self._make(self._tell)
            self.state = "finished"
        except Stopped:
            self.state = "stopped"
        except MedidiffError as error:
            self.told, self.state = str(error), "failed"
        except OSError as error:
            self.told, self.state = f"the scan could not be read ({error.strerror}); add its folder again", "failed"
        except Exception as error:  # a page shows no traceback; the operator finds it in the log
            logging.getLogger(__name__).exception("a computation failed")
            self.told, self.state = f"it could not be computed ({type(error).__name__}); see the server's log", "failed"

    def _tell(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self.done, self.total = done, total


class Work:
    """All computations of a server."""

    def __init__(self, kept: int = KEPT, limit_bytes: int = LIMIT_BYTES) -> None:
        self.kept, self.limit_bytes = kept, limit_bytes
        self._tasks: OrderedDict[Hashable, Task] = OrderedDict()
        self._lock = threading.Lock()
        share = max(torch.get_num_threads() // AT_ONCE, 1)  # threads that share a convolution wait for each other
        self._threads = ThreadPoolExecutor(AT_ONCE, "diffusion", torch.set_num_threads, (share,))

    def ask(self, key: Hashable, make: Make, reader: str) -> Task:
        """The task of this key, started where it is not under way or finished; the reader gives up any other."""
        with self._lock:
            self._leave(reader, but=key)
            task = self._tasks.get(key)
            if task is None or task.state in ("failed", "stopped") or (task.is_active and not task.readers):
                task = self._tasks[key] = Task(make)
                task.readers.add(reader)
                task.future = self._threads.submit(task.run)
            task.readers.add(reader)
            self._tasks.move_to_end(key)
            self._forget()
        return task

    def known(self, key: Hashable) -> Task | None:
        """The task of this key, if there is one."""
        with self._lock:
            if key in self._tasks:
                self._tasks.move_to_end(key)
            return self._tasks.get(key)

    def give_up(self, reader: str) -> None:
        """This reader no longer waits for anything."""
        with self._lock:
            self._leave(reader, but=None)

    def stop(self) -> None:
        """Give up everything, and wait."""
        with self._lock:
            for task in self._tasks.values():
                task.readers.clear()
                task.leave("")
        self._threads.shutdown(cancel_futures=True)

    def _leave(self, reader: str, but: Hashable) -> None:
        for key, task in self._tasks.items():
            if key != but and task.is_active and reader in task.readers:
                task.leave(reader)

    def _forget(self) -> None:
        """What was asked for longest ago, until the rest is few and small enough; never what is under way."""
        ended = [key for key, task in self._tasks.items() if not task.is_active]
        size = sum(task.result.nbytes for task in self._tasks.values() if task.result is not None)
        while ended and (len(self._tasks) > self.kept or size > self.limit_bytes):
            gone = self._tasks.pop(ended.pop(0))
            size -= 0 if gone.result is None else gone.result.nbytes


@cache
def work() -> Work:
    """That of this server; it ends with it."""
    started = Work()
    atexit.register(started.stop)
    return started
