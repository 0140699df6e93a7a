"""The derived series: checked by dciodvfy and dcentvfy, by PS3.3, and by reading it back."""

from __future__ import annotations

import resource
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import JPEGBaseline8Bit

from medidiff.errors import OutputError, UsageError
from medidiff.io.blank import BlankSource
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import open_series, scan
from medidiff.io.files import write_whole
from medidiff.volume import Geometry, Volume

DERIVATION = Derivation("model ct-1 (hash 0123), quantitative, 4 evaluations, seed 0", "medidiff quantitative")


class HeaderInMemory:
    """A source of one or more slices whose header and stored numbers the test chooses."""

    unit = "HU"

    def __init__(self, stored: np.ndarray, header: Dataset, padding: int | None = None) -> None:
        self._stored, self._header, self._padding = stored, header, padding
        shape = (len(stored), *stored.shape[1:])
        self.geometry = Geometry.from_affine(np.eye(4), shape)

    def header(self, index: int) -> Dataset:
        return self._header

    def stored(self, index: int) -> np.ndarray:
        return self._stored[index]

    def read(self, index: int) -> np.ndarray:
        slope, intercept = float(self._header.RescaleSlope), float(self._header.RescaleIntercept)
        return (self._stored[index] * slope + intercept).astype(np.float32)

    def padding(self, index: int) -> np.ndarray | None:
        return None if self._padding is None else self._stored[index] == self._padding

    def source_reference(self, index: int) -> tuple[str, str, int | None]:
        return self._header.SOPClassUID, f"1.2.3.{index}", None


def header(**values: object) -> Dataset:
    """A header as a 12-bit scanner writes it, changed by `values`."""
    blank = BlankSource(Volume(np.zeros((1, 8, 8), np.float32), Geometry.from_affine(np.eye(4), (1, 8, 8)), "HU"))
    dataset = blank.header(0)
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID, dataset.SeriesNumber = "1.2.3", "1.2.3.0", 7
    dataset.BitsStored, dataset.PixelRepresentation, dataset.BitsAllocated = 12, 0, 16
    dataset.RescaleIntercept, dataset.ImageType = "-1024", ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def written(tmp_path: Path, values: np.ndarray, source: HeaderInMemory, **options: object) -> tuple[Dataset, list[str]]:
    writer = DerivedWriter(source, tmp_path / "out", DERIVATION, **options)
    return pydicom.dcmread(writer.write(0, values)), writer.warnings


def hu(dataset: Dataset) -> np.ndarray:
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


@pytest.fixture
def source() -> HeaderInMemory:
    return HeaderInMemory(np.full((2, 8, 8), 1024, np.uint16), header())


@pytest.mark.parametrize("slope", ["1", "0.5", "2.0002442"])
def test_values_come_back_within_half_a_rescale_step(tmp_path: Path, slope: str) -> None:
    """stored = round((HU - intercept) / slope): the error is at most slope / 2."""
    wanted = np.linspace(-1000, 900, 64, dtype=np.float32).reshape(8, 8)
    dataset, warnings = written(tmp_path, wanted, HeaderInMemory(np.zeros((1, 8, 8), int), header(RescaleSlope=slope)))
    assert np.abs(hu(dataset) - wanted).max() <= float(slope) / 2 + 1e-3
    assert (dataset.BitsStored, dataset.PixelRepresentation, dataset.RescaleSlope) == (12, 0, float(slope))
    assert not warnings


def test_twelve_bits_are_widened_for_metal_but_not_for_noise_in_air(tmp_path: Path, source: HeaderInMemory) -> None:
    """A scanner clips below its lowest number too; above 3071 HU nothing may be lost."""
    values = np.zeros((8, 8), np.float32)
    values[0, 0] = -1500
    dataset, warnings = written(tmp_path, values, source)
    assert (dataset.BitsStored, hu(dataset).min(), warnings) == (12, -1024, [])
    values[1, 1] = 9000
    dataset, warnings = written(tmp_path, values, source)
    assert (dataset.BitsStored, dataset.HighBit, hu(dataset).max()) == (16, 15, 9000)
    assert "-1024 to 9000 HU do not fit the source's 12 bits" in warnings[0]


