"""Reader studies in a database: what was asked, in which order, and every answer that was ever given.

    reader_studies (id, name, created, version, design, unblinded, unblinded_by)  design is JSON; NULL: still blind
    reader_orders  (study_id, reader, begun, version, items)                      what a reader sees, in order, JSON
    reader_events  (id, study_id, reader, item, question, value, at)              one line a click, value is JSON

Events are added and never changed: the last of a question is the answer, those before are its history. Each is a
transaction of its own, so that what was answered is kept whatever ends next. A study that was unblinded takes none.
What a design, an item and a question hold is the dashboard's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from medidiff import __version__
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.results.database import INSERT, told

TABLES = sa.MetaData()

studies = sa.Table(
    "reader_studies",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("design", sa.JSON, nullable=False),
    sa.Column("unblinded", sa.DateTime(timezone=True)),
    sa.Column("unblinded_by", sa.Text, nullable=False),
)
orders = sa.Table(
    "reader_orders",
    TABLES,
    sa.Column("study_id", sa.ForeignKey(studies.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("reader", sa.Text, primary_key=True),
    sa.Column("begun", sa.DateTime(timezone=True), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("items", sa.JSON, nullable=False),
)
events = sa.Table(
    "reader_events",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.ForeignKey(studies.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("reader", sa.Text, nullable=False),
    sa.Column("item", sa.Integer, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("reader_events_by_reader", "study_id", "reader"),
)
READ = "cannot be read"
CHECK = "check that it runs and that medidiff wrote it"


@dataclass(frozen=True)
class Study:
    """One study; times are UTC, `unblinded` is None as long as it is blind."""

    id: int
    name: str
    created: datetime
    version: str
    design: dict[str, Any]
    unblinded: datetime | None
    unblinded_by: str


@dataclass(frozen=True)
class Event:
    """One answer, or that an item was opened or finished; `id` rises with every event of the database."""

    id: int
    reader: str
    item: int
    question: str
    value: Any
    at: datetime


def create_study(engine: sa.Engine, name: str, design: Mapping[str, Any]) -> int:
    """Keep a new study; its number.

    Raises InputError for a name that is taken, OutputError where the database fails.
    """
    line = {
        "name": name, "created": datetime.now(UTC), "version": __version__, "design": dict(design), "unblinded_by": "",
    }  # fmt: skip
    with told(engine, OutputError, "did not keep the study", "create it again"), engine.begin() as connection:
        TABLES.create_all(connection)
        insert = INSERT[connection.dialect.name](studies).values(line).on_conflict_do_nothing(index_elements=["name"])
        made = connection.execute(insert.returning(studies.c.id)).scalar_one_or_none()
    if made is None:
        raise InputError(f"a reader study is called '{name}' already; choose another name")
    return int(made)


def list_studies(engine: sa.Engine) -> list[Study]:
    """All of them, newest first; none in a database that never had one. Raises InputError."""
    with told(engine, InputError, READ, CHECK), engine.connect() as connection:
        if not sa.inspect(connection).has_table(studies.name):
            return []
        return [_study(line) for line in connection.execute(sa.select(studies).order_by(studies.c.id.desc()))]


def begin(engine: sa.Engine, study: int, reader: str, items: Sequence[Any]) -> list[Any]:
    """The items of a reader in their order: those given, the first time, and from then on the same.

    Raises OutputError where the database fails.
    """
    line = {
        "study_id": study, "reader": reader, "begun": datetime.now(UTC), "version": __version__, "items": list(items),
    }  # fmt: skip
    where = (orders.c.study_id == study) & (orders.c.reader == reader)
    with told(engine, OutputError, "did not keep the order", "log in again"), engine.begin() as connection:
        insert = INSERT[connection.dialect.name](orders).values(line)
        connection.execute(insert.on_conflict_do_nothing(index_elements=["study_id", "reader"]))
        return list(connection.execute(sa.select(orders.c["items"]).where(where)).scalar_one())


def read_orders(engine: sa.Engine, study: int) -> dict[str, list[Any]]:
    """The items of every reader who has begun, by reader. Raises InputError."""
    wanted = sa.select(orders.c.reader, orders.c["items"]).where(orders.c.study_id == study).order_by(orders.c.reader)
    with told(engine, InputError, READ, CHECK), engine.connect() as connection:
        return {reader: list(items) for reader, items in connection.execute(wanted)}


def save(engine: sa.Engine, study: int, reader: str, item: int, question: str, value: Any) -> None:
    """Keep one event: when this returns it is committed.

    Raises UsageError for a study that was unblinded, OutputError where the database fails; then it is not kept.
    """
    columns = {"study_id": study, "reader": reader, "item": item, "question": question}
    given = [sa.literal(text, events.c[name].type).label(name) for name, text in columns.items()]
    given += [sa.literal(value, sa.JSON()).label("value"), sa.literal(datetime.now(UTC), events.c.at.type).label("at")]
    is_open = (studies.c.id == study) & studies.c.unblinded.is_(None)
    # One statement: an answer and the unblinding cannot pass each other, and SQLite takes its lock at once.
    insert = events.insert().from_select([*columns, "value", "at"], sa.select(*given).where(is_open))
    with told(engine, OutputError, "did not keep the answer", "answer again"), engine.begin() as connection:
        kept = connection.execute(insert.returning(events.c.id)).scalar_one_or_none()
    if kept is None:
        raise UsageError(f"study {study} was unblinded: its answers can no longer be changed; ask who keeps the study")


def read_events(engine: sa.Engine, study: int, reader: str | None = None) -> list[Event]:
    """Every event of a study, or of one reader, in the order they came. Raises InputError."""
    where = events.c.study_id == study
    where = where if reader is None else where & (events.c.reader == reader)
    names = ("id", "reader", "item", "question", "value", "at")
    wanted = sa.select(*(events.c[name] for name in names)).where(where).order_by(events.c.id)
    with told(engine, InputError, READ, CHECK), engine.connect() as connection:
        return [
            Event(line.id, line.reader, line.item, line.question, line.value, _utc(line.at))
            for line in connection.execute(wanted)
        ]


def unblind(engine: sa.Engine, study: int, by: str) -> None:
    """Write down that a study was unblinded, when and by whom; the first time counts. Raises OutputError."""
    change = sa.update(studies).where((studies.c.id == study) & studies.c.unblinded.is_(None))
    change = change.values(unblinded=datetime.now(UTC), unblinded_by=by)
    with told(engine, OutputError, "did not unblind the study", "try again"), engine.begin() as connection:
        connection.execute(change)


def _study(line: sa.Row[Any]) -> Study:
    unblinded = None if line.unblinded is None else _utc(line.unblinded)
    return Study(line.id, line.name, _utc(line.created), line.version, line.design, unblinded, line.unblinded_by)


def _utc(time: datetime) -> datetime:
    """SQLite forgets the zone, which is UTC; PostgreSQL gives its own."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
