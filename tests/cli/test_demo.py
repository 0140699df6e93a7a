"""`medidiff demo` end to end, on a few slices of the bundled study and a tiny model."""

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
from medidiff.cli import app
from medidiff.errors import InputError, OutputError

STUDY = Path(__file__).resolve().parents[2] / "data_samples" / "ct"
KEYS = ("reference", "method", "metric", "preset")


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
