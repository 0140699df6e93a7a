"""Which images a study could show, and which of them make a case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dashboard.library import Library
from dashboard.reading.candidates import Candidate, candidates, cases_of
from medidiff.errors import UsageError
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct


@pytest.fixture
def found(write_nifti_scan: Callable[..., Path], tmp_path: Path) -> dict[str, Candidate]:
    """By file name: two patients with a scan and a full dose on one grid, one with a reconstruction elsewhere."""
    for seed, patient in enumerate(("one", "two")):
        noise = np.random.default_rng(seed).normal(40, 20, (4, 64, 64))
        noise[:, :8] = -1000
        for k, name in enumerate(("scan", "full")):
            write_nifti_scan(tmp_path / patient / f"{patient} {name}.nii.gz", noise + k)
        write_nifti_scan(tmp_path / patient / f"{patient} shifted.nii.gz", noise, (5, 1, 1.5))
    reconstruct(tmp_path / "one" / "one scan.nii.gz", tmp_path / "out", Options(method="gaussian", smoothing=1.0))
    listed = Library([tmp_path])
    listed.add(tmp_path)
    named = {candidate.image.place.name: candidate for candidate in candidates(listed, "CT")}
    made = next(case for case in listed.cases() if case.record).main
    named["made"] = named.pop(made.place.name)
    return named


def test_what_was_made_of_a_scan_is_of_its_case(found: dict[str, Candidate]) -> None:
    """In another folder, too; two patients with the same grid are two cases, and so are two grids of a patient."""
    case = found["one scan.nii.gz"].case
    assert {name for name, one in found.items() if one.case == case} == {"one scan.nii.gz", "one full.nii.gz", "made"}
    assert found["two scan.nii.gz"].case == found["two full.nii.gz"].case != case
    assert len({one.case for one in found.values()}) == 4
    assert {name: one.arm for name, one in found.items() if one.arm} == {
        "one scan.nii.gz": "scan", "made": "gaussian quantitative 100 %",
    }  # fmt: skip


def test_cases_without_all_arms_are_left_out(found: dict[str, Candidate]) -> None:
    chosen = [(one.case, name.split()[-1], one.image) for name, one in found.items()]
    both = cases_of(chosen, ["full.nii.gz", "scan.nii.gz"])
    assert len(both) == 2
    assert [sorted(images) for images in both.values()] == [["full.nii.gz", "scan.nii.gz"]] * 2
    assert list(cases_of(chosen, ["scan.nii.gz", "made"])) == [found["made"].case]


def test_images_that_make_no_case_are_told(found: dict[str, Candidate]) -> None:
    """Two of one arm, or two that do not lie on one grid."""
    scan, full, shifted = (found[f"one {name}.nii.gz"].image for name in ("scan", "full", "shifted"))
    with pytest.raises(UsageError, match="case 1 has two images of 'a'"):
        cases_of([(1, "a", scan), (1, "a", full)], ["a"])
    with pytest.raises(UsageError, match="case 1: 'a' and 'b' do not lie on one grid") as caught:
        cases_of([(1, "a", scan), (1, "b", shifted)], ["a", "b"])
    assert ".nii" not in str(caught.value)
