"""Real series against programs and code that share nothing with the reader: dcm2niix, and each file's own header."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medidiff.io.dicom import DicomSource, open_series, scan

CT = (
    "ct/cptac-pda_siemens_b40f_3mm",
    "ct/crlm1004_ge_std_5mm",
    "ct/crlm1006_ge_5mm",
    "ct/lidc-0314_philips_d_1mm",
    "ct/lungdx-a0001_philips_B_5mm",
    "ct/lungdx-a0001_philips_L_5mm",
    "ct/lungdx-a0002_siemens_b40f_8mm",
    "ct/lungdx-a0002_siemens_b70f_8mm",
    "ct/tcga-ov_toshiba_fc13_3mm",
    "petct/acrin-nsclc-042_ge_jls/ct",
    "interop/siemens_mct_j2k",
    "interop/enhanced_ct/ct-3slice",
)
OTHERS = (
    "interop/edge_cases/gantrytilting",
    "interop/edge_cases/sliceincrement",
    "interop/ge_tilt_variable_spacing",
    "interop/enhanced_ct/24x38x3/image",
)


def sources(folder: Path) -> list[DicomSource]:
    return [open_series(s, allow_gaps=True) for s in scan(folder).series if s.reason == s.gaps]


def few(n: int) -> list[int]:
    return sorted({0, n // 3, n - 1})


def own_world(header: pydicom.Dataset, row: int, column: int) -> np.ndarray:
    """PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, straight from one header."""
    position, orientation = (
        np.array(header[name].value, float) for name in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    between_rows, between_columns = map(float, header.PixelSpacing)
    return position + orientation[:3] * column * between_columns + orientation[3:] * row * between_rows


@pytest.mark.parametrize("name", CT + OTHERS)
def test_each_pixel_is_where_its_own_header_says(shared_data: Path, name: str) -> None:
    found = sources(shared_data / name)
    files = [p for p in (shared_data / name).rglob("*") if p.is_file() and p.read_bytes()[128:132] == b"DICM"]
    assert sum(source.geometry.n_slices for source in found) == len(files)
    for source in found:
        for k in few(source.geometry.n_slices):
            image = pydicom.dcmread(source.series.instances[k].path)
            hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
            assert_array_equal(source.read(k), hu.astype(np.float32))
            corner = (image.Rows - 1, 7)
            world = source.geometry.world(np.array([k, *corner]))
            assert_allclose(world, own_world(image, *corner), atol=1e-3)
            if source.geometry.is_even:
                assert_allclose((source.geometry.affine @ [k, *corner, 1])[:3], world, atol=0.02)


@pytest.mark.parametrize("name", CT)
def test_each_pixel_is_where_dcm2niix_puts_it(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The same number at the same place in the patient, whatever the orders of axes."""
    program = Path(sys.executable).parent / "dcm2niix"
    command = [program, "-z", "n", "-b", "n", "-m", "y", "-f", "oracle", "-o", tmp_path, shared_data / name]
    subprocess.run(command, check=True, capture_output=True)
    (source,) = sources(shared_data / name)
    image = nibabel.load(tmp_path / "oracle.nii")
    values = np.asarray(image.dataobj)
    assert values.shape[2] == source.geometry.n_slices
    to_index = np.linalg.inv(image.affine) @ np.diag([-1, -1, 1, 1])  # LPS to NIfTI's RAS
    rows, columns = (np.arange(0, size, 5) for size in source.geometry.matrix)
    for k in few(source.geometry.n_slices):
        index = np.stack(np.meshgrid(k, rows, columns, indexing="ij"), axis=-1)[0]
        world = source.geometry.world(index)
        x, y, z = np.moveaxis(world @ to_index[:3, :3].T + to_index[:3, 3], -1, 0)
        assert max(np.abs(a - np.rint(a)).max() for a in (x, y, z)) < 0.02  # voxels
        theirs = values[np.rint(x).astype(int), np.rint(y).astype(int), np.rint(z).astype(int)]
        assert_allclose(source.read(k)[np.ix_(rows, columns)], theirs, atol=0.01)


def test_isolated_slices_with_odd_headers_are_read(shared_data: Path) -> None:
    """100 files of 54 patients: decimals like 006.445312E-01, leading zeros, kernels of several words."""
    files = sorted((shared_data / "ct_single_slices").rglob("*.dcm"))
    assert len(files) == 100
    for file in files:
        (series,) = scan(file).series
        header = pydicom.dcmread(file, stop_before_pixels=True)
        assert series.usable, series.reason
        between_rows = header.get_item("PixelSpacing").value.decode("ascii").split("\\")[0]
        assert series.spacing[1] == pytest.approx(float(between_rows))


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("interop/edge_cases/notavolume", ["4 slices share a position"]),
        ("interop/edge_cases/sliceincrement", ["about 1 slice missing: a step of 10.00 mm after slice 3"]),
        ("interop/edge_cases/slicecount", ["MR is not supported yet"]),
        ("interop/edge_cases/sliceorientation", ["MR is not", "MR is not"]),
        ("interop/ge_tilt_variable_spacing", ["", ""]),
        ("interop/philips_localizer_and_sc", ["localizer"] + 4 * ["secondary capture"]),
        ("pet/sts001_ge_fdg_wb", [""]),
        ("petct/acrin-nsclc-042_ge_jls", ["", "", "Units is PROPCNTS"]),
    ],
)
def test_every_kind_of_series_gets_its_verdict(shared_data: Path, name: str, verdicts: list[str]) -> None:
    found = scan(shared_data / name)
    reasons = [series.reason for series in found.series]
    assert len(reasons) == len(verdicts)
    for reason, verdict in zip(reasons, verdicts, strict=True):
        assert reason.startswith(verdict)
        assert bool(reason) == bool(verdict)
    assert not found.damaged


def test_a_real_tilt_is_reported(shared_data: Path) -> None:
    """The GE head scan says GantryDetectorTilt +18.5; its two parts are 4 and 7 mm apart."""
    found = scan(shared_data / "interop" / "ge_tilt_variable_spacing").series
    assert [s.tilt_degrees for s in found] == pytest.approx([18.5, 18.5], abs=0.01)
    assert [s.spacing[0] for s in found] == pytest.approx([4.0, 7.0], abs=0.01)
