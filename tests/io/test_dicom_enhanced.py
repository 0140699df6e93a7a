"""A frame of a multi-frame CT reads like the classic slice it could have been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, JPEG2000Lossless

from medidiff.io.dicom import load_volume, open_series, scan

Write = Callable[..., Path]
LIFTED = {
    "PlanePositionSequence": ["ImagePositionPatient"],
    "PlaneOrientationSequence": ["ImageOrientationPatient"],
    "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness"],
    "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept", "RescaleType"],
}


def group(frame: Dataset, keyword: str, source: Dataset, names: list[str]) -> None:
    item = Dataset()
    for name in names:
        setattr(item, name, source[name].value)
    setattr(frame, keyword, [item])


def enhanced(files: list[Path], out: Path) -> Path:
    """The classic slices as frames of one Enhanced CT, in the order given; exposure as ExposureInmAs."""
    slices = [pydicom.dcmread(file) for file in files]
    image = pydicom.dcmread(files[0])
    for names in (*LIFTED.values(), ["ConvolutionKernel", "KVP"]):
        for name in names:
            delattr(image, name)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    shared, exposure = Dataset(), Dataset()
    exposure.ExposureInmAs = 149.6
    shared.CTExposureSequence = [exposure]
    group(shared, "CTReconstructionSequence", slices[0], ["ConvolutionKernel"])
    group(shared, "CTXRayDetailsSequence", slices[0], ["KVP"])
    image.SharedFunctionalGroupsSequence = [shared]
    frames = [Dataset() for _ in slices]
    for frame, source in zip(frames, slices, strict=True):
        for keyword, names in LIFTED.items():
            group(frame, keyword, source, names)
    image.PerFrameFunctionalGroupsSequence = frames
    image.NumberOfFrames = len(slices)
    image.PixelData = b"".join(s.PixelData for s in slices)
    image.save_as(out)
    return out


@pytest.fixture
def pair(tmp_path: Path, write_series: Write) -> tuple[Path, Path]:
    """A classic series of varying rescale and the same as shuffled frames."""
    folder = write_series(tmp_path / "classic", n=5, SliceThickness=3)
    files = sorted(folder.iterdir())
    for k, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.RescaleIntercept = -1024 + k
        dataset.save_as(file)
    return folder, enhanced([files[k] for k in (3, 0, 4, 1, 2)], tmp_path / "enhanced.dcm")


def test_frames_are_the_same_volume_as_classic_slices(pair: tuple[Path, Path]) -> None:
    """Shuffled frames, each with its own position and rescale."""
    classic, multi = map(load_volume, pair)
    assert_array_equal(multi.array, classic.array)
    assert multi.geometry.difference(classic.geometry) is None
    (series,) = scan(pair[1]).series
    assert (series.kernel, series.kvp, series.mas, series.thickness_mm) == ("B40f", 120, 150, 3)
    assert [open_series(series).source_reference(k)[2] for k in range(5)] == [2, 4, 5, 1, 3]


def test_headers_are_flattened_to_classic_attributes(pair: tuple[Path, Path]) -> None:
    source = open_series(scan(pair[1]).series[0])
    header = source.header(4)
    assert header.ImagePositionPatient == [0, 0, 8]
    assert (header.RescaleIntercept, header.SliceThickness, header.Exposure, header.KVP) == (-1020, 3, 150, 120)
    assert "PerFrameFunctionalGroupsSequence" not in header
    assert "NumberOfFrames" not in header
    assert header.SOPClassUID == header.file_meta.MediaStorageSOPClassUID == EnhancedCTImageStorage


def test_compressed_frames_are_decoded_one_by_one(pair: tuple[Path, Path]) -> None:
    dataset = pydicom.dcmread(pair[1])
    expected = load_volume(pair[1]).array
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    dataset.save_as(pair[1])
    assert_array_equal(load_volume(pair[1]).array, expected)


def test_a_legacy_converted_series_is_its_classic_original(shared_data: Path) -> None:
    """Converted by another program (PixelMed); the classic slices lie beside it."""
    folder = shared_data / "interop" / "enhanced_ct" / "24x38x3"
    multi, classic = load_volume(folder / "multiframe"), load_volume(folder / "image")
    assert_array_equal(multi.array, classic.array)
    assert multi.geometry.difference(classic.geometry) is None
    assert_allclose(multi.affine, classic.affine)


def test_a_perfusion_map_in_enhanced_ct_is_no_ct_in_hu(shared_data: Path) -> None:
    (series,) = scan(shared_data / "interop" / "enhanced_ct" / "eCT_Supplemental.dcm").series
    assert "a perfusion map" in series.reason
    assert np.isclose(series.spacing[1], 0.388672)
