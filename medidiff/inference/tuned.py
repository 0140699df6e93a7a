"""The file that `medidiff tune` writes: the best strength and blend of each method, and how they were found.

    objective(s)  = mean over patients of the mean over their slices of RMSE(x_hat_s, truth)        HU
    smoothing     = the s with the least objective
    alpha         = the weight in [0, 1] with the least objective of x_hat + alpha (y - x_hat) at that smoothing

once over all trials ("overall") and once for each group of them (a kernel at a dose).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medidiff import DISCLAIMER, __version__
from medidiff.config import Settings, load_settings
from medidiff.errors import UsageError
from medidiff.io.files import file_hash, write_whole

OBJECTIVE = "mean over patients of RMSE in HU"


class Best(Settings):
    """What was found over some trials; RMSE in HU.

    smoothing        None for a model, which has no strength
    rmse_input       of the low-dose slices themselves
    rmse             at `smoothing`
    rmse_blend       of the blend with `alpha`
    rmse_at_overall  of a group at the strength that is best overall
    at_end           True where the best lies at an end of the searched range
    """

    patients: int
    slices: int
    smoothing: float | None = None
    rmse_input: float
    rmse: float
    alpha: float
    rmse_blend: float
    rmse_at_overall: float | None = None
    at_end: bool = False


class TunedMethod(Settings):
    """One method; `evaluations` strengths were tried in each search, between `low` and `high` (in `unit`)."""

    evaluations: int
    unit: str = ""
    low: float | None = None
    high: float | None = None
    model_sha256: str | None = None
    overall: Best
    groups: dict[str, Best]


class Tuned(Settings):
    """The contents of the file; `settings` are those of the search."""

    format: Literal["medidiff-tuned-1"] = "medidiff-tuned-1"
    medidiff: str = __version__
    note: str = DISCLAIMER
    created: str
    objective: str = OBJECTIVE
    split: str = "tune"
    manifest: str
    manifest_sha256: str
    settings: dict[str, Any]
    methods: dict[str, TunedMethod]


def load_tuned(path: Path) -> dict[str, TunedMethod]:
    """Method (or name of a model) -> what was found for it: `load_tuned(path)["nlm"].overall.smoothing`.

    Raises UsageError where the file is not one that `medidiff tune` wrote.
    """
    return load_settings(Tuned, path).methods


@dataclass(frozen=True)
class Found:
    """What a file says of one method; `source` names the file, its SHA-256, the split and the group of trials."""

    smoothing: float | None
    alpha: float
    model_sha256: str | None
    source: dict[str, str]


def found_for(path: Path, method: str, group: str | None = None) -> Found:
    """The best of a method over all trials, or over one group of them.

    Raises UsageError where the file is not one that `medidiff tune` wrote, or holds no such method or group.
    """
    tuned = load_settings(Tuned, path)
    if method not in tuned.methods:
        raise UsageError(f"{path}: holds nothing for {method}, only for {', '.join(tuned.methods) or 'no method'}")
    entry = tuned.methods[method]
    if group is not None and group not in entry.groups:
        raise UsageError(f"{path}: has no group '{group}' for {method}, only {', '.join(entry.groups) or 'none'}")
    best = entry.overall if group is None else entry.groups[group]
    source = {"file": path.name, "sha256": file_hash(path), "split": tuned.split, "group": group or "overall"}
    return Found(best.smoothing, best.alpha, entry.model_sha256, source)


def save_tuned(path: Path, tuned: Tuned) -> None:
    """Write the file, whole or not at all."""
    text = yaml.safe_dump(tuned.model_dump(exclude_none=True), sort_keys=False, width=120)
    write_whole(path, text.encode())
