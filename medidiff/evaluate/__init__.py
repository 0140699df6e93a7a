"""Judging images: measures that are shown one slice after the other, and the volumes they are shown."""

from medidiff.evaluate.compare import compare, require_comparable
from medidiff.evaluate.measure import Factory, Function, Measure, Value
from medidiff.evaluate.view import Context, Feature, View
from medidiff.results.rows import Row

__all__ = [
    "Context", "Factory", "Feature", "Function", "Measure", "Row", "Value", "View", "compare", "require_comparable",
]  # fmt: skip
