"""Numbers, units and names as a reader expects them, the same in every table, sentence and plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

NOTHING, INFINITE = "–", "∞"
DECIMALS = {"dB": 2, "HU": 2, "%": 1}
SUPERSCRIPTS = {"^2": "²", "^3": "³", "^-1": "⁻¹"}


def decimals(values: Iterable[float], unit: str) -> int:
    """Decimals that all of these are written with: what the unit is known to, else three digits (an index: four)."""
    if unit in DECIMALS:
        return DECIMALS[unit]
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    digits = 4 if unit == "1" else 3
    return digits - 1 if largest == 0 else min(max(digits - 1 - math.floor(math.log10(largest)), 0), 4)


def number(value: float, places: int) -> str:
    """A number of so many decimals, with a true minus."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return INFINITE if value > 0 else f"−{INFINITE}"
    text = f"{value:.{places}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def interval(low: float, high: float, places: int) -> str:
    """`1.2 to 3.4`, or nothing where there is no interval."""
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low, places)} to {number(high, places)}"


def p_value(p: float) -> str:
    return NOTHING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def unit_words(unit: str) -> str:
    """`HU² mm²` of `HU^2 mm^2`; nothing for a pure number."""
    for plain, raised in SUPERSCRIPTS.items():
        unit = unit.replace(plain, raised)
    return "" if unit == "1" else unit


def with_unit(text: str, unit: str) -> str:
    """`RMSE / HU` for axes and headers; a pure number stays alone."""
    return f"{text} / {unit_words(unit)}" if unit_words(unit) else text


def dose_words(dose: float | None) -> str:
    return "" if dose is None or math.isnan(dose) else f"{100 * dose:.6g} % dose"


def outcome_words(metric: str, preset: str, region: str) -> str:
    """`RMSE (hu, lung)`."""
    where = [preset] * bool(preset) + [region] * (region != "all")
    return f"{metric} ({', '.join(where)})" if where else metric


def many(count: int, one: str, plural: str = "") -> str:
    return f"{count} {one if count == 1 else plural or one + 's'}"


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def leaves(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Every setting of a nested record with its dotted name; an empty part says that it is empty."""
    if isinstance(value, Mapping) and (value or not name):
        return [leaf for key, part in value.items() for leaf in leaves(part, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [leaf for k, part in enumerate(value, 1) for leaf in leaves(part, f"{name} {k}")]
    if isinstance(value, list | tuple | Mapping):
        return [(name, ", ".join(map(str, value)) or "none")]
    if isinstance(value, bool) or value is None:
        return [(name, {True: "yes", False: "no", None: "none"}[value])]
    return [(name, f"{value:.10g}" if isinstance(value, float) else str(value) or "none")]
