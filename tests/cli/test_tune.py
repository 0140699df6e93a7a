"""`medidiff tune` as a user starts it: a table, a file that `reconstruct` takes, faults in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff import DISCLAIMER
from medidiff.data.phantoms import dead_leaves
from medidiff.inference.tuned import load_tuned

FEW = ("--kernel", "smooth", "--dose", 0.25, "--slices", 1, "--size", 64, "--evaluations", 3)


@pytest.fixture
def manifest(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> Path:
    write_nifti_scan(tmp_path / "a.nii", dead_leaves(96, 1, np.random.default_rng(0), n_leaves=30))
    (tmp_path / "pairs.csv").write_text("patient,split,full\nSMITH,tune,a.nii\n")
    return tmp_path / "pairs.csv"


def test_strengths_are_found_shown_and_used(tmp_path: Path, cli: Any, manifest: Path) -> None:
    """The table names each method once, the file holds what it shows, and `reconstruct --tuned` takes it."""
    out = tmp_path / "tuned.yaml"
    ended = cli("tune", manifest, "--data", tmp_path, "-o", out, "--method", "gaussian", "--method", "tv", *FEW)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert DISCLAIMER in ended.out
    assert "1 patients, 1 slices, split tune" in ended.out
    assert "SMITH" not in ended.out + out.read_text()
    found = load_tuned(out)
    for name in ("gaussian", "tv"):
        assert f"{found[name].overall.smoothing:g} {found[name].unit}" in ended.out
    used = cli("reconstruct", tmp_path / "a.nii", "-o", tmp_path / "out", "--method", "tv", "--tuned", out)
    assert used.code == 0, used.err
    assert f"method tv, smoothing {found['tv'].overall.smoothing:g}" in used.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "identity"), ("identity: has no strength to find",)),
        (("--against", "memory", "--evaluations", 1), ("--against: memory was given", "--evaluations: 1 was given")),
        (("--against", "reference"), ("its 'tune' split has no measured pair",)),
        (("--model", "nothing"), ("neither a file nor an embedded model",)),
    ],
)
def test_faults_are_told_in_one_sentence(
    arguments: tuple[object, ...], words: tuple[str, ...], tmp_path: Path, cli: Any, manifest: Path
) -> None:
    ended = cli("tune", manifest, "--data", tmp_path, "-o", tmp_path / "tuned.yaml", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err
    assert not list(tmp_path.glob("*tuned*"))


def test_a_file_without_the_method_is_refused(tmp_path: Path, cli: Any, manifest: Path) -> None:
    """--tuned with a method that was not tuned, with a strength beside it, or for a model: which is meant?"""
    out = tmp_path / "tuned.yaml"
    assert cli("tune", manifest, "--data", tmp_path, "-o", out, "--method", "gaussian", *FEW).code == 0
    for options, words in (
        (("--method", "nlm"), "holds no strength for nlm, only for gaussian"),
        (("--method", "gaussian", "--smoothing", 1), "give --smoothing or --tuned, not both"),
        ((), "holds no strength for model"),
    ):
        ended = cli("reconstruct", tmp_path / "a.nii", "-o", tmp_path / "out", "--tuned", out, *options)
        assert ended.code == 2
        assert words in ended.err
        assert not (tmp_path / "out").exists()
