"""`medidiff evaluate` from the command line: tables and a page, sentences for mistakes, exit codes."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff import DISCLAIMER

COLUMNS = ["case", "method", "region", "metric", "preset", "value", "unit"]


@pytest.fixture
def folders(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> Path:
    """A reference of three cases and two methods."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] - 23.5
    for name in "abc":
        clean = np.where(x**2 + y**2 < 300, 40.0, -1000.0) + np.zeros((3, 1, 1))
        for method, noise in {"full": 0, "low": 30, "ours": 12}.items():
            write_nifti_scan(tmp_path / method / f"{name}.nii.gz", clean + random.normal(0, noise + 1, clean.shape))
    return tmp_path


def asked(folders: Path, out: Path, *more: object) -> list[object]:
    return ["evaluate", "--reference", folders / "full", "--candidate", folders / "low", "--candidate",
            f"ours={folders / 'ours'}", "--preset", "hu", "--preset", "abdomen", "-o", out, *more]  # fmt: skip


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader)
        assert reader.fieldnames == COLUMNS
    return found


def test_folders_in_tables_and_a_page_out(cli, folders: Path) -> None:
    """One command: a table on the screen, results.csv in its declared columns, a page, and what they are for."""
    out = folders / "out"
    ended = cli(*asked(folders, out))
    assert ended.code == 0, ended.err
    assert "preset abdomen" in ended.out
    assert "results.csv" in ended.out
    assert DISCLAIMER in ended.out
    found = lines(out)
    assert {line["method"] for line in found} == {"low", "ours"}
    assert {line["case"] for line in found} == {"a", "b", "c"}
    assert {line["metric"] for line in found if line["region"] == "all"} == {"RMSE", "NRMSE", "PSNR", "SSIM", "bias"}
    assert DISCLAIMER in (out / "report.html").read_text().lower()


def test_a_damaged_file_costs_its_case_and_the_exit_code_says_so(cli, folders: Path) -> None:
    """Exit code 3 names the case; the others are in the table; the same command does what is missing."""
    out, damaged = folders / "out", folders / "ours" / "b.nii.gz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:200])
    ended = cli(*asked(folders, out))
    assert ended.code == 3
    assert "b, ours: " in ended.err
    assert "Traceback" not in ended.err
    assert {(line["case"], line["method"]) for line in lines(out)} == {
        ("a", "low"), ("a", "ours"), ("b", "low"), ("c", "low"), ("c", "ours"),
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in (out / ".rows").iterdir()}
    damaged.write_bytes(whole)
    assert cli(*asked(folders, out)).code == 0
    assert ("b", "ours") in {(line["case"], line["method"]) for line in lines(out)}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--preset", "abdomn", "--metric", "snr"], r"snr unknown.*abdomn unknown"),
        (["--dose", "25"], "25 is not a fraction"),
        (["--metric", "companions"], "needs --scan"),
        (["--candidate", "low=elsewhere"], "two candidates are called low"),
        (["--candidate", "x=elsewhere"], "elsewhere: no such file or folder"),
        (["--unit", "Bq"], "'Bq' is unknown; choose HU or SUV"),
    ],
)
def test_mistakes_are_sentences(cli, folders: Path, wrong: list[str], sentence: str) -> None:
    """Exit code 2, one line that says what is wrong, and nothing written."""
    ended = cli(*asked(folders, folders / "out", *wrong))
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    assert re.search(sentence, ended.err), ended.err
    assert not (folders / "out").exists()


def test_folders_that_do_not_match_are_refused_with_the_list(cli, folders: Path) -> None:
    """Every case that has no partner is named."""
    (folders / "ours" / "c.nii.gz").rename(folders / "ours" / "d.nii.gz")
    ended = cli(*asked(folders, folders / "out"))
    assert ended.code == 2
    assert "c is only in the reference" in ended.err
    assert "d is only in the candidate" in ended.err
