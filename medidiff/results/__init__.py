"""Tables of results: rows and curves, their files, and the database."""

from medidiff.results.rows import COLUMNS, WHOLE, CaseFacts, Curve, Row

__all__ = ["COLUMNS", "WHOLE", "CaseFacts", "Curve", "Row"]
