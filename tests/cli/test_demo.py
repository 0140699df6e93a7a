"""`medidiff demo` end to end, on a few slices of the bundled CT study, the PET study, and tiny models."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner, Result

import medidiff
from medidiff import figures
from medidiff.cli import app
from medidiff.cli.demo.pet import draw, lesion_names
from medidiff.errors import InputError, ModelError, OutputError
from medidiff.io.dicom import load_volume
from medidiff.io.nifti import open_labels
from medidiff.volume import Geometry, Volume, collect

SAMPLES = Path(__file__).resolve().parents[2] / "data_samples"
STUDY, PET = SAMPLES / "ct", SAMPLES / "pet"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slices of the bundled study."""
    folder = tmp_path_factory.mktemp("study")
    for series in ("low_dose", "full_dose", "noise_free"):
        (folder / series).mkdir()
        for number in (6, 7, 8):
            shutil.copy(STUDY / series / f"{number:04d}.dcm", folder / series)
    return folder


@pytest.fixture(scope="module")
def run(study: Path, tiny_model: Path) -> Callable[[Path], Result]:
    def invoke(out: Path) -> Result:
        return CliRunner().invoke(app, ["demo", "--data", str(study), "-o", str(out), "--model", str(tiny_model)])

    return invoke


def test_the_demo_writes_what_it_names_and_its_numbers_are_right(run, study, tmp_path):
    """Series, picture, table and record are where the text says; RMSE is recomputed here from the DICOM pixels."""
    out = tmp_path / "out"
    result = run(out)
    assert result.exit_code == 0, result.exception
    series = (
        out / "reconstruction" / json.loads((out / "reconstruction" / "run.json").read_text())["series"][0]["folder"]
    )
    for place in (series, out / "side_by_side.png", out / "metrics.csv", out / "reconstruction" / "run.json"):
        assert place.exists()
        assert str(place) in result.output.replace("\n", "")
    assert medidiff.DISCLAIMER in " ".join(result.output.split())

    def hu(folder: Path) -> np.ndarray:
        files = sorted(map(pydicom.dcmread, folder.glob("*.dcm")), key=lambda ds: ds.ImagePositionPatient[2])
        return np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in files])

    with (out / "metrics.csv").open() as file:
        rows = {
            (r["case"].removeprefix("against "), r["method"], r["metric"], r["preset"]): float(r["value"])
            for r in csv.DictReader(file)
        }
    for method, folder in (("low dose", study / "low_dose"), ("reconstructed", series)):
        for reference, name in (("full dose", "full_dose"), ("noise-free truth", "noise_free")):
            rmse = np.sqrt(np.mean((hu(folder) - hu(study / name)) ** 2))
            assert rows[reference, method, "RMSE", "hu"] == pytest.approx(rmse, rel=1e-5)


def test_a_second_demo_replaces_the_first(run, tmp_path):
    """Running it again succeeds and leaves one result."""
    assert run(tmp_path / "out").exit_code == 0
    first = (tmp_path / "out" / "side_by_side.png").stat().st_mtime_ns
    assert run(tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "side_by_side.png").stat().st_mtime_ns > first
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["metrics.csv", "reconstruction", "side_by_side.png"]


def test_files_of_somebody_else_are_left_alone(run, tmp_path):
    """A folder named `reconstruction` that is not a run of ours is refused and kept."""
    other = tmp_path / "out" / "reconstruction" / "thesis.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    result = run(tmp_path / "out")
    assert isinstance(result.exception, OutputError)
    assert other.read_text() == "mine"


def test_without_the_study_one_sentence_says_where_to_get_it(tmp_path, monkeypatch):
    """The wheel has no sample data; a folder that is not the study names what it lacks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(medidiff, "__file__", str(tmp_path / "site-packages" / "medidiff" / "__init__.py"))
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)
    assert "copy of the repository" in str(result.exception)
    (tmp_path / "some" / "low_dose").mkdir(parents=True)
    result = CliRunner().invoke(app, ["demo", "--data", str(tmp_path / "some")])
    assert "missing full_dose, noise_free" in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def pet(pet_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The PET demo alone, with a tiny model: its folder and what was printed."""
    out = tmp_path_factory.mktemp("pet")
    return out / "pet", demo("--pet-data", PET, "-o", out, "--pet-model", pet_model)