def test_unsigned_becomes_signed_where_the_floor_is_not_air(tmp_path: Path) -> None:
    """With intercept 0 unsigned numbers cannot hold fat (-100 HU)."""
    source = HeaderInMemory(np.zeros((1, 8, 8), int), header(RescaleIntercept="0"))
    dataset, warnings = written(tmp_path, np.full((8, 8), -100, np.float32), source)
    assert (dataset.PixelRepresentation, hu(dataset).max(), len(warnings)) == (1, -100, 1)


def test_padding_keeps_its_number_and_no_measured_pixel_takes_it(tmp_path: Path) -> None:
    """PixelPaddingValue marks pixels that hold no measurement (PS3.3 C.7.5.1.1.2)."""
    stored = np.full((1, 8, 8), 1024, np.uint16)
    stored[0, :2] = 0
    source = HeaderInMemory(stored, header(PixelPaddingValue=0, PixelPaddingRangeLimit=5), padding=0)
    dataset, _ = written(tmp_path, np.full((8, 8), -1024, np.float32), source)
    assert (dataset.pixel_array[:2] == 0).all()
    assert (dataset.pixel_array[2:] == 1).all()
    assert dataset.PixelPaddingValue == 0
    assert "PixelPaddingRangeLimit" not in dataset


def test_padding_without_a_tag_is_restored_from_the_mask(tmp_path: Path) -> None:
    """-2000 outside the circle comes back as -2000 although the model wrote something else there."""
    stored = np.full((1, 8, 8), 0, np.int16)
    stored[0, 0] = -2000
    source = HeaderInMemory(stored, header(RescaleIntercept="0", PixelRepresentation=1, BitsStored=16), padding=-2000)
    dataset, _ = written(tmp_path, np.full((8, 8), 40, np.float32), source)
    assert (dataset.pixel_array[0] == -2000).all()
    assert (dataset.pixel_array[1:] == 40).all()


def test_the_header_says_what_was_done_and_by_what(tmp_path: Path, source: HeaderInMemory) -> None:
    """PS3.3 C.7.6.1.1.2 (derived images), C.7.5.2 (contributing equipment); texts as DICOM limits them."""
    source._header.SeriesDescription = "x" * 64
    source._header.Manufacturer = "ACME"
    source._header.add_new(0x00091001, "LO", "vendor secret")
    source._header.SmallestImagePixelValue = 3
    dataset, _ = written(tmp_path, np.zeros((8, 8), np.float32), source)
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "AXIAL", "HELIX"]
    assert dataset.SeriesDescription.endswith("x medidiff quantitative AI, research use only")
    assert len(dataset.SeriesDescription) <= 64
    assert (dataset.SeriesNumber, dataset.InstanceNumber, dataset.BurnedInAnnotation) == (1007, 1, "NO")
    item = dataset.SourceImageSequence[0]
    assert (item.ReferencedSOPInstanceUID, item.SpatialLocationsPreserved) == ("1.2.3.0", "YES")
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    roles = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in dataset.ContributingEquipmentSequence]
    assert roles == ["109101", "109102"]
    assert "hash 0123" in dataset.DerivationDescription
    assert "not for diagnosis" in dataset.ImageComments
    assert dataset.DerivationCodeSequence[0].CodingSchemeDesignator == "99MEDIDIFF"
    assert (0x0009, 0x1001) not in dataset
    assert "SmallestImagePixelValue" not in dataset
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID != "1.2.3.0"


def test_the_source_header_is_not_changed(tmp_path: Path, source: HeaderInMemory) -> None:
    """Inputs are never mutated."""
    before = source.header(0).to_json()
    written(tmp_path, np.zeros((8, 8), np.float32), source)
    assert source.header(0).to_json() == before


def test_a_second_derivation_keeps_the_history_of_the_first(tmp_path: Path, source: HeaderInMemory) -> None:
    """The scanner is named once; both processing steps and both descriptions stay."""
    first, _ = written(tmp_path, np.zeros((8, 8), np.float32), source)
    source._header = first
    second, _ = written(tmp_path, np.zeros((8, 8), np.float32), source)
    roles = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in second.ContributingEquipmentSequence]
    assert roles == ["109101", "109102", "109102"]
    assert second.DerivationDescription.count("hash 0123") == len(second.DerivationCodeSequence) == 2


