"""A derived PET series has the SUV that was asked for: read back by us, by dcm2niix, and by plain arithmetic."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import DicomSource, load_volume, open_series, scan
from medidiff.io.encoding import of_range

Write = Callable[..., Path]
DERIVATION = Derivation("model pet-1 (hash 0123), quantitative, 4 evaluations, seed 0", "medidiff quantitative")
KEPT = """
    SeriesDate SeriesTime AcquisitionDate AcquisitionTime FrameReferenceTime ActualFrameDuration DecayFactor
    DecayCorrection Units SUVType CorrectedImage RadiopharmaceuticalInformationSequence PatientWeight PatientSize
    PatientSex SeriesType CountsSource NumberOfSlices ImageIndex FrameOfReferenceUID StudyInstanceUID
    ImagePositionPatient ImageOrientationPatient PixelSpacing
""".split()  # noqa: SIM905


def source_of(folder: Path) -> DicomSource:
    (series,) = (s for s in scan(folder).series if s.usable and s.unit == "SUV")
    return open_series(series)


def written(source: DicomSource, folder: Path, values: np.ndarray, **options: object) -> list[Dataset]:
    writer = DerivedWriter(source, folder, DERIVATION, **options)
    return [pydicom.dcmread(writer.write(k, values[k])) for k in range(len(values))]


def within_a_ten_thousandth(found: np.ndarray, wanted: np.ndarray) -> None:
    """Of the largest value of each slice, the requirement; 16 bits alone allow 1.5e-5."""
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def dcm2niix(folder: Path, out: Path) -> np.ndarray:
    """(slices, rows, columns) in the unit of the files, as dcm2niix converts them, along z."""
    tool = pytest.importorskip("dcm2niix").bin
    out.mkdir()
    command = [tool, "-z", "n", "-b", "n", "-f", "pet", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = out.glob("*.nii")
    image = nib.load(file)
    array = np.asarray(image.get_fdata()).T[:, ::-1]  # NIfTI rows run the other way
    return array if image.affine[2, 2] > 0 else array[::-1]


@pytest.fixture
def wanted() -> np.ndarray:
    """(5, 16, 16) SUV with hot spots, an empty slice, and a slice a million times fainter than the others."""
    values = np.random.default_rng(1).gamma(2, 1, (5, 16, 16))
    values[1, 4, 4], values[2], values[3] = 80, 0, values[3] * 1e-6
    return values.astype(np.float32)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"DecayCorrection": "ADMIN"},
        {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"]},
        {"Units": "GML"},
        {"Units": "GML", "SUVType": "LBMJANMA"},
        {"Units": "CM2ML"},
    ],
)
def test_suv_of_the_written_series_is_that_of_the_array(
    tmp_path: Path, write_pet: Write, wanted: np.ndarray, tags: dict[str, object]
) -> None:
    """Whatever unit the source is in; the empty slice stays empty, the faint one stays exact."""
    source = source_of(write_pet(tmp_path / "in", **tags))
    images = written(source, tmp_path / "out", wanted)
    found = load_volume(tmp_path / "out")
    assert found.unit == "SUV"
    within_a_ten_thousandth(found.array, wanted)
    assert {image.Units for image in images} == {str(tags.get("Units", "BQML"))}
    assert not any(float(image.RescaleSlope) == 1 for image in images)
    assert all(len(str(image.get_item("RescaleSlope").value)) <= 16 for image in images)


def test_suv_by_plain_arithmetic_and_by_dcm2niix(tmp_path: Path, write_pet: Write, wanted: np.ndarray) -> None:
    """BQML START: SUV = Bq/mL * 70,000 g / (370 MBq decayed for an hour), none of it by our code."""
    images = written(source_of(write_pet(tmp_path / "in")), tmp_path / "out", wanted)
    factor = 70000 / (370e6 * math.exp(-math.log(2) * 3600 / 6588))
    within_a_ten_thousandth(
        np.stack([i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in images]) * factor, wanted
    )
    within_a_ten_thousandth(dcm2niix(tmp_path / "out", tmp_path / "nifti") * factor, wanted)


def test_what_suv_depends_on_stays_and_the_rest_is_new(tmp_path: Path, write_pet: Write, wanted: np.ndarray) -> None:
    """SeriesDate and SeriesTime are the decay reference: a writer that stamps now corrupts SUV."""

    def change(image: Dataset, k: int) -> None:
        for group, creator, element, value in (
            (0x0009, "GEMS_PETD_01", 0x0D, "20240301100000.00"),
            (0x0071, "SIEMENS MED PT", 0x22, "20240301100000.00"),
            (0x7053, "Philips PET Private Group", 0x09, "4.7"),
            (0x0099, "ACME", 0x01, "something about other pixels"),
        ):
            image.private_block(group, creator, create=True).add_new(element, "LO", value)

    source = source_of(write_pet(tmp_path / "in", change=change))
    for k, image in enumerate(written(source, tmp_path / "out", wanted)):
        before = pydicom.dcmread(source.series.instances[k].path)
        assert [image.get(key) for key in KEPT] == [before.get(key) for key in KEPT]
        for group in (0x0009, 0x0071, 0x7053):
            assert [e.value for e in image.group_dataset(group)] == [e.value for e in before.group_dataset(group)]
        assert not len(image.group_dataset(0x0099))
        assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == before.SOPClassUID
        assert image.SOPInstanceUID != before.SOPInstanceUID
        assert image.SeriesInstanceUID != before.SeriesInstanceUID
        assert list(image.ImageType) == ["DERIVED", "PRIMARY"]
        assert (image.PixelRepresentation, image.BitsStored, image.RescaleIntercept) == (1, 16, 0)
        assert image.ContentDate == image.InstanceCreationDate != "20240301"
        assert "RescaleType" not in image
        assert "AI-processed" in image.ImageComments


def test_values_below_zero_stay_where_the_source_has_some(tmp_path: Path, write_pet: Write) -> None:
    """One slice with negative numbers tells for the series; a source without has none afterwards."""
    values = np.linspace(-1, 4, 5 * 256, dtype=np.float32).reshape(5, 16, 16)
    signed = write_pet(tmp_path / "a", change=lambda image, k: None if k else set_pixels(image, -3))
    written(source_of(signed), tmp_path / "signed", values)
    within_a_ten_thousandth(load_volume(tmp_path / "signed").array, values)
    written(source_of(write_pet(tmp_path / "b")), tmp_path / "plain", values)
    within_a_ten_thousandth(load_volume(tmp_path / "plain").array, np.maximum(values, 0))


def set_pixels(image: Dataset, value: int) -> None:
    image.PixelData = np.full((16, 16), value, np.int16).tobytes()


def test_padding_comes_back_untouched_and_does_not_coarsen_the_rest(tmp_path: Path, write_pet: Write) -> None:
    """Its number is no activity; no measured pixel takes it."""
    stored = np.full((16, 16), 1000)
    stored[:3] = -32768

    def change(image: Dataset, k: int) -> None:
        image.add_new("PixelPaddingValue", "SS", -32768)

    source = source_of(write_pet(tmp_path / "in", n=3, stored=stored, change=change))
    values = np.stack([np.where(stored < 0, source.read(k), 2.5) for k in range(3)]).astype(np.float32)
    images = written(source, tmp_path / "out", values)
    assert all((image.pixel_array[:3] == -32768).all() for image in images)
    found = load_volume(tmp_path / "out")
    np.testing.assert_allclose(found.array[:, 3:], 2.5, rtol=1e-4)
    assert found.mask is not None
    assert found.mask[:, :3].all()
    assert not found.mask[:, 3:].any()


def test_a_map_of_standard_deviations_is_in_the_unit_of_the_scan(
    tmp_path: Path, write_pet: Write, wanted: np.ndarray
) -> None:
    """Its steps follow its values, whatever range was asked for, and padding is no map."""

    def change(image: Dataset, k: int) -> None:
        image.add_new("PixelPaddingValue", "SS", -32768)

    source = source_of(write_pet(tmp_path / "in", change=change))
    images = written(source, tmp_path / "out", wanted / 50, rescale=(0.1, 0.0))
    within_a_ten_thousandth(load_volume(tmp_path / "out").array, wanted / 50)
    assert not any("PixelPaddingValue" in image for image in images)


def test_an_interrupted_run_continues_the_same_series(tmp_path: Path, write_pet: Write, wanted: np.ndarray) -> None:
    """When it began is read from the content date, as the series date is the scan's."""
    source = source_of(write_pet(tmp_path / "in"))
    first = DerivedWriter(source, tmp_path / "out", DERIVATION)
    first.write(0, wanted[0])
    second = DerivedWriter(source, tmp_path / "out", DERIVATION, series_uid=first.series_uid)
    assert second.created == first.created.replace(microsecond=0)


