"""A folder becomes series: sorted by place, parted where they must be, refused by rule with the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medidiff.errors import DicomError, GeometryError, InputError, MedidiffError
from medidiff.io.dicom import load_volume, open_series, scan

Write = Callable[..., Path]


def edit(path: Path, **tags: object) -> None:
    """Change tags of a file; None removes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def raw_tag(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes of a file by as many others: what pydicom would refuse to write."""
    content = path.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def test_slices_are_ordered_by_place_whatever_their_names_and_numbers(tmp_path: Path, write_series: Write) -> None:
    """Shuffled names, nesting and InstanceNumber do not matter; each value is at its world position."""
    folder = write_series(tmp_path / "a", n=6)
    for k, name in enumerate(("z/9", "b/1.txt", "z/k/q", "c", "0.dcm", "b/d.jpg")):
        source = folder / f"IM{k:04d}"
        edit(source, InstanceNumber=(k * 5) % 6)
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "b" / name)
    volume, shuffled = load_volume(folder), load_volume(tmp_path / "b")
    assert_array_equal(volume.array, shuffled.array)
    assert_allclose(shuffled.geometry.positions_mm, 2.0 * np.arange(6))
    assert_allclose(shuffled.affine, [[0, 0, 0.8, 0], [0, 0.8, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])


def test_what_is_not_dicom_is_counted_and_ignored(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path / "s", n=3)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(500))
    (folder / "empty").touch()
    (folder / "starts like DICOM").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(range(200)))
    found = scan(tmp_path)
    assert (len(found.series), found.ignored, found.damaged) == (1, 3, ())


def test_a_single_file_and_a_file_without_preamble_are_read(tmp_path: Path, write_series: Write) -> None:
    """PS3.10 wants 128 bytes and DICM first; old archives hold bare data sets."""
    file = write_series(tmp_path, n=1) / "IM0000"
    (series,) = scan(file).series
    assert (series.usable, series.n_slices, series.spacing) == (True, 1, (0.0, 0.8, 0.8))
    bare = tmp_path / "bare"
    bare.write_bytes(file.read_bytes()[132:])
    assert_array_equal(load_volume(bare).array, load_volume(file).array)


def test_each_slice_has_its_own_rescale(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path, n=3)
    stored = pydicom.dcmread(folder / "IM0001").pixel_array
    edit(folder / "IM0001", RescaleSlope="0.5", RescaleIntercept="-100")
    assert_array_equal(load_volume(folder).array[1], (0.5 * stored - 100).astype(np.float32))


def test_odd_decimal_strings_and_several_values_are_read(tmp_path: Path, write_series: Write) -> None:
    """Long, padded and comma decimals occur; a kernel of two values is one kernel."""
    folder = write_series(tmp_path, n=2, PixelSpacing=["0.8000"] * 2, RescaleSlope="1.000000")
    for k in range(2):
        edit(folder / f"IM{k:04d}", ConvolutionKernel=["Br38f", "3"])
        raw_tag(folder / f"IM{k:04d}", b"0.8000\\0.8000 ", b" 8.0E-1\\0,8000")
        raw_tag(folder / f"IM{k:04d}", b"1.000000", b" 01.0E+0")
    (series,) = scan(folder).series
    assert (series.kernel, series.spacing) == ("Br38f-3", (2.0, 0.8, 0.8))
    assert "iteratively" in series.warnings[0]


def test_gantry_tilt_gives_a_sheared_affine(tmp_path: Path, write_series: Write) -> None:
    """Slices tilted by t and stepped along z: the stacking direction is z, the angle to the normal is t."""
    t = np.radians(18.5)
    folder = write_series(
        tmp_path, n=4, ImageOrientationPatient=[1, 0, 0, 0, round(np.cos(t), 6), round(-np.sin(t), 6)]
    )
    (series,) = scan(folder).series
    assert series.usable
    assert series.tilt_degrees == pytest.approx(18.5, abs=0.01)
    assert series.spacing[0] == pytest.approx(2 * np.cos(t), abs=1e-4)
    assert "tilt of 18.5 degrees" in series.warnings[0]
    assert_allclose(load_volume(folder).affine[:3, 0], [0, 0, 2], atol=1e-9)


def test_a_missing_slice_is_refused_with_numbers_unless_allowed(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path, n=8)
    (folder / "IM0005").unlink()
    (series,) = scan(folder).series
    assert "about 1 slice missing: a step of 4.00 mm after slice 5 where the median is 2.00 mm" in series.reason
    with pytest.raises(GeometryError, match="after slice 5"):
        open_series(series)
    assert_allclose(open_series(series, allow_gaps=True).geometry.positions_mm, [0, 2, 4, 6, 8, 12, 14])
    assert load_volume(folder, allow_gaps=True).array.shape[0] == 7


@pytest.mark.parametrize(("step", "verdict"), [(2.05, ""), (2.9, "uneven"), (3.1, "missing")])
def test_uneven_spacing_is_a_warning_up_to_one_and_a_half_steps(
    tmp_path: Path, write_series: Write, step: float, verdict: str
) -> None:
    """DICOM.md: 5 % is even, above 1.5 x the median is a gap, between is a warning with the numbers."""
    folder = write_series(tmp_path, n=5)
    edit(folder / "IM0004", ImagePositionPatient=[0, 0, 6 + step])
    (series,) = scan(folder).series
    assert series.usable == (verdict != "missing")
    assert verdict in series.reason + "".join(series.warnings)
    assert bool(series.warnings) == bool(verdict)


def test_duplicates_are_refused_with_numbers_even_when_gaps_are_allowed(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path, n=5)
    shutil.copy(folder / "IM0002", folder / "copy")
    edit(folder / "copy", SOPInstanceUID="1.2.3")
    (series,) = scan(folder).series
    assert "1 of 6 slices are duplicates (at 4.00 mm along the normal)" in series.reason
    with pytest.raises(DicomError, match="1 of 6"):
        open_series(series, allow_gaps=True)


def test_two_phases_under_one_uid_are_two_series(tmp_path: Path, write_series: Write) -> None:
    """Parted by acquisition only because the slices collide: a step-and-shoot scan stays whole."""
    for phase in (1, 2):
        write_series(tmp_path / str(phase), n=4, AcquisitionNumber=phase)
    assert [s.n_slices for s in scan(tmp_path).series] == [4, 4]
    folder = write_series(tmp_path / "other", n=4, seed=1)
    for k in range(4):
        edit(folder / f"IM{k:04d}", AcquisitionNumber=k)
    assert [s.n_slices for s in scan(folder).series] == [4]
    with pytest.raises(DicomError, match="3 usable"):
        load_volume(tmp_path)


def test_a_localizer_is_set_aside(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path, n=4)
    edit(folder / "IM0003", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert [(s.n_slices, s.reason) for s in scan(folder).series] == [(3, ""), (1, "localizer, set aside")]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"RescaleType": "Z_EFF"}, "RescaleType is Z_EFF, expected HU"),
        ({"RescaleIntercept": None}, "missing or zero in 3 of 3"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "virtual monoenergetic"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MONO_E"]}, "virtual monoenergetic"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "material map"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "effective atomic number"),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "MR is not supported yet"),
        ({"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "RescaleIntercept is -1024, must be 0"),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture, set aside"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient missing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular"),
    ],
)
def test_what_is_not_ct_in_hu_is_refused_by_rule(
    tmp_path: Path, write_series: Write, tags: dict[str, object], reason: str
) -> None:
    folder = write_series(tmp_path, n=3)
    for k in range(3):
        edit(folder / f"IM{k:04d}", **tags)
    (series,) = scan(folder).series
    assert reason in series.reason
    with pytest.raises(DicomError, match=r"no usable|not usable"):
        load_volume(folder)


@pytest.mark.parametrize(
    ("tags", "warned"),
    [
        ({}, False),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROCESSED"]}, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 MON"]}, False),
        ({"ConvolutionKernel": "I30f"}, True),
        ({"SeriesDescription": "THORAX AIDR 3D"}, True),
        ({"ConvolutionKernel": "STANDARD", "FilterType": "TrueFidelity"}, True),
        ({"SeriesDescription": "Thorax B40f medidiff quantitative"}, True),
        ({"SeriesDescription": "FIRST PASS perfusion"}, False),
        ({"RescaleType": "US"}, True),
        ({"LossyImageCompression": "01"}, True),
    ],
)
def test_a_derived_ct_is_a_ct_and_an_iterative_one_is_warned_of(
    tmp_path: Path, write_series: Write, tags: dict[str, object], warned: bool
) -> None:
    (series,) = scan(write_series(tmp_path, n=3, **tags)).series
    assert series.usable
    assert bool(series.warnings) == warned


@pytest.mark.parametrize(
    ("words", "maker"),
    [
        ("ASiR 40%", "GE"),
        ("Veo", "GE"),
        ("TrueFidelity", "GE"),
        ("DLIR-H", "GE"),
        ("iDose (3)", "Philips"),
        ("IMR1", "Philips"),
        ("Precise Image", "Philips"),
        ("SAFIRE 3", "Siemens"),
        ("ADMIRE", "Siemens"),
        ("AIDR 3D STD", "Canon"),
        ("FIRST BODY", "Canon"),
        ("AiCE BODY MILD", "Canon"),
        ("medidiff nlm", "medidiff"),
    ],
)
def test_every_vendors_denoising_reconstruction_is_named(
    tmp_path: Path, write_series: Write, words: str, maker: str
) -> None:
    """The trade names of iterative and learned reconstructions, wherever scanners write them."""
    for keyword in ("SeriesDescription", "FilterType", "ConvolutionKernel"):
        (series,) = scan(write_series(tmp_path / keyword, n=2, **{keyword: words})).series
        (warning,) = series.warnings
        assert f"already reconstructed iteratively or by deep learning ({maker}" in warning


def test_empty_uids_come_from_the_file_meta(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path, n=3)
    expected = [str(pydicom.dcmread(folder / f"IM{k:04d}").SOPInstanceUID) for k in range(3)]
    for k in range(3):
        edit(folder / f"IM{k:04d}", SOPClassUID="", SOPInstanceUID="", SeriesInstanceUID="")
    (series,) = scan(folder).series
    assert series.usable
    source = open_series(series)
    assert [source.source_reference(k)[1] for k in range(3)] == expected
    assert [source.header(k).SOPInstanceUID for k in range(3)] == expected
    assert scan(folder).series[0].uid == series.uid == source.header(0).SeriesInstanceUID != ""


def test_headers_come_without_pixels_and_are_not_shared(tmp_path: Path, write_series: Write) -> None:
    source = open_series(scan(write_series(tmp_path, n=2)).series[0])
    header = source.header(1)
    header.KVP = 1
    del header.Rows
    again = source.header(1)
    assert (again.KVP, again.Rows, "PixelData" in again) == (120, 48, False)
    assert again.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


@pytest.mark.parametrize(
    ("tag", "padding"), [(63536, -2000), (-2000, -2000), (None, -2000), (None, -2048), (30000, -2048)]
)
def test_padding_is_found_with_and_without_a_tag(
    tmp_path: Path, write_series: Write, tag: int | None, padding: int
) -> None:
    """GE writes -2000 as 63536, or nothing at all; a tag that no pixel has does not hide the padding."""
    folder = write_series(tmp_path, n=1, BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleIntercept=0)
    dataset = pydicom.dcmread(folder / "IM0000")
    stored = dataset.pixel_array.astype(np.int16)
    outside = np.zeros(stored.shape, bool)
    outside[:4], outside[:, -3:] = True, True
    stored[outside] = padding
    dataset.PixelData = stored.tobytes()
    if tag is not None:
        dataset.add_new(0x00280120, "US" if tag > 0 else "SS", tag)
    dataset.save_as(folder / "IM0000")
    source = open_series(scan(folder).series[0])
    assert_array_equal(source.padding(0), outside)
    assert source.read(0)[0, 0] == padding


def test_a_range_of_padding_values_is_honoured_and_air_is_no_padding(tmp_path: Path, write_series: Write) -> None:
    """PS3.3 C.7.5.1.1.2: PixelPaddingValue to PixelPaddingRangeLimit, both ends included."""
    assert open_series(scan(write_series(tmp_path / "air", n=1)).series[0]).padding(0) is None
    folder = write_series(tmp_path / "padded", n=1, PixelPaddingValue=0, PixelPaddingRangeLimit=20)
    source = open_series(scan(folder).series[0])
    assert_array_equal(source.padding(0), source.stored(0) <= 20)


def test_slices_cut_short_are_named_and_leave_a_gap(tmp_path: Path, write_series: Write) -> None:
    """Also at the end of the stack, where no step would show it."""
    folder = write_series(tmp_path, n=5)
    content = (folder / "IM0004").read_bytes()
    (folder / "IM0004").write_bytes(content[:-100])
    found = scan(folder)
    assert [file.name for file, _ in found.damaged] == ["IM0004"]
    assert "1 file of the series cannot be read" in found.series[0].reason
    assert load_volume(folder, allow_gaps=True).array.shape[0] == 4
    (folder / "IM0004").write_bytes(content[:-5000])
    assert len(scan(folder).damaged) == 1
    with pytest.raises(DicomError, match="IM0004"):
        load_volume(folder / "IM0004")


def test_a_path_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        scan(tmp_path / "none")


def test_frames_of_reference_part_a_series_unless_every_slice_has_its_own(tmp_path: Path, write_series: Write) -> None:
    """Two repositionings are two stacks; a hundred frames of reference for a hundred slices are de-identification."""
    folder = write_series(tmp_path, n=4)
    for k in range(4):
        edit(folder / f"IM{k:04d}", FrameOfReferenceUID=f"1.2.{k // 2}")
    assert [s.n_slices for s in scan(folder).series] == [2, 2]
    for k in range(4):
        edit(folder / f"IM{k:04d}", FrameOfReferenceUID=f"1.2.{k}")
    (series,) = scan(folder).series
    assert (series.n_slices, series.frame_of_reference) == (4, None)
    assert "another frame of reference" in series.warnings[0]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_end_in_a_verdict_or_one_of_our_errors(tmp_path: Path, write_series: Write, seed: int) -> None:
    """Files cut anywhere and headers with random bytes never end in another exception, nor in a warning."""
    content = (write_series(tmp_path / "good", n=1) / "IM0000").read_bytes()
    random = np.random.default_rng(seed)
    file = tmp_path / "bad"
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(132, 1000, size=random.integers(1, 20)):
            damaged[position] = random.integers(256)
        file.write_bytes(damaged[: random.integers(100, len(damaged))] if seed % 2 else damaged)
        for series in scan(file).series:
            with suppress(MedidiffError):
                source = open_series(series)
                assert source.read(0).shape == (series.rows, series.columns)
