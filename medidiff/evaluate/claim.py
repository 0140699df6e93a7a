"""Whose the folder of an evaluation is.

A folder is continued or overwritten only if its study.json says that an evaluation wrote it, and only files that an
evaluation writes are ever removed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.evaluate import journal, pictures
from medidiff.evaluate.output import Kind, holder
from medidiff.results.names import MADE, RECORD, TABLES

EVALUATION = Kind("medidiff-evaluation-1", "evaluation", "-o")
FILES = (*MADE, RECORD)
FOLDERS = (journal.FOLDER, pictures.FOLDER, TABLES)
SUFFIXES = (".json", ".npz", ".md", ".tex", ".csv", ".png", ".svg")


def claim(out: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder free for an evaluation, or see that it holds this very one, to be continued.

    Raises OutputError where it holds other things, or another evaluation and `overwrite` is not set.
    """
    found = holder(out, EVALUATION)
    if found is None:
        return
    if foreign := _foreign(out):
        raise OutputError(
            f"{foreign}: was not written by medidiff evaluate; move it away, or name a new folder with -o"
        )
    if found != identity and not overwrite:
        raise OutputError(f"{out}: holds another evaluation; name a new folder with -o, or replace it with --overwrite")
    if overwrite:
        _clear(out)


def _clear(out: Path) -> None:
    """Remove what an evaluation wrote, its record last."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def _foreign(out: Path) -> Path | None:
    """Something in the folder that no evaluation writes."""
    inside = (path for name in FOLDERS for path in (out / name).rglob("*") if path.is_file())
    others = (path for path in out.iterdir() if path.name not in (*FILES, *FOLDERS))
    for path in (*others, *(path for path in inside if path.suffix not in SUFFIXES)):
        if not re.fullmatch(r"\..+\.tmp", path.name):  # what a killed run leaves
            return path
    return None
