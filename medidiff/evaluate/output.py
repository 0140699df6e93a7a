"""The folder of an evaluation: whose it is, what was asked and how it ended (study.json), and what is ours in it.

A folder is continued or overwritten only if its study.json says that an evaluation wrote it, and only files that an
evaluation writes are ever removed. No path, identifier or name from a header is written, but what the user named.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medidiff import DISCLAIMER, __version__
from medidiff.errors import OutputError
from medidiff.evaluate import journal, pictures
from medidiff.io.derived import write_whole

FORMAT, RECORD = "medidiff-evaluation-1", "study.json"
FILES = (
    "results.csv", "results.parquet", "cases.csv", "curves.json", "statistics.csv", "comparisons.csv", "agreement.csv",
    "conclusions.txt", "report.html", "methods.txt", RECORD,
)  # fmt: skip
SUFFIXES = (".json", ".npz", ".md", ".tex", ".csv", ".png", ".svg")
FOLDERS = (journal.FOLDER, pictures.FOLDER, "tables")


def claim(out: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder free for an evaluation, or see that it holds this very one, to be continued.

    Raises OutputError where it holds other things, or another evaluation and `overwrite` is not set.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise OutputError(f"{out}: is a file; name a new folder with -o")
    found = _found(out)
    if found is None:
        raise OutputError(f"{out}: already holds files that are no evaluation of medidiff; name a new folder with -o")
    if foreign := _foreign(out):
        raise OutputError(
            f"{foreign}: was not written by medidiff evaluate; move it away, or name a new folder with -o"
        )
    if found != identity and not overwrite:
        raise OutputError(f"{out}: holds another evaluation; name a new folder with -o, or replace it with --overwrite")
    if overwrite:
        clear(out)


def clear(out: Path) -> None:
    """Remove what an evaluation wrote, its record last."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def record(
    out: Path,
    status: str,
    identity: str,
    about: Mapping[str, Any],
    entries: Sequence[journal.Entry] = (),
    failures: Sequence[str] = (),
) -> None:
    """Write study.json; `about` has what was asked."""
    seconds: dict[str, dict[str, float]] = {}
    for entry in entries:
        seconds.setdefault(entry.case, {})[entry.method] = entry.seconds
    whole = {
        "format": FORMAT,
        "medidiff": __version__,
        "note": DISCLAIMER,
        "status": status,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity,
        **about,
        "seeds": {"evaluation": 0},
        "software": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "machine": {"processors": os.cpu_count()},
        "failures": list(failures),
        "seconds": seconds,
    }
    write_whole(out / RECORD, json.dumps(whole, indent=2, ensure_ascii=False, default=str).encode())


def _foreign(out: Path) -> Path | None:
    """Something in the folder that no evaluation writes."""
    inside = (path for name in FOLDERS for path in (out / name).rglob("*") if path.is_file())
    others = (path for path in out.iterdir() if path.name not in (*FILES, *FOLDERS))
    for path in (*others, *(path for path in inside if path.suffix not in SUFFIXES)):
        if not re.fullmatch(r"\..+\.tmp", path.name):  # what a killed run leaves
            return path
    return None


def _found(out: Path) -> str | None:
    """The identity of the evaluation that a folder holds."""
    try:
        found = json.loads((out / RECORD).read_bytes())
        return str(found["identity"]) if found["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