def test_a_simulated_low_dose_says_so(tmp_path: Path, source: HeaderInMemory) -> None:
    """Added noise is no AI result and must not pass for a scan."""
    derivation = Derivation("dose 0.25, fan beam", "simulated 25 %", ("MDIFF-DOSE", "99MEDIDIFF", "x"), "", True)
    writer = DerivedWriter(source, tmp_path / "out", derivation)
    dataset = pydicom.dcmread(writer.write(0, np.zeros((8, 8))))
    assert "simulated low dose" in dataset.ImageComments
    assert "AI" not in dataset.ImageComments + dataset.SeriesDescription


def test_an_uncertainty_map_has_its_own_rescale_and_window(tmp_path: Path) -> None:
    """Standard deviations of a few HU need finer steps than 1 HU, and a window that shows them."""
    source = HeaderInMemory(np.zeros((1, 8, 8), np.int16), header(PixelPaddingValue=0, WindowCenter="40"), padding=0)
    derivation = replace(DERIVATION, window=(10, 20))
    writer = DerivedWriter(source, tmp_path / "out", derivation, rescale=(0.1, 0))
    dataset = pydicom.dcmread(writer.write(0, np.full((8, 8), 7.32, np.float32)))
    np.testing.assert_allclose(hu(dataset), 7.3)
    assert (dataset.WindowCenter, dataset.WindowWidth) == (10, 20)
    assert "PixelPaddingValue" not in dataset


