"""The files of a results folder: numbers as CSV and Parquet, facts of cases, curves.

    results.csv      exactly COLUMNS, one row a line, sorted; numbers in the shortest form that keeps every bit
    results.parquet  the same, joined with FACTS of the case; version and disclaimer in the metadata of the schema
    cases.csv        the fields of CaseFacts; `extra` is a JSON object, an unknown dose an empty cell
    statistics.csv, comparisons.csv, agreement.csv, conclusions.txt     what medidiff.statistics makes of them
    curves.json      a list of objects with the fields of Curve; what JSON lacks are the strings "nan", "inf"

Every file is written under a temporary name and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medidiff import DISCLAIMER, __version__
from medidiff.errors import InputError
from medidiff.io.files import replacing, write_whole
from medidiff.results.names import (
    AGREEMENT,
    CASES,
    COMPARISONS,
    CONCLUSIONS,
    CURVES,
    PARQUET,
    RESULTS,
    STATISTICS,
)  # fmt: skip
from medidiff.results.rows import COLUMNS, CaseFacts, Curve, Row

if TYPE_CHECKING:
    import pandas as pd

    from medidiff.statistics import Analysis

FACTS = ("patient", "group", "dose", "reference_noise", "n_slices")
NUMBERS = {"value": float, "dose": float, "n_slices": int}


def write_tables(folder: Path, rows: Sequence[Row], cases: Sequence[CaseFacts]) -> None:
    """Write results.csv, results.parquet and cases.csv; raises OutputError naming the file that failed."""
    ordered = sorted(rows, key=attrgetter(*COLUMNS[:5]))
    _write_csv(folder / RESULTS, COLUMNS, ([*_texts(row), repr(float(row.value)), row.unit] for row in ordered))
    names = [field.name for field in fields(CaseFacts)]
    _write_csv(folder / CASES, names, (_case_cells(facts) for facts in sorted(cases, key=attrgetter("case"))))
    _write_parquet(folder / PARQUET, read_tables(folder)[0])


def read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with columns COLUMNS + FACTS, and cases; raises InputError where the folder holds no results.

    Texts are never missing (an empty cell is ""); an unknown dose is nan.
    """
    cases = _read_csv(folder / CASES)
    rows = _read_csv(folder / RESULTS)
    return rows.merge(cases[["case", *FACTS]], on="case", how="left", validate="many_to_one"), cases


def write_curves(folder: Path, curves: Iterable[Curve]) -> None:
    """Write curves.json, sorted; raises OutputError."""
    ordered = sorted(curves, key=attrgetter("case", "method", "region", "name"))
    texts = [strict_json(asdict(curve) | {"x": _floats(curve.x), "y": _floats(curve.y)}) for curve in ordered]
    write_whole(folder / CURVES, ("[" + ",\n".join(texts) + "]\n").encode())


def read_curves(folder: Path) -> list[Curve]:
    """The curves of a folder, none where it has no curves.json; raises InputError where that is damaged."""
    path = folder / CURVES
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Curve(**{**curve, **{axis: tuple(map(float, curve[axis])) for axis in "xy"}}) for curve in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not readable as curves ({error}); make the results anew") from None


def write_statistics(folder: Path, analysis: Analysis) -> None:
    """Write statistics.csv, comparisons.csv, agreement.csv and conclusions.txt; raises OutputError."""
    tables = {STATISTICS: analysis.summary, COMPARISONS: analysis.comparisons, AGREEMENT: analysis.agreement}
    for name, table in tables.items():
        write_whole(folder / name, table.to_csv(index=False, na_rep="nan", lineterminator="\n").encode())
    write_whole(folder / CONCLUSIONS, "\n".join([*analysis.sentences, f"{DISCLAIMER.capitalize()}.\n"]).encode())


def _texts(row: Row) -> list[str]:
    return [row.case, row.method, row.region, row.metric, row.preset]


def _case_cells(facts: CaseFacts) -> list[str]:
    dose = "" if facts.dose is None else repr(float(facts.dose))
    extra = strict_json(dict(facts.extra))
    return [facts.case, facts.patient, facts.group, dose, facts.reference_noise, str(facts.n_slices), extra]


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        for column in NUMBERS.keys() & set(table.columns):
            table[column] = [NUMBERS[column](cell or "nan") for cell in table[column]]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; name a folder that `medidiff run` or `medidiff evaluate` wrote"
        ) from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not readable as a table ({' '.join(str(error).split())})") from None
    return table


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    about = {"medidiff": __version__, "note": DISCLAIMER}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **about})
    with replacing(path) as temporary:
        parquet.write_table(arrow, temporary, compression="zstd")


def strict_json(value: Any) -> str:
    """JSON that every reader accepts: numbers that are not finite become strings that float() reads."""
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return repr(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _floats(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values]
