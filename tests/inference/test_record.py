"""run.json decides what may be continued and what may be removed; it is not believed blindly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from medidiff.errors import OutputError
from medidiff.inference import Options, reconstruct
from medidiff.inference import record as records


@pytest.fixture
def finished(tmp_path: Path, tiny_model: Path, write_series: Callable[..., Path]) -> Callable[..., Any]:
    """Runs the same reconstruction into tmp_path / "out" each time it is called."""
    scan = write_series(tmp_path / "scan", n=2)
    return lambda **more: reconstruct(scan, tmp_path / "out", Options(model=str(tiny_model), **more))


def test_a_record_that_names_a_folder_elsewhere_is_not_ours(tmp_path: Path, finished: Callable[..., Any]) -> None:
    """A forged run.json cannot make --overwrite remove files outside of OUT."""
    record = finished()
    precious = tmp_path / "0001.dcm"
    precious.write_text("mine")
    forged = record.model_dump() | {"series": [record.series[0].model_dump() | {"folder": "../"}]}
    (tmp_path / "out" / "run.json").write_text(json.dumps(forged))
    with pytest.raises(OutputError, match="not a result of medidiff"):
        finished(overwrite=True)
    assert precious.exists()


def test_a_run_that_died_after_the_last_rename_only_writes_its_record(
    tmp_path: Path, finished: Callable[..., Any]
) -> None:
    """The folder is in place, the record still says started: nothing is computed or written again."""
    record = finished()
    files = sorted((tmp_path / "out" / "001_CT_B40f").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    started = record.series[0].model_copy(update={"status": "started"})
    records.save(tmp_path / "out", record.model_copy(update={"status": "unfinished", "series": (started,)}))
    again = finished()
    assert [file.stat().st_mtime_ns for file in files] == before
    assert again.status == "finished"
    assert again.series[0].output_series_uid == dcmread(files[0]).SeriesInstanceUID


def test_progress_counts_every_slice_once(tmp_path: Path, tiny_model: Path, write_series: Callable[..., Path]) -> None:
    """It rises to the total over all series and never falls."""
    scan = write_series(tmp_path / "scan" / "a", n=3).parent
    write_series(scan / "b", n=2, seed=1)
    seen: list[tuple[int, int]] = []
    reconstruct(scan, tmp_path / "out", Options(model=str(tiny_model)), progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (5, 5)
    assert {total for _, total in seen} == {5}
