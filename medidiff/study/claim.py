"""Whose the folder of a study is, and that one run at a time is at work in it.

OUT/.lock    held (flock) by the run that is at work: a kill frees the folder
OUT/.work    files of the tasks under way; removed at the end, and by the next run after a kill
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.evaluate.output import Kind, holder
from medidiff.io.files import writing
from medidiff.results.names import MADE, TABLES
from medidiff.study.work import WORK

STUDY = Kind("medidiff-study-1", "study", "output=FOLDER")
LOCK = ".lock"


def claim(out: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder ours; raises OutputError where it holds something else, or another study without `overwrite`."""
    found = holder(out, STUDY, {LOCK, WORK})
    if found is None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    if found in (None, identity):
        return
    if not overwrite:
        raise OutputError(
            f"{out}: holds another study, or this one with other settings; name a new folder with output=FOLDER, or "
            "replace it with --overwrite (what is finished and still holds is kept)"
        )
    for name in MADE:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / TABLES, ignore_errors=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder, and remove the files of tasks at the end."""
    import fcntl

    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{out}: another run is at work in this folder; wait for it, or stop it") from None
        try:
            with writing(out):
                (out / WORK).mkdir(exist_ok=True)
            for path in (out / WORK).iterdir():
                if path.is_dir():  # of a task that was killed; what is worth computing once stays
                    shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            shutil.rmtree(out / WORK, ignore_errors=True)
            (out / LOCK).unlink(missing_ok=True)
