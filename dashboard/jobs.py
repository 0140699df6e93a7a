"""Reconstructions that were started from a page: processes of their own, which know nothing of pages or reloads.

A job is a folder with what was asked (job.json) and how far it is (progress.json, replaced whole each time). What it
makes is the same as that of `medidiff reconstruct`: a job that was cancelled, or went down with the server, is gone on
with by starting it again.

    python -m dashboard.jobs FOLDER      what a job's process runs
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import MedidiffError

State = Literal["starting", "running", "finished", "failed", "cancelled"]
ASKED, PROGRESS = "job.json", "progress.json"
EVERY_SECONDS = 0.5
ACTIVE = ("starting", "running")


@dataclass(frozen=True)
class Progress:
    """Slices done, how the job stands, and for a failed one why, in one sentence."""

    done: int = 0
    total: int = 0
    state: State = "starting"
    told: str = ""


class Job:
    """One job of this server; `folder` is the server's own, `out` the user's."""

    def __init__(self, folder: Path, scan: Path, out: Path, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        asked = {"scan": str(scan), "out": str(out), "options": options}
        (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")
        self.folder, self.out, self._is_cancelled = folder, out, False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dashboard.jobs", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def progress(self) -> Progress:
        """As its process wrote it last; one that ended without a word has failed."""
        found = _read(self.folder / PROGRESS)
        if found.state in ACTIVE and self._process.poll() is not None:
            found = _read(self.folder / PROGRESS)  # it may have written between the two
            if found.state in ACTIVE and self._is_cancelled:  # before it could listen
                return Progress(found.done, found.total, "cancelled")
            if found.state in ACTIVE:
                return Progress(found.done, found.total, "failed", "the process ended without a word; start it again")
        return found

    def cancel(self) -> None:
        """Stops after the slice under way; what was finished is kept."""
        if self._process.poll() is None:
            self._is_cancelled = True
            self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> Progress:
        """Until it has ended; raises TimeoutExpired."""
        self._process.wait(seconds)
        return self.progress


class Jobs:
    """All jobs of a server, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, []  # type: Path, list[Job]

    def start(self, scan: Path, out: Path, options: dict[str, Any]) -> Job:
        job = Job(self.folder / f"{len(self.all) + 1:04d}", scan, out, options)
        self.all.append(job)
        return job

    def stop(self) -> None:
        """Cancel what is running, and wait for it."""
        for job in self.all:
            job.cancel()
        for job in self.all:
            job.wait(30)


def _read(path: Path) -> Progress:
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Progress()


def run(folder: Path) -> None:
    """What the process does: reconstruct, and write down how far it is."""
    from medidiff.inference.options import Options
    from medidiff.inference.run import reconstruct

    asked = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    written, last = 0.0, Progress()

    def write(progress: Progress) -> None:
        temporary = folder / f".{PROGRESS}"
        temporary.write_text(json.dumps(vars(progress)), encoding="utf-8")
        os.replace(temporary, folder / PROGRESS)

    def tell(done: int, total: int) -> None:
        nonlocal written, last
        last = Progress(done, total, "running")
        if time.monotonic() - written >= EVERY_SECONDS or done == total:
            written = time.monotonic()
            write(last)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the server was started in the background
    try:
        reconstruct(Path(asked["scan"]), Path(asked["out"]), Options.of(**asked["options"]), progress=tell)
    except MedidiffError as error:
        write(Progress(last.done, last.total, "failed", str(error)))
    except KeyboardInterrupt:
        write(Progress(last.done, last.total, "cancelled"))
    else:
        write(Progress(last.done, last.total, "finished"))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
