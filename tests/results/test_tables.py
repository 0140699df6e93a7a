"""The files of a results folder read back to the last bit, and are there whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from medidiff import DISCLAIMER, __version__
from medidiff.errors import InputError, OutputError
from medidiff.results import (
    COLUMNS,
    FACTS,
    CaseFacts,
    Curve,
    Row,
    read_curves,
    read_tables,
    write_curves,
    write_statistics,
    write_tables,
)
from medidiff.statistics import StatisticsSettings, analyse

HARD = [0.1, 1 / 3, 5e-324, -0.0, 1e308, 2.0**53 + 2, math.inf, -math.inf, math.nan, float(np.float32(0.1))]
CASES = [
    CaseFacts("b", "patient, 2", 'kernel "sharp"', 0.25, "shared", 12, (("kernel", "B40f"), ("kv", 120))),
    CaseFacts("NA", "001", "", None),
]
ROWS = [Row("b", "nlm", "all", f"m{k}", "hu", value, "HU") for k, value in enumerate(HARD)] + [
    Row("NA", "nan", "soft tissue", "Größe", "", 1.0, "1/mm")
]


def bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("d", value)


def test_every_number_reads_back_to_the_last_bit(tmp_path: Path) -> None:
    """CSV and Parquet give the same doubles, nan and the infinities among them; texts like NA stay texts."""
    write_tables(tmp_path, ROWS[::-1], CASES)
    table, _ = read_tables(tmp_path)
    for found in (table, parquet.read_table(tmp_path / "results.parquet").to_pandas()):
        assert tuple(found.columns) == COLUMNS + FACTS
        got = {tuple(line[:5]): bits(line[5]) for line in found[list(COLUMNS)].itertuples(index=False)}
        assert got == {(r.case, r.method, r.region, r.metric, r.preset): bits(r.value) for r in ROWS}


def test_the_csv_is_what_scripts_rely_on(tmp_path: Path) -> None:
    """Exactly the promised columns, sorted lines, nan and inf as plain words."""
    write_tables(tmp_path, ROWS[::-1], CASES)
    lines = list(csv.reader((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert lines[0] == ["case", "method", "region", "metric", "preset", "value", "unit"]
    assert [line[:5] for line in lines[1:]] == sorted(line[:5] for line in lines[1:])
    assert {"nan", "inf", "-inf", "0.3333333333333333"} < {line[5] for line in lines}


def test_facts_are_joined_and_kept(tmp_path: Path) -> None:
    """Rows carry the facts of their case; an unknown dose is nan, patient 001 keeps its zeros, extra is JSON."""
    write_tables(tmp_path, ROWS, CASES)
    table, cases = read_tables(tmp_path)
    facts = table.drop_duplicates("case").set_index("case")[list(FACTS)]
    assert facts.loc["b"].tolist() == ["patient, 2", 'kernel "sharp"', 0.25, "shared", 12]
    assert facts.loc["NA"].drop("dose").tolist() == ["001", "", "independent", 0]
    assert math.isnan(facts.loc["NA", "dose"])
    assert list(cases.columns) == [field.name for field in dataclasses.fields(CaseFacts)]
    assert [json.loads(extra) for extra in cases["extra"]] == [{}, {"kernel": "B40f", "kv": 120}]


def test_the_parquet_file_says_what_it_is(tmp_path: Path) -> None:
    """Version and disclaimer are in the schema, and zstd packs it."""
    write_tables(tmp_path, ROWS, CASES)
    file = parquet.ParquetFile(tmp_path / "results.parquet")
    assert file.schema_arrow.metadata[b"medidiff"] == __version__.encode()
    assert file.schema_arrow.metadata[b"note"] == DISCLAIMER.encode()
    assert file.metadata.row_group(0).column(5).compression == "ZSTD"


def test_curves_read_back_to_the_last_bit(tmp_path: Path) -> None:
    """curves.json is strict JSON, also with nan and inf in it."""
    curve = Curve("b", "nlm", "all", "NPS", tuple(range(len(HARD))), tuple(HARD), "1/mm", "HU^2 mm^2")
    write_curves(tmp_path, [curve, dataclasses.replace(curve, case="a")])
    json.loads((tmp_path / "curves.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    first, second = read_curves(tmp_path)
    assert (first.case, second.case) == ("a", "b")
    assert [bits(y) for y in second.y] == [bits(y) for y in HARD]
    assert dataclasses.replace(second, y=()) == dataclasses.replace(curve, y=())


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """A table that cannot be written leaves the former one and no temporary file."""
    write_tables(tmp_path, ROWS, CASES)
    before = (tmp_path / "results.csv").read_bytes()
    broken = [*ROWS, dataclasses.replace(ROWS[0], method="zz", value="no number")]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no number"):
        write_tables(tmp_path, broken, CASES)
    assert (tmp_path / "results.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "results.csv", "results.parquet"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"results\.csv: cannot be written"):
        write_tables(tmp_path / "file", ROWS, CASES)


def test_statistics_are_files_too(tmp_path: Path) -> None:
    """Three tables with their frames' columns, and the sentences with the disclaimer."""
    rows = [Row(f"c{k}", m, "all", "RMSE", "hu", 20.0 + k + s, "HU") for k in range(8) for m, s in (("a", 0), ("b", k))]
    write_tables(tmp_path, rows, [CaseFacts(f"c{k}", f"p{k}") for k in range(8)])
    analysis = analyse(read_tables(tmp_path)[0], StatisticsSettings(resamples=100), "a")
    write_statistics(tmp_path, analysis)
    for name, table in {
        "statistics.csv": analysis.summary,
        "comparisons.csv": analysis.comparisons,
        "agreement.csv": analysis.agreement,
    }.items():
        found = pd.read_csv(tmp_path / name, keep_default_na=False, na_values="nan")
        pd.testing.assert_frame_equal(found, table, check_dtype=False, rtol=1e-14)
    told = (tmp_path / "conclusions.txt").read_text(encoding="utf-8").splitlines()
    assert told[:-1] == analysis.sentences
    assert told[-1] == "Research use only, not for diagnosis."


def test_reading_what_is_no_results_folder(tmp_path: Path) -> None:
    """One sentence that says what to name instead; a folder without curves has none."""
    with pytest.raises(InputError, match=r"cases\.csv: no such file; name a folder"):
        read_tables(tmp_path)
    assert read_curves(tmp_path) == []
    write_tables(tmp_path, ROWS, CASES)
    (tmp_path / "results.csv").write_text("case,value\na,high\n")
    with pytest.raises(InputError, match="not readable as a table"):
        read_tables(tmp_path)
    (tmp_path / "curves.json").write_text("[{}]")
    with pytest.raises(InputError, match="not readable as curves"):
        read_curves(tmp_path)
