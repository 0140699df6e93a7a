"""The bundled PET study: valid DICOM, made by the script beside it, with the lesions and the noise that it claims."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_erosion

from medidiff.io.dicom import load_volume
from medidiff.io.nifti import open_labels, open_nifti
from medidiff.volume import Volume, collect

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
PET = SAMPLES / "pet"
SERIES = ("truth", "full_count", "low_count")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pet_study", SAMPLES / "make_pet_study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_pet_study"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def suv() -> dict[str, Volume]:
    return {name: load_volume(PET / name) for name in SERIES}


@pytest.fixture(scope="module")
def lesions() -> np.ndarray:
    return collect(open_labels(PET / "lesions.nii.gz", "SUV")).array


def test_every_file_is_valid_pet_and_nobodys(system_tool):
    """dciodvfy finds no error, dcentvfy none across the series; headers say that nobody was scanned; it is small."""
    files = sorted(map(str, PET.glob("*/*.dcm")))
    assert len(files) == 72
    for path in files[::7]:
        found = subprocess.run([system_tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr
    across = subprocess.run([system_tool("dcentvfy"), *files], capture_output=True, text=True, check=False)
    assert across.stderr + across.stdout == ""
    for path in files:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert str(ds.PatientName) == "Synthetic^Phantom"
        assert "no patient" in ds.ImageComments
    assert sum(path.stat().st_size for path in PET.rglob("*") if path.is_file()) < 1.1e6


def test_the_script_still_makes_the_truth(script, suv):
    """Stored truth is the phantom, to the rounding of its 16 bits."""
    truth = script.render(script.phantom(), script.SHAPE, script.SPACING_MM, z0_mm=script.LOWEST_MM).suv
    np.testing.assert_allclose(suv["truth"].array, truth, atol=1e-3)


def test_lesions_are_where_the_record_says(suv, lesions):
    """Each by its number, with its uptake in the truth; the full count shows 75 to 100 % of the large ones (EARL 1)."""
    record = json.loads((PET / "study.json").read_text())
    place = suv["truth"].geometry
    assert len(record["lesions"]) == 6
    for lesion in record["lesions"]:
        here = lesions == lesion["number"]
        assert here.sum() == lesion["voxels"] > 0
        centre = place.world(np.argwhere(here)).mean(0)
        np.testing.assert_allclose(centre, lesion["centre_mm"], atol=2.0)
        assert suv["truth"].array[here].max() == pytest.approx(lesion["suv"], rel=1e-3)
        if lesion["diameter_mm"] > 25:
            assert 0.75 < suv["full_count"].array[here].mean() / lesion["suv"] < 1


def test_noise_and_totals_follow_the_counts(suv, lesions):
    """A tenth of the counts has sqrt(10) times the noise in the liver (15 %), and the same activity within 1 %."""
    liver = binary_erosion(np.isclose(suv["truth"].array, 2.3, atol=1e-3), iterations=3)  # off the blurred edges
    error = {name: (suv[name].array - suv["truth"].array)[liver].std() for name in ("full_count", "low_count")}
    assert error["low_count"] / error["full_count"] == pytest.approx(np.sqrt(10), rel=0.15)
    totals = [suv[name].array.sum() for name in SERIES]
    np.testing.assert_allclose(totals, totals[0], rtol=0.01)


def test_nifti_and_dicom_are_one(suv):
    """The low count as NIfTI on the same grid (rounded to 0.01 SUV), and the CT in HU with lung and soft tissue."""
    low = collect(open_nifti(PET / "low_count.nii.gz", "SUV"))
    assert low.geometry.difference(suv["low_count"].geometry) is None
    np.testing.assert_allclose(low.array, suv["low_count"].array, atol=0.006)
    hu = collect(open_nifti(PET / "ct.nii.gz")).array
    assert {-1000, -698, 0} <= set(np.unique(hu).astype(int))
