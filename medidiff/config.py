"""Typed settings: YAML in, `key=value` overrides, unknown keys refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from medidiff.errors import UsageError


class Settings(BaseModel):
    """Base of all settings; frozen, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def rising(least: float = -math.inf, *, above: float = -math.inf, below: float = math.inf) -> AfterValidator:
    """For a field (low, high) to draw from: low <= high, both at least `least`, above `above` and below `below`."""
    limits = {"at least": least, "above": above, "below": below}
    wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))

    def check(values: tuple[float, float]) -> tuple[float, float]:
        low, high = values
        if not low <= high:
            raise ValueError(f"expected [low, high], found [{low:g}, {high:g}]: give the smaller one first")
        if not (low >= least and low > above and high < below):
            raise ValueError(f"expected values {wanted}, found [{low:g}, {high:g}]")
        return values

    return AfterValidator(check)


def load_settings(kind: type[SettingsT], path: Path, overrides: Sequence[str] = ()) -> SettingsT:
    """Read settings of one `kind` from YAML, with overrides `a.b=value`, or `a.0=value` for the first item of a list
    (the value is YAML as well).

    Raises UsageError naming every bad key at once.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UsageError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {_sentence(e)}" for e in error.errors())
        raise UsageError(f"{path}: {faults}") from None


def _sentence(fault: Any) -> str:
    """One fault found by pydantic, with the value where that is what is wrong."""
    message = str(fault["msg"])
    if fault["type"] == "value_error":
        return message.removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return "unknown key, leave it out or correct its spelling"
    return message if fault["type"] == "missing" else f"{message}, found {fault['input']!r}"


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"override '{override}': expected key=value, for example steps=1000")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"override '{override}': '{text}' is not a YAML value") from None
    *parents, last = key.split(".")
    place: Any = values
    for parent, child in pairwise([*parents, last]):
        if isinstance(place, dict):
            place.setdefault(parent, {})
        place = place[_part(place, parent, override)]
        if not isinstance(place, dict | list):
            raise UsageError(f"override '{override}': '{parent}' is a single value, it has no '{child}'")
    place[_part(place, last, override)] = value


def _part(place: dict[str, Any] | list[Any], part: str, override: str) -> str | int:
    """The key of a mapping, or the number of an item that a list has."""
    if isinstance(place, dict):
        return part
    if not part.isdecimal() or int(part) >= len(place):
        raise UsageError(f"override '{override}': '{part}' is none of the items 0 to {len(place) - 1} of a list")
    return int(part)
