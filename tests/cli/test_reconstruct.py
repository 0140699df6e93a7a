"""`medidiff reconstruct`: what scripts rely on, and one clear sentence for every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

MAIN = "from medidiff.cli import main; main()"
UID = re.compile(r"\d+(?:\.\d+){5,}|2\.25\.\d+")


@pytest.fixture
def scan(tmp_path: Path, write_series: Callable[..., Path]) -> Path:
    return write_series(tmp_path / "scan", n=3)


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> tuple[object, ...]:
    return ("-o", tmp_path / "out", "--model", tiny_model)


def pixels(folder: Path) -> dict[str, Any]:
    return {path.name: dcmread(path).pixel_array for path in sorted(folder.glob("*.dcm"))}


def refused(ended: Any, out: Path | None, *words: str) -> None:
    """One sentence with these words, exit code 2, and nothing left behind."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("medidiff: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    assert not UID.search(ended.err)
    for word in words:
        assert word in ended.err
    assert out is None or not out.exists()


# -- what scripts rely on --------------------------------------------------------------------------------


def test_one_folder_per_series_and_a_record(
    tmp_path: Path, cli: Any, options: Any, write_series: Callable[..., Path]
) -> None:
    """NNN_modality_kernel/*.dcm for each series of a folder of studies; run.json says what was done."""
    study = write_series(tmp_path / "studies" / "a" / "x", n=3).parents[1]
    write_series(study / "b", n=2, kernel="Br38f 3/x", seed=1)
    (study / "notes.txt").write_text("no DICOM")
    ended = cli("reconstruct", study, *options, "--mode", "sample", "--steps", 2, "--seed", 7)
    out = tmp_path / "out"
    assert ended.code == 0, ended.err
    assert "research use only, not for diagnosis" in ended.out
    assert sorted(p.name for p in out.iterdir()) == ["001_CT_B40f", "002_CT_Br38f-3-x", "run.json"]
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "finished"
    for entry, n, where in zip(run["series"], (3, 2), ("a/x", "b"), strict=True):
        files = sorted((out / entry["folder"]).iterdir())
        assert [file.suffix for file in files] == [".dcm"] * n
        assert {dcmread(file).SeriesInstanceUID for file in files} == {entry["output_series_uid"]}
        assert dcmread(next((study / where).iterdir())).SeriesInstanceUID == entry["input_series_uid"]
        assert (entry["mode"], entry["sampler"], entry["nfe"], entry["seed"]) == ("sample", "dpmpp_2m", 3, 7)
        assert len(entry["model_sha256"]) == 64
        assert {"open", "read", "network", "write"} <= entry["seconds"].keys()
        assert isinstance(entry["warnings"], list)
        assert "seed 7" in dcmread(files[0]).DerivationDescription
    assert not UID.search(ended.out + ended.err)


def test_a_series_can_be_chosen(
    tmp_path: Path, cli: Any, options: Any, scan: Path, write_series: Callable[..., Path]
) -> None:
    """--series takes one of several; a UID that is not there is an error that does not repeat it."""
    write_series(scan / "other", n=2, kernel="B70f", seed=1)
    chosen = str(dcmread(next((scan / "other").iterdir())).SeriesInstanceUID)
    assert cli("reconstruct", scan, *options, "--series", chosen).code == 0
    assert [p.name for p in (tmp_path / "out").glob("0*")] == ["001_CT_B70f"]
    ended = cli("reconstruct", scan, "-o", tmp_path / "second", *options[2:], "--series", "1.2.3.4.5.6.7")
    refused(ended, tmp_path / "second", "none of its 2 series has the UID")