@pytest.mark.parametrize("largest", [1e-30, 3e-5, 0.5, 1, 32766, 32767, 1.23456789e9])
def test_slopes_are_short_exact_and_never_one(largest: float) -> None:
    """Numbers are computed with the slope that is written, of at most 16 characters; 32767 must not give slope 1."""
    values = np.array([[largest, -largest, largest / 3, 0]])
    encoding = of_range(values)
    numbers = encoding.numbers(values)
    assert encoding.slope != 1
    assert np.abs(numbers).max() <= 32767
    np.testing.assert_allclose(numbers * encoding.slope, values, atol=largest / 65000)


def verify(tool: str, *files: Path) -> set[str]:
    """The errors that a dicom3tools verifier finds, without the names of the files that it finds them in."""
    result = subprocess.run([tool, *map(str, files)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return {re.sub(r"</[^>]*>", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.parametrize("name", ["pet/sts001_ge_fdg_wb", "petct/acrin-nsclc-042_ge_jls"])
def test_real_series_gain_no_error_and_keep_their_suv(
    name: str, tmp_path: Path, shared_data: Path, system_tool: Callable[[str], str]
) -> None:
    """dciodvfy per file and dcentvfy across source and derived; each slice within 1e-4 of its maximum, by dcm2niix too.

    The array is the scan's own SUV, smoothed along the slices, so that no slice is what it was.
    """
    source = source_of(shared_data / name)
    n = min(source.geometry.n_slices, 40)
    values = np.stack([(source.read(k) + source.read(max(k - 1, 0))) / 2 for k in range(n)])
    writer = DerivedWriter(source, tmp_path / "out", DERIVATION)
    results = [writer.write(k, values[k]) for k in range(n)]
    within_a_ten_thousandth(load_volume(tmp_path / "out").array, values)
    within_a_ten_thousandth(dcm2niix(tmp_path / "out", tmp_path / "nifti") * source.suv_factor(0), values)
    before = [source.series.instances[k].path for k in range(n)]
    dciodvfy, dcentvfy = system_tool("dciodvfy"), system_tool("dcentvfy")
    for k in (0, n // 2, n - 1):
        assert verify(dciodvfy, results[k]) - verify(dciodvfy, before[k]) == set()
    assert verify(dcentvfy, *before, *results) - verify(dcentvfy, *before) == set()
