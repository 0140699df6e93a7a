"""`medidiff project` and `medidiff reconstruct FILE.h5`: through files, as a user would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medidiff.io.dicom import load_volume

SMALL = ("--views", 48)
CT_METHODS = ("fbp", "sirt", "cgls", "pwls", "tv", "diffusion")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, write_series: Callable[..., Path]) -> Path:
    """Ten slices of a disc of water."""
    return write_series(tmp_path_factory.mktemp("scan") / "ct", n=10)


@pytest.fixture
def projected(tmp_path: Path, cli: Any, scan: Path) -> Path:
    ended = cli("project", scan, "-o", tmp_path / "ct.h5", *SMALL)
    assert ended.code == 0, ended.err
    return tmp_path / "ct.h5"


def test_the_file_says_how_it_was_made(projected: Path, scan: Path) -> None:
    """Geometry, dose and places of the slices; identifiers are two UIDs, and no other text of the headers."""
    first = dcmread(next(scan.iterdir()))
    with h5py.File(projected) as file:
        assert file["counts"].shape == (10, 48, 736)
        assert json.loads(file.attrs["parameters"])["dose"] == 1.0
        assert file.attrs["source_series_uid"] == first.SeriesInstanceUID
        assert file.attrs["frame_of_reference"] == first.FrameOfReferenceUID
        np.testing.assert_allclose(file["image/origins_mm"][:, 2], 2 * np.arange(10))
    content = projected.read_bytes()
    for text in ("SYNTHETIC", first.StudyInstanceUID, first.SOPInstanceUID, str(scan)):
        assert text.encode() not in content


def test_no_uids_are_kept_if_not_wanted(tmp_path: Path, cli: Any, scan: Path) -> None:
    assert cli("project", scan, "-o", tmp_path / "ct.h5", *SMALL, "--no-uids").code == 0
    content = (tmp_path / "ct.h5").read_bytes()
    first = dcmread(next(scan.iterdir()))
    assert first.SeriesInstanceUID.encode() not in content
    assert first.FrameOfReferenceUID.encode() not in content
    ended = cli("reconstruct", tmp_path / "ct.h5", "-o", tmp_path / "out", "--method", "fbp")
    assert ended.code == 0, ended.err


def test_noise_depends_on_seed_and_place_alone(tmp_path: Path, cli: Any, scan: Path, projected: Path) -> None:
    """Slices 3:5 of the scan are the same whether the others are projected or not; another seed is another scan."""
    for name, *more in (("part", "--slices", "3:5"), ("other", "--seed", 1)):
        assert cli("project", scan, "-o", tmp_path / f"{name}.h5", *SMALL, *more).code == 0
    with (
        h5py.File(projected) as all_,
        h5py.File(tmp_path / "part.h5") as part,
        h5py.File(tmp_path / "other.h5") as other,
    ):
        np.testing.assert_array_equal(all_["counts"][3:5], part["counts"][:])
        np.testing.assert_allclose(part["image/origins_mm"][:, 2], [6, 8])
        assert (all_["counts"][:] != other["counts"][:]).mean() > 0.9


def test_a_lower_dose_counts_less(tmp_path: Path, cli: Any, scan: Path, projected: Path) -> None:
    assert cli("project", scan, "-o", tmp_path / "low.h5", *SMALL, "--dose", 0.1).code == 0
    with h5py.File(projected) as full, h5py.File(tmp_path / "low.h5") as low:
        assert low["counts"][:].mean() == pytest.approx(0.1 * full["counts"][:].mean(), rel=1e-3)
        np.testing.assert_allclose(low["air"][:], 0.1 * full["air"][:])


@pytest.mark.parametrize(
    "options",
    [("--beam", "parallel"), ("--detector", "flat"), ("--arc", 240), ()],
    ids=["parallel", "flat", "short scan", "curved"],
)
def test_a_scan_comes_back(tmp_path: Path, cli: Any, scan: Path, options: tuple[Any, ...]) -> None:
    """In HU to 10 HU inside the disc, on the very slices of the scan, as DICOM that inspect can use."""
    views = ("--views", 240, "--i0", 1e9, "--slices", "2:4")
    assert cli("project", scan, "-o", tmp_path / "ct.h5", *views, *options).code == 0
    ended = cli("reconstruct", tmp_path / "ct.h5", "-o", tmp_path / "out", "--method", "fbp", "--kernel", "hann")
    assert ended.code == 0, ended.err
    before, after = load_volume(scan), load_volume(tmp_path / "out" / "001_CT_fbp")
    assert after.geometry.difference(before.geometry.select(2, 4)) is None
    assert after.frame_of_reference == before.frame_of_reference
    y, x = np.mgrid[:48, :48] - 23.5
    inside = np.hypot(x, y) < 12
    assert after.array[:, inside].mean() == pytest.approx(before.array[2:4, inside].mean(), abs=10)
    header = dcmread(tmp_path / "out" / "001_CT_fbp" / "0001.dcm")
    assert "reconstructed from projections by fbp" in header.ImageComments
    assert "research use only" in header.ImageComments
    assert header.PatientName == "ANONYMOUS^"
    assert "already reconstructed" not in cli("inspect", tmp_path / "out" / "001_CT_fbp").out  # it is plain fbp


@pytest.mark.parametrize("method", CT_METHODS)
def test_every_method_reconstructs_and_says_what_it_did(
    tmp_path: Path, cli: Any, scan: Path, projected: Path, method: str
) -> None:
    """Nearer to the scan than an even image, with the calls of the projector and the residual in run.json."""
    ended = cli("reconstruct", projected, "-o", tmp_path / "out", "--method", method)
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    series = record["series"][0]
    assert (record["status"], series["status"], series["method"]) == ("finished", "done", method)
    assert series["operator_calls"]["apply"] >= 1
    assert (series["operator_calls"]["adjoint"] >= 1) == (method != "fbp")
    assert series["data_residual"] > 0
    by_views = {"pwls": 4.1, "tv": 7.5, "diffusion": 1.0}  # 48: (360 / 48)^0.7, 360 / 48
    assert series["smoothing"] == by_views.get(method)
    scan_, made = load_volume(scan), load_volume(tmp_path / "out" / f"001_CT_{method}")
    assert np.std(made.array - scan_.array) < 0.5 * np.std(scan_.array)


def test_an_interrupted_run_goes_on(tmp_path: Path, cli: Any, projected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the first block is there; the same command does the rest, and all is as in one go."""
    from medidiff.physics import iterative

    same = ("--method", "cgls", "--iterations", 4, "--deterministic-uids")
    assert cli("reconstruct", projected, "-o", tmp_path / "whole", *same).code == 0
    real, seen = iterative.chi_square, []

    def stopped(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("medidiff.inference.classical.chi_square", stopped)
    assert cli("reconstruct", projected, "-o", tmp_path / "parts", *same).code == 130
    assert len(list((tmp_path / "parts" / ".unfinished" / "001_CT_cgls").iterdir())) == 8
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", [])
    ended = cli("reconstruct", projected, "-o", tmp_path / "parts", *same)
    assert ended.code == 0, ended.err
    whole, parts = (load_volume(tmp_path / name / "001_CT_cgls") for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole.array, parts.array)
    residuals = [
        json.loads((tmp_path / n / "run.json").read_text())["series"][0]["data_residual"] for n in ("whole", "parts")
    ]
    assert residuals[0] == pytest.approx(residuals[1], rel=1e-6)
    assert not (tmp_path / "parts" / ".unfinished").exists()


def test_diffusion_gives_its_uncertainty_as_a_second_series(tmp_path: Path, cli: Any, projected: Path) -> None:
    """Both as DICOM on the slices of the scan, with the model, the evaluations and the mode in run.json and headers."""
    more = ("--mode", "uncertainty", "--draws", 2, "--steps", 2, "--data-guidance", "dds")
    ended = cli("reconstruct", projected, "-o", tmp_path / "out", "--method", "diffusion", *more)
    assert ended.code == 0, ended.err
    series = json.loads((tmp_path / "out" / "run.json").read_text())["series"][0]
    assert series["nfe"] == 1 + 3 * 2
    assert (series["mode"], series["model"], len(series["model_sha256"])) == ("uncertainty", "ct-projections", 64)
    image, deviation = (load_volume(tmp_path / "out" / series[key]) for key in ("folder", "uncertainty_folder"))
    assert image.geometry.difference(deviation.geometry) is None
    assert deviation.array.min() >= 0
    assert deviation.array.max() > 0
    header = dcmread(tmp_path / "out" / series["folder"] / "0001.dcm")
    assert "reconstructed from projections by a diffusion model guided by the data" in header.ImageComments
    assert series["model_sha256"] in header.DerivationDescription
    assert "already reconstructed iteratively" in cli("inspect", tmp_path / "out" / series["folder"]).out


def test_nifti_in_nifti_out(tmp_path: Path, cli: Any, write_nifti_scan: Callable[..., Path]) -> None:
    hu = np.full((2, 40, 40), -1000.0)
    hu[:, 12:28, 12:28] = 40
    path = write_nifti_scan(tmp_path / "scan.nii.gz", hu, (4, 1.5, 1.5))
    assert cli("project", path, "-o", tmp_path / "ct.h5", *SMALL).code == 0
    ended = cli("reconstruct", tmp_path / "ct.h5", "-o", tmp_path / "out", "--method", "pwls")
    assert ended.code == 0, ended.err
    made, before = nib.load(tmp_path / "out" / "001_CT_pwls" / "reconstruction.nii.gz"), nib.load(path)
    np.testing.assert_allclose(made.affine, before.affine, atol=1e-5)
    assert made.get_fdata()[15:25, 15:25].mean() == pytest.approx(40, abs=25)


@pytest.mark.parametrize("method", ["osem", "map-rdp", "diffusion"])
def test_pet(tmp_path: Path, cli: Any, write_nifti_scan: Callable[..., Path], method: str) -> None:
    """Uptake comes back in SUV, and the residual is that of counts, 1 a bin within 10 %."""
    y, x = (np.mgrid[:64, :64] - 31.5) * 4
    suv = np.stack([np.where(np.hypot(x, y) < 90, 2.0, 0.0)] * 3)
    path = write_nifti_scan(tmp_path / "pet.nii.gz", suv, (4, 4, 4))
    ended = cli("project", path, "-o", tmp_path / "pet.h5", "--counts", 1e6)
    assert ended.code == 0, ended.err
    ended = cli("reconstruct", tmp_path / "pet.h5", "-o", tmp_path / "out", "--method", method)
    assert ended.code == 0, ended.err
    made = nib.load(tmp_path / "out" / f"001_PT_{method}" / "reconstruction.nii.gz").get_fdata()
    n = made.shape[0]
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * 4
    assert made[np.hypot(x, y) < 70].mean() == pytest.approx(2.0, rel=0.03)
    series = json.loads((tmp_path / "out" / "run.json").read_text())["series"][0]
    assert series["data_residual"] == pytest.approx(1, abs=0.1)
    if method == "diffusion":
        assert (series["model"], series["nfe"], series["operator_calls"]["apply"]) == ("pet", 1, 3 + 2 + 1)
        ended = cli("reconstruct", tmp_path / "pet.h5", "-o", tmp_path / "no", "--method", method, "--unconditional")
        assert ended.code == 2
        assert "--unconditional is for CT" in ended.err


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "no method": ((), "say how to reconstruct them with --method"),
    "a filter of images": (("--method", "nlm"), "'nlm' does not reconstruct projections: choose one of fbp"),
    "a method of PET": (("--method", "osem"), "--method osem is for PET"),
    "an option of images": (("--method", "fbp", "--strength", 50), "--strength is for images"),
    "samples of fbp": (("--method", "fbp", "--mode", "sample"), "--mode sample is for --method diffusion"),
    "texture": (("--method", "diffusion", "--mode", "texture"), "choose one of quantitative, uncertainty, sample"),
    "a model for fbp": (("--method", "fbp", "--model", "ct"), "--model is for --method diffusion"),
    "guidance of tv": (("--method", "tv", "--data-guidance", "dds"), "--data-guidance is for --method diffusion"),
    "no such guidance": (("--method", "diffusion", "--data-guidance", "magic"), "choose one of diffpir, dds, pigdm"),
    "no steps": (("--method", "diffusion", "--steps", 0), "--steps must be 1 to 1000"),
    "a seed for nothing": (("--method", "diffusion", "--seed", 3), "nothing is drawn in this mode"),
    "draws of a sample": (("--method", "diffusion", "--mode", "sample", "--draws", 4), "for --mode uncertainty"),
    "no trust at all": (("--method", "diffusion", "--smoothing", 0), "would leave nothing to the network"),
    "one slice at a time": (
        ("--method", "diffusion", "--data-guidance", "dps", "--z-smoothing", 1),
        "does one slice at a time",
    ),
    "a prior with other units": (("--method", "diffusion", "--model", "pet"), "works on PT in SUV"),
    "iterations of fbp": (("--method", "fbp", "--iterations", 3), "--iterations is not used by --method fbp"),
    "smoothing of cgls": (("--method", "cgls", "--smoothing", 3), "--smoothing is not used by --method cgls"),
    "a kernel of tv": (("--method", "tv", "--kernel", "hann"), "it is for fbp"),
    "no such kernel": (("--method", "fbp", "--kernel", "sharp"), "choose one of ram-lak"),
    "no such projector": (("--method", "fbp", "--projector", "gpu"), "choose one of torch, astra"),
    "negative smoothing": (("--method", "tv", "--smoothing", -1), "--smoothing must be 0 or more"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused(
    tmp_path: Path, cli: Any, projected: Path, options: tuple[Any, ...], says: str
) -> None:
    """One sentence, and nothing is left behind."""
    ended = cli("reconstruct", projected, "-o", tmp_path / "out", *options)
    assert ended.code == 2
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_file_is_refused(tmp_path: Path, cli: Any, projected: Path) -> None:
    with h5py.File(projected, "a") as file:
        file["counts"][0, 0, 0] = np.nan
    ended = cli("reconstruct", projected, "-o", tmp_path / "out", "--method", "fbp")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "are not numbers" in ended.err
    assert not (tmp_path / "out").exists()


def test_options_of_projections_are_not_for_images(tmp_path: Path, cli: Any, scan: Path) -> None:
    ended = cli("reconstruct", scan, "-o", tmp_path / "out", "--method", "tv", "--iterations", 3)
    assert ended.code == 2
    assert "--iterations is for projections" in ended.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--views", 0), "--views must be"),
        (("--arc", 400), "--arc must be"),
        (("--dose", 0), "--dose must be a fraction"),
        (("--slices", "8:3"), "the scan has slices 0:10"),
        (("--slices", "x"), "expected i:j"),
        (("--beam", "parallel", "--detector", "flat"), "--detector is for a fan"),
        (("--views", 9, "--counts", 1e6), "--views is for CT and --counts is for PET"),
    ],
)
def test_a_request_that_cannot_be(tmp_path: Path, cli: Any, scan: Path, options: tuple[Any, ...], says: str) -> None:
    ended = cli("project", scan, "-o", tmp_path / "ct.h5", *options)
    assert ended.code == 2
    assert says in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_replaced_unasked(tmp_path: Path, cli: Any, scan: Path, projected: Path) -> None:
    before = projected.read_bytes()
    assert "exists already" in cli("project", scan, "-o", projected, *SMALL).err
    assert projected.read_bytes() == before
    assert cli("project", scan, "-o", projected, "--views", 12, "--overwrite").code == 0
    assert "expected a name that ends in .h5" in cli("project", scan, "-o", tmp_path / "ct.nii").err