def test_values_change_and_headers_stay(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """Slices keep their position and become what the model makes of them; strength 0 keeps every number."""
    assert cli("reconstruct", scan, *options).code == 0
    assert cli("reconstruct", scan, "-o", tmp_path / "same", *options[2:], "--strength", 0).code == 0
    for k in range(3):
        before = dcmread(scan / f"IM{k:04d}")
        after, same = (dcmread(tmp_path / name / "001_CT_B40f" / f"{k + 1:04d}.dcm") for name in ("out", "same"))
        assert after.ImagePositionPatient == before.ImagePositionPatient
        assert (after.pixel_array != before.pixel_array).mean() > 0.3
        np.testing.assert_array_equal(same.pixel_array, before.pixel_array)


def test_texture_says_whose_noise_it_shows(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """The dose, the blend that follows from it, one evaluation: on the screen, in run.json and in the headers."""
    ended = cli("reconstruct", scan, *options, "--mode", "texture", "--dose", 0.1)
    assert "texture (noise of 10 times the dose), model" in ended.out
    entry = json.loads((tmp_path / "out" / "run.json").read_text())["series"][0]
    assert (entry["mode"], entry["dose"], entry["nfe"], entry["seed"]) == ("texture", 0.1, 1, None)
    assert entry["strength"] == pytest.approx(100 * (1 - 0.1**0.5))
    header = dcmread(tmp_path / "out" / "001_CT_B40f" / "0001.dcm").DerivationDescription
    assert "noise of 10 times its dose" in header


def test_uncertainty_is_a_second_series(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """A standard deviation map in tenths of HU beside the image, which is that of the quantitative mode."""
    ended = cli("reconstruct", scan, *options, "--mode", "uncertainty", "--draws", 2, "--steps", 2)
    assert ended.code == 0
    assert "not calibrated" in ended.out
    assert cli("reconstruct", scan, "-o", tmp_path / "mean", *options[2:]).code == 0
    out = tmp_path / "out"
    image, sd = (dcmread(out / name / "0002.dcm") for name in ("001_CT_B40f", "001_CT_B40f_uncertainty"))
    assert image.SeriesInstanceUID != sd.SeriesInstanceUID
    np.testing.assert_array_equal(image.pixel_array, dcmread(tmp_path / "mean/001_CT_B40f/0002.dcm").pixel_array)
    assert (float(sd.RescaleSlope), float(sd.RescaleIntercept)) == (0.1, 0.0)
    assert 0.1 < np.median(sd.pixel_array * 0.1) < 100
    entry = json.loads((out / "run.json").read_text())["series"][0]
    assert entry["uncertainty_series_uid"] == sd.SeriesInstanceUID
    assert entry["nfe"] == 1 + 2 * 2
    again = cli("reconstruct", out, "-o", tmp_path / "again", *options[2:])
    assert again.code == 0
    assert "set aside: CT series of 3 slices: an uncertainty map of medidiff, not a scan" in again.out
    assert len(json.loads((tmp_path / "again" / "run.json").read_text())["series"]) == 1
    refused(cli("reconstruct", scan, *options, "--strength", 50), None, "mode uncertainty there, quantitative now")


@pytest.mark.parametrize("syntax", ["jpegls", "j2k"])
def test_lossless_compression_keeps_every_number(
    syntax: str, tmp_path: Path, cli: Any, options: Any, scan: Path
) -> None:
    assert cli("reconstruct", scan, *options, "--transfer-syntax", syntax).code == 0
    assert cli("reconstruct", scan, "-o", tmp_path / "plain", *options[2:]).code == 0
    packed, plain = (pixels(tmp_path / name / "001_CT_B40f") for name in ("out", "plain"))
    for name in plain:
        np.testing.assert_array_equal(packed[name], plain[name])


def test_uids_are_new_unless_deterministic(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    def uids(name: str, *more: str) -> set[str]:
        assert cli("reconstruct", scan, "-o", tmp_path / name, *options[2:], *more).code == 0
        return {dcmread(file).SOPInstanceUID for file in (tmp_path / name).rglob("*.dcm")}

    assert uids("a").isdisjoint(uids("b"))
    assert uids("c", "--deterministic-uids") == uids("d", "--deterministic-uids")


def test_nifti_in_nifti_out(tmp_path: Path, cli: Any, options: Any) -> None:
    """Affine, data type and scaling are kept; NaN and padding come back as they were."""
    random = np.random.default_rng(0)
    hu = np.full((40, 44, 4), -1000.0) + random.normal(0, 20, (40, 44, 4))
    hu[10:30, 10:30] += 1040
    affine = np.array([[-0.8, 0, 0, 10], [0, 0.7, 0, -5], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.rint(hu).astype(np.int16), affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    ended = cli("reconstruct", tmp_path / "scan.nii.gz", *options, "--mode", "uncertainty", "--draws", 2)
    assert ended.code == 0, ended.err
    out = tmp_path / "out"
    result = nib.load(out / "001_CT_nifti" / "reconstruction.nii.gz")
    np.testing.assert_allclose(result.affine, affine, atol=1e-6)
    assert result.get_data_dtype() == np.int16
    assert (np.asarray(result.dataobj) != np.asarray(image.dataobj)).mean() > 0.3
    sd = nib.load(out / "001_CT_nifti_uncertainty" / "uncertainty.nii.gz")
    np.testing.assert_allclose(sd.affine, affine, atol=1e-6)
    assert np.asarray(sd.dataobj).min() > 0
    assert sorted(p.name for p in out.iterdir()) == ["001_CT_nifti", "001_CT_nifti_uncertainty", "run.json"]


def test_one_bad_series_does_not_stop_the_others(
    tmp_path: Path, cli: Any, options: Any, scan: Path, write_series: Callable[..., Path]
) -> None:
    """Exit code 3, the failed one named by its folder and leaving nothing; the same command tries it again."""
    other = write_series(scan / "other", n=6, kernel="B70f", seed=1)
    (other / "IM0001").rename(tmp_path / "lost")
    ended = cli("reconstruct", scan, *options)
    assert ended.code == 3
    assert "1 of 2 series failed: 002_CT_B70f: " in ended.err
    assert ended.err.count("\n") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["001_CT_B40f", "run.json"]
    entries = json.loads((tmp_path / "out" / "run.json").read_text())["series"]
    assert [entry["status"] for entry in entries] == ["done", "failed"]
    assert cli("reconstruct", scan, *options).code == 3
    ended = cli("reconstruct", scan, *options, "--allow-gaps", "--overwrite")
    assert ended.code == 0, ended.err
    assert len(list((tmp_path / "out" / "002_CT_B70f").iterdir())) == 5


def test_a_series_with_duplicate_slices_fails_by_name(
    tmp_path: Path, cli: Any, options: Any, write_series: Callable[..., Path]
) -> None:
    """Two slices at one place cannot both be right: the series fails, the others are done, the exit code is 3."""
    write_series(tmp_path / "scan" / "good", seed=1)
    write_series(tmp_path / "scan" / "twice", n=3, seed=2, ImagePositionPatient=[0, 0, 7])
    ended = cli("reconstruct", tmp_path / "scan", *options)
    assert ended.code == 3
    assert "share a position" in ended.err
    assert "Traceback" not in ended.err
    statuses = [series["status"] for series in json.loads((tmp_path / "out" / "run.json").read_text())["series"]]
    assert sorted(statuses) == ["done", "failed"]


def test_a_series_of_damaged_files_only_is_not_passed_over(
    tmp_path: Path, cli: Any, options: Any, scan: Path, write_series: Callable[..., Path]
) -> None:
    """It fails by name, and the exit code says that not everything was done."""
    for file in write_series(scan / "other", n=2, kernel="B70f", seed=1).iterdir():
        file.write_bytes(file.read_bytes()[:2000])
    ended = cli("reconstruct", scan, *options)
    assert ended.code == 3
    assert "1 of 2 series failed: 002_CT_B70f: " in ended.err
    assert "copy the files again" in ended.err
    assert [p.name for p in (tmp_path / "out").glob("0*")] == ["001_CT_B40f"]


# -- bad input -------------------------------------------------------------------------------------------


def test_an_unused_option_is_an_error(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    ended = cli("reconstruct", scan, *options, "--draws", 4)
    refused(ended, tmp_path / "out", "--draws is not used by --mode quantitative, only by uncertainty")


def test_a_device_that_is_not_there(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    for device in ("cuda:99", "warp"):
        refused(cli("reconstruct", scan, *options, "--device", device), tmp_path / "out", f"'{device}' is not")


def test_no_such_input(tmp_path: Path, cli: Any, options: Any) -> None:
    refused(cli("reconstruct", tmp_path / "nowhere", *options), tmp_path / "out", "no such file or folder")


def test_an_empty_folder(tmp_path: Path, cli: Any, options: Any) -> None:
    (tmp_path / "empty").mkdir()
    refused(cli("reconstruct", tmp_path / "empty", *options), tmp_path / "out", "holds no files")


def test_a_folder_of_jpegs(tmp_path: Path, cli: Any, options: Any) -> None:
    (tmp_path / "jpegs").mkdir()
    for k in range(3):
        (tmp_path / "jpegs" / f"{k}.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(500) + b"\xff\xd9")
    ended = cli("reconstruct", tmp_path / "jpegs", *options)
    refused(ended, tmp_path / "out", "its 3 files are not DICOM images")


def test_a_gpu_without_room(
    tmp_path: Path, cli: Any, options: Any, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from medidiff.diffusion.denoiser import Denoiser

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Denoiser, "mean", full)
    refused(cli("reconstruct", scan, *options), tmp_path / "out", "too little free memory", "--device cpu")


@pytest.mark.parametrize("kept", [0.2, 0.9])
def test_a_truncated_file(kept: float, tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """Alone or among others: the scan is not whole, and says so."""
    victim = scan / "IM0002"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: int(kept * len(whole))])
    refused(cli("reconstruct", scan, *options), tmp_path / "out")
    refused(cli("reconstruct", victim, *options), tmp_path / "out", "copy it again")


def test_a_malformed_j2k_stream(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """Found in the middle of a series: what was written of it goes away again."""
    image = dcmread(scan / "IM0002")
    image.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.save_as(scan / "IM0002")
    refused(cli("reconstruct", scan, *options), tmp_path / "out", "IM0002")


def test_a_mr_series(tmp_path: Path, cli: Any, options: Any, write_series: Callable[..., Path]) -> None:
    mr = write_series(tmp_path / "mr", n=2, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    refused(cli("reconstruct", mr, *options), tmp_path / "out", "MR is not supported")


def test_wrong_units(tmp_path: Path, cli: Any, options: Any, write_series: Callable[..., Path]) -> None:
    other = write_series(tmp_path / "od", n=2, RescaleType="OD")
    refused(cli("reconstruct", other, *options), tmp_path / "out", "RescaleType is OD, expected HU")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 3)).astype(np.float32), np.eye(4)),
             tmp_path / "unit.nii")  # fmt: skip
    refused(cli("reconstruct", tmp_path / "unit.nii", *options), tmp_path / "out", "expected HU")


def test_a_file_that_is_not_a_scan(tmp_path: Path, cli: Any, options: Any) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"not gzip")
    refused(cli("reconstruct", tmp_path / "scan.nii.gz", *options), tmp_path / "out", "not readable as NIfTI")


def test_too_little_room(tmp_path: Path, cli: Any, options: Any, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before the first slice, with both numbers."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(cli("reconstruct", scan, *options), tmp_path / "out", "MB are needed and 0 MB are free")


def test_a_disk_that_fills_up(tmp_path: Path, scan: Path, tiny_model: Path, write_series: Callable[..., Path]) -> None:
    """On a real file system that is too small: one sentence, no partial file, and room makes the rest possible."""
    write_series(scan, n=40, size=96)
    out, disk = tmp_path / "disk" / "out", tmp_path / "disk"
    disk.mkdir()
    program = f"""
import shutil, sys, os
usage = shutil.disk_usage({str(tmp_path)!r})
shutil.disk_usage = lambda _: usage._replace(free=10**9)  # the disk was roomy when the run began
from medidiff.cli import main
sys.argv = ["medidiff", "reconstruct", {str(scan)!r}, "-o", {str(out)!r}, "--model", {str(tiny_model)!r}]
try:
    main()
finally:
    print([p for p, _, names in os.walk({str(out)!r}) for n in names if n.endswith(".tmp")])
    os.chdir("/")
"""
    script = f"mount -t tmpfs -o size=400k none {disk} && {sys.executable} -c '{program.replace(chr(39), chr(34))}'"
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True)
    if probe.returncode:
        pytest.skip("NO SMALL DISK CAN BE MADE HERE: user namespaces are not allowed")
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert "No space left on device" in ended.stderr
    assert "the same command continues" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == "[]\n"


def test_an_unwritable_output(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = cli("reconstruct", scan, "-o", tmp_path / "file" / "out", *options[2:])
    refused(ended, None, "file")
    refused(cli("reconstruct", scan, "-o", tmp_path / "file", *options[2:]), None, "is a file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_output_and_input_must_lie_apart(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    for out in (scan, scan / "out", tmp_path):
        refused(cli("reconstruct", scan, "-o", out, *options[2:]), None, "lies inside the input")
    assert not (scan / "out").exists()


def test_a_folder_of_the_users_is_never_touched(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """Not even with --overwrite; nor is a result folder into which the user put something."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        refused(cli("reconstruct", scan, *options, *more), None, "not a result of medidiff")
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    assert cli("reconstruct", scan, *options).code == 0
    (out / "001_CT_B40f" / "thesis.txt").write_text("mine")
    refused(cli("reconstruct", scan, *options, "--overwrite"), None, "thesis.txt: was not written by medidiff")
    assert len(list((out / "001_CT_B40f").iterdir())) == 4


def test_an_existing_result_is_refused(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    """The same command finished, or another one: both are said, and --overwrite replaces."""
    assert cli("reconstruct", scan, *options).code == 0
    before = pixels(tmp_path / "out" / "001_CT_B40f")
    refused(cli("reconstruct", scan, *options), None, "the finished result of this very command", "--overwrite")
    refused(cli("reconstruct", scan, *options, "--strength", 50), None, "another run (strength 100.0 there, 50.0 now)")
    assert pixels(tmp_path / "out" / "001_CT_B40f").keys() == before.keys()
    assert cli("reconstruct", scan, *options, "--strength", 50, "--overwrite").code == 0
    after = pixels(tmp_path / "out" / "001_CT_B40f")
    assert not np.array_equal(after["0001.dcm"], before["0001.dcm"])


def test_changed_input_is_another_run(tmp_path: Path, cli: Any, options: Any, scan: Path) -> None:
    assert cli("reconstruct", scan, *options).code == 0
    (scan / "IM0000").touch()
    refused(cli("reconstruct", scan, *options), None, "another run (another input)")


def test_weights_that_are_corrupt_or_foreign(tmp_path: Path, cli: Any, scan: Path, tiny_model: Path) -> None:
    from safetensors.numpy import save_file

    whole = tiny_model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.safetensors").write_bytes(os.urandom(2000))
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    for name, word in (("cut", "not a readable"), ("noise", "not a readable"), ("foreign", "not a medidiff model")):
        ended = cli("reconstruct", scan, "-o", tmp_path / "out", "--model", tmp_path / f"{name}.safetensors")
        refused(ended, tmp_path / "out", word)
    refused(cli("reconstruct", scan, "-o", tmp_path / "out", "--model", "nothing"), tmp_path / "out", "neither a file")


# -- classical methods -----------------------------------------------------------------------------------


def test_a_classical_method_writes_the_same_kind_of_result(
    tmp_path: Path, cli: Any, scan: Path, system_tool: Callable[[str], str]
) -> None:
    """Folder, record and headers as for a model, but they name the method and speak of no network."""
    out = tmp_path / "out"
    ended = cli("reconstruct", scan, "-o", out, "--method", "nlm", "--smoothing", 1.2, "--strength", 90)
    assert ended.code == 0, ended.err
    assert "3 slices, method nlm, smoothing 1.2" in ended.out
    run = json.loads((out / "run.json").read_text())
    assert {"method": "nlm", "smoothing": 1.2, "strength": 90.0}.items() <= run["parameters"].items()
    entry = run["series"][0]
    assert (entry["method"], entry["smoothing"], entry["nfe"]) == ("nlm", 1.2, 0)
    assert entry["model"] is entry["model_sha256"] is None
    before, after = dcmread(scan / "IM0001"), dcmread(out / "001_CT_B40f" / "0002.dcm")
    said = "method nlm (non-local means, Buades et al. 2005), smoothing 1.2 noise levels, strength 90 %"
    assert said in after.DerivationDescription
    assert after.SeriesDescription == "medidiff nlm research use only"
    assert after.DerivationCodeSequence[-1].CodeValue == "MDIFF-FILTER"
    words = "denoised by the classical method nlm"
    assert words in after.ContributingEquipmentSequence[-1].ContributionDescription
    assert words in after.ImageComments
    body = before.pixel_array > 900
    assert after.pixel_array[body].std() < 0.7 * before.pixel_array[body].std()
    found = subprocess.run([system_tool("dciodvfy"), out / "001_CT_B40f" / "0002.dcm"], capture_output=True, text=True)
    assert "Error" not in found.stderr


def test_the_identity_is_a_method(tmp_path: Path, cli: Any, scan: Path) -> None:
    """What every comparison needs: the scan itself, to the last number, as a result."""
    assert cli("reconstruct", scan, "-o", tmp_path / "out", "--method", "identity").code == 0
    before = np.stack([dcmread(scan / f"IM{k:04d}").pixel_array for k in range(3)])
    np.testing.assert_array_equal(np.stack(list(pixels(tmp_path / "out" / "001_CT_B40f").values())), before)


def test_a_classical_method_works_on_nifti(tmp_path: Path, cli: Any, write_nifti_scan: Callable[..., Path]) -> None:
    array = np.random.default_rng(0).normal(40, 20, (3, 40, 44))
    array[:, :10] -= 1040
    path = write_nifti_scan(tmp_path / "scan.nii.gz", array)
    assert cli("reconstruct", path, "-o", tmp_path / "out", "--method", "gaussian", "--smoothing", 2).code == 0
    image = nib.load(tmp_path / "out" / "001_CT_nifti" / "reconstruction.nii.gz")
    assert image.shape == (44, 40, 3)
    assert image.get_fdata()[:, 18:].std() < 8


def test_a_finished_run_with_another_strength_is_another_run(tmp_path: Path, cli: Any, scan: Path) -> None:
    """The strength decides the voxels: two of them never mix in one folder."""
    command = ("reconstruct", scan, "-o", tmp_path / "out", "--method", "tv", "--smoothing")
    assert cli(*command, 1).code == 0
    refused(cli(*command, 2), None, "another run (smoothing 1.0 there, 2.0 now)")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--method", "nlm", "--mode", "texture"), "--mode is not used by --method nlm"),
        (("--method", "nlm", "--model", "ct"), "--model is not used by --method nlm"),
        (("--method", "median"), "'median' is not a method"),
        (("--smoothing", "1"), "--smoothing is the strength of a classical method"),
        (("--method", "gaussian", "--smoothing", "nan"), "--smoothing: nan was given"),
    ],
)
def test_options_of_the_wrong_kind_of_method(
    options: tuple[str, ...], word: str, tmp_path: Path, cli: Any, scan: Path
) -> None:
    refused(cli("reconstruct", scan, "-o", tmp_path / "out", *options), tmp_path / "out", word)


# -- stopping and going on -------------------------------------------------------------------------------


def test_a_classical_run_that_died_goes_on(tmp_path: Path, scan: Path) -> None:
    """Slices that are there are kept, the others are filtered: the same pixels as in one go."""
    arguments = [scan, "-o", tmp_path / "out", "--method", "bilateral"]
    program = "import os; from medidiff.io import derived; whole = derived.write_whole\n"
    program += (
        "derived.write_whole = lambda path, data: os._exit(9) if path.name == '0003.dcm' else whole(path, data)\n"
    )
    subprocess.run([sys.executable, "-c", program + MAIN, "reconstruct", *map(str, arguments)], check=False)
    work = tmp_path / "out" / ".unfinished" / "001_CT_B40f"
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("*.dcm")}
    assert sorted(kept) == ["0001.dcm", "0002.dcm"]
    for out in ("out", "never"):
        arguments[2] = tmp_path / out
        subprocess.run([sys.executable, "-c", MAIN, "reconstruct", *map(str, arguments)], check=True)
    resumed, never = (pixels(tmp_path / name / "001_CT_B40f") for name in ("out", "never"))
    for name in ("0001.dcm", "0002.dcm", "0003.dcm"):
        np.testing.assert_array_equal(resumed[name], never[name])
    final = tmp_path / "out" / "001_CT_B40f"
    assert {name: (final / name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_pixels(
    how: signal.Signals, tmp_path: Path, cli: Any, tiny_model: Path, write_series: Callable[..., Path]
) -> None:
    """Ctrl-C (one sentence, exit code 130) or kill -9: no result yet; then the run that was never stopped."""
    scan = write_series(tmp_path / "scan", n=12, size=64)
    arguments = ["--model", tiny_model, "--mode", "sample", "--steps", 150]  # slow enough to be stopped half-way
    out = tmp_path / "out"
    command = [sys.executable, "-c", MAIN, "reconstruct", scan, "-o", out, *arguments]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    work = out / ".unfinished" / "001_CT_B40f"
    deadline = time.monotonic() + 240
    while len(list(work.glob("*.dcm"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, message = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert message.startswith("medidiff: stopped")
        assert message.count("\n") == 1
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("*.dcm")}
    assert 2 <= len(kept) < 12
    assert [p.name for p in out.glob("[!.]*")] == ["run.json"]
    begun = json.loads((out / "run.json").read_text())["series"][0]

    different = cli("reconstruct", scan, "-o", out, *arguments, "--seed", 3)
    refused(different, None, "another run (seed 0 there, 3 now)")
    assert cli("reconstruct", scan, "-o", out, *arguments).code == 0
    assert cli("reconstruct", scan, "-o", tmp_path / "never", *arguments).code == 0
    resumed, never = (pixels(folder / "001_CT_B40f") for folder in (out, tmp_path / "never"))
    assert len(resumed) == 12
    for name in never:
        np.testing.assert_array_equal(resumed[name], never[name])
    files = {path.name: path for path in (out / "001_CT_B40f").iterdir()}
    assert {name: files[name].stat().st_mtime_ns for name in kept} == kept
    assert {dcmread(file).SeriesInstanceUID for file in files.values()} == {begun["output_series_uid"]}
    assert len({(dcmread(f).SeriesDate, dcmread(f).SeriesTime) for f in files.values()}) == 1
    assert not (out / ".unfinished").exists()


def test_memory_does_not_grow_with_the_number_of_slices(
    tmp_path: Path, tiny_model: Path, write_series: Callable[..., Path]
) -> None:
    """130 more slices of 160 x 160 (13 MB in float32) leave the peak where it was."""
    few = write_series(tmp_path / "few", n=20, size=160)
    many = write_series(tmp_path / "many", n=150, size=160)
    program = f"""
import resource
from pathlib import Path
from medidiff.inference import Options, reconstruct
for name, scan in (("a", {str(few)!r}), ("b", {str(many)!r})):
    reconstruct(Path(scan), Path({str(tmp_path)!r}) / name, Options(model={str(tiny_model)!r}))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = map(int, ended.stdout.split())
    assert second - first < 6 * 1024  # KiB: headers of the slices, not their pixels
