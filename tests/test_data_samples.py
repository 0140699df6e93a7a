"""The bundled CT study: valid DICOM, made by the script beside it, with the noise and anatomy that it claims."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
CT = SAMPLES / "ct"
SERIES = ("low_dose", "full_dose", "noise_free")


def load(name: str) -> ModuleType:
    """A script of data_samples as a module (it is not part of the package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def datasets() -> dict[str, list[pydicom.Dataset]]:
    return {name: [pydicom.dcmread(path) for path in sorted((CT / name).glob("*.dcm"))] for name in SERIES}


@pytest.fixture(scope="module")
def hu(datasets) -> dict[str, np.ndarray]:
    return {
        name: np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in series])
        for name, series in datasets.items()
    }


LIVER = (slice(0, 5), slice(235, 285), slice(150, 195))


def test_every_file_is_valid_ct_and_the_study_is_consistent(system_tool):
    """dciodvfy finds no error in any file, dcentvfy none across the three series."""
    files = sorted(map(str, CT.glob("*/*.dcm")))
    assert len(files) == 36
    for path in files:
        found = subprocess.run([system_tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr
    across = subprocess.run([system_tool("dcentvfy"), *files], capture_output=True, text=True, check=False)
    assert across.stderr + across.stdout == ""


def test_nobody_can_take_it_for_a_patient_and_it_stays_small(datasets):
    """Name, comment and study say that it is synthetic; all sample files together stay below 9 MB."""
    for ds in (ds for series in datasets.values() for ds in series):
        assert str(ds.PatientName) == "Synthetic^Phantom"
        assert "no patient" in ds.ImageComments
        assert "Synthetic" in ds.SeriesDescription
    assert sum(path.stat().st_size for path in CT.rglob("*") if path.is_file()) < 9e6


def test_the_script_still_makes_the_truth_and_the_identifiers(hu, datasets):
    """The stored truth is the phantom, rounded (1 HU for another platform's arithmetic); UIDs are hashes of names."""
    phantom, script = load("phantom"), load("make_ct_study")
    rendered = np.rint(phantom.render([7]))
    assert np.abs(rendered - hu["noise_free"][[7]]).max() <= 1
    assert np.mean(rendered != hu["noise_free"][[7]]) < 0.01
    for name, series in datasets.items():
        assert [ds.SOPInstanceUID for ds in series] == [script.uid(name, index) for index in range(len(series))]
        assert {ds.SeriesInstanceUID for ds in series} == {script.uid(name)}


def test_the_noise_is_what_the_dose_says(hu):
    """About 12 HU in the liver at full dose; a quarter doubles it (1 / sqrt(a)), electronic noise adds at most 5 %."""
    full = hu["full_dose"] - hu["noise_free"]
    low = hu["low_dose"] - hu["noise_free"]
    assert full[LIVER].std() == pytest.approx(12, abs=1)
    assert 2.0 * 0.98 < low[LIVER].std() / full[LIVER].std() < 2.0 * 1.05
    assert abs(full[LIVER].mean()) < 0.5
    assert abs(low[LIVER].mean()) < 1.0


def test_low_and_full_dose_are_one_acquisition(hu):
    """The inserted noise is independent of the full dose's, with 3 times its variance and electronic noise (Yu)."""
    trunk = (slice(None), slice(150, 370), slice(90, 420))
    full = (hu["full_dose"] - hu["noise_free"])[trunk].ravel()
    inserted = (hu["low_dose"] - hu["full_dose"])[trunk].ravel()
    assert np.corrcoef(full, inserted)[0, 1] == pytest.approx(0, abs=0.02)
    assert 3.0 < inserted.var() / full.var() < 3.3


def test_the_liver_is_at_the_patients_right_and_the_spine_at_the_back(datasets, hu):
    """LPS by the headers: x below 0 holds the liver, x above 0 the gas of the stomach, bone is at y above 0."""
    ds, image = datasets["noise_free"][6], hu["noise_free"][6]
    origin, spacing = np.array(ds.ImagePositionPatient, float), np.array(ds.PixelSpacing, float)
    assert list(ds.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    x = origin[0] + spacing[1] * np.arange(ds.Columns)
    y = origin[1] + spacing[0] * np.arange(ds.Rows)
    liver = (image > 95) & (image < 120)
    assert np.count_nonzero(liver[:, x < -25]) > 2 * np.count_nonzero(liver[:, x > 25])
    inside = (np.abs(y) < 60)[:, None] & (np.abs(x) < 90)
    gas = (image < -970) & inside
    assert x[np.nonzero(gas)[1]].mean() > 30
    spine = (image > 400) & (np.abs(x) < 25)
    assert y[np.nonzero(spine)[0]].mean() > 40


def test_lesions_have_their_contrast_where_the_record_says(hu, datasets):
    """Each liver lesion differs from liver (108 HU) at its centre by what its name says, within 5 HU of structure."""
    record = json.loads((CT / "study.json").read_text())
    heights = np.array([float(ds.ImagePositionPatient[2]) for ds in datasets["noise_free"]])
    origin = np.array(datasets["noise_free"][0].ImagePositionPatient, float)
    checked = 0
    for lesion in record["lesions"]:
        if not lesion["tissue"].startswith("lesion"):
            continue
        column, row = np.rint((np.array(lesion["centre"][:2]) - origin[:2]) / 0.75).astype(int)
        nearest = np.abs(heights - lesion["centre"][2]).argmin()
        centre = hu["noise_free"][nearest, row - 1 : row + 2, column - 1 : column + 2].mean()
        assert centre - 108 == pytest.approx(float(lesion["tissue"].split()[1]), abs=5), lesion
        checked += 1
    assert checked == 7


def test_the_nifti_is_the_same_scan(hu, datasets):
    """nibabel's RAS position of a voxel, turned to LPS, holds the value that the DICOM headers put there."""
    image = nib.load(CT / "low_dose.nii.gz")
    values = np.asarray(image.dataobj)
    for i, j, k in ((0, 0, 0), (511, 3, 1), (200, 260, 2), (300, 150, 3)):
        x, y, z = (image.affine @ (i, j, k, 1))[:3] * (-1, -1, 1)
        ds = next(ds for ds in datasets["low_dose"] if abs(ds.ImagePositionPatient[2] - z) < 1e-3)
        column = (x - ds.ImagePositionPatient[0]) / ds.PixelSpacing[1]
        row = (y - ds.ImagePositionPatient[1]) / ds.PixelSpacing[0]
        assert values[i, j, k] == hu["low_dose"][ds.InstanceNumber - 1, round(row), round(column)]
