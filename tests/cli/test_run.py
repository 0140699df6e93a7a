"""`medidiff run` as a user starts it: killed, stopped, on a full disk, estimated, and wrong in many ways at once."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medidiff import DISCLAIMER

Start = Callable[..., subprocess.Popen[str]]
Write = Callable[..., Path]
Cli = Callable[..., Any]


@pytest.fixture
def slow(tmp_path: Path, write_nifti_scan: Write, tiny_model: Path) -> Path:
    """A study of five pairs that each take a second."""
    rng = np.random.default_rng(0)
    for name in ("low", "full"):
        write_nifti_scan(tmp_path / f"{name}.nii", rng.normal(-500, 300, (4, 64, 64)))
    sampled = {"model": str(tiny_model), "mode": "uncertainty", "steps": 20, "draws": 4}
    return write_study(
        tmp_path,
        cases=[{"paired": {"name": f"c{k}", "scan": "low.nii", "reference": "full.nii"}} for k in range(5)],
        methods=[{"name": "sampled", **sampled}],
    )


def write_study(folder: Path, **changes: Any) -> Path:
    settings = {
        "name": "small",
        "output": str(folder / "out"),
        "data_root": str(folder),
        "metrics": ["rmse"],
        "presets": ["hu"],
        "report": False,
        "statistics": {"resamples": 100},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished pair."""
    found = [path for path in (out / ".rows").glob("*.json") if not path.name.startswith(".")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def wait_for(what: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not what() and time.monotonic() < deadline and (process is None or process.poll() is None):
        time.sleep(0.02)
    assert what()


def is_alone(group: int) -> bool:
    """No process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_after_kill_9_nothing_that_was_finished_is_computed_again(slow: Path, start: Start, cli: Cli) -> None:
    """Killed with two workers: they end by themselves; the same command keeps every finished pair and does the rest."""
    out = slow.parent / "out"
    first = start("run", slow, "--workers", 2)
    wait_for(lambda: finished(out), first)
    first.kill()
    first.communicate()
    wait_for(lambda: is_alone(first.pid))
    before = finished(out)
    assert 1 <= len(before) < 5
    assert not (out / "results.csv").exists()
    second = cli("run", slow)
    assert second.code == 0, second.err
    assert f"{5 - len(before)} results computed, {len(before)} were finished before" in second.out
    assert DISCLAIMER in second.out.lower()
    after = finished(out)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    assert not (out / ".work").exists()


def test_ctrl_c_ends_in_one_sentence(slow: Path, start: Start) -> None:
    """SIGINT to the whole group, as a terminal sends it: exit 130, finished pairs kept, no temporary file left."""
    out = slow.parent / "out"
    running = start("run", slow, "--workers", 2)
    wait_for(lambda: finished(out), running)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.startswith("medidiff: stopped; nothing is half-written")
    assert err.count("\n") == 1
    assert 1 <= len(finished(out)) < 5
    assert not (out / ".work").exists()


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, write_nifti_scan: Write, start: Start, cli: Cli) -> None:
    """No file may grow beyond 150 kB: the small case is finished, the large one named, exit 3; then there is room."""
    for name, n, size in (("small", 4, 48), ("large", 3, 128)):  # the case of more slices comes first
        write_nifti_scan(tmp_path / f"{name}.nii", np.random.default_rng(0).normal(-500, 300, (n, size, size)))
    cases = [{"paired": {"name": n, "scan": f"{n}.nii", "reference": f"{n}.nii"}} for n in ("small", "large")]
    study = write_study(tmp_path, cases=cases, methods=[{"name": "identity", "method": "identity"}])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

    full = start("run", study, preexec_fn=limited)
    _, err = full.communicate(timeout=60)
    assert full.returncode == 3, err
    assert "make room" in err
    assert err.count("\n") == 1
    assert set(finished(tmp_path / "out")) == {"small--identity.json"}
    assert "\nsmall,identity,all,RMSE,hu,0.0,HU\n" in (tmp_path / "out" / "results.csv").read_text()
    assert not (tmp_path / "out" / ".work").exists()
    again = cli("run", study)
    assert again.code == 0, again.err
    assert set(finished(tmp_path / "out")) == {"small--identity.json", "large--identity.json"}


def test_every_fault_in_one_line(tmp_path: Path, cli: Cli) -> None:
    """Exit 2, nothing written, all of it named."""
    case = {"paired": {"scan": "nowhere.nii", "reference": "nothing"}}
    study = write_study(tmp_path, cases=[case], methods=[{"name": "m", "method": "magic"}], colour="red")
    ended = cli("run", study, "seed=minus")
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    for fault in ("colour", "nowhere.nii", "magic", "seed"):
        assert fault in ended.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_the_time_and_writes_nothing(slow: Path, cli: Cli) -> None:
    """A line a method, a total for the workers; overrides reach the study."""
    ended = cli("run", slow, "slices=3", "--dry-run", "--workers", 2)
    assert ended.code == 0, ended.err
    assert "5 cases of 5 patients, 15 slices, 1 methods" in ended.out
    assert "sampled" in ended.out
    assert "with 2 workers" in ended.out
    assert not (slow.parent / "out").exists()


def test_scans_that_the_model_has_not_seen_are_told(tmp_path: Path, write_nifti_scan: Write, cli: Cli) -> None:
    """Noise of 400 HU is beyond the embedded model: one line for the one case, and exit code 0."""
    noise = np.random.default_rng(0).normal(0, 400, (2, 64, 64))
    write_nifti_scan(tmp_path / "loud.nii", noise)
    case = {"paired": {"name": "loud", "scan": "loud.nii", "reference": "loud.nii"}}
    ended = cli("run", write_study(tmp_path, cases=[case], methods=[{"name": "net", "model": "ct"}]))
    assert ended.code == 0, ended.err
    told = [line for line in ended.out.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1
    assert told[0].startswith("warning: loud, net: noise of ")
    assert "that the model has seen, in 2 of 2 slices: allows 0 % of the change (median)" in told[0]


def test_patients_are_in_no_output(tmp_path: Path, write_series: Callable[..., Path], cli: Cli) -> None:
    """A DICOM study: name, ID and UIDs of its headers are in no file of the results."""
    write_series(tmp_path / "low", seed=1, n=2, PatientName="Doe^Jane", PatientID="4711-A")
    write_series(tmp_path / "full", seed=2, n=2, PatientName="Doe^Jane", PatientID="4711-A")
    case = {"paired": {"scan": "low", "reference": "full"}}
    study = write_study(tmp_path, cases=[case], methods=[{"name": "identity", "method": "identity"}])
    ended = cli("run", study)
    assert ended.code == 0, ended.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 8
    for path in files:
        assert not any(text in path.read_bytes() for text in (b"Doe", b"4711", b"1.2.826", b"2.25."))
    assert json.loads((tmp_path / "out" / "study.json").read_text())["cases"].keys() == {"case001"}
