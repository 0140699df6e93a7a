"""Settings: YAML in, overrides, and every bad key named at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from medidiff.config import Settings, load_settings
from medidiff.errors import UsageError


class Inner(Settings):
    width: int = 1
    ranges: tuple[float, float] = (0.0, 1.0)


class Outer(Settings):
    name: str
    steps: int = Field(default=10, ge=1)
    inner: Inner = Inner()


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_win_over_the_file_and_are_yaml_themselves(tmp_path: Path) -> None:
    """Nested keys with dots; lists and numbers as in YAML; what is not named keeps its value."""
    path = written(tmp_path, "name: a\nsteps: 5\ninner: {width: 3}\n")
    settings = load_settings(Outer, path, ["inner.ranges=[0.5, 2]", "steps=7", "name=b=c"])
    assert settings == Outer(name="b=c", steps=7, inner=Inner(width=3, ranges=(0.5, 2.0)))


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    """Items are counted from 0; one that is not there, or has no number, is named."""
    path = written(tmp_path, "name: a\nsteps: 5\ninner: {width: 3, ranges: [1, 2]}\n")
    assert load_settings(Outer, path, ["inner.ranges.1=7"]).inner.ranges == (1, 7)
    for key in ("inner.ranges.2", "inner.ranges.last"):
        with pytest.raises(UsageError, match="is none of the items 0 to 1 of a list"):
            load_settings(Outer, path, [f"{key}=7"])


def test_all_bad_keys_are_named_at_once(tmp_path: Path) -> None:
    """Misspelt, missing and out of range, nested or not."""
    path = written(tmp_path, "steps: 0\ninner: {widht: 3}\ncolour: red\n")
    with pytest.raises(UsageError) as refused:
        load_settings(Outer, path)
    for word in ("name", "steps", "inner.widht", "colour", "settings.yaml"):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("text", "overrides", "reason"),
    [
        ("name: [", [], "not readable as YAML"),
        ("- a\n- b\n", [], "expected a mapping of settings, found list"),
        ("name: a", ["steps"], "expected key=value"),
        ("name: a", ["=3"], "expected key=value"),
        ("name: a", ["name.first=b"], "'name' is a single value"),
        ("name: a", ["name=["], "not a YAML value"),
        ("name: a\nsteps: many", [], "steps"),
        ("!!python/object/apply:os.system [echo]", [], "not readable as YAML"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, text: str, overrides: list[str], reason: str
) -> None:
    """No traceback, no second line; YAML never runs code."""
    with pytest.raises(UsageError) as refused:
        load_settings(Outer, written(tmp_path, text), overrides)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path the user gave."""
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such settings file"):
        load_settings(Outer, tmp_path / "nowhere.yaml")


def test_settings_cannot_be_changed_later() -> None:
    """Frozen: what a record says was used is what was used."""
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="a").steps = 3


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    """As long as nothing is required."""
    assert load_settings(Inner, written(tmp_path, "")) == Inner()
