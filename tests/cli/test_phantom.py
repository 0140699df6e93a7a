"""`medidiff phantom`: truth, masks, CT and record; valid DICOM with the same SUV; options that do not belong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medidiff.cli.app import app
from medidiff.io.dicom import load_volume
from medidiff.io.nifti import open_labels, open_nifti, write_nifti
from medidiff.physics.pet import mu_of_hu
from medidiff.physics.pet_phantoms import geometry, nema, render
from medidiff.volume import Volume, collect

COARSE = ("--pixel", 8, "--slice", 8)


def _phantom(*arguments: object) -> object:
    return CliRunner().invoke(app, ["phantom", *map(str, arguments)], catch_exceptions=True)


def test_truth_masks_and_ct(tmp_path: Path) -> None:
    """What is written is the rendered phantom; the CT gives back its attenuation, the record its spheres."""
    result = _phantom("nema", "-o", tmp_path / "out", "--contrast", 8, *COARSE)
    assert result.exit_code == 0, result.exception
    assert "research use only" in result.output
    record = json.loads((tmp_path / "out" / "phantom.json").read_text())
    shape = tuple(record["shape"])
    wanted = render(nema(8), shape, (8.0, 8.0, 8.0))
    suv = collect(open_nifti(tmp_path / "out" / "truth.nii.gz", "SUV"))
    ct = collect(open_nifti(tmp_path / "out" / "ct.nii.gz"))
    masks = collect(open_labels(tmp_path / "out" / "lesions.nii.gz"))
    np.testing.assert_allclose(suv.array, wanted.suv, atol=1e-5)
    np.testing.assert_allclose(mu_of_hu(ct.array), wanted.mu, atol=1e-5)
    assert np.array_equal(masks.array, wanted.lesions)
    assert suv.geometry.difference(geometry(shape, (8.0, 8.0, 8.0))) is None
    assert {lesion["name"] for lesion in record["lesions"].values()} == {
        f"sphere {mm} mm" for mm in (37, 28, 22, 17, 13, 10)
    }
    assert record["lesions"]["1"]["volume_ml"] == pytest.approx(26.52, abs=0.01)
    assert record["lesions"]["1"]["suv"] == 8


def test_dicom_is_valid_and_keeps_suv(tmp_path: Path, system_tool: Callable[[str], str]) -> None:
    """dciodvfy and dcentvfy find no error, our reader gives back the SUV to 1e-4 of the largest in each slice."""
    for name in ("one", "two"):
        assert _phantom("nema", "-o", tmp_path / name, "--format", "dicom", *COARSE).exit_code == 0
    files = sorted((tmp_path / "one" / "truth").iterdir())
    for path in files[::6]:
        found = subprocess.run([system_tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr
    across = subprocess.run([system_tool("dcentvfy"), *map(str, files)], capture_output=True, text=True, check=False)
    assert across.stderr + across.stdout == ""
    volume = load_volume(tmp_path / "one" / "truth")
    assert volume.unit == "SUV"
    truth = render(nema(), volume.array.shape, (8.0, 8.0, 8.0)).suv
    for read, true in zip(volume.array, truth, strict=True):
        np.testing.assert_allclose(read, true, atol=1e-4 * max(true.max(), 1e-3))
    assert [path.read_bytes() for path in files] == [
        path.read_bytes() for path in sorted((tmp_path / "two" / "truth").iterdir())
    ]


def test_real_lesions_are_pasted_into_a_torso(tmp_path: Path) -> None:
    """As many as asked for, named after their folders, with their uptake; a seed gives one torso."""
    z, y, x = np.indices((14, 14, 14)) - 6.5
    mask = z**2 + y**2 + x**2 < 30
    place = geometry((14, 14, 14), (4.0, 4.0, 4.0))
    for name, suv in (("a", 5.0), ("b", 9.0), ("c", 7.0)):
        image = np.where(mask, suv, 0.5).astype(np.float32)
        write_nifti(tmp_path / "in" / name / "PET_image.nii.gz", Volume(image, place, "SUV"))
        write_nifti(tmp_path / "in" / name / "PET_mask.nii.gz", Volume(mask.astype(np.float32), place, "SUV"))
    for out in ("one", "two"):
        result = _phantom(
            "torso", "-o", tmp_path / out, "--lesions", tmp_path / "in", "--count", 2, "--seed", 4, "--slice", 8
        )  # fmt: skip
        assert result.exit_code == 0, result.exception
    record = json.loads((tmp_path / "one" / "phantom.json").read_text())
    assert len(record["lesions"]) == 2
    for lesion in record["lesions"].values():
        assert lesion["volume_ml"] == pytest.approx(mask.sum() * 0.064)
        assert lesion["suv_mean"] == pytest.approx({"a": 5.0, "b": 9.0, "c": 7.0}[lesion["name"]], rel=0.15)
    first, second = (collect(open_nifti(tmp_path / out / "truth.nii.gz", "SUV")).array for out in ("one", "two"))
    assert np.array_equal(first, second)


def test_options_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    """One sentence, nothing written."""
    (tmp_path / "empty").mkdir()
    for options, words in (
        (("uniform", "--contrast", 5), "for the phantom nema"),
        (("nema", "--lesions", tmp_path), "for the torso"),
        (("nema", "--contrast", 0.5), "above 1"),
        (("torso", "--count", 99), "0 to 40"),
        (("torso", "--lesions", tmp_path / "empty"), "holds no folder"),
        (("derenzo", "--pixel", 0.1), "1 to 10 mm"),
    ):
        assert words in str(_phantom(*options, "-o", tmp_path / "out").exception)
    assert "exists already" in str(_phantom("uniform", "-o", tmp_path / "empty").exception)
    assert not (tmp_path / "out").exists()
