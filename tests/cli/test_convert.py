"""`medidiff convert` as a user runs it; dcm2niix says where left is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner, Result

from medidiff.cli import app
from medidiff.errors import GeometryError, InputError, MedidiffError, OutputError, UnitError, UsageError
from medidiff.io.blank import BlankSource
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import load_volume
from medidiff.io.nifti import write_nifti
from medidiff.volume import Geometry, Volume


def run(*arguments: object) -> Result:
    """Run `medidiff convert`; errors that `main` would turn into a sentence are raised."""
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if isinstance(result.exception, MedidiffError):
        raise result.exception
    return result


def phantom(steps_mm: tuple[float, ...] = (3, 3, 3, 3)) -> Volume:
    """A body without symmetry, LPS: bone on the patient's left, water anterior, both in the upper slices only."""
    array = np.full((len(steps_mm) + 1, 40, 36), -1000, np.float32)
    array[:, 5:35, 4:32] = 40
    array[3:, 10:14, 24:30] = 900  # columns grow to the left
    array[2:, 6:9, 10:14] = 0  # rows grow to the back
    origins = np.array([[-20.0, -15.0, z] for z in np.cumsum([0.0, *steps_mm])])
    geometry = Geometry(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.75, 0.8), (40, 36))
    return Volume(array, geometry, "HU")


def dicom(folder: Path, volume: Volume) -> Path:
    writer = DerivedWriter(BlankSource(volume), folder, Derivation("test"))
    for index in range(volume.geometry.n_slices):
        writer.write(index, volume.read(index))
    return folder


