"""What the header of one PET slice says that its uptake values depend on.

PS3.3 C.8.9.1 (PET series), C.8.9.2 (isotope), C.8.9.4 (PET image). Dates and times are local (PS3.3 C.12.1.1): a
date-time with an offset of its own (PS3.5 6.2, DT) is moved to TimezoneOffsetFromUTC where the header has one. Private
elements are found by their creator, never by an absolute number (PS3.5 7.8.1). Nothing is judged here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medidiff.io.headers import number, quiet_parsing, text, texts
from medidiff.io.nuclides import half_life_s

GE = (0x0009, "GEMS_PETD_01")
PHILIPS = (0x7053, "Philips PET Private Group")
GE_SCAN_TIME, PHILIPS_SUV, PHILIPS_ACTIVITY = 0x0D, 0x00, 0x09  # element numbers within their blocks

# Keywords of dictionary files that are no DICOM keywords: private block, element, name inside the group.
_PRIVATE_KEYWORDS = {
    "SUVScaleFactor": (*PHILIPS, PHILIPS_SUV, "DS"),
    "ActivityConcentrationScaleFactor": (*PHILIPS, PHILIPS_ACTIVITY, "DS"),
    "GEPrivatePostInjectionDateTime": (*GE, GE_SCAN_TIME, "DT"),
}
_OF_TRACER = (
    *("Radiopharmaceutical", "RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime"),
    *("RadiopharmaceuticalStartDateTime", "RadionuclideCodeSequence", "RadiopharmaceuticalCodeSequence"),
)


@dataclass(frozen=True)
class PetHeader:
    """Numbers are None, and texts "", where the header is silent; times are local, without a zone.

    weight, height, dose    as sent, whatever their unit
    half_life_s             as sent; `nuclide_half_life_s` is that of the nuclide named
    injected, injected_at   date and time of injection, and its time of day
    frame_reference_s       FrameReferenceTime in s; `duration_s` is ActualFrameDuration
    ge_scan                 GE's private scan time; `philips_suv`, `philips_activity` are Philips' private factors
    """

    series_uid: str
    series_type: tuple[str, ...]
    units: str
    suv_type: str
    decay_correction: str
    corrected: frozenset[str]
    intercept: float | None
    weight: float | None
    height: float | None
    sex: str
    tracer: str
    n_tracers: int
    dose: float | None
    half_life_s: float | None
    nuclide_half_life_s: float | None
    injected: datetime | None
    injected_at: time | None
    series_time: datetime | None
    acquired: datetime | None
    frame_reference_s: float | None
    duration_s: float | None
    ge_scan: datetime | None
    philips_suv: float | None
    philips_activity: float | None


def pet_header(dataset: Dataset) -> PetHeader:
    """The facts of one header; pixel data are not needed."""
    with quiet_parsing():
        tracers = list(dataset.get("RadiopharmaceuticalInformationSequence") or ())
        tracer = tracers[0] if tracers else Dataset()
        zone = text(dataset, "TimezoneOffsetFromUTC")
        return PetHeader(
            series_uid=text(dataset, "SeriesInstanceUID"),
            series_type=texts(dataset, "SeriesType"),
            units=text(dataset, "Units").upper(),
            suv_type=text(dataset, "SUVType").upper(),
            decay_correction=text(dataset, "DecayCorrection").upper(),
            corrected=frozenset(word.upper() for word in texts(dataset, "CorrectedImage")),
            intercept=number(dataset, "RescaleIntercept"),
            weight=number(dataset, "PatientWeight"),
            height=number(dataset, "PatientSize"),
            sex=text(dataset, "PatientSex").upper(),
            tracer=_named(tracer),
            n_tracers=len(tracers),
            dose=number(tracer, "RadionuclideTotalDose"),
            half_life_s=number(tracer, "RadionuclideHalfLife"),
            nuclide_half_life_s=_nuclide_half_life(tracer),
            injected=date_time(text(tracer, "RadiopharmaceuticalStartDateTime"), zone),
            injected_at=clock(text(tracer, "RadiopharmaceuticalStartTime")),
            series_time=_together(dataset, "SeriesDate", "SeriesTime"),
            acquired=_acquired(dataset, zone),
            frame_reference_s=_seconds(dataset, "FrameReferenceTime"),
            duration_s=_seconds(dataset, "ActualFrameDuration"),
            ge_scan=date_time(_private_text(dataset, *GE, GE_SCAN_TIME), zone),
            philips_suv=_private_number(dataset, *PHILIPS, PHILIPS_SUV),
            philips_activity=_private_number(dataset, *PHILIPS, PHILIPS_ACTIVITY),
        )


def from_keywords(values: Mapping[str, Any]) -> Dataset:
    """A header of a dictionary of DICOM keywords, as files of test headers have it: the attributes of the tracer and
    the private factors of a vendor stand beside the others, or in groups of their own."""
    dataset, tracer = Dataset(), Dataset()
    with quiet_parsing():
        for keyword, value in values.items():
            if isinstance(value, Mapping):
                for name, inner in value.items():
                    _set(dataset, tracer, name, inner)
            else:
                _set(dataset, tracer, keyword, value)
        if "RadiopharmaceuticalInformationSequence" not in dataset:
            dataset.RadiopharmaceuticalInformationSequence = Sequence([tracer])
    return dataset


def clock(value: str) -> time | None:
    """A DICOM TM, from hours on, also as ACR-NEMA wrote it (HH:MM:SS); None for anything else."""
    match = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?", value)
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    return time(hour, minute, min(second, 59), int((match[4] or "").ljust(6, "0")))


def day(value: str) -> date | None:
    """A DICOM DA, also as ACR-NEMA wrote it (YYYY.MM.DD); None for anything else."""
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", value)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:  # a thirteenth month
        return None


def date_time(value: str, zone: str = "") -> datetime | None:
    """A DICOM DT with hours, in local time; an offset counts only where `zone`, the header's own, is known."""
    match = re.fullmatch(r"(\d{8})(\d\d[\d.]*)([+-]\d{4})?", value)
    found = (day(match[1]), clock(match[2])) if match else (None, None)
    if match is None or found[0] is None or found[1] is None:
        return None
    stated, here = _offset(match[3] or ""), _offset(zone)
    moved = here - stated if stated is not None and here is not None else timedelta(0)
    return datetime.combine(found[0], found[1]) + moved