def demo(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


def test_the_pet_demo_writes_what_it_names_and_nothing_of_ct(pet):
    """Series, picture, table and record are where the text says; who names a PET study is not shown the CT one."""
    out, result = pet
    assert result.exit_code == 0, result.exception
    series = (
        out / "reconstruction" / json.loads((out / "reconstruction" / "run.json").read_text())["series"][0]["folder"]
    )
    for place in (series, out / "side_by_side.png", out / "metrics.csv", out / "reconstruction" / "run.json"):
        assert place.exists()
        assert str(place) in result.output.replace("\n", "")
    assert medidiff.DISCLAIMER in " ".join(result.output.split())
    assert [path.name for path in out.parent.iterdir()] == ["pet"]
    assert pydicom.dcmread(next(series.glob("*.dcm"))).Modality == "PT"


def test_the_numbers_of_the_pet_demo_are_right(pet):
    """PSNR in the body, total activity and uptake of every lesion, recomputed here voxel by voxel; NRMSE fits PSNR."""
    out, _ = pet
    series = (
        out / "reconstruction" / json.loads((out / "reconstruction" / "run.json").read_text())["series"][0]["folder"]
    )
    folders = {"low count": PET / "low_count", "full count": PET / "full_count", "truth": PET / "truth"}
    suv = {
        name: load_volume(folder).array.astype(float) for name, folder in {**folders, "reconstructed": series}.items()
    }
    numbers = collect(open_labels(PET / "lesions.nii.gz", "SUV")).array
    with (out / "metrics.csv").open() as file:
        rows = {
            (r["case"].removeprefix("against "), r["method"], r["region"], r["metric"]): float(r["value"])
            for r in csv.DictReader(file)
        }
    body = suv["truth"] > 0.2
    for reference in ("truth", "full count"):
        for method in {"low count", "reconstructed", "full count"} - {reference}:
            error = (suv[method] - suv[reference]) ** 2
            psnr = np.mean([-10 * np.log10(e[b].mean() / 20**2) for e, b in zip(error, body, strict=True)])
            total = 100 * (suv[method].sum() / suv[reference].sum() - 1)
            assert rows[reference, method, "body", "PSNR"] == pytest.approx(psnr, rel=1e-5)
            assert rows[reference, method, "body", "NRMSE"] == pytest.approx(np.sqrt(error[body].mean()) / 20, rel=1e-5)
            assert rows[reference, method, "all", "total activity bias"] == pytest.approx(total, abs=1e-3)
            for lesion in json.loads((PET / "study.json").read_text())["lesions"]:
                region = f"{lesion['number']} {lesion['where']}, {lesion['diameter_mm']:g} mm"
                here = numbers == lesion["number"]
                for metric, of in (("SUVmean", np.mean), ("SUVmax", np.max)):
                    bias = 100 * (of(suv[method][here]) / of(suv[reference][here]) - 1)
                    assert rows[reference, method, region, f"{metric} bias"] == pytest.approx(bias, abs=1e-3)


def test_the_pet_picture_shows_the_head_at_the_top(tmp_path, monkeypatch):
    """The projection is the maximum over the depth, highest slice first; the slice is the one with most lesions."""
    shown = []
    monkeypatch.setattr(figures, "strips", lambda rows, path, **_: shown.extend(rows) or path)
    array = np.ones((3, 4, 5), np.float32)
    array[0, 2, 1], array[2, 1, 3] = 5, 7  # the lowest slice; the highest
    geometry = Geometry(np.array([[0, 0, 4.0 * k] for k in range(3)]), *np.eye(3)[:2], (2.0, 2.0), (4, 5))
    volumes = {name: Volume(array, geometry, "SUV") for name in ("low count", "reconstructed", "full count", "truth")}
    labels = np.zeros((3, 4, 5), int)
    labels[1, 0, 0], labels[1, 1, 1], labels[0, 2, 2] = 1, 2, 1
    draw(tmp_path / "a.png", volumes, labels)
    front, axial = shown
    assert front.images["truth"].tolist() == [[1, 1, 1, 7, 1], [1, 1, 1, 1, 1], [1, 5, 1, 1, 1]]
    assert front.placement.pixel_mm == (4, 2)
    assert front.placement.sides == ("R", "L")
    np.testing.assert_array_equal(axial.images["low count"], array[1])


@pytest.fixture
def repository(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with both sample studies, the CT one of three slices."""
    samples = tmp_path / "data_samples"
    samples.mkdir()
    (samples / "ct").symlink_to(study)
    (samples / "pet").symlink_to(PET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_both_studies_are_shown_and_ct_alone_without_a_pet_model(repository, tiny_model, pet_model, monkeypatch):
    """CT keeps its places and PET has a folder beside them; no embedded PET model is one sentence and no failure."""
    monkeypatch.setattr("medidiff.model.embedded", lambda: {"ct": tiny_model})
    without = demo("-o", "one")
    assert without.exit_code == 0, without.exception
    assert "no model 'pet' is embedded" in without.output
    assert sorted(path.name for path in Path("one").iterdir()) == ["metrics.csv", "reconstruction", "side_by_side.png"]
    monkeypatch.setattr("medidiff.model.embedded", lambda: {"ct": tiny_model, "pet": pet_model})
    both = demo("-o", "two")
    assert both.exit_code == 0, both.exception
    assert {path.name for path in Path("two").iterdir()} == {path.name for path in Path("one").iterdir()} | {"pet"}
    assert (Path("two") / "pet" / "side_by_side.png").exists()


def test_a_pet_model_that_is_not_there_is_an_error_where_it_was_asked_for(tmp_path, monkeypatch):
    """A mistyped name, or a PET study given without a model for it, is no reason to leave PET out in silence."""
    monkeypatch.setattr("medidiff.model.embedded", dict)
    result = demo("--pet-data", PET, "-o", tmp_path / "out")
    assert isinstance(result.exception, ModelError)
    assert "model 'pet'" in str(result.exception)


def test_a_pet_study_names_what_it_lacks(tmp_path):
    """Folders and files alike; a record without lesions is told as well."""
    for name in ("low_count", "full_count", "truth"):
        (tmp_path / name).mkdir()
    lacking = demo("--pet-data", tmp_path)
    assert isinstance(lacking.exception, InputError)
    assert "missing lesions.nii.gz, study.json" in str(lacking.exception)
    (tmp_path / "study.json").write_text('{"lesions": [{"number": 1}]}')
    with pytest.raises(InputError, match="diameter_mm"):
        lesion_names(tmp_path / "study.json")
