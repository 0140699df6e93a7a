"""What a benchmark of bars found: figures, and which bars are met."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """What was found: lines to print, figures to keep, and whether each bar is met."""

    figures: dict[str, Any] = field(default_factory=dict)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def bar(self, name: str, value: float, limit: float, unit: str, *, at_most: bool, where: str = "") -> None:
        """One bar at its worst place; `where` names it."""
        met = value <= limit if at_most else value >= limit
        found = {"bar": name, "value": round(value, 4), "limit": limit, "unit": unit, "at": where, "met": bool(met)}
        self.bars.append(found)

    def verdicts(self) -> None:
        for bar in self.bars:
            word = "PASS" if bar["met"] else "FAIL"
            print(f"{word}  {bar['bar']}: {bar['value']:.3g} {bar['unit']} (bar {bar['limit']:g})  {bar['at']}")
