"""run.json: what was asked, what was done, and by it the right to touch the folder it lies in.

It is written whole, before the first slice and after each series, so at any moment it tells which series are
finished and which identifiers an interrupted one continues under. A folder is continued or overwritten only
if it holds a run.json of ours, and only what that file names is ever removed.

Series UIDs appear here and in DICOM, nowhere else.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from medidiff import DISCLAIMER, __version__
from medidiff.config import Settings
from medidiff.errors import OutputError
from medidiff.inference.sinks import MAP_NAME, NIFTI_NAME, UNFINISHED
from medidiff.io.files import write_whole

NAME = "run.json"
FIRST = ("mode", "method")  # of differences: the others follow from them
FOLDER = r"^\d{3,}_[A-Za-z0-9.+_-]+$"
OURS = re.compile(rf"\d{{4,}}\.dcm|{re.escape(NIFTI_NAME)}|{re.escape(MAP_NAME)}")


class SeriesRecord(Settings):
    """One series of a run. `nfe` counts network evaluations a slice, `seconds` are per stage (they overlap).

    In texture mode `strength` follows from `dose`, the fraction of the dose whose noise is shown.
    `change` is the share of the change that slices got, 1 inside of what the model has seen (medidiff/seen.py):
    smallest and median of the `slices` that were restored in one go.
    A classical `method` has a `smoothing` where a model has its name and hash; its stage is "network" all the same.
    What was made from projections has `operator_calls`, uses of the projector and of its adjoint for each slice, and
    `data_residual`, the mean over the rays of (measured - projected)^2 over the variance of the ray: 1 is noise alone.
    """

    index: int
    folder: str = Field(pattern=FOLDER)
    status: Literal["waiting", "started", "done", "failed"] = "waiting"
    error: str | None = None
    modality: str
    kernel: str | None = None
    n_slices: int
    input_series_uid: str | None
    input_fingerprint: str
    output_series_uid: str | None = None
    uncertainty_folder: str | None = Field(default=None, pattern=FOLDER)
    uncertainty_series_uid: str | None = None
    method: str = "model"
    model: str | None
    model_sha256: str | None
    mode: str
    strength: float
    dose: float | None = None
    smoothing: float | None = None
    sampler: str | None = None
    nfe: int | None = None
    seed: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    change: dict[str, float] | None = None
    operator_calls: dict[str, int] | None = None
    data_residual: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def folders(self) -> list[str]:
        return [name for name in (self.folder, self.uncertainty_folder) if name]


class RunRecord(Settings):
    """The contents of run.json."""

    format: Literal["medidiff-run-1"] = "medidiff-run-1"
    medidiff: str = __version__
    note: str = DISCLAIMER
    status: Literal["unfinished", "finished", "failed"] = "unfinished"
    parameters: dict[str, Any]
    device: str
    threads: int
    series: tuple[SeriesRecord, ...]
    set_aside: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What must agree for one run to continue another, by the names that a message can use."""
        inputs = [(s.input_series_uid, s.input_fingerprint) for s in self.series]
        return {"medidiff": self.medidiff, **self.parameters, "device": self.device, "input": inputs}

    def difference(self, other: RunRecord) -> str | None:
        """What sets two runs apart, with both values (identifiers are not shown); None when nothing does."""
        mine, theirs = self.identity(), other.identity()
        for key in sorted(mine.keys() | theirs.keys(), key=lambda key: (key not in FIRST, key)):
            if mine.get(key) != theirs.get(key):
                if key in ("input", "model_sha256", "series"):
                    return f"another {key.removesuffix('_sha256')}"
                there, now = (str(values.get(key, "not set")) for values in (theirs, mine))
                return f"{key} {there} there, {now} now"
        return None


def read(out: Path) -> RunRecord | None:
    """The record in a folder; None where there is none that is ours."""
    try:
        return RunRecord.model_validate_json((out / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def save(out: Path, record: RunRecord) -> None:
    """Write run.json, whole or not at all."""
    text = json.dumps(record.model_dump(), indent=2, ensure_ascii=False)
    write_whole(out / NAME, text.encode())


def require_ours(out: Path) -> RunRecord | None:
    """The record of an earlier run in `out`; None when the folder is empty or absent.

    Raises OutputError for a file, and for a folder with anything that no run of medidiff left there.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputError(f"{out}: is a file; name a new folder with -o")
    found = read(out)
    if found is None and any(out.iterdir()):
        raise OutputError(f"{out}: already holds files that are not a result of medidiff; name a new folder with -o")
    return found


def begin(out: Path, record: RunRecord, *, overwrite: bool) -> RunRecord:
    """Make `out` ready for a run: the record of the same unfinished run, or `record`, saved.

    Raises OutputError when it holds a finished or a different run and `overwrite` is not set.
    """
    found = require_ours(out)
    if found is not None:
        difference = record.difference(found)
        if difference is None and found.status != "finished":
            return found
        if not overwrite:
            state = f"another run ({difference})" if difference else "the finished result of this very command"
            raise OutputError(f"{out}: holds {state}; name a new folder with -o, or replace it with --overwrite")
        clear(out, found)
    save(out, record)
    return record


def clear(out: Path, record: RunRecord) -> None:
    """Remove what a run left in `out`: result files, the working folder, run.json; never anything else.

    Raises OutputError, having removed nothing, when a result folder holds a file that is not a result.
    """
    folders = [out / name for series in record.series for name in series.folders if (out / name).is_dir()]
    for path in (path for folder in folders for path in folder.iterdir()):
        if not OURS.fullmatch(path.name):
            raise OutputError(f"{path}: was not written by medidiff, so the result is not replaced; move it away")
    for folder in (*folders, out / UNFINISHED):
        shutil.rmtree(folder, ignore_errors=True)
    (out / NAME).unlink(missing_ok=True)
