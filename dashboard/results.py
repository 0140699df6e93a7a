"""Which results of `medidiff evaluate` and `medidiff run` there are, and which of the listed images they are of.

Results are folders below those that are listed, and the studies of the database. study.json names images by digests
(medidiff.evaluate.images), which are looked for among all that is listed, wherever the results lie. Whatever is read
is read once, until it is written anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import streamlit as st

from dashboard import state
from dashboard.flags import Figures, figures_of, known
from dashboard.library import Case, Image, Library
from dashboard.roots import inside
from medidiff.errors import InputError, MedidiffError
from medidiff.evaluate.images import Furthest
from medidiff.evaluate.output import record as write_record
from medidiff.evaluate.output import without_paths
from medidiff.report.folder import Results, read_results
from medidiff.results.database import list_studies, read_study
from medidiff.results.names import AGREEMENT, CASES, COMPARISONS, CURVES, RECORD, RESULTS, STATISTICS
from medidiff.results.rows import COLUMNS, CaseFacts, Row
from medidiff.results.tables import FACTS, read_tables, write_tables

if TYPE_CHECKING:
    import pandas as pd

LISTED_SECONDS = 10  # how long a list of folders holds: looking through them takes a while
NO_DATABASE = "the database does not answer, or holds no studies of medidiff"
KEPT = 8  # results that are held as a whole; the figures of the worklist are few and all are kept


@dataclass(frozen=True)
class Landing:
    """Where a point leads: a case of the library by its key, and the slice; `is_result`: not only to its scan."""

    case: str
    index: int | None
    is_result: bool


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results in a folder, or of a study of the database; `key` and `label` say nothing of where or who.

    stamp     changes when they are written anew
    """

    key: str
    stamp: str
    record: Mapping[str, Any]
    folder: Path
    engine: sa.Engine | None = None
    study: str = ""

    @property
    def created(self) -> str:
        return str(self.record.get("created", ""))

    @cached_property
    def label(self) -> str:
        """The name that the user gave the study, or the start of a digest."""
        settings = _part(self.record, "settings")
        name = self.study or settings.get("title") or settings.get("name") or f"evaluation {self.key[:6]}"
        made = self.created.replace("T", " ")[:16]
        return ", ".join(filter(None, [str(name), made, "in the database" if self.engine is not None else ""]))

    def table(self) -> pd.DataFrame:
        """Rows with the facts of their cases. Raises InputError."""
        return read_tables(self.folder)[0] if self.engine is None else read_study(self.engine, self.study)

    @property
    def figures(self) -> dict[str, Figures]:
        """By the digest of an image that was judged, or was given. Raises InputError."""
        return self._read[0]

    @property
    def slices(self) -> set[int]:
        """How many a case has. Raises InputError."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[dict[str, Figures], set[int]]:
        """What is kept of the table, which may be long."""
        table, images = self.table(), _part(self.record, "images")
        methods = {(case, m): str(name) for case, of in images.items() for m, name in _part(of, "methods").items()}
        judged = {
            methods[key]: figures_of(self.label, rows)
            for key, rows in table.groupby(["case", "method"])
            if key in methods
        }
        scans = {case: str(of["scan"]) for case, of in images.items() if isinstance(of, Mapping) and "scan" in of}
        doses = zip(table["case"], table["dose"], strict=True)
        given = {scans[case]: Figures(self.label, known(dose), {}, ()) for case, dose in doses if case in scans}
        return given | judged, {int(n) for n in table["n_slices"].dropna()}

    @property
    def is_part(self) -> bool:
        """Whether only some slices of the scans were measured."""
        return _part(self.record, "settings").get("slices") is not None

    def results(self) -> Results:
        """Everything that a report is made of. Raises InputError."""
        if self.engine is not None and not (self.folder / RESULTS).exists():
            _write(self)
        return read_results(self.folder)


class Evaluations:
    """All results that belong to what is listed; used from several threads."""

    def __init__(self, library: Library, scratch: Path, engine: sa.Engine | None = None) -> None:
        self.library, self.scratch, self.engine = library, scratch, engine
        self.problems: list[str] = []
        self._found: dict[str, Evaluation] = {}
        self._listed: tuple[float, int] = (-math.inf, 0)
        self._read: dict[tuple[str, str], Results] = {}
        self._listing, self._reading = threading.RLock(), threading.Lock()

    def all(self) -> list[Evaluation]:
        """Newest first."""
        with self._listing:
            since, places = self._listed
            if time.monotonic() - since > LISTED_SECONDS or places != len(self.library.places):
                self._list()
                self._listed = time.monotonic(), len(self.library.places)
            return sorted(self._found.values(), key=lambda one: (one.created, one.key), reverse=True)

    def get(self, key: str) -> Evaluation | None:
        return next((one for one in self.all() if one.key == key), None)

    def results(self, evaluation: Evaluation) -> Results:
        """As a whole; raises InputError that names no folder."""
        with self._reading:
            wanted = (evaluation.key, evaluation.stamp)
            if wanted not in self._read:
                with _damaged(evaluation):
                    self._read[wanted] = evaluation.results()
                for oldest in [*self._read][:-KEPT]:
                    del self._read[oldest]
            return self._read[wanted]

    def figures(self) -> dict[str, Figures]:
        """Of listed images by their key, from the newest evaluation that judged one, or else knows its dose."""
        found: dict[str, Figures] = {}
        for evaluation in self._readable():
            for name, figures in evaluation.figures.items():
                if name not in found or (figures.named and not found[name].named):
                    found[name] = figures
        return {image.key: found[name] for name, image in self._asked() if name in found}

    def images(self) -> dict[str, Image]:
        """What is listed, by digest."""
        return dict(reversed(self._asked()))

    def _asked(self) -> list[tuple[str, Image]]:
        """(digest, image) of what results may be of; a NIfTI file is read where results are of as many slices, only."""
        readable = [one for one in self._readable() if one.record.get("images")]
        counts = {n for one in readable for n in one.slices}
        is_part = any(one.is_part for one in readable)
        return [
            (_digest(image), image) for image in list(self.library.images.values())
            if image.uid or image.slices in counts or (is_part and image.slices > min(counts, default=0))
        ]  # fmt: skip

    def landing(self, evaluation: Evaluation, case: str, method: str) -> Landing | None:
        """The result of a method on a case, or else its scan or reference; None where none is listed."""
        listed, named = self.images(), _part(_part(evaluation.record, "images"), case)
        result = listed.get(str(_part(named, "methods").get(method)))
        given = [listed.get(str(named.get(role))) for role in ("scan", "reference")]
        image = next((one for one in (result, *given) if one is not None), None)
        found = None if image is None else holding(self.library.cases(), image)
        if image is None or found is None:
            return None
        return Landing(found.key, _index(evaluation.record, case, method, image), result is not None)

    def why_not(self, evaluation: Evaluation) -> str:
        """Why no point of it leads anywhere; "" where some do."""
        images = _part(evaluation.record, "images")
        if not images:
            return (
                "These results do not say which images they are of, so that no point leads to one: they are of an "
                "earlier version. The same command, given again, notes it."
            )
        named = {str(name) for of in images.values() for name in (*_part(of, "methods").values(), *_given(of))}
        if named & self.images().keys():
            return ""
        return "None of the images of these results is listed: add their folder in the worklist to open them from here."

    def _readable(self) -> list[Evaluation]:
        """Those whose tables can be read; of the others a problem is noted."""
        readable = []
        for evaluation in self.all():
            try:
                with _damaged(evaluation):
                    _ = evaluation.figures
                readable.append(evaluation)
            except InputError as error:
                self.note(str(error))
        return readable

    def note(self, problem: str) -> None:
        self.problems = list(dict.fromkeys([*self.problems, problem]))

    def _list(self) -> None:
        self.problems = [problem for problem in self.problems if problem == NO_DATABASE and self.engine is None]
        found = [*self._folders(), *self._studies()]
        before = {(one.key, one.stamp): one for one in self._found.values()}
        self._found = {one.key: before.get((one.key, one.stamp), one) for one in found}

    def _folders(self) -> Iterator[Evaluation]:
        for place in self.library.places:
            for path in sorted(place.rglob(RECORD)) if place.is_dir() else ():
                folder = path.parent
                if not inside(folder, self.library.roots) or not _is_ours(folder / RESULTS):
                    continue
                try:
                    record = json.loads(path.read_text(encoding="utf-8"))
                    yield Evaluation(_key(str(folder.resolve())), _stamp(folder), dict(record), folder)
                except (OSError, ValueError, TypeError):
                    self.note("a study.json could not be read; run it again")

    def _studies(self) -> Iterator[Evaluation]:
        if self.engine is None:
            return
        try:
            studies = list_studies(self.engine)
        except MedidiffError:
            self.note(NO_DATABASE)
            return
        for name, record in studies.items():
            stamp = _key(json.dumps(record, sort_keys=True, default=str))
            key = _key("database", name)
            yield Evaluation(key, stamp, record, self.scratch / f"{key}-{stamp}", self.engine, name)


def evaluations() -> Evaluations:
    """Of this server; where its database does not answer, those in folders."""
    try:
        return _evaluations(state.library(), state.folder(), state.database())
    except MedidiffError:
        found = _evaluations(state.library(), state.folder(), None)
        found.note(NO_DATABASE)
        return found


@lru_cache(maxsize=1)
def _evaluations(library: Library, folder: Path, engine: sa.Engine | None) -> Evaluations:
    return Evaluations(library, folder / "studies", engine)


def asked_slice(slices: int) -> int | None:
    """The slice that the address names; None for another one, and where it names none."""
    asked = str(st.query_params.get("slice", ""))
    return int(asked) if asked.isdecimal() and int(asked) < slices else None


def holding(cases: list[Case], image: Image) -> Case | None:
    """The case that an image is looked at in: as its result rather than as its scan."""
    for part in ("reconstruction", "scan", "deviation"):
        for case in cases:
            if (found := getattr(case, part)) is not None and found.key == image.key:
                return case
    return None


def _index(record: Mapping[str, Any], case: str, method: str, image: Image) -> int | None:
    """The furthest slice, in the order of this image; None where it is not known."""
    try:
        found = record["worst_slice"][case][method]
        worst = Furthest(int(found["index"]), tuple(map(float, found["position_mm"])))
        return worst.in_place(image.open().geometry)
    except (KeyError, TypeError, ValueError, MedidiffError):
        return None


def _digest(image: Image) -> str:
    """Of an image; "" for a file that is gone."""
    try:
        return image.digest
    except OSError:
        return ""


def _is_ours(path: Path) -> bool:
    """Whether it begins as a results.csv of medidiff does."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip() == ",".join(COLUMNS)
    except (OSError, ValueError):
        return False


