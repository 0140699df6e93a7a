"""Reader studies in both databases: every answer is kept, once and in order, whoever else writes and whatever ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from medidiff import __version__
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.results import readings
from medidiff.results.database import open_database
from medidiff.results.readings import (
    begin,
    create_study,
    list_studies,
    read_events,
    read_orders,
    save,
    unblind,
)  # fmt: skip

if TYPE_CHECKING:
    from conftest import PostgreSQL

DESIGN: dict[str, Any] = {"arms": ["scan", "é'; DROP TABLE reader_events; --"], "seed": 1, "cases": [{"a": None}]}
VALUES = [3, "A", 0.1, [], [{"position_mm": [1.5, -2, 3e-5], "confidence": 2}], {"é": None}, "'; --"]


@pytest.fixture
def engine(url: str) -> sa.Engine:
    """A database of either kind without reader studies."""
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            connection.execute("DROP TABLE IF EXISTS reader_events, reader_orders, reader_studies")
    return open_database(url)


def values(engine: sa.Engine, study: int, reader: str | None = None) -> list[Any]:
    return [event.value for event in read_events(engine, study, reader)]


def test_a_study_reads_back_as_it_was_designed(engine: sa.Engine) -> None:
    assert list_studies(engine) == []
    number = create_study(engine, "noise", DESIGN)
    create_study(engine, "other", {})
    other, study = list_studies(engine)
    assert (study.id, study.name, study.design, study.version) == (number, "noise", DESIGN, __version__)
    assert (study.unblinded, study.unblinded_by, other.name) == (None, "", "other")
    assert abs(datetime.now(UTC) - study.created) < timedelta(minutes=1)


def test_a_name_is_taken_once(engine: sa.Engine) -> None:
    create_study(engine, "noise", DESIGN)
    with pytest.raises(InputError, match="called 'noise' already"):
        create_study(engine, "noise", {})
    assert [study.design for study in list_studies(engine)] == [DESIGN]


def test_the_order_of_a_reader_is_that_of_the_first_time(engine: sa.Engine) -> None:
    study = create_study(engine, "noise", DESIGN)
    assert begin(engine, study, "r1", [3, 1, 2]) == [3, 1, 2]
    assert begin(engine, study, "r1", [1, 2, 3]) == [3, 1, 2]
    assert begin(engine, study, "r2", [1, 2, 3]) == [1, 2, 3]
    assert read_orders(engine, study) == {"r1": [3, 1, 2], "r2": [1, 2, 3]}


def test_every_answer_is_kept_and_none_is_overwritten(engine: sa.Engine) -> None:
    """The same question answered again stands after the first answer; other readers and studies see none of it."""
    study, other = create_study(engine, "noise", DESIGN), create_study(engine, "other", DESIGN)
    for value in VALUES:
        save(engine, study, "r1", 7, "noise", value)
    save(engine, other, "r1", 0, "noise", 1)
    save(engine, study, "r2", 0, "noise", 5)
    events = read_events(engine, study, "r1")
    assert [event.value for event in events] == VALUES
    assert {(event.reader, event.item, event.question) for event in events} == {("r1", 7, "noise")}
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert all(abs(datetime.now(UTC) - event.at) < timedelta(minutes=1) for event in events)
    assert values(engine, study) == [*VALUES, 5]
    assert values(engine, other) == [1]


def test_an_unblinded_study_takes_no_answers(engine: sa.Engine) -> None:
    """Refused in a sentence; who unblinded it first, and when, stays."""
    study, other = create_study(engine, "noise", DESIGN), create_study(engine, "other", DESIGN)
    save(engine, study, "r1", 0, "noise", 1)
    unblind(engine, study, "owner")
    first = list_studies(engine)[1]
    unblind(engine, study, "somebody else")
    assert list_studies(engine)[1] == first
    assert first.unblinded_by == "owner"
    assert first.unblinded is not None
    with pytest.raises(UsageError, match="was unblinded"):
        save(engine, study, "r1", 0, "noise", 2)
    save(engine, other, "r1", 0, "noise", 3)
    assert (values(engine, study), values(engine, other)) == ([1], [3])


def test_readers_who_answer_at_once_lose_nothing(engine: sa.Engine) -> None:
    """Four readers with sixty answers each, from four threads, while a fifth reads."""
    study = create_study(engine, "noise", DESIGN)
    failures: list[Exception] = []

    def read(reader: str) -> None:
        try:
            begin(engine, study, reader, list(range(60)))
            for k in range(60):
                save(engine, study, reader, k, "noise", k)
                read_events(engine, study, reader)
        except Exception as error:  # a thread's own would be lost
            failures.append(error)

    threads = [threading.Thread(target=read, args=(f"r{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(values(engine, study, f"r{k}") == list(range(60)) for k in range(4))


WRITER = """
import sys
from medidiff.results.database import open_database
from medidiff.results.readings import save
engine = open_database(sys.argv[1])
for k in range(100_000):
    save(engine, int(sys.argv[2]), "r1", k, "noise", k)
    print(k, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_that_it_was_told_is_kept(engine: sa.Engine) -> None:
    """Killed between two answers, or in the middle of one: all that it was told are there, at most one more."""
    study = create_study(engine, "noise", DESIGN)
    url = engine.url.render_as_string(hide_password=False)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(study)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(30)]
    writer.send_signal(signal.SIGKILL)
    told += [int(line) for line in writer.communicate()[0].split()]
    kept = values(engine, study)
    assert kept == list(range(len(kept)))
    assert told == list(range(len(told)))
    assert 0 <= len(kept) - len(told) <= 1
    save(engine, study, "r1", 0, "noise", "again")
    assert values(engine, study)[-1] == "again"


def test_a_database_that_dies_is_named_and_the_answer_can_be_given_again(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.url) as connection:
        connection.execute("DROP TABLE IF EXISTS reader_events, reader_orders, reader_studies")
    engine = open_database(postgresql.url)
    study = create_study(engine, "noise", DESIGN)
    save(engine, study, "r1", 0, "noise", 1)
    postgresql.kill()
    try:
        with pytest.raises(OutputError, match="did not keep the answer") as caught:
            save(engine, study, "r1", 1, "noise", 2)
    finally:
        postgresql.start()
    assert "open-sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)
    save(engine, study, "r1", 1, "noise", 2)
    assert values(engine, study) == [1, 2]


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    engine = open_database(f"sqlite:///{tmp_path / 'notes.txt'}")
    with pytest.raises(InputError, match="file is not a database"):
        list_studies(engine)
    with pytest.raises(OutputError, match="file is not a database"):
        create_study(engine, "noise", DESIGN)


def test_results_and_reader_studies_share_a_database(engine: sa.Engine) -> None:
    """Neither has a table of the other's name."""
    from medidiff.results import database

    assert not readings.TABLES.tables.keys() & database.TABLES.tables.keys()
