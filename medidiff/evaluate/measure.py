"""What a measure is: it looks at the slices of one candidate in turn, and says its numbers at the end.

    measure = MEASURES["psnr"](context)
    for view in views:
        measure.add(view)
    measure.values(), measure.curves()

Nothing it keeps may grow with the volume by more than a few numbers a slice, so that memory stays constant. A measure
that does not apply (no truth, no deviation, no features) says nothing; it never raises for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from medidiff.evaluate.view import Context, View
from medidiff.results.rows import WHOLE


@dataclass(frozen=True)
class Value:
    """A `Row` without case and method."""

    metric: str
    value: float
    unit: str
    preset: str = ""
    region: str = WHOLE


@dataclass(frozen=True)
class Function:
    """A `Curve` without case and method; a plane where y has len(x)^2 values."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_unit: str
    y_unit: str
    region: str = WHOLE


class Measure(Protocol):
    """One metric, or a few that share their arithmetic."""

    def add(self, view: View) -> None:
        """Take one slice into account."""

    def values(self) -> Iterable[Value]: ...

    def curves(self) -> Iterable[Function]: ...


Factory = Callable[[Context], Measure]