@contextmanager
def _damaged(evaluation: Evaluation) -> Iterator[None]:
    """Whatever is wrong with files that somebody changed is an InputError, which names no folder."""
    try:
        yield
    except InputError as error:
        raise InputError(without_paths(str(error), [evaluation.folder])) from None
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{evaluation.label}: not readable as results ({what}); make them anew") from None


def _write(evaluation: Evaluation) -> None:
    """The tables of a study of the database as the files that a report is made of."""
    table = evaluation.table()
    cases = table.drop_duplicates("case")
    facts = [
        CaseFacts(case, patient, group, known(dose), noise, int(n))
        for case, patient, group, dose, noise, n in cases[["case", *FACTS]].itertuples(index=False)
    ]
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    write_record(evaluation.folder, evaluation.record)
    write_tables(evaluation.folder, [Row(*line) for line in table[list(COLUMNS)].itertuples(index=False)], facts)


def _part(found: object, name: str) -> Mapping[str, Any]:
    """A part of a record that is a mapping; an empty one where it is something else."""
    part = found.get(name) if isinstance(found, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _given(images: object) -> list[object]:
    return [images.get(role) for role in ("scan", "reference")] if isinstance(images, Mapping) else []


def _stamp(folder: Path) -> str:
    names = (RECORD, RESULTS, CASES, CURVES, STATISTICS, COMPARISONS, AGREEMENT)
    files = [folder / name for name in names]
    return _key(*(str(file.stat().st_mtime_ns) if file.exists() else "" for file in files))


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
