"""SUV by every row of the decision table; known header sets; times, units and amounts that scanners get wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medidiff.errors import DicomError
from medidiff.io.nuclides import half_life_s
from medidiff.io.petheader import clock, date_time, day, from_keywords
from medidiff.io.suv import suv

Make = Callable[..., Dataset]
DECAY = math.log(2) / 6588
PLAIN = 1000 * 70 / 370e6  # of the slices below, were there no decay
HOUR = math.exp(DECAY * 3600)
DAYS = ("20240301", "20250301")
START = "BQML START: decay from the"
SETS = {
    "PHILIPS_BQML": f"{START} date and time of injection to the series time",
    "PHILIPS_CNTS_AND_BQML_SUV": "CNTS by Philips' SUV factor",
    "PHILIPS_CNTS_AND_SUV": "CNTS by Philips' SUV factor",
    "SIEMENS": f"{START} date and time of injection to the series time",
    "GE_MEDICAL_AND_BQML": f"{START} date and time of injection to the series time",
    "BQML_AC_DT_lessThan_S_DT_SIEMENS": f"{START} time of day of injection to the frame reference time",
    "CPS_AND_BQML_AC_DT_-_S_DT": f"{START} time of day of injection to the first acquisition",
    "RADIOPHARM_DATETIME_UNDEFINED": f"{START} time of day of injection to the series time",
}


def philips(dataset: Dataset, suv_factor: str | None, activity_factor: str | None, block: int = 0x10) -> Dataset:
    """Philips' private factors in a block of any number."""
    dataset.add_new((0x7053, block), "LO", "Philips PET Private Group")
    for element, value in ((0x00, suv_factor), (0x09, activity_factor)):
        if value is not None:
            dataset.add_new((0x7053, (block << 8) | element), "DS", value)
    return dataset


def ge(dataset: Dataset, scanned: str, block: int = 0x10) -> Dataset:
    dataset.add_new((0x0009, block), "LO", "GEMS_PETD_01")
    dataset.add_new((0x0009, (block << 8) | 0x0D), "DT", scanned)
    return dataset


@pytest.mark.parametrize("name", SETS)
def test_known_header_sets(name: str, shared_vectors: Path) -> None:
    """Factors of real headers as calculate-suv has them (cornerstonejs, MIT), to 1e-6 relative."""
    folder = shared_vectors / "suv"
    found = suv([from_keywords(one) for one in json.loads((folder / f"{name}-instances.json").read_text())])
    assert found.factors[0] == pytest.approx(json.loads((folder / "expected.json").read_text())[name], rel=1e-6)
    assert found.rule == SETS[name]


def test_a_scan_start_computed_back_that_disagrees_is_a_warning(shared_vectors: Path) -> None:
    """On this Philips series computing back from the frame reference time would be wrong by -12.5 %."""
    headers = json.loads((shared_vectors / "suv" / "PHILIPS_BQML-instances.json").read_text())
    found = suv([from_keywords(one) for one in headers])
    assert found.warnings == ("frame reference time differs by -12.5 % from series time, which is used",)