def test_a_lossy_source_stays_marked_as_lossy(tmp_path: Path, source: HeaderInMemory) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5), even where the header forgot to say so."""
    source._header.file_meta = FileMetaDataset()
    source._header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset, _ = written(tmp_path, np.zeros((8, 8), np.float32), source)
    assert dataset.LossyImageCompression == "01"


def test_missing_type_2_attributes_are_written_empty_with_a_warning(tmp_path: Path, source: HeaderInMemory) -> None:
    """Nothing is invented, but what must be there is there (PS3.5 7.4.3)."""
    del source._header.PatientSex, source._header.FrameOfReferenceUID
    dataset, warnings = written(tmp_path, np.zeros((8, 8), np.float32), source)
    assert dataset.PatientSex == ""
    assert dataset.FrameOfReferenceUID
    assert [("PatientSex" in w, "FrameOfReferenceUID" in w) for w in warnings] == [(True, False), (False, True)]


@pytest.mark.parametrize("syntax", ["jpegls", "j2k"])
def test_lossless_transfer_syntaxes_hold_the_same_numbers(tmp_path: Path, syntax: str) -> None:
    """JPEG-LS and JPEG 2000 lossless decode to what explicit little endian stores, signed numbers as well."""
    values = np.random.default_rng(0).integers(-900, 2000, (64, 48)).astype(np.float32)
    source = HeaderInMemory(
        np.zeros((1, 64, 48), np.int16), header(PixelRepresentation=1, RescaleIntercept="0", BitsStored=16)
    )
    plain, _ = written(tmp_path, values, source)
    packed, _ = written(tmp_path, values, source, transfer_syntax=syntax)
    assert packed.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(packed.pixel_array, plain.pixel_array)
    assert "LossyImageCompression" not in packed


def test_an_image_too_small_for_jpeg_2000_is_refused_in_one_sentence(tmp_path: Path, source: HeaderInMemory) -> None:
    """OpenJPEG needs 32 pixels a side for its six resolutions."""
    with pytest.raises(OutputError, match="8 x 8 pixels cannot be written as JPEG 2000"):
        written(tmp_path, np.zeros((8, 8), np.float32), source, transfer_syntax="j2k")


def test_an_unknown_transfer_syntax_is_refused_by_name(tmp_path: Path, source: HeaderInMemory) -> None:
    with pytest.raises(UsageError, match="'jpegxl' is not known: choose one of explicit, jpegls, j2k"):
        DerivedWriter(source, tmp_path, DERIVATION, transfer_syntax="jpegxl")


def test_identifiers_are_new_each_time_unless_asked_otherwise(tmp_path: Path, source: HeaderInMemory) -> None:
    """Writing twice gives two series; the same salt and derivation give the same one."""
    free = [DerivedWriter(source, tmp_path, DERIVATION).series_uid for _ in range(2)]
    fixed = [DerivedWriter(source, tmp_path, DERIVATION, deterministic_uids="a").series_uid for _ in range(2)]
    other = DerivedWriter(source, tmp_path, replace(DERIVATION, description="y"), deterministic_uids="a").series_uid
    assert free[0] != free[1]
    assert fixed[0] == fixed[1] != other
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in [*free, *fixed, other])


def test_an_interrupted_run_continues_the_same_series(tmp_path: Path, source: HeaderInMemory) -> None:
    """Same series UID, dates and instance UIDs whoever writes the slice, in any order."""
    first = DerivedWriter(source, tmp_path / "out", DERIVATION)
    one = pydicom.dcmread(first.write(1, np.zeros((8, 8))))
    second = DerivedWriter(source, tmp_path / "out", DERIVATION, series_uid=first.series_uid)
    again = pydicom.dcmread(second.write(1, np.zeros((8, 8))))
    other = pydicom.dcmread(second.write(0, np.zeros((8, 8))))
    assert one == again
    assert other.SeriesInstanceUID == one.SeriesInstanceUID
    assert (other.SeriesDate, other.SeriesTime) == (one.SeriesDate, one.SeriesTime)
    assert other.SOPInstanceUID != one.SOPInstanceUID
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.dcm", "0002.dcm"]


def test_the_time_zone_of_the_source_stays(tmp_path: Path) -> None:
    """TimezoneOffsetFromUTC governs the acquisition times too (PS3.3 C.12.1.1): new times are given in that zone."""
    source = HeaderInMemory(np.zeros((2, 8, 8), np.uint16), header(TimezoneOffsetFromUTC="-0500"))
    created = datetime(2026, 11, 21, 2, 30, 15, tzinfo=UTC)
    writer = DerivedWriter(source, tmp_path, DERIVATION, created=created)
    written = pydicom.dcmread(writer.write(0, source.read(0)))
    assert (written.TimezoneOffsetFromUTC, written.SeriesDate, written.SeriesTime) == ("-0500", "20261120", "213015")
    assert DerivedWriter(source, tmp_path, DERIVATION, series_uid=writer.series_uid).created == created


def test_an_unwritable_output_is_one_sentence(tmp_path: Path, source: HeaderInMemory) -> None:
    """A file stands where the folder should be (root can write everywhere, so no chmod here)."""
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"0001\.dcm: cannot be written \(.*\); check the path, its permissions and"):
        written(tmp_path, np.zeros((8, 8), np.float32), source)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stops the write in the middle of the file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"0001\.dcm: cannot be written \(File too large\)"):
            write_whole(tmp_path / "out" / "0001.dcm", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_run_left_is_used_up_by_the_next(tmp_path: Path) -> None:
    """kill -9 cannot clean up; its temporary file must neither stay nor stand in the way."""
    (tmp_path / ".0001.dcm.tmp").write_bytes(b"half")
    write_whole(tmp_path / "0001.dcm", b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("0001.dcm", b"whole")]


def verify(tool: str, *files: Path) -> Counter[str]:
    """The error lines of a dicom3tools verifier."""
    result = subprocess.run([tool, *map(str, files)], capture_output=True, text=True, check=False)
    return Counter(line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error"))


class Files:
    """The plainest source there is: pydicom, one file a slice."""

    unit = "HU"

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.geometry = Geometry.from_affine(np.eye(4), (len(files), *self.stored(0).shape))

    def header(self, index: int) -> Dataset:
        return pydicom.dcmread(self.files[index], stop_before_pixels=True)

    def stored(self, index: int) -> np.ndarray:
        return pydicom.dcmread(self.files[index]).pixel_array

    def read(self, index: int) -> np.ndarray:
        header = self.header(index)
        return (self.stored(index) * float(header.RescaleSlope) + float(header.RescaleIntercept)).astype(np.float32)

    def padding(self, index: int) -> np.ndarray | None:
        padding = self.header(index).get("PixelPaddingValue")
        return None if padding is None else self.stored(index) == padding

    def source_reference(self, index: int) -> tuple[str, str, int | None]:
        header = self.header(index)
        return header.SOPClassUID, header.SOPInstanceUID, None


REAL = [
    "ct/tcga-ov_toshiba_fc13_3mm",
    "ct/cptac-pda_siemens_b40f_3mm",
    "ct/crlm1006_ge_5mm",
    "ct/crlm1004_ge_std_5mm",
    "ct/lungdx-a0001_philips_B_5mm",
    "ct/lungdx-a0001_philips_L_5mm",
    "ct/lungdx-a0002_siemens_b40f_8mm",
    "ct/lungdx-a0002_siemens_b70f_8mm",
    "ct/lidc-0314_philips_d_1mm",
    "ct_single_slices/tcga-luad_54_patients",
    "petct/acrin-nsclc-042_ge_jls/ct",
    "interop/ge_tilt_variable_spacing",
    "interop/edge_cases/gantrytilting/001",
]


@pytest.mark.parametrize("name", REAL)
def test_real_series_gain_no_error(
    name: str, tmp_path: Path, shared_data: Path, system_tool: Callable[[str], str]
) -> None:
    """dciodvfy per file and dcentvfy across source and derived report nothing that the source did not have.

    Values that were not changed come back as the very numbers that were stored, padding included.
    """
    files = sorted(path for path in (shared_data / name).iterdir() if path.suffix == ".dcm")
    if name.startswith("ct_single"):  # one patient each: no series
        files = files[:1]
    source = Files([files[0], files[len(files) // 2]] if len(files) > 1 else files)
    writer = DerivedWriter(source, tmp_path / "out", DERIVATION)
    results = [writer.write(index, source.read(index)) for index in range(len(source.files))]
    for index, (before, after) in enumerate(zip(source.files, results, strict=True)):
        assert verify(system_tool("dciodvfy"), after) - verify(system_tool("dciodvfy"), before) == Counter()
        np.testing.assert_array_equal(pydicom.dcmread(after).pixel_array, source.stored(index))
    dcentvfy = system_tool("dcentvfy")
    assert verify(dcentvfy, *source.files, *results) - verify(dcentvfy, *source.files) == Counter()


@pytest.mark.parametrize("name", ["enhanced_ct/24x38x3", "enhanced_ct/ct-3slice", "siemens_mct_j2k"])
def test_multi_frame_and_headers_without_uids_become_classic_slices(
    name: str, tmp_path: Path, shared_data: Path, system_tool: Callable[[str], str]
) -> None:
    """Enhanced and legacy converted frames, and a source that dciodvfy cannot even name, give valid classic CT."""
    found = [series for series in scan(shared_data / "interop" / name).series if series.usable]
    assert found
    for series in found:
        source = open_series(series)
        writer = DerivedWriter(source, tmp_path / series.uid, DERIVATION)
        before, after = [], []
        for index in (0, 1):
            after.append(writer.write(index, source.read(index)))
            before.append(series.instances[index].path)
            written_, old = (verify(system_tool("dciodvfy"), paths[-1]) for paths in (after, before))
            assert written_ - old == Counter()
            dataset = pydicom.dcmread(after[-1])
            np.testing.assert_array_equal(dataset.pixel_array, source.stored(index))
            np.testing.assert_allclose(dataset.ImagePositionPatient, source.geometry.origins_mm[index], atol=1e-6)
            frame = dataset.SourceImageSequence[0].get("ReferencedFrameNumber")
            assert frame == source.source_reference(index)[2]
        dcentvfy, paths = system_tool("dcentvfy"), sorted(set(before))
        assert verify(dcentvfy, *paths, *after) - verify(dcentvfy, *paths) == Counter()


def test_a_series_of_nobody_is_valid(tmp_path: Path, system_tool: Callable[[str], str]) -> None:
    """Without any source headers the result is still a valid CT series."""
    volume = Volume(np.full((2, 32, 24), -1000, np.float32), Geometry.from_affine(np.eye(4), (2, 32, 24)), "HU")
    writer = DerivedWriter(BlankSource(volume), tmp_path / "out", replace(DERIVATION, is_ai=False))
    results = [writer.write(index, volume.read(index)) for index in range(2)]
    assert sum((verify(system_tool("dciodvfy"), path) for path in results), Counter()) == Counter()
    assert verify(system_tool("dcentvfy"), *results) == Counter()
    assert not writer.warnings
