"""PET series: each slice with its own slope and factor in float, and what is no static, corrected series refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedPETImageStorage

from medidiff.errors import DicomError, UnitError
from medidiff.io.dicom import load_volume, open_series, scan
from medidiff.io.suv import suv

Write = Callable[..., Path]


def by_hand(files: list[Path]) -> np.ndarray:
    """(slices, rows, columns) SUV in double precision by plain pydicom, along z."""
    images = sorted((pydicom.dcmread(file) for file in files), key=lambda i: float(i.ImagePositionPatient[2]))
    factors = suv(images).factors
    return np.stack([i.pixel_array * (float(i.RescaleSlope) * f) for i, f in zip(images, factors, strict=True)])


def test_every_slice_has_its_own_slope(tmp_path: Path, write_pet: Write) -> None:
    """SUV = factor * stored * slope; the unit is SUV, the type float32."""
    write_pet(tmp_path)
    volume = load_volume(tmp_path)
    assert (volume.unit, volume.array.dtype, volume.mask) == ("SUV", np.float32, None)
    np.testing.assert_allclose(volume.array, by_hand(list(tmp_path.iterdir())), rtol=1e-6)


def test_a_first_slope_of_one_cuts_nothing(tmp_path: Path, write_pet: Write) -> None:
    """Readers that take the data type of the first slice return whole numbers here, most of them 0."""

    def change(image: Dataset, k: int) -> None:
        image.RescaleSlope = 1 if k == 0 else 1e-5

    write_pet(tmp_path, change=change)
    array = load_volume(tmp_path).array
    np.testing.assert_allclose(array, by_hand(list(tmp_path.iterdir())), rtol=1e-6)
    assert np.unique(array[1]).size > 200


def test_factors_follow_their_slices_whatever_the_names_of_the_files(tmp_path: Path, write_pet: Write) -> None:
    """DecayCorrection NONE: beds have different factors, and files are listed in another order than slices lie."""

    def change(image: Dataset, k: int) -> None:
        image.AcquisitionTime = f"10{50 - 10 * k:02d}00"
        image.ImagePositionPatient = [0, 0, -3 * k]

    write_pet(tmp_path, change=change, DecayCorrection="NONE", CorrectedImage=["ATTN"])
    np.testing.assert_allclose(load_volume(tmp_path).array, by_hand(list(tmp_path.iterdir())), rtol=1e-6)


def test_negative_values_stay(tmp_path: Path, write_pet: Write) -> None:
    """Filtered back-projection leaves values below zero: clipping them would bias means."""
    write_pet(tmp_path, n=3, stored=np.arange(-128, 128).reshape(16, 16))
    assert load_volume(tmp_path).array.min() < 0


def test_padding_is_what_its_tag_says_and_no_more(tmp_path: Path, write_pet: Write) -> None:
    """Zero in the corners is activity, not padding."""
    stored = np.full((16, 16), 100)
    stored[0], stored[1] = 0, -5
    write_pet(tmp_path / "a", n=3, stored=stored)
    assert load_volume(tmp_path / "a").mask is None

    def change(image: Dataset, k: int) -> None:
        image.add_new("PixelPaddingValue", "SS", -5)

    write_pet(tmp_path / "b", n=3, stored=stored, change=change)
    mask = load_volume(tmp_path / "b").mask
    assert mask is not None
    np.testing.assert_array_equal(np.argwhere(mask.any(axis=(0, 2))).ravel(), [1])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SeriesType": ["DYNAMIC", "IMAGE"]}, "a dynamic series is not supported"),
        ({"SeriesType": ["GATED", "IMAGE"]}, "a gated series is not supported"),
        ({"SeriesType": ["WHOLE BODY", "REPROJECTION"]}, "a projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "a projection"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE"]}, "a projection"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"RescaleSlope": -2}, "RescaleSlope is missing or not above zero in 3 of 3"),
        ({"RescaleIntercept": 1}, "RescaleIntercept is 1, must be 0"),
        ({"CorrectedImage": ["DECY"]}, "not corrected for attenuation"),
        ({"CorrectedImage": ["ATTN"]}, "not corrected for decay"),
        ({"Units": "PROPCNTS"}, "Units is PROPCNTS"),
        ({"PatientWeight": None}, "PatientWeight is missing"),
        ({"SOPClassUID": EnhancedPETImageStorage}, "enhanced PET is not supported yet"),
    ],
)
def test_what_has_no_suv_or_no_slices_is_refused(
    tmp_path: Path, write_pet: Write, tags: dict[str, object], reason: str
) -> None:
    """In one sentence, and not counted as a broken scan: nobody asked for it."""
    write_pet(tmp_path, n=3, **tags)
    (series,) = scan(tmp_path).series
    assert series.reason.startswith(reason)
    assert not series.is_broken
    with pytest.raises(DicomError, match=r"no usable|not usable"):
        load_volume(tmp_path)


def test_several_times_at_one_place_are_a_dynamic_series(tmp_path: Path, write_pet: Write) -> None:
    """Also where SeriesType calls it static; the time points of one series are not taken for several series."""

    def change(image: Dataset, k: int) -> None:
        image.ImagePositionPatient = [0, 0, 3 * (k // 2)]
        image.AcquisitionTime = f"1{k % 2}0000"
        image.AcquisitionNumber = k % 2

    write_pet(tmp_path, n=6, change=change)
    (series,) = scan(tmp_path).series
    assert series.reason.startswith("2 slices at one place, from 2 times: a dynamic or gated series")


def test_the_same_slice_twice_is_a_duplicate(tmp_path: Path, write_pet: Write) -> None:
    """One time, one place, two files: a fault of the series, told with its place."""

    def change(image: Dataset, k: int) -> None:
        image.ImagePositionPatient = [0, 0, 3 * min(k, 3)]

    write_pet(tmp_path, change=change)
    (series,) = scan(tmp_path).series
    assert (series.reason.startswith("1 of 5 slices are duplicates"), series.is_broken) == (True, True)


def test_slices_that_disagree_on_the_patient_are_refused(tmp_path: Path, write_pet: Write) -> None:
    """Two series that were given one UID."""

    def change(image: Dataset, k: int) -> None:
        image.PatientWeight = 70 + k // 3

    write_pet(tmp_path, change=change)
    (series,) = scan(tmp_path).series
    assert series.reason.startswith("PatientWeight differs between slices")


def test_iterative_reconstruction_is_nothing_to_warn_of_in_pet(tmp_path: Path, write_pet: Write) -> None:
    """OSEM is how PET is made; a denoiser before us still is."""
    write_pet(tmp_path / "a", n=3, SeriesDescription="PET AC iterative")
    write_pet(tmp_path / "b", n=3, SeriesDescription="PET SubtlePET")
    assert [s.warnings for s in scan(tmp_path / "a").series] == [()]
    assert "a denoiser" in scan(tmp_path / "b").series[0].warnings[0]


def test_ct_and_pet_of_one_folder_are_told_apart(tmp_path: Path, write_pet: Write, write_series: Write) -> None:
    """By unit; without one it is never a guess."""
    write_pet(tmp_path / "pet", n=3)
    write_series(tmp_path / "ct", n=3)
    assert [load_volume(tmp_path, unit=unit).unit for unit in ("HU", "SUV")] == ["HU", "SUV"]
    with pytest.raises(DicomError, match="holds 2 usable series, expected one"):
        load_volume(tmp_path)


def test_a_real_whole_body_scan(shared_data: Path) -> None:
    """GE Discovery ST: 267 slopes, spacing of 3.27/3.29/3.19 mm; every tenth slice equals plain arithmetic."""
    (series,) = scan(shared_data / "pet" / "sts001_ge_fdg_wb").series
    source = open_series(series)
    assert (source.unit, source.geometry.n_slices, source.geometry.is_even) == ("SUV", 267, True)
    assert len({i.slope for i in series.instances}) == 267
    assert series.suv is not None
    decay = np.log(2) / 6588
    factor = 71000 / (388777472 * np.exp(-decay * (11 * 3600 + 20 * 60 + 11 - (10 * 3600 + 35 * 60))))
    for k in range(0, 267, 10):
        image = pydicom.dcmread(series.instances[k].path)
        expected = image.pixel_array * float(image.RescaleSlope) * factor
        np.testing.assert_allclose(source.read(k), expected, rtol=1e-6)


def test_a_real_study(shared_data: Path) -> None:
    """CT, corrected PET, uncorrected PET (PROPCNTS): one of each kind is usable, and the GE time shift is told."""
    ct, corrected, uncorrected = scan(shared_data / "petct" / "acrin-nsclc-042_ge_jls").series
    assert [(s.unit, s.usable) for s in (ct, corrected, uncorrected)] == [("HU", True), ("SUV", True), ("SUV", False)]
    assert uncorrected.reason.startswith("Units is PROPCNTS")
    assert "23.0 days" in corrected.warnings[0]


def test_a_ct_model_given_pet_refuses_by_unit(tmp_path: Path, write_pet: Write, tiny_model: Path) -> None:
    """One sentence that says what to do, and nothing is written."""
    from medidiff.inference.options import Options
    from medidiff.inference.run import reconstruct

    write_pet(tmp_path / "pet", n=3)
    words = r"PT series of 3 slices: in SUV, expected HU: choose a model made for SUV$"
    with pytest.raises(UnitError, match=words):
        reconstruct(tmp_path / "pet", tmp_path / "out", Options(model=str(tiny_model)))
    assert not (tmp_path / "out").exists()


def test_a_ct_model_takes_the_ct_of_a_study(
    tmp_path: Path, write_pet: Write, write_series: Write, tiny_model: Path
) -> None:
    """As before PET was read: the CT is done, the PET set aside with its unit."""
    from medidiff.inference.options import Options
    from medidiff.inference.run import reconstruct

    write_pet(tmp_path / "in" / "pet", n=3)
    write_series(tmp_path / "in" / "ct", n=3)
    record: Any = reconstruct(tmp_path / "in", tmp_path / "out", Options(model=str(tiny_model)))
    assert [(s.modality, s.status) for s in record.series] == [("CT", "done")]
    assert record.set_aside == (
        "PT series of 3 slices: in SUV, expected HU: choose a model made for SUV",
    )  # fmt: skip
