"""The ruler of benchmarks/ct_bars.py: what it reads off one answer is right."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.data.phantoms import dead_leaves


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benchmarks/bars."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def trial(bars: Any) -> Any:
    """A slice with noise that the full dose shares, without neighbours."""
    generator = np.random.default_rng(0)
    truth = dead_leaves(160, 1, generator, n_leaves=30)[0]
    full = truth + generator.normal(0, 10, truth.shape).astype(np.float32)
    low = full + generator.normal(0, 20, truth.shape).astype(np.float32)
    return bars("bars.trials").Trial("key", "p", "s", 0, "smooth", 0.2, low[None], full, truth)


def test_moments_give_every_strength(bars: Any, trial: Any) -> None:
    """RMSE and gain of a blend are those of the blended image; the scan itself gains nothing."""
    judge = bars("bars.judge")
    x = trial.truth + np.float32(3)
    row = judge.judge(x, trial)
    blend = x + np.float32(0.2) * (trial.y - x)
    direct = float(np.sqrt(np.mean((blend - trial.truth) ** 2)))
    assert judge.rmse(row["truth"], 0.2) == pytest.approx(direct, rel=1e-5)
    before, after = (float(np.mean((image - trial.full) ** 2)) for image in (trial.y, blend))
    assert judge.gain_db(row["full"], 0.2) == pytest.approx(10 * np.log10(before / after), abs=1e-4)
    assert judge.gain_db(row["full"], 1.0) == pytest.approx(0)
    assert all(bias == pytest.approx(3, abs=1e-4) for bias in row["bias"].values())


def test_worst_patch_is_where_the_error_is(bars: Any, trial: Any) -> None:
    """A patch of 64 x 64 pixels that is off by 50 HU is found at its place, with its RMSE; others do not overlap."""
    judge = bars("bars.judge")
    x = trial.truth.copy()
    x[70:134, 20:84] += 50
    (error, row, column), *others = judge.worst_patches(x, trial.truth)
    assert (error, row, column) == (pytest.approx(50, rel=1e-3), 70, 20)
    assert all(abs(r - row) >= 64 or abs(c - column) >= 64 for _, r, c in others)


def test_rows_are_worked_out_once(bars: Any, trial: Any, tmp_path: Path) -> None:
    """A notebook read again gives the row without asking for the answer."""
    judge = bars("bars.judge")
    first = judge.Notebook(tmp_path / "rows.jsonl").row(trial, "input", lambda: trial.y)
    again = judge.Notebook(tmp_path / "rows.jsonl").row(trial, "input", lambda: pytest.fail("asked again"))
    assert judge.rmse(again["truth"]) == judge.rmse(first["truth"])


def test_lone_slices_are_their_own_neighbours(bars: Any, trial: Any) -> None:
    """A model of three slices sees an isolated one three times."""
    slab = trial.slab_of(3)
    assert slab.shape == (3, 160, 160)
    np.testing.assert_array_equal(slab[0], slab[2])
