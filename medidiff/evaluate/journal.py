"""What of an evaluation is finished: one file a case and method, from which the same command goes on.

    DIR/.rows/<case>--<method>.json     the numbers, and the key of the work that they came from

A key is a hash of everything that decides the numbers (`work_key`): numbers of other inputs, settings or versions are
never taken for finished. A file is there whole or not at all, so whatever kills the program leaves what was done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medidiff.evaluate.engine import as_curves, as_rows
from medidiff.evaluate.images import Furthest
from medidiff.evaluate.measure import Function, Value
from medidiff.io.files import write_whole
from medidiff.results.names import file_stem
from medidiff.results.rows import CaseFacts, Curve, Row
from medidiff.results.tables import strict_json

FOLDER = ".rows"


@dataclass(frozen=True)
class Entry:
    """Finished work: the numbers of one method on one case.

    warnings   what a user of the numbers must know
    worst      the slice furthest from the reference; None where an earlier version did the work
    image      digest of the image that was kept of it, "" where none was
    """

    case: str
    method: str
    key: str
    values: tuple[Value, ...]
    functions: tuple[Function, ...]
    facts: CaseFacts
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    worst: Furthest | None = None
    image: str = ""

    @cached_property
    def rows(self) -> list[Row]:
        return as_rows(self.case, self.method, self.values)

    @cached_property
    def curves(self) -> list[Curve]:
        return as_curves(self.case, self.method, self.functions)


class Journal:
    """The finished work of a results folder; safe to be written by several processes, each with its own cases."""

    def __init__(self, results: Path) -> None:
        self.folder = results / FOLDER

    def has(self, case: str, method: str, key: str) -> bool:
        """True when this very work is finished."""
        return self.get(case, method, key) is not None

    def get(self, case: str, method: str, key: str) -> Entry | None:
        """The numbers of this very work; None when it is not finished, or was done on other inputs or settings."""
        found = _read(self._file(case, method))
        return found if found is not None and (found.case, found.method, found.key) == (case, method, key) else None

    def put(
        self,
        case: str,
        method: str,
        key: str,
        values: Iterable[Value],
        functions: Iterable[Function],
        facts: CaseFacts,
        seconds: float = 0.0,
        warnings: Iterable[str] = (),
        worst: Furthest | None = None,
        image: str = "",
    ) -> Entry:
        """Note work as finished, in place of what was noted for the case and method before."""
        numbers = tuple(values), tuple(functions)
        entry = Entry(case, method, key, *numbers, facts, seconds, tuple(warnings), worst, image)
        write_whole(self._file(case, method), strict_json(asdict(entry)).encode())
        return entry

    def _file(self, case: str, method: str) -> Path:
        return self.folder / f"{file_stem(case, method)}.json"


def work_key(*decides: Any) -> str:
    """A hash of everything that decides numbers; takes what JSON takes, and texts of anything else (paths)."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(path: Path) -> Entry | None:
    """None where there is no file, or one that is not ours: then the work is done again."""
    try:
        found = json.loads(path.read_bytes())
        values = tuple(Value(**{**v, "value": float(v["value"])}) for v in found["values"])
        functions = tuple(_function(f) for f in found["functions"])
        extra = tuple((str(key), value) for key, value in found["facts"]["extra"])
        facts = CaseFacts(**{**found["facts"], "extra": extra})
        told = tuple(map(str, found.get("warnings", ())))
        read = {"values": values, "functions": functions, "facts": facts, "warnings": told}
        return Entry(**{**found, **read, "worst": _furthest(found.get("worst"))})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _furthest(found: dict[str, Any] | None) -> Furthest | None:
    return None if found is None else Furthest(int(found["index"]), tuple(map(float, found["position_mm"])))


def _function(found: dict[str, Any]) -> Function:
    return Function(**{**found, **{axis: tuple(map(float, found[axis])) for axis in ("x", "y")}})
