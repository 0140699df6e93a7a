"""Both databases hold exactly what was measured; one that goes away is named, and nothing is lost by it."""

from __future__ import annotations

import dataclasses
import math
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import sqlalchemy as sa

from medidiff import __version__
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.results import CaseFacts, Row, read_tables, write_tables
from medidiff.results import database as db
from medidiff.results.database import open_database, read_study, store

if TYPE_CHECKING:
    from conftest import PostgreSQL

CASES = [CaseFacts("b", "patient, 2", 'kernel "sharp"', 0.1, "shared", 12, (("kv", 120),)), CaseFacts("a", "001")]
VALUES = [0.1, 1 / 3, 5e-324, 1e308, math.inf, -math.inf, math.nan]
ROWS = [Row("b", "nlm", "all", f"m{k}", "hu", value, "HU") for k, value in enumerate(VALUES)]
ROWS += [Row("a", "é'; DROP TABLE results; --", "lung", "RMSE", "", 1.0, "HU")]
PROVENANCE = {"seed": 1, "limit": math.inf, "methods": {"nlm": {"smoothing": 0.5, "note": None}}}


def many(n: int) -> Iterator[Row]:
    return (Row("b", "nlm", "all", f"m{k}", "hu", float(k), "HU") for k in range(n))


def test_a_study_reads_back_to_the_last_bit(url: str, tmp_path: Path) -> None:
    """Both databases give the frame that the files give, nan, the infinities and hostile names included."""
    engine = open_database(url)
    assert store(engine, "s", ROWS, CASES, PROVENANCE) == len(ROWS)
    write_tables(tmp_path, ROWS, CASES)
    pd.testing.assert_frame_equal(read_study(engine, "s"), read_tables(tmp_path)[0], check_exact=True)


def test_storing_again_changes_nothing_but_what_changed(url: str) -> None:
    """The same key is replaced, never doubled; another study with the same cases stands beside it."""
    engine = open_database(url)
    for value in (1.0, 2.0):
        store(engine, "s", [*ROWS, dataclasses.replace(ROWS[0], value=value)], CASES, PROVENANCE)
        store(engine, "other", ROWS[:2], CASES, {})
    table = read_study(engine, "s")
    assert len(table) == len(ROWS)
    assert table.loc[table["metric"] == "m0", "value"].tolist() == [2.0]
    assert len(read_study(engine, "other")) == 2
    with engine.connect() as connection:
        name, version, provenance = connection.execute(
            sa.select(db.studies.c.name, db.studies.c.version, db.studies.c.provenance).order_by("name")
        ).all()[1]
        assert connection.execute(sa.select(sa.func.count()).select_from(db.cases)).scalar_one() == 4
    assert (name, version) == ("s", __version__)
    assert provenance == PROVENANCE | {"limit": "inf"}


def test_a_failure_of_ours_in_the_middle_stores_nothing(url: str) -> None:
    """One transaction: rows that stop coming leave no half of a study."""
    engine = open_database(url)

    def breaking() -> Iterator[Row]:
        yield from many(2 * db.CHUNK)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        store(engine, "s", breaking(), CASES, {})
    store(engine, "other", [], [], {})
    with pytest.raises(InputError, match="no study 's'; it holds other"):
        read_study(engine, "s")


def test_a_server_that_dies_is_named_and_a_second_call_stores_everything(postgresql: PostgreSQL) -> None:
    """Killed after 2500 of 5000 rows: one sentence without the password; after a restart the same call completes."""
    engine, total = open_database(postgresql.url), 5 * db.CHUNK

    def dying() -> Iterator[Row]:
        for k, row in enumerate(many(total)):
            if k == total // 2:
                postgresql.kill()
            yield row

    try:
        with pytest.raises(OutputError, match="the database stopped storing") as caught:
            store(engine, "killed", dying(), CASES, PROVENANCE)
    finally:
        postgresql.start()
    assert caught.value.exit_code == 2
    assert "postgresql" in str(caught.value)
    assert "open-sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store(engine, "killed", many(total), CASES, PROVENANCE) == total
    assert read_study(engine, "killed")["value"].sum() == total * (total - 1) / 2


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Ten times the rows need no more memory than a few chunks of them."""
    engine = open_database(f"sqlite:///{tmp_path / 'r.sqlite'}")
    store(engine, "warm", many(db.CHUNK), CASES, {})
    peaks = []
    for n in (5 * db.CHUNK, 25 * db.CHUNK):
        tracemalloc.start()
        store(engine, f"s{n}", many(n), CASES, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "secret", "postgresql://me:secret@host:port/db"])
def test_other_urls_are_refused_without_repeating_them(url: str) -> None:
    """One sentence that says what is expected; what was given may hold a password."""
    with pytest.raises(UsageError, match="expected sqlite:///FILE or postgresql://") as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_without_a_file_is_refused(url: str) -> None:
    """It would forget everything as soon as the study ends."""
    with pytest.raises(UsageError, match="name one: sqlite:///FILE"):
        open_database(url)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    """Neither the password of the URL nor one in its query is shown."""
    with pytest.raises(OutputError, match=r"postgresql.*does not answer") as caught:
        open_database(f"postgresql://me:secret@/db?host={tmp_path}&password=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(OutputError, match=r"sqlite.*does not answer"):
        open_database(f"sqlite:///{tmp_path}/nowhere/r.sqlite")


def test_a_foreign_file_is_not_a_database(tmp_path: Path) -> None:
    """A file that is no SQLite database is refused in a sentence, and left as it is."""
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    engine = open_database(f"sqlite:///{tmp_path / 'notes.txt'}")
    with pytest.raises(OutputError, match="file is not a database"):
        store(engine, "s", ROWS, CASES, {})
    with pytest.raises(InputError, match="cannot be read"):
        read_study(engine, "s")
    assert (tmp_path / "notes.txt").read_text() == "not a database " * 100


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL is an extra."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'medidiff\[postgresql\]'"):
        open_database("postgresql://me@host/db")