def dcm2niix(folder: Path, out: Path) -> nib.Nifti1Image:
    module = pytest.importorskip("dcm2niix")
    out.mkdir()
    command = [module.bin, "-z", "n", "-b", "n", "-f", "oracle", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return nib.load(next(out.glob("*.nii")))


def assert_same_place_and_value(ours: nib.Nifti1Image, theirs: nib.Nifti1Image) -> None:
    """The value of every hundredth voxel of `ours` stands at the same world position in `theirs`."""
    index = np.stack(np.unravel_index(np.arange(0, np.prod(ours.shape), 97), ours.shape), axis=1)
    world = nib.affines.apply_affine(ours.affine, index)
    there = nib.affines.apply_affine(np.linalg.inv(theirs.affine), world)
    assert np.abs(there - np.rint(there)).max() < 0.02
    values = np.asarray(theirs.dataobj)[tuple(np.rint(there).astype(int).T)]
    assert_array_equal(np.asarray(ours.dataobj)[tuple(index.T)], values)


def test_left_stays_left(tmp_path: Path) -> None:
    """dcm2niix puts the asymmetric phantom's voxels at the same places; so does the anatomy of RAS."""
    assert "not for diagnosis" in run(dicom(tmp_path / "in", phantom()), tmp_path / "a.nii").output
    ours = nib.load(tmp_path / "a.nii")
    assert_same_place_and_value(ours, dcm2niix(tmp_path / "in", tmp_path / "oracle"))
    bone = nib.affines.apply_affine(ours.affine, np.argwhere(np.asarray(ours.dataobj) == 900).mean(axis=0))
    body = nib.affines.apply_affine(ours.affine, np.argwhere(np.asarray(ours.dataobj) == 40).mean(axis=0))
    assert bone[0] < body[0]  # left is negative in RAS
    assert bone[1] > body[1]  # anterior is positive
    assert bone[2] > body[2]


def test_a_real_series_lies_where_dcm2niix_puts_it(tmp_path: Path, shared_data: Path) -> None:
    """The independent oracle, on a patient."""
    name = "ct/lungdx-a0002_siemens_b70f_8mm"
    assert run(shared_data / name, tmp_path / "a.nii").exit_code == 0
    ours = nib.load(tmp_path / "a.nii")
    assert_same_place_and_value(ours, dcm2niix(shared_data / name, tmp_path / "oracle"))
    assert ours.get_data_dtype() == np.int16


def test_there_and_back_with_the_headers_of_the_scan(tmp_path: Path) -> None:
    """DICOM -> NIfTI -> DICOM --like: the same numbers at the same places of the same study."""
    source = dicom(tmp_path / "in", phantom())
    run(source, tmp_path / "a.nii.gz")
    assert run(tmp_path / "a.nii.gz", tmp_path / "out", "--like", source).exit_code == 0
    for before, after in zip(sorted(source.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        one, other = pydicom.dcmread(before), pydicom.dcmread(after)
        assert_array_equal(one.pixel_array, other.pixel_array)
        assert one.ImagePositionPatient == other.ImagePositionPatient
        assert one.StudyInstanceUID == other.StudyInstanceUID
        assert one.SeriesInstanceUID != other.SeriesInstanceUID
        assert other.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
        assert "AI" not in other.ImageComments


def test_pet_there_and_back(tmp_path: Path, write_pet: Callable[..., Path]) -> None:
    """SUV as float32 in NIfTI; --like writes it into series with the headers, and in the unit, of the scan."""
    source = write_pet(tmp_path / "in")
    assert run(source, tmp_path / "a.nii").exit_code == 0
    wanted = load_volume(source).array
    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == np.float32
    assert_array_equal(np.asarray(image.dataobj).T, wanted)
    assert run(tmp_path / "a.nii", tmp_path / "out", "--like", source).exit_code == 0
    found = load_volume(tmp_path / "out")
    assert found.unit == "SUV"
    np.testing.assert_allclose(found.array, wanted, atol=1e-4 * wanted.max())
    assert {pydicom.dcmread(file).Units for file in (tmp_path / "out").iterdir()} == {"BQML"}


def test_a_file_of_another_program_is_turned_to_the_order_of_the_scan(tmp_path: Path) -> None:
    """dcm2niix stores rows bottom up; --like finds that out by position."""
    source = dicom(tmp_path / "in", phantom())
    nib.save(dcm2niix(source, tmp_path / "oracle"), tmp_path / "a.nii")
    run(tmp_path / "a.nii", tmp_path / "out", "--like", source)
    for before, after in zip(sorted(source.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        assert_array_equal(pydicom.dcmread(before).pixel_array, pydicom.dcmread(after).pixel_array)


def test_nifti_without_a_scan_becomes_a_series_of_nobody(tmp_path: Path, system_tool: Callable[[str], str]) -> None:
    """Valid by dciodvfy, anonymous, and at the same place when it comes back."""
    write_nifti(tmp_path / "a.nii", phantom())
    run(tmp_path / "a.nii", tmp_path / "out", "--transfer-syntax", "jpegls")
    first = tmp_path / "out" / "0001.dcm"
    report = subprocess.run([system_tool("dciodvfy"), first], capture_output=True, text=True, check=False)
    assert "Error" not in report.stdout + report.stderr
    assert pydicom.dcmread(first).PatientID == "ANONYMOUS"
    run(tmp_path / "out", tmp_path / "b.nii")
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii")
    assert_allclose(after.affine, before.affine, atol=1e-4)
    assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))


def test_uneven_slices_go_to_nifti_only_on_request(tmp_path: Path) -> None:
    """NIfTI has one slice distance; 2 mm among 3 mm would be misplaced in silence."""
    source = dicom(tmp_path / "in", phantom((3, 3, 2, 3)))
    with pytest.raises(GeometryError, match=r"2\.00 to 3\.00 mm apart and NIfTI knows one distance only"):
        run(source, tmp_path / "a.nii")
    assert not (tmp_path / "a.nii").exists()
    assert run(source, tmp_path / "a.nii", "--allow-gaps").exit_code == 0


def test_several_series_need_a_choice(tmp_path: Path) -> None:
    """Never a guess."""
    dicom(tmp_path / "in" / "one", phantom())
    dicom(tmp_path / "in" / "two", phantom())
    uid = pydicom.dcmread(tmp_path / "in" / "two" / "0001.dcm").SeriesInstanceUID
    with pytest.raises(UsageError, match="holds 2 series; choose one with --series UID"):
        run(tmp_path / "in", tmp_path / "a.nii")
    assert run(tmp_path / "in", tmp_path / "a.nii", "--series", uid).exit_code == 0
    with pytest.raises(InputError, match="no series with the UID given"):
        run(tmp_path / "in", tmp_path / "b.nii", "--series", "1.2.3")


def test_an_existing_output_is_kept_unless_overwrite_is_given(tmp_path: Path) -> None:
    """Both ways; a folder with files of another kind is never replaced."""
    source = dicom(tmp_path / "in", phantom())
    run(source, tmp_path / "a.nii")
    with pytest.raises(OutputError, match=r"a\.nii: exists already; add --overwrite"):
        run(source, tmp_path / "a.nii")
    run(source, tmp_path / "a.nii", "--overwrite")
    run(tmp_path / "a.nii", tmp_path / "out")
    before = pydicom.dcmread(tmp_path / "out" / "0001.dcm").SOPInstanceUID
    with pytest.raises(OutputError, match="exists already with 5 slices; add --overwrite"):
        run(tmp_path / "a.nii", tmp_path / "out")
    run(tmp_path / "a.nii", tmp_path / "out", "--overwrite")
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").SOPInstanceUID != before
    (tmp_path / "out" / "thesis.docx").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other files \(thesis\.docx"):
        run(tmp_path / "a.nii", tmp_path / "out", "--overwrite")
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_the_scan_itself_is_never_overwritten(tmp_path: Path) -> None:
    source = dicom(tmp_path / "in", phantom())
    run(source, tmp_path / "a.nii")
    with pytest.raises(UsageError, match="this folder holds the series given with --like"):
        run(tmp_path / "a.nii", source, "--like", source, "--overwrite")


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """Each fault by its class and words."""
    source = dicom(tmp_path / "in", phantom())
    (tmp_path / "empty").mkdir()
    unit = Volume(phantom().array / 2000 + 0.5, phantom().geometry, "HU")
    write_nifti(tmp_path / "unit.nii", unit)
    write_nifti(tmp_path / "good.nii", phantom())
    write_nifti(tmp_path / "other.nii", phantom((3, 3)))
    faults: list[tuple[type[MedidiffError], str, list[object]]] = [
        (InputError, "no such file", [tmp_path / "absent", tmp_path / "x.nii"]),
        (InputError, "no usable CT or PET series", [tmp_path / "empty", tmp_path / "x.nii"]),
        (UsageError, "ends in .nii", [source, tmp_path / "x"]),
        (UsageError, "both names are NIfTI", [tmp_path / "good.nii", tmp_path / "x.nii"]),
        (UsageError, "this is DICOM to NIfTI", [source, tmp_path / "x.nii", "--like", source]),
        (UsageError, "--like, which is missing", [tmp_path / "good.nii", tmp_path / "x", "--series", "1.2"]),
        (UsageError, "choose one of explicit", [tmp_path / "good.nii", tmp_path / "x", "--transfer-syntax", "jpegxl"]),
        (UnitError, "normalised", [tmp_path / "unit.nii", tmp_path / "x"]),
        (GeometryError, "not the grid", [tmp_path / "other.nii", tmp_path / "x", "--like", source]),
        (OutputError, "cannot be written", [source, tmp_path / "good.nii" / "x.nii"]),
        (OutputError, "cannot be written", [tmp_path / "good.nii", tmp_path / "good.nii" / "x"]),
    ]
    before = sorted(tmp_path.iterdir())
    for kind, words, arguments in faults:
        with pytest.raises(kind, match=words):
            run(*arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """RLIMIT_FSIZE below one slice, in a process of its own: exit code 2, one sentence, no traceback, no file."""
    write_nifti(tmp_path / "a.nii", phantom())
    program = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from medidiff.cli import main\nsys.argv[0] = 'medidiff'\nmain()\n"
    )
    command = [sys.executable, "-c", program, "convert", str(tmp_path / "a.nii"), str(tmp_path / "x")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "cannot be written (File too large)" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii"]
