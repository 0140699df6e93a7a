"""Results in a database: SQLite in a file, or PostgreSQL by URL.

    studies (id, name, created, version, provenance)                       one line a study; provenance is JSON
    cases   (study_id, case, patient, group, dose, reference_noise, n_slices, extra)
    results (study_id, case, method, region, metric, preset, value, unit)  unique but for value and unit

A value that is not a number is NULL in both (SQLite has no nan), so that SQL averages leave it out; infinities stay.
`store` is one transaction: all or nothing, and the same again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from medidiff import __version__
from medidiff.errors import InputError, MedidiffError, OutputError, UsageError
from medidiff.results.rows import COLUMNS, CaseFacts, Row
from medidiff.results.tables import FACTS, strict_json

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
CONNECT: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": 10},
    "sqlite": {"timeout": 30},  # how long one writer waits for another
}
SECRET = ("password", "sslpassword")
CHUNK = 1000  # rows sent together


class _Number(sa.TypeDecorator[float]):
    """A double whose nan is NULL."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: sa.Dialect) -> float:
        return math.nan if value is None else value


TABLES = sa.MetaData()

studies = sa.Table(
    "studies",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("provenance", sa.JSON, nullable=False),
)
cases = sa.Table(
    "cases",
    TABLES,
    sa.Column("study_id", sa.ForeignKey(studies.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("case", sa.Text, primary_key=True),
    sa.Column("patient", sa.Text, nullable=False),
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("dose", _Number),
    sa.Column("reference_noise", sa.Text, nullable=False),
    sa.Column("n_slices", sa.Integer, nullable=False),
    sa.Column("extra", sa.JSON, nullable=False),
)
results = sa.Table(
    "results",
    TABLES,
    sa.Column("study_id", sa.ForeignKey(studies.c.id, ondelete="CASCADE"), primary_key=True),
    *(sa.Column(name, sa.Text, primary_key=True) for name in COLUMNS[:5]),
    sa.Column("value", _Number),
    sa.Column("unit", sa.Text, nullable=False),
)


def open_database(url: str) -> sa.Engine:
    """The database at `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`, once it has answered.

    Raises UsageError for another URL or a missing driver, OutputError where the database does not answer.
    """
    parsed = _parse(url)
    name = parsed.get_backend_name()
    try:
        engine = sa.create_engine(
            parsed,
            poolclass=sa.NullPool,  # a server may restart between two calls
            connect_args=CONNECT.get(name, {}),
            json_serializer=strict_json,
        )
    except ImportError:
        raise UsageError(
            f"{shown(parsed)}: the driver of PostgreSQL is not installed; run: pip install 'medidiff[postgresql]'"
        ) from None
    with told(engine, OutputError, "does not answer", "check the URL and that the server runs"), engine.connect():
        return engine


def store(
    engine: sa.Engine,
    study: str,
    rows: Iterable[Row],
    cases_of_study: Iterable[CaseFacts],
    provenance: Mapping[str, Any],
) -> int:
    """Put a study into the database, replacing lines of the same key; the number of rows that were sent.

    One transaction, and never more than a chunk of rows in memory. Raises OutputError where the database fails; then
    nothing of this call is in it.
    """
    advice = "nothing of it was stored, the result files are whole; run again to store them"
    with told(engine, OutputError, "stopped storing", advice), engine.begin() as connection:
        TABLES.create_all(connection)
        identity = _study(connection, study, provenance)
        facts = ({**asdict(case), "extra": dict(case.extra), "study_id": identity} for case in cases_of_study)
        _upsert(connection, cases, facts)
        return _upsert(connection, results, ({**vars(row), "study_id": identity} for row in rows))


def read_study(engine: sa.Engine, study: str) -> pd.DataFrame:
    """The rows of a study with the facts of their cases, as `read_tables` gives them.

    Raises InputError where there is no such study, naming those there are.
    """
    import pandas as pd

    with told(engine, InputError, "cannot be read", "check that medidiff wrote it"), engine.connect() as connection:
        known = {line.name: line.id for line in connection.execute(sa.select(studies.c.name, studies.c.id))}
        if study not in known:
            raise InputError(f"{shown(engine.url)}: no study '{study}'; it holds {', '.join(sorted(known)) or 'none'}")
        joined = results.join(cases, (results.c.study_id == cases.c.study_id) & (results.c.case == cases.c.case))
        columns = [*(results.c[name] for name in COLUMNS), *(cases.c[name] for name in FACTS)]
        wanted = sa.select(*columns).select_from(joined).where(results.c.study_id == known[study])
        lines = connection.execute(wanted).all()
    table = pd.DataFrame([tuple(line) for line in lines], columns=[*COLUMNS, *FACTS])
    return table.sort_values(list(COLUMNS[:5]), ignore_index=True)


def list_studies(engine: sa.Engine) -> dict[str, dict[str, Any]]:
    """What was asked in every study (its provenance), by name; empty where none was stored. Raises InputError."""
    with told(engine, InputError, "cannot be read", "check that medidiff wrote it"), engine.connect() as connection:
        if not sa.inspect(connection).has_table(studies.name):
            return {}
        lines = connection.execute(sa.select(studies.c.name, studies.c.provenance).order_by(studies.c.name))
        return {line.name: dict(line.provenance) for line in lines}


def _parse(url: str) -> sa.URL:
    """Raises UsageError that does not repeat the URL: it may hold a password in a place where nobody would look."""
    try:
        parsed = sa.make_url(url)
        known = parsed.set(drivername=DRIVERS[parsed.drivername.replace("+psycopg", "")])
    except (ArgumentError, KeyError, NoSuchModuleError, ValueError):
        raise UsageError(
            "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, found another kind of URL"
        ) from None
    if known.drivername == "sqlite" and known.database in (None, "", ":memory:"):
        raise UsageError("sqlite without a file would forget everything; name one: sqlite:///FILE")
    return known


def shown(url: sa.URL) -> str:
    """The URL with *** for its password."""
    return url.difference_update_query(SECRET).render_as_string(hide_password=True)


@contextmanager
def told(engine: sa.Engine, kind: type[MedidiffError], what: str, advice: str) -> Iterator[None]:
    """Turn what the driver says into one sentence: its first line only, as the others may quote data."""
    try:
        yield
    except DBAPIError as error:
        reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
        raise kind(f"{shown(engine.url)}: the database {what} ({reason}); {advice}") from None


def _study(connection: sa.Connection, name: str, provenance: Mapping[str, Any]) -> int:
    line = {"name": name, "created": datetime.now(UTC), "version": __version__, "provenance": dict(provenance)}
    insert = INSERT[connection.dialect.name](studies).values(line)
    latest = {key: insert.excluded[key] for key in ("version", "provenance")}  # `created` stays
    insert = insert.on_conflict_do_update(index_elements=["name"], set_=latest).returning(studies.c.id)
    return int(connection.execute(insert).scalar_one())


def _upsert(connection: sa.Connection, table: sa.Table, lines: Iterable[dict[str, Any]]) -> int:
    """Insert lines, or replace those of the same key; the number of lines."""
    insert = INSERT[connection.dialect.name](table)
    keys = [column.name for column in table.primary_key]
    latest = {column.name: insert.excluded[column.name] for column in table.c if column.name not in keys}
    insert = insert.on_conflict_do_update(index_elements=keys, set_=latest)
    count = 0
    for chunk in _chunks(lines):
        connection.execute(insert, chunk)
        count += len(chunk)
    return count


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
