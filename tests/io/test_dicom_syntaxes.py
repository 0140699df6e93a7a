"""Every transfer syntax gives the integers that were encoded; what cannot be decoded is named, not guessed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames

from medidiff.errors import DecodeError, DicomError
from medidiff.io.decode import can_decode, read_frame, syntax_name
from medidiff.io.dicom import load_volume, open_series, scan

LOSSLESS = ("1.2", "1.2.1", "1.2.1.99", "1.2.2", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90", "1.2.5")
# Greatest difference from the uncompressed HU: 5 for J2K and 1 for near-lossless JPEG-LS (their rates), and
# for JPEG the quantisation of 4 to 8 steps of slope 2 (12 bits) or 32 (8 bits).
LOSSY = {"1.2.4.81": 1, "1.2.4.91": 5, "1.2.4.51": 40, "1.2.4.53": 40, "1.2.4.55": 40, "1.2.4.50": 300}


@pytest.fixture(scope="module")
def interop(shared_data: Path) -> Path:
    return shared_data / "interop"


def encoded(interop: Path, syntax: str) -> Path:
    (file,) = (interop / "transfer_syntaxes").glob(f"CTImage.dcm_*_1.2.840.10008.{syntax}.dcm")
    return file


def hu(path: Path) -> NDArray[np.float32]:
    (series,) = scan(path).series
    assert series.usable
    return load_volume(path).array[0]


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_uncompressed_integers(interop: Path, syntax: str) -> None:
    assert_array_equal(read_frame(encoded(interop, syntax), None), read_frame(encoded(interop, "1.2"), None))


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_stay_within_their_error(interop: Path, syntax: str) -> None:
    inside = hu(encoded(interop, "1.2")) > -1100  # padding takes the ringing of JPEG
    error = np.abs(hu(encoded(interop, syntax)) - hu(encoded(interop, "1.2")))[inside]
    assert 0 < np.percentile(error, 99) <= LOSSY[syntax]


@pytest.mark.parametrize("syntax", ["1.2.4.51", "1.2.4.53", "1.2.4.55"])
def test_twelve_bit_jpeg_agrees_with_dcmtk(
    interop: Path, tmp_path: Path, system_tool: Callable[[str], str], syntax: str
) -> None:
    subprocess.run([system_tool("dcmdjpeg"), encoded(interop, syntax), tmp_path / "plain.dcm"], check=True)
    assert_array_equal(read_frame(encoded(interop, syntax), None), read_frame(tmp_path / "plain.dcm", None))


def test_fragments_without_an_offset_table_are_put_together(
    interop: Path, tmp_path: Path, system_tool: Callable[[str], str]
) -> None:
    """Two frames in many fragments, with an empty basic offset table (PS3.5 A.4); dcmtk is the oracle."""
    file = interop / "transfer_syntaxes" / "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"
    subprocess.run([system_tool("dcmdjpeg"), file, tmp_path / "plain.dcm"], check=True)
    for k, expected in enumerate(pydicom.dcmread(tmp_path / "plain.dcm").pixel_array):
        assert_array_equal(read_frame(file, k), expected)


@pytest.fixture(scope="module", params=["201", "202", "203"])
def htj2k(request: pytest.FixtureRequest, interop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The HTJ2K codestreams wrapped in DICOM (lossless, lossless RPCL, any), and the raw truth beside them."""
    folder, truth = tmp_path_factory.mktemp("htj2k"), tmp_path_factory.mktemp("truth")
    for name in ("CT1", "CT2"):
        dataset = pydicom.dcmread(interop / "transfer_syntaxes" / f"{name}_J2KR")
        dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{request.param}"
        dataset.PixelData = encapsulate([(interop / "htj2k" / f"{name}.j2c").read_bytes()])
        dataset.save_as(folder / name)
        shutil.copy(interop / "htj2k" / f"{name}.RAW", truth / name)
    return folder, truth


@pytest.mark.parametrize("name", ["CT1", "CT2"])
def test_htj2k_gives_its_raw_truth(htj2k: tuple[Path, Path], name: str) -> None:
    folder, truth = htj2k
    dataset = pydicom.dcmread(folder / name, stop_before_pixels=True)
    raw = np.fromfile(truth / name, "<i2").reshape(dataset.Rows, dataset.Columns)
    assert_array_equal(hu(folder / name), raw * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
    assert scan(folder / name).series[0].transfer_syntax.startswith("HTJ2K")


def test_every_ct_of_the_interop_folder_is_decoded(interop: Path) -> None:
    """All syntaxes there, fragments included; nothing is refused for want of a decoder."""
    files = sorted((interop / "transfer_syntaxes").glob("CT*"))
    assert len(files) == 19
    assert all(read_frame(file, None).shape == (512, 512) for file in files)


@pytest.fixture
def j2k(interop: Path, tmp_path: Path) -> tuple[pydicom.FileDataset, bytes]:
    dataset = pydicom.dcmread(interop / "transfer_syntaxes" / "CT1_J2KR")
    return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("fault", ["cut at half", "cut near the end", "no codestream"])
def test_a_malformed_codestream_is_an_error_that_names_the_file(
    j2k: tuple[pydicom.FileDataset, bytes], tmp_path: Path, fault: str
) -> None:
    dataset, stream = j2k
    broken = {"cut at half": stream[: len(stream) // 2], "cut near the end": stream[:-500], "no codestream": bytes(998)}
    dataset.PixelData = encapsulate([broken[fault]])
    dataset.save_as(tmp_path / "broken.dcm")
    with pytest.raises(DecodeError, match=r"broken.dcm: the pixel data cannot be decoded"):
        load_volume(tmp_path)


def test_a_file_that_vanishes_after_the_folder_was_listed_is_named(
    j2k: tuple[pydicom.FileDataset, bytes], tmp_path: Path
) -> None:
    j2k[0].save_as(tmp_path / "gone.dcm")
    (series,) = scan(tmp_path).series
    (tmp_path / "gone.dcm").unlink()
    with pytest.raises(DecodeError, match=r"gone.dcm: is gone since the folder was listed"):
        open_series(series).stored(0)


def test_jpeg_xl_is_refused_by_name(j2k: tuple[pydicom.FileDataset, bytes], tmp_path: Path) -> None:
    dataset, _ = j2k
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.110"
    pydicom.dcmwrite(tmp_path / "xl.dcm", dataset, force_encoding=True, implicit_vr=False, little_endian=True)
    with pytest.raises(DicomError, match="no decoder for JPEG XL lossless"):
        load_volume(tmp_path)
    with pytest.raises(DecodeError, match=r"xl.dcm: no decoder for JPEG XL lossless"):
        read_frame(tmp_path / "xl.dcm", None)


def test_names_and_decoders_go_together() -> None:
    """Video and private syntaxes have none."""
    assert (can_decode("1.2.840.10008.1.2.1"), syntax_name("1.2.840.10008.1.2.1")) == (True, "explicit little endian")
    assert not can_decode("1.2.840.10008.1.2.4.102")
    assert not can_decode("1.2.3.4")
    assert not can_decode("")
