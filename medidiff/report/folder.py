"""A folder of results as the report sees it: tables, curves, statistics and the record of what was asked.

Only the tables are needed. Statistics that are absent are computed from them; a folder without study.json or curves
has a shorter report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medidiff.errors import InputError
from medidiff.report.words import dose_words
from medidiff.results.names import AGREEMENT, COMPARISONS, RECORD, STATISTICS
from medidiff.results.rows import Curve
from medidiff.results.tables import read_curves, read_tables
from medidiff.statistics import StatisticsSettings, analyse
from medidiff.statistics.sentences import say

if TYPE_CHECKING:
    import pandas as pd

TEXTS = {
    "metric", "preset", "region", "unit", "group", "reference_noise", "method", "baseline", "against", "test", "better",
    "interval", "sentence",
}  # fmt: skip
STRATUM = ["group", "dose", "reference_noise"]
REFERENCES = {"none": "noise-free reference", "shared": "noise inserted", "independent": "independent reference"}


@dataclass(frozen=True)
class Stratum:
    """Cases that statistics may pool: of one dose, one group, one kind of reference."""

    label: str
    group: str
    dose: float  # nan where unknown
    reference_noise: str

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The lines of a table with these columns."""
        dose = table["dose"].isna() if self.dose != self.dose else table["dose"] == self.dose
        return table[dose & (table["group"] == self.group) & (table["reference_noise"] == self.reference_noise)]


@dataclass(frozen=True)
class Outcome:
    """One column of results."""

    metric: str
    preset: str
    region: str
    unit: str

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        same = (table["metric"] == self.metric) & (table["preset"] == self.preset)
        return table[same & (table["region"] == self.region) & (table["unit"] == self.unit)]


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that a report is made of; `methods` in the order of the study."""

    folder: Path
    rows: pd.DataFrame
    cases: pd.DataFrame
    curves: list[Curve]
    record: Mapping[str, Any]
    settings: StatisticsSettings
    methods: tuple[str, ...]
    baseline: str
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    agreement: pd.DataFrame
    sentences: list[str]

    @cached_property
    def strata(self) -> list[Stratum]:
        """By group, then by dose."""
        found = self.rows[STRATUM].drop_duplicates().sort_values(STRATUM)
        twins = found.duplicated(["group", "dose"], keep=False)
        lines = zip(found.itertuples(index=False), twins, strict=True)
        return [Stratum(_label(g, d, r if twin else ""), g, d, r) for (g, d, r), twin in lines]

    def outcomes(self, table: pd.DataFrame) -> list[Outcome]:
        names = table[["metric", "preset", "region", "unit"]].drop_duplicates()
        return [Outcome(*map(str, line)) for line in names.itertuples(index=False)]

    def in_order(self, methods: Any) -> list[str]:
        present = set(methods)
        return [name for name in self.methods if name in present]


def read_results(folder: Path) -> Results:
    """Read a folder; raises InputError where it holds no results, or damaged ones."""
    rows, cases = read_tables(folder)
    if rows.empty:
        raise InputError(f"{folder}: results.csv holds no results; there is nothing to report")
    record = _record(folder / RECORD)
    settings = _settings(folder / RECORD, record)
    asked = [*record.get("methods", {})]
    present = set(rows["method"])
    methods = tuple(name for name in [*asked, *sorted(present - set(asked))] if name in present)
    baseline = _baseline(record, settings, methods)
    summary, comparisons, agreement, sentences = _statistics(folder, rows, settings, baseline)
    return Results(
        folder, rows, cases, read_curves(folder), record, settings, methods, baseline,
        summary, comparisons, agreement, sentences,
    )  # fmt: skip


def _statistics(folder: Path, rows: pd.DataFrame, settings: StatisticsSettings, baseline: str) -> tuple[Any, ...]:
    """The frames of the folder, or new ones where one is absent, and what they say."""
    paths = [folder / name for name in (STATISTICS, COMPARISONS, AGREEMENT)]
    if not all(path.exists() for path in paths):
        made = analyse(rows, settings, baseline)
        return made.summary, made.comparisons, made.agreement, made.sentences
    summary, comparisons, agreement = map(_read_frame, paths)
    return summary, comparisons, agreement, say(summary, comparisons.to_dict("records"), baseline, settings)


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        for column in set(table.columns) - TEXTS:
            cells = table[column].tolist()
            table[column] = (
                [cell == "True" for cell in cells] if column == "primary" else [float(cell or "nan") for cell in cells]
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a table ({' '.join(str(error).split())})") from None
    return table


def _record(path: Path) -> Mapping[str, Any]:
    """What was asked; empty where the folder has no study.json."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); run the study again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(found).__name__}; run the study again")
    return found


def _settings(path: Path, record: Mapping[str, Any]) -> StatisticsSettings:
    try:
        return StatisticsSettings.model_validate(record.get("settings", {}).get("statistics", {}))
    except ValidationError as error:
        raise InputError(f"{path}: settings.statistics: {error.errors()[0]['msg']}; run the study again") from None


def _baseline(record: Mapping[str, Any], settings: StatisticsSettings, methods: tuple[str, ...]) -> str:
    wanted = (record.get("baseline"), settings.baseline, "identity", methods[0])
    return next(name for name in wanted if name in methods)


def _label(group: str, dose: float, reference: str) -> str:
    parts = [dose_words(dose), group, REFERENCES.get(reference, reference)]
    return ", ".join(part for part in parts if part) or "all cases"