@pytest.mark.parametrize(
    ("tags", "factor", "rule"),
    [
        ({}, PLAIN * HOUR, "injection to the series time"),
        ({"DecayCorrection": "ADMIN"}, PLAIN, "BQML ADMIN"),
        (
            {"DecayCorrection": "ADMIN", "RadiopharmaceuticalStartTime": None, "RadionuclideHalfLife": None},
            PLAIN,
            "ADM",
        ),
        (
            {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"], "ActualFrameDuration": 600000},
            PLAIN * DECAY * 600 / (1 - math.exp(-DECAY * 600)) * HOUR,
            "to and during each frame",
        ),
        ({"Units": "GML"}, 1, "GML: the values are SUVbw"),
        ({"Units": "GML", "SUVType": "BW", "PatientWeight": None}, 1, "GML: the values are SUVbw"),
        ({"Units": "GML", "SUVType": "LBM"}, 70 / (1.10 * 70 - 120 * 0.16), "by LBM"),
        ({"Units": "GML", "SUVType": "LBMJAMES128"}, 70 / (1.10 * 70 - 128 * 0.16), "by LBMJAMES128"),
        (
            {"Units": "GML", "SUVType": "LBMJANMA", "PatientSex": "F"},
            70 / (9270 * 70 / (8780 + 244 * 70 / 1.75**2)),
            "by LBMJANMA",
        ),
        ({"Units": "GML", "SUVType": "LBMJANMA"}, (6680 + 216 * 70 / 1.75**2) / 9270, "by LBMJANMA"),
        ({"Units": "GML", "SUVType": "IBW"}, 70 / (48.0 + 1.06 * 23), "by IBW"),
        ({"Units": "GML", "SUVType": "IBW", "PatientSex": "F"}, 70 / (45.5 + 0.91 * 23), "by IBW"),
        ({"Units": "GML", "SUVType": "BSA"}, 70000 / (71.84 * 70**0.425 * 175**0.725), "body surface"),
        ({"Units": "CM2ML"}, 70000 / (71.84 * 70**0.425 * 175**0.725), "body surface"),
    ],
)
def test_rows_of_the_table(pet_slice: Make, tags: dict[str, object], factor: float, rule: str) -> None:
    """SUVbw by units and decay correction; formulae of body sizes as in PS3.16 CID 85 and their papers."""
    found = suv([pet_slice(k, **tags) for k in range(3)])
    assert found.factors == pytest.approx([factor] * 3, rel=1e-12)
    assert rule in found.rule
    assert not found.warnings


def test_body_sizes_of_a_sex_that_is_not_known_are_the_mean(pet_slice: Make) -> None:
    """As the Image Biomarker Standardisation Initiative advises, with a warning."""
    found = suv([pet_slice(Units="GML", SUVType="IBW", PatientSex="O")])
    assert found.factors[0] == pytest.approx(70 / ((48.0 + 1.06 * 23 + 45.5 + 0.91 * 23) / 2), rel=1e-12)
    assert "mean of both" in found.warnings[0]


def test_frames_without_decay_correction_have_factors_of_their_own(pet_slice: Make) -> None:
    """DecayCorrection NONE: each bed position is decayed from its own time and over its own duration."""
    tags = {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"]}
    found = suv([pet_slice(AcquisitionTime="100000", **tags), pet_slice(AcquisitionTime="101000", **tags)])
    assert found.factors[1] / found.factors[0] == pytest.approx(math.exp(DECAY * 600), rel=1e-12)


@pytest.mark.parametrize("block", [0x10, 0x2F])
def test_philips_counts(pet_slice: Make, block: int) -> None:
    """The SUV factor alone, else the activity factor and then BQML; found by creator whatever their block number."""
    by_suv = suv([philips(pet_slice(Units="CNTS"), "0.000551", None, block)])
    by_activity = suv([philips(pet_slice(Units="CNTS"), "0", "1.602563", block)])
    assert by_suv.factors == (0.000551,)
    assert by_activity.factors[0] == pytest.approx(1.602563 * PLAIN * HOUR, rel=1e-12)
    assert by_activity.rule.startswith("CNTS by Philips' activity factor, then BQML START")
    assert not by_suv.warnings + by_activity.warnings


def test_philips_factors_that_disagree_are_a_warning_and_those_of_activity_series_are_not_used(pet_slice: Make) -> None:
    """A route is never switched silently, and never taken where Units says BQML."""
    both = suv([philips(pet_slice(Units="CNTS"), "0.000551", "1.602563")])
    assert both.factors == (0.000551,)
    ratio = 1.602563 * PLAIN * HOUR / 0.000551 - 1
    assert f"{100 * ratio:+.1f} %" in both.warnings[0]
    assert suv([philips(pet_slice(), "5", "7")]) == suv([pet_slice()])


@pytest.mark.parametrize("block", [0x10, 0x31])
def test_ge_private_scan_time_where_the_series_time_is_that_of_processing(pet_slice: Make, block: int) -> None:
    """SeriesTime after the first acquisition: GE's own scan time is the decay reference, whatever its block."""
    found = suv([ge(pet_slice(k, SeriesTime="113000"), "20240301095500.00", block) for k in range(2)])
    assert found.factors == pytest.approx([PLAIN * math.exp(DECAY * 3300)] * 2, rel=1e-12)
    assert "GE private scan time" in found.rule


def test_ge_private_scan_time_that_de_identification_shifted_is_ignored_and_told(pet_slice: Make) -> None:
    """More than a day from the acquisition it cannot be the start of the scan."""
    found = suv([ge(pet_slice(SeriesTime="113000"), "20240207095500.00")])
    assert found.factors[0] == pytest.approx(PLAIN * HOUR, rel=1e-12)
    assert "first acquisition" in found.rule
    assert "23.0 days" in found.warnings[0]


def test_scan_start_computed_back_from_the_frame_reference_time(pet_slice: Make) -> None:
    """t + Tave - FrameReferenceTime, where every slice has the times; one bed without them: the first acquisition."""
    tags: dict[str, object] = {"SeriesTime": "113000", "AcquisitionTime": "101000"}
    slices = [pet_slice(k, FrameReferenceTime=630000 + k, **tags) for k in range(2)]
    x = DECAY * 120
    average_s = math.log(x / (1 - math.exp(-x))) / DECAY
    expected = [PLAIN * math.exp(DECAY * (4200 + average_s - 630 - k / 1000)) for k in range(2)]
    assert suv(slices).factors == pytest.approx(expected, rel=1e-12)
    slices[1].FrameReferenceTime = 0
    assert "first acquisition" in suv(slices).rule


def test_the_first_acquisition_is_that_of_all_slices(pet_slice: Make) -> None:
    """Beds may come in any order; a series time before the earliest is the start of the scan."""
    slices = [pet_slice(AcquisitionTime=at, SeriesTime="100100") for at in ("101500", "100500", "101000")]
    assert suv(slices).factors == pytest.approx([PLAIN * math.exp(DECAY * 3660)] * 3, rel=1e-12)


def test_injection_before_midnight(pet_slice: Make) -> None:
    """Only a time of day, later than the scan's: it is that of the day before."""
    night = {"SeriesTime": "001500", "AcquisitionTime": "001500", "RadiopharmaceuticalStartDateTime": None}
    found = suv([pet_slice(RadiopharmaceuticalStartTime="231500", **night)])
    assert found.factors[0] == pytest.approx(PLAIN * HOUR, rel=1e-12)
    assert "time of day of injection" in found.rule


def test_injection_date_that_does_not_fit_is_ignored_and_told(pet_slice: Make) -> None:
    """A date that de-identification shifted: the time of day counts, as SUV would else be off by powers of two."""
    found = suv([pet_slice(RadiopharmaceuticalStartDateTime="20240221090000")])
    assert found.factors[0] == pytest.approx(PLAIN * HOUR, rel=1e-12)
    assert "its date is ignored" in found.warnings[0]


def test_injection_times_that_disagree_are_a_warning(pet_slice: Make) -> None:
    """The full date and time is used, ten minutes apart from the time of day (+6.5 %)."""
    found = suv([pet_slice(RadiopharmaceuticalStartTime="085000")])
    assert found.factors[0] == pytest.approx(PLAIN * HOUR, rel=1e-12)
    assert "+6.5 %" in found.warnings[0]


def test_an_injection_after_the_start_of_the_scan(pet_slice: Make) -> None:
    """Up to an hour: clocks differ, and some scans start before the injection."""
    found = suv([pet_slice(RadiopharmaceuticalStartDateTime="20240301100500", RadiopharmaceuticalStartTime=None)])
    assert found.factors[0] == pytest.approx(PLAIN * math.exp(-DECAY * 300), rel=1e-12)


def test_long_lived_tracers_need_the_date_of_injection(pet_slice: Make) -> None:
    """Zirconium-89 is scanned days later: with its date the SUV is right, without it is refused."""
    tags = {"RadionuclideHalfLife": 282276, "Radiopharmaceutical": "Zr-89 antibody"}
    found = suv([pet_slice(RadiopharmaceuticalStartDateTime="20240226100000", **tags)])
    assert found.factors[0] == pytest.approx(PLAIN * math.exp(math.log(2) * 4 * 86400 / 282276), rel=1e-12)
    for full in (None, "20231201090000"):
        with pytest.raises(DicomError, match=r"half-life of 78\.4 h SUV needs the date of injection"):
            suv([pet_slice(RadiopharmaceuticalStartDateTime=full, **tags)])


def test_half_life_from_the_code_of_the_nuclide(pet_slice: Make) -> None:
    """Carbon-11 as SNOMED RT, SNOMED CT or by name; the header's own half-life wins, with a warning."""
    tags = {"RadionuclideHalfLife": None, "RadiopharmaceuticalStartTime": "094000"}
    tags |= {"RadiopharmaceuticalStartDateTime": None}
    for value, meaning in (("C-105A1", ""), ("40565003", ""), ("x", "^11^Carbon"), ("x", "C-11")):
        code = Dataset()
        code.CodeValue, code.CodeMeaning = value, meaning
        found = suv([pet_slice(RadionuclideCodeSequence=Sequence([code]), **tags)])
        assert found.factors[0] == pytest.approx(PLAIN * 2 ** (1200 / 1221.84), rel=1e-9)
    minutes = suv([pet_slice(RadionuclideCodeSequence=Sequence([code]), **tags | {"RadionuclideHalfLife": 1188})])
    assert "RadionuclideHalfLife" in minutes.warnings[0]


@pytest.mark.parametrize(
    ("code", "meaning", "seconds"),
    [
        ("C-111A1", "18F", 6586.2),
        ("", "^18^Fluorine", 6586.2),
        ("", "F-18", 6586.2),
        ("", "Fluorine 18", 6586.2),
        ("", "68Ga", 4062.6),
        ("", "^94m^Technetium", 3120.0),
        ("", "O-15", 122.24),
        ("", "fluorine", None),
        ("C-999", "", None),
    ],
)
def test_names_of_nuclides(code: str, meaning: str, seconds: float | None) -> None:
    """As headers spell them (PS3.16 CID 4020)."""
    assert half_life_s(code, meaning) == seconds


def test_weight_in_grams_and_activity_in_megabecquerel(pet_slice: Make) -> None:
    """Both are told; a small activity of an unknown tracer is refused, not guessed."""
    found = suv([pet_slice(PatientWeight=70000, RadionuclideTotalDose=370)])
    assert found.factors[0] == pytest.approx(PLAIN * HOUR, rel=1e-12)
    assert found.warnings == ("PatientWeight is 70000: taken as grams", "RadionuclideTotalDose is 370: taken as MBq")
    with pytest.raises(DicomError, match="RadionuclideTotalDose is 370, too little for Bq"):
        suv([pet_slice(RadionuclideTotalDose=370, Radiopharmaceutical="PSMA")])


def test_height_in_centimetres(pet_slice: Make) -> None:
    """PatientSize is in metres (PS3.3 C.7.2.2)."""
    found = suv([pet_slice(Units="CM2ML", PatientSize=175)])
    assert found.factors == pytest.approx(suv([pet_slice(Units="CM2ML")]).factors)
    assert "centimetres" in found.warnings[0]


def test_time_zones(pet_slice: Make) -> None:
    """A date-time with its own offset is moved to the header's zone (PS3.3 C.12.1.1); without one it is local."""
    local = suv([pet_slice()]).factors
    utc = {"RadiopharmaceuticalStartDateTime": "20240301080000+0000"}
    assert suv([pet_slice(TimezoneOffsetFromUTC="+0100", **utc)]).factors == pytest.approx(local)
    assert suv([pet_slice(RadiopharmaceuticalStartDateTime="20240301090000-0500")]).factors == pytest.approx(local)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientWeight": None}, "PatientWeight is missing or 0"),
        ({"PatientWeight": 0}, "PatientWeight is missing or 0"),
        ({"Units": "PROPCNTS"}, "Units is PROPCNTS"),
        ({"Units": "PROPCPS"}, "Units is PROPCPS"),
        ({"Units": "1CM"}, "Units is 1CM"),
        ({"Units": None}, "Units is missing"),
        ({"Units": "CNTS"}, "CNTS without Philips' private factors"),
        ({"Units": "GML", "SUVType": "XYZ"}, "SUVType is XYZ"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSize": None}, "PatientSize is missing or 0"),
        ({"Units": "CM2ML", "SUVType": "LBM"}, "Units is CM2ML but SUVType is LBM"),
        ({"CorrectedImage": ["DECY", "NORM"]}, "not corrected for attenuation"),
        ({"CorrectedImage": ["ATTN", "NORM"]}, "not corrected for decay"),
        ({"DecayCorrection": None}, "DecayCorrection is missing"),
        ({"DecayCorrection": "LATER"}, "DecayCorrection is LATER"),
        ({"RescaleIntercept": -5}, "RescaleIntercept is -5, must be 0"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife is missing"),
        ({"AcquisitionTime": None}, "AcquisitionTime is missing in 1 of 1 slices"),
        (
            {"RadiopharmaceuticalStartDateTime": None, "RadiopharmaceuticalStartTime": None},
            "RadiopharmaceuticalStartTime is missing",
        ),
        (
            {"RadionuclideHalfLife": 1221.84, "RadiopharmaceuticalStartDateTime": None,
             "RadiopharmaceuticalStartTime": "020000"},
            "23.6 half-lives after",
        ),
        ({"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"], "ActualFrameDuration": None}, "ActualFrameDuration"),
    ],
)  # fmt: skip
def test_what_has_no_suv_is_refused_in_one_sentence(pet_slice: Make, tags: dict[str, object], words: str) -> None:
    """Each names the attribute, and none gives a number that could be wrong by a factor."""
    with pytest.raises(DicomError, match=words) as caught:
        suv([pet_slice(**tags)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tags",
    [
        {"SeriesDate": "00010101", "AcquisitionDate": "00010101", "SeriesTime": "080000", "AcquisitionTime": "080000"},
        {"SeriesTime": "120000", "FrameReferenceTime": "9e30"},
    ],
)
def test_times_without_meaning_are_refused_and_no_crash(pet_slice: Make, tags: dict[str, object]) -> None:
    """The day before the first of January of year 1, a frame of more years than there are, a bed of next year."""
    with pytest.raises(DicomError, match="give no number"):
        suv([pet_slice(**{"RadiopharmaceuticalStartDateTime": None} | tags)])
    beds = [pet_slice(DecayCorrection="NONE", CorrectedImage=["ATTN"], AcquisitionDate=day) for day in DAYS]
    with pytest.raises(DicomError, match="give no number"):
        suv(beds)


def test_slices_of_two_series_are_refused(pet_slice: Make) -> None:
    """Another SeriesInstanceUID, or another weight in the same series: nobody knows whose activity it is."""
    for keyword, value in (("SeriesInstanceUID", "1.2.3"), ("PatientWeight", 80), ("Units", "GML")):
        with pytest.raises(DicomError, match=f"{keyword} differs between slices"):
            suv([pet_slice(0), pet_slice(1, **{keyword: value})])


def test_two_tracers_are_refused(pet_slice: Make) -> None:
    """Their activities cannot be told apart."""
    image = pet_slice()
    image.RadiopharmaceuticalInformationSequence.append(Dataset())
    with pytest.raises(DicomError, match="2 radiopharmaceuticals"):
        suv([image])


def test_factors_do_not_depend_on_the_transfer_syntax(pet_slice: Make, tmp_path: Path) -> None:
    """Private elements come back from implicit VR as bytes; the factor is the same."""
    image = philips(pet_slice(Units="CNTS"), "0.000551", None, 0x20)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert suv([pydicom.dcmread(tmp_path / "a.dcm")]).factors == (0.000551,)


def test_dates_and_times_as_scanners_write_them() -> None:
    """DA, TM and DT (PS3.5 6.2), ACR-NEMA's, and what is none."""
    assert str(clock("0930")) == "09:30:00"
    assert str(clock("09:30:15.25")) == "09:30:15.250000"
    assert str(day("2024.03.01")) == "2024-03-01"
    assert str(date_time("20240301093015.5")) == "2024-03-01 09:30:15.500000"
    assert str(date_time("20240301003000+0200", "-0100")) == "2024-02-29 21:30:00"
    nothing: list[Any] = [clock("2530"), clock(""), day("20241301"), day("2024"), date_time("20240301"), date_time("x")]
    assert nothing == [None] * 6
