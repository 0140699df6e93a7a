"""Reconstructions started from a page: real processes, finished, cancelled and failed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from dashboard.jobs import ACTIVE, Job, Jobs, Progress
from medidiff.io.nifti import open_nifti, write_nifti
from medidiff.volume import Geometry, Volume

FILTER = {"method": "gaussian", "smoothing": 1.0}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Enough slices that a reader can stop half-way."""
    array = np.random.default_rng(0).normal(40, 20, (400, 96, 96)).round().astype(np.float32)
    array[:, :8] = -1000
    geometry = Geometry.from_affine(np.diag([3.0, 1.0, 1.0, 1.0]), array.shape)
    write_nifti(tmp_path / "scan.nii", Volume(array, geometry, "HU"))
    return tmp_path / "scan.nii"


def until(job: Job, wanted: int) -> Progress:
    """Waits for so many slices."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        now = job.progress
        if now.done >= wanted or now.state not in ACTIVE:
            return now
        time.sleep(0.05)
    raise TimeoutError(str(job.progress))


def test_a_job_finishes_with_what_the_command_writes(scan: Path, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    job = jobs.start(scan, tmp_path / "out", FILTER)
    assert job.wait(120) == Progress(400, 400, "finished")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "finished"
    (made,) = (tmp_path / "out").rglob("*.nii.gz")
    assert float(open_nifti(made).read(200).std()) < float(open_nifti(scan).read(200).std())


def test_a_cancelled_job_goes_on_where_it_stopped(scan: Path, tmp_path: Path) -> None:
    """Its process ends, what was finished stays, and the same job again finishes it."""
    jobs = Jobs(tmp_path / "jobs")
    first = jobs.start(scan, tmp_path / "out", {"method": "nlm"})
    until(first, 1)
    first.cancel()
    stopped = first.wait(60)
    assert stopped.state == "cancelled"
    assert 0 < stopped.done < 400
    again = jobs.start(scan, tmp_path / "out", {"method": "nlm"})
    assert until(again, 1).done >= stopped.done
    assert again.wait(240) == Progress(400, 400, "finished")


def test_stopping_all_leaves_no_process(scan: Path, tmp_path: Path) -> None:
    """At any moment, that before the process listens included."""
    jobs = Jobs(tmp_path / "jobs")
    job = jobs.start(scan, tmp_path / "out", {"method": "nlm"})
    jobs.stop()
    assert job.progress.state == "cancelled"


def test_a_failed_job_says_why_in_one_sentence(tmp_path: Path) -> None:
    job = Jobs(tmp_path / "jobs").start(tmp_path / "absent", tmp_path / "out", FILTER)
    failed = job.wait(60)
    assert failed.state == "failed"
    assert "no such file" in failed.told
    assert "\n" not in failed.told


def test_options_that_contradict_each_other_are_told(scan: Path, tmp_path: Path) -> None:
    job = Jobs(tmp_path / "jobs").start(scan, tmp_path / "out", {"mode": "texture", "strength": 50.0})
    assert "strength" in job.wait(60).told


def test_a_killed_job_is_no_running_one(scan: Path, tmp_path: Path) -> None:
    """Killed by the system, it cannot say so itself."""
    job = Jobs(tmp_path / "jobs").start(scan, tmp_path / "out", {"method": "nlm"})
    until(job, 1)
    job._process.kill()
    assert job.wait(30).state == "failed"
