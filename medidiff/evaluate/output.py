"""What evaluations and studies write beside their journals: tables, conclusions, and study.json.

    study.json    whose folder this is (format, identity), what was asked, and how it ended

No path, identifier or name from a header is written, but what the user named. What fails is noted, and the rest is
written: the numbers themselves are safe in the journal.
"""

from __future__ import annotations

import json
import os
import platform
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medidiff import DISCLAIMER, __version__
from medidiff.errors import MedidiffError, OutputError
from medidiff.evaluate.images import worst_slices
from medidiff.evaluate.journal import Entry
from medidiff.io.files import write_whole
from medidiff.results.names import RECORD
from medidiff.results.rows import CaseFacts
from medidiff.results.tables import read_tables, write_curves, write_statistics, write_tables

if TYPE_CHECKING:
    from medidiff.statistics import StatisticsSettings

FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Who writes a folder: the format of the record, a noun, and how a user names another folder."""

    format: str
    noun: str
    naming: str


def holder(out: Path, kind: Kind, passing: Iterable[str] = ()) -> str | None:
    """The identity of the work that a folder holds; None where it holds nothing, but for files that are `passing`.

    Raises OutputError for a file, and for a folder of other things.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a new folder with {kind.naming}")
    if not out.exists() or not {path.name for path in out.iterdir()} - {*passing}:
        return None
    try:
        found = json.loads((out / RECORD).read_bytes())
        if found["format"] == kind.format:
            return str(found["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"{out}: already holds files that are no {kind.noun} of medidiff; name a new folder with {kind.naming}"
    )


def provenance(
    kind: Kind,
    status: str,
    identity: str,
    about: Mapping[str, Any],
    entries: Iterable[Entry] = (),
    failures: Iterable[str] = (),
) -> dict[str, Any]:
    """The content of study.json; `about` has what was asked."""
    seconds: dict[str, dict[str, float]] = {}
    entries = list(entries)
    for entry in entries:
        seconds.setdefault(entry.case, {})[entry.method] = entry.seconds
    return {
        "format": kind.format,
        "medidiff": __version__,
        "note": DISCLAIMER,
        "status": status,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity,
        **about,
        "software": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "machine": {"processors": os.cpu_count()},
        "failures": list(failures),
        "seconds": seconds,
        "worst_slice": worst_slices((entry.case, entry.method, entry.worst) for entry in entries),
    }


def record(out: Path, content: Mapping[str, Any]) -> None:
    """Write study.json; raises OutputError."""
    write_whole(out / RECORD, json.dumps(content, indent=2, ensure_ascii=False, default=str).encode())


def tabulate(out: Path, entries: Sequence[Entry], facts: Sequence[CaseFacts]) -> None:
    """Write the numbers and curves of finished work; raises OutputError."""
    write_tables(out, [row for entry in entries for row in entry.rows], facts)
    write_curves(out, [curve for entry in entries for curve in entry.curves])


def conclude(out: Path, baseline: str, settings: StatisticsSettings | None = None) -> list[str]:
    """Write the statistics of the tables, and return the sentences that they allow."""
    from medidiff.statistics import StatisticsSettings, analyse

    settings = StatisticsSettings.model_validate({}) if settings is None else settings
    analysis = analyse(read_tables(out)[0], settings, baseline)
    write_statistics(out, analysis)
    return list(analysis.sentences)


@contextmanager
def noting(note: Callable[[str], object]) -> Iterator[None]:
    """Hand the sentence of what fails inside to `note`, and go on.

    A fault of ours is noted too, with its place: it must not cost the user the word on what else failed.
    """
    try:
        yield
    except (MedidiffError, OSError) as error:
        note(str(error))
    except FAULTS as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(f"{type(error).__name__}: {error}".split())
        note(f"a fault of medidiff, please report it ({what}, {Path(place.filename).name} line {place.lineno})")


def without_paths(sentence: str, paths: Iterable[Path]) -> str:
    """A sentence without these paths and what is inside of them: folders may be called by patients."""
    for path in sorted({str(path) for path in paths}, key=len, reverse=True):
        sentence = re.sub(r"(?<!\w)" + re.escape(path) + r".*?(?=: |; |$)", "a file", sentence)
    return sentence