def _offset(zone: str) -> timedelta | None:
    """Of local time from UTC, as "+HHMM" or "-HHMM"; None for anything else."""
    match = re.fullmatch(r"([+-])(0\d|1[0-4])([0-5]\d)", zone)
    if match is None:
        return None
    return (-1 if match[1] == "-" else 1) * timedelta(hours=int(match[2]), minutes=int(match[3]))


def _together(dataset: Dataset, of_date: str, of_time: str) -> datetime | None:
    found = day(text(dataset, of_date)), clock(text(dataset, of_time))
    return None if found[0] is None or found[1] is None else datetime.combine(found[0], found[1])


def _acquired(dataset: Dataset, zone: str) -> datetime | None:
    apart = _together(dataset, "AcquisitionDate", "AcquisitionTime")
    return apart or date_time(text(dataset, "AcquisitionDateTime"), zone)


def _seconds(dataset: Dataset, keyword: str) -> float | None:
    """These two attributes are in ms (PS3.3 C.8.9.4)."""
    value = number(dataset, keyword)
    return None if value is None else value / 1000


def _codes(tracer: Dataset, keyword: str) -> list[tuple[str, str]]:
    return [(text(code, "CodeValue"), text(code, "CodeMeaning")) for code in tracer.get(keyword) or ()]


def _named(tracer: Dataset) -> str:
    """Every name that the header gives the tracer, in capitals."""
    codes = _codes(tracer, "RadiopharmaceuticalCodeSequence")
    return " ".join((text(tracer, "Radiopharmaceutical"), *(word for code in codes for word in code))).strip().upper()


def _nuclide_half_life(tracer: Dataset) -> float | None:
    codes = _codes(tracer, "RadionuclideCodeSequence")
    return half_life_s(*codes[0]) if codes else None


def _private_text(dataset: Dataset, group: int, creator: str, element: int) -> str:
    """The first value of a private element of a creator; "" where there is none."""
    creators = [tag for tag in dataset.keys() if tag.group == group and 0x10 <= tag.element <= 0xFF]  # noqa: SIM118
    for block in creators:
        if str(dataset[block].value).strip(" \0") != creator:
            continue
        tag = (group, (block.element << 8) | element)
        if tag in dataset and (value := dataset[tag].value) not in (None, ""):
            return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value).strip(" \0")
    return ""


def _private_number(dataset: Dataset, group: int, creator: str, element: int) -> float | None:
    try:
        value = float(_private_text(dataset, group, creator, element))
    except ValueError:  # empty, or no number
        return None
    return value if math.isfinite(value) else None


def _set(dataset: Dataset, tracer: Dataset, keyword: str, value: Any) -> None:
    if keyword in _PRIVATE_KEYWORDS:
        group, creator, element, vr = _PRIVATE_KEYWORDS[keyword]
        dataset.private_block(group, creator, create=True).add_new(element, vr, str(value).strip())
    elif tag_for_keyword(keyword) is not None and dictionary_has_tag(keyword):
        setattr(tracer if keyword in _OF_TRACER else dataset, keyword, _as_sent(value))


def _as_sent(value: Any) -> Any:
    """Sequences may be given as lists of dictionaries, date-times with spaces at their end."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return Sequence([from_plain(item) for item in value])
    return value.strip() if isinstance(value, str) else value


def from_plain(values: Mapping[str, Any]) -> Dataset:
    """A data set of keywords and values, sequences as lists of dictionaries."""
    dataset = Dataset()
    for keyword, value in values.items():
        if tag_for_keyword(keyword) is not None:
            setattr(dataset, keyword, _as_sent(value))
    return dataset
