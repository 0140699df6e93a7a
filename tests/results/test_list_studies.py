"""Which studies a database holds, with what was asked in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.errors import InputError
from medidiff.results import CaseFacts, Row
from medidiff.results.database import list_studies, open_database, store


def test_studies_are_listed_with_what_was_asked(url: str) -> None:
    """In order of their names, in both databases; none before anything was stored."""
    engine = open_database(url)
    assert list_studies(engine) == {}
    for name in ("trial b", "trial a"):
        row = Row("a", "m", "all", "RMSE", "hu", 1.0, "HU")
        store(engine, name, [row], [CaseFacts("a", "P001")], {"created": name, "images": {"a": {"methods": {}}}})
    found = list_studies(engine)
    assert list(found) == ["trial a", "trial b"]
    assert found["trial a"] == {"created": "trial a", "images": {"a": {"methods": {}}}}


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'x.db'}")
    (tmp_path / "x.db").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        list_studies(engine)
