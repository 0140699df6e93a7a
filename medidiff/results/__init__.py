"""Tables of results: rows and curves, their files, and the database."""

from medidiff.results.rows import COLUMNS, WHOLE, CaseFacts, Curve, Row
from medidiff.results.tables import FACTS, read_curves, read_tables, write_curves, write_statistics, write_tables

__all__ = [
    "COLUMNS", "FACTS", "WHOLE", "CaseFacts", "Curve", "Row", "read_curves", "read_tables", "write_curves",
    "write_statistics", "write_tables",
]  # fmt: skip
