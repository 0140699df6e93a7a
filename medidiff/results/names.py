"""How the files of a results folder are named: `<case>--<method>` after what they are of, and those of all results."""

from __future__ import annotations

import hashlib
import re

RESULTS, PARQUET, CASES, CURVES = "results.csv", "results.parquet", "cases.csv", "curves.json"
STATISTICS, COMPARISONS, AGREEMENT = "statistics.csv", "comparisons.csv", "agreement.csv"
CONCLUSIONS, PAGE, METHODS, RECORD = "conclusions.txt", "report.html", "methods.txt", "study.json"
TABLES = "tables"  # a folder
MADE = (RESULTS, PARQUET, CASES, CURVES, STATISTICS, COMPARISONS, AGREEMENT, CONCLUSIONS, PAGE, METHODS)


def file_stem(case: str, method: str) -> str:
    """`<case>--<method>` for file names; names that no file system takes are replaced, with a hash against clashes."""
    return f"{_safe(case)}--{_safe(method)}"


def _safe(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).strip("-.")[:80]
    return safe if safe == name and "--" not in name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
