"""Standardised uptake values by body weight, from the headers of a PET series.

    SUVbw = factor * stored * RescaleSlope            a factor per slice; RescaleIntercept is 0 (PS3.3 C.8.9.4)

With the weight W in kg, the activity D in Bq, lambda = ln 2 / T, the frame's duration d and acquisition time t:

    BQML START   1000 W / (D exp(-lambda (t_ref - t_inj)))
    BQML ADMIN   1000 W / D
    BQML NONE    1000 W / D * lambda d / (1 - exp(-lambda d)) * exp(lambda (t - t_inj))
    CNTS         Philips' private SUV factor; else its private activity factor, then as BQML
    GML, CM2ML   1, or W over another norm (bodysize.py)

Decay correction START refers to the start of the scan, t_ref, which no attribute states. It is the series time where no
slice was acquired before it; else GE's private scan time, if within a day of the first acquisition; else, where every
slice has the times for it, t + Tave(d) - FrameReferenceTime, as the activity equals its average over a frame at
Tave(d) = ln(lambda d / (1 - exp(-lambda d))) / lambda; else the first acquisition. Sources: QIBA's pseudo-code for
vendor neutral SUV, PS3.3 C.8.9.1.1, and the headers that it fails on. Where two ways to the same number differ by more
than 1 % that is a warning: the order of the ways never changes silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from medidiff.errors import DicomError
from medidiff.io.bodysize import LEAN, mass_kg, surface_cm2
from medidiff.io.petheader import PetHeader, pet_header

AGREEMENT = 0.01  # ways to one number that differ by more are a warning
DAY_S = 86400.0
LONG_LIVED_S = 41400.0  # with such a half-life a time of day does not tell the day of injection
CLOCKS_DIFFER_S = 3600.0  # an injection may seem that much later than the scan
LATE, TOO_LATE = 6.0, 20.0  # half-lives from injection to scan: hardly a scan, and none at all (a millionth is left)
GRAMS, MEGABECQUEREL, CENTIMETRES = 1000.0, 1e4, 3.0  # a weight, an activity, a height beyond these is in that unit
FDG = ("FDG", "FLUORODEOXYGLUCOSE", "FLUDEOXYGLUCOSE", "C-B1031", "Y-X1743", "35321007")
FLUORINE_S = (6500.0, 6700.0)  # a half-life within these is that of fluorine-18
ACTIVITY = "BQML"
SAME_IN_SERIES = {  # what the slices of one series must agree on, by its DICOM keyword
    "SeriesInstanceUID": "series_uid",
    "Units": "units",
    "SUVType": "suv_type",
    "DecayCorrection": "decay_correction",
    "PatientWeight": "weight",
    "RadionuclideTotalDose": "dose",
    "RadionuclideHalfLife": "half_life_s",
    "RadiopharmaceuticalStartDateTime": "injected",
    "RadiopharmaceuticalStartTime": "injected_at",
    "SeriesDate or SeriesTime": "series_time",
}


@dataclass(frozen=True)
class Suv:
    """SUVbw = factor * stored value * RescaleSlope.

    factors   one per slice, in the order of the headers
    rule      how they were found, in words
    warnings  what was doubtful, in sentences
    """

    factors: tuple[float, ...]
    rule: str
    warnings: tuple[str, ...] = ()


def suv(datasets: Iterable[Dataset]) -> Suv:
    """The uptake values of one series, from the headers of all its slices (pixel data are not needed).

    Raises DicomError, in one sentence, where they cannot be known.
    """
    return suv_of([pet_header(dataset) for dataset in datasets])


def suv_of(headers: Sequence[PetHeader]) -> Suv:
    """`suv` of headers that were read before."""
    _require_one_series(headers)
    _require_corrected(headers)
    warnings: list[str] = []
    try:
        factors, rule = _RULES[headers[0].units](headers, warnings)
    except OverflowError:  # dates like 0001-01-01, times of a million years
        factors, rule = [math.inf], ""
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise DicomError("dates, times and half-life lie so far apart that they give no number: correct the header")
    warnings += _shifted(headers[0], headers)
    return Suv(tuple(factors), rule, tuple(dict.fromkeys(warnings)))


# --- what must hold for any uptake value


def _require_one_series(headers: Sequence[PetHeader]) -> None:
    if not headers:
        raise DicomError("no PET slices, so no SUV")
    for keyword, name in SAME_IN_SERIES.items():
        if len({getattr(header, name) for header in headers}) > 1:
            raise DicomError(f"{keyword} differs between slices, so they are not one PET series: separate them")
    first = headers[0]
    if shifted := next((h.intercept for h in headers if h.intercept), None):
        raise DicomError(f"RescaleIntercept is {shifted:g}, must be 0 in PET: export the series again")
    if first.units not in _RULES:
        raise DicomError(f"Units is {first.units or 'missing'}, SUV needs {', '.join(_RULES)}: export another series")


def _require_corrected(headers: Sequence[PetHeader]) -> None:
    done = frozenset.intersection(*(header.corrected for header in headers))
    if "ATTN" not in done:
        raise DicomError(
            "not corrected for attenuation (no ATTN in CorrectedImage), so no SUV: choose the corrected series"
        )
    is_decayed = headers[0].decay_correction == "NONE"
    if "DECY" not in done and not is_decayed:
        raise DicomError("not corrected for decay (no DECY in CorrectedImage, DecayCorrection not NONE), so no SUV")


def _shifted(header: PetHeader, headers: Sequence[PetHeader]) -> list[str]:
    """Tell of a GE scan time that de-identification moved apart from the other dates."""
    acquired = [h.acquired for h in headers if h.acquired]
    if header.ge_scan is None or not acquired or _is_near(header.ge_scan, min(acquired)):
        return []
    days = abs(_seconds(header.ge_scan, min(acquired))) / DAY_S
    return [f"GE's private scan time lies {days:.1f} days from the acquisition (de-identification?): ignored"]


# --- the factor by unit: each a function of the headers that adds to the warnings


def _of_activity(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    first = headers[0]
    rule = {"START": _start, "ADMIN": _admin, "NONE": _none}.get(first.decay_correction)
    if rule is None:
        found = first.decay_correction or "missing"
        raise DicomError(f"DecayCorrection is {found}, expected START, ADMIN or NONE: no SUV without")
    per_activity = 1000 * _weight_kg(first, warnings) / _dose_bq(first, warnings)
    decay, words = rule(headers, warnings)
    return [per_activity * factor for factor in decay], f"{ACTIVITY} {first.decay_correction}{words}"


def _admin(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    return [1.0] * len(headers), ""


def _start(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    decay = _decay_constant(headers[0], warnings)
    references, of_reference = _references(headers, decay, warnings)
    injected, of_injection = _injection(headers[0], min(references), decay, warnings)
    factors = [math.exp(decay * _seconds(reference, injected)) for reference in references]
    return factors, f": decay from the {of_injection} to the {of_reference}"


def _none(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    decay = _decay_constant(headers[0], warnings)
    acquired = _acquired(headers)
    injected, of_injection = _injection(headers[0], min(acquired), decay, warnings)
    if any("DECY" in header.corrected for header in headers):
        warnings.append("DecayCorrection is NONE but CorrectedImage has DECY: taken as not corrected for decay")
    if not all(header.duration_s and header.duration_s > 0 for header in headers):
        raise DicomError("ActualFrameDuration is missing, no SUV without where DecayCorrection is NONE")
    factors = [
        _over_average(decay * (header.duration_s or 0)) * math.exp(decay * _seconds(at, injected))
        for header, at in zip(headers, acquired, strict=True)
    ]
    return factors, f": decay from the {of_injection} to and during each frame"


def _of_counts(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    """Philips writes counts, and what makes them uptake values or activity in private elements."""
    by_uptake, by_activity = [h.philips_suv for h in headers], [h.philips_activity for h in headers]
    if not all(by_uptake) and not all(by_activity):
        raise DicomError("Units is CNTS without Philips' private factors (7053,xx00) or (7053,xx09), so no SUV")
    if not all(by_uptake):
        factors, rule = _of_activity(headers, warnings)
        scaled = [factor * (scale or 0) for factor, scale in zip(factors, by_activity, strict=True)]
        return scaled, f"CNTS by Philips' activity factor, then {rule}"
    if all(by_activity):
        warnings += _philips_disagreement(headers)
    return [float(factor or 0) for factor in by_uptake], "CNTS by Philips' SUV factor"


def _philips_disagreement(headers: Sequence[PetHeader]) -> list[str]:
    """Both of Philips' factors lead to the SUV; the second way is no more than a check, and may not be open."""
    try:
        factors, _ = _of_activity(headers, [])
    except DicomError:
        return []
    first = headers[0]
    ratio = factors[0] * (first.philips_activity or 0) / (first.philips_suv or 1)
    return _disagreement("Philips' SUV factor", "its activity factor with dose, weight and times", ratio)


def _of_uptake(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    first = headers[0]
    kind = first.suv_type
    if kind in ("", "BW"):
        return [1.0] * len(headers), "GML: the values are SUVbw"
    if kind == "BSA":
        return _of_surface(headers, warnings)
    if kind not in LEAN:
        raise DicomError(f"SUVType is {kind}, expected BW, BSA or {', '.join(LEAN)}: no SUVbw from it")
    weight, height = _weight_kg(first, warnings), _height_cm(first, warnings)
    if first.sex not in ("M", "F"):
        warnings.append("PatientSex is neither M nor F: the mean of both body masses is taken")
    mass = mass_kg(kind, weight, height, first.sex)
    if mass <= 0:
        raise DicomError(f"a weight of {weight:g} kg and a height of {height:g} cm give no {kind}: correct the header")
    return [weight / mass] * len(headers), f"GML: SUV by {kind}, converted to SUVbw"


def _of_surface(headers: Sequence[PetHeader], warnings: list[str]) -> tuple[list[float], str]:
    first = headers[0]
    if first.suv_type not in ("", "BSA"):
        raise DicomError(f"Units is {first.units} but SUVType is {first.suv_type}: the SUV is not known")
    weight, height = _weight_kg(first, warnings), _height_cm(first, warnings)
    factor = 1000 * weight / surface_cm2(weight, height)
    return [factor] * len(headers), f"{first.units}: SUV by body surface, converted to SUVbw"


_Rule = Callable[[Sequence[PetHeader], list[str]], tuple[list[float], str]]
_RULES: Mapping[str, _Rule] = {
    ACTIVITY: _of_activity,
    "CNTS": _of_counts,
    "GML": _of_uptake,
    "CM2ML": _of_surface,
}


# --- when the scan started


def _references(headers: Sequence[PetHeader], decay: float, warnings: list[str]) -> tuple[list[datetime], str]:
    """The start of the scan that decay was corrected to, for each slice, and which attribute gave it."""
    acquired = _acquired(headers)
    first, series = min(acquired), headers[0].series_time
    ways: dict[str, list[datetime]] = {}
    if series is not None and series <= first:
        ways["series time"] = [series] * len(headers)
    if (private := headers[0].ge_scan) is not None and _is_near(private, first):
        ways["GE private scan time"] = [private] * len(headers)
    if all((h.frame_reference_s or 0) > 0 and (h.duration_s or 0) > 0 for h in headers):
        ways["frame reference time"] = [_back(h, at, decay) for h, at in zip(headers, acquired, strict=True)]
    ways.setdefault("first acquisition", [first] * len(headers))
    chosen, *others = ways
    for other in others:
        if other != "first acquisition":  # the last resort: that it comes later is why it is not taken
            warnings += _farthest(chosen, ways[chosen], other, ways[other], decay)
    return ways[chosen], chosen


def _back(header: PetHeader, acquired: datetime, decay: float) -> datetime:
    average_s = math.log(_over_average(decay * (header.duration_s or 0))) / decay
    return acquired + timedelta(seconds=average_s - (header.frame_reference_s or 0))


def _over_average(x: float) -> float:
    """Activity at the start of a frame over its average in it, x = lambda d."""
    return x / -math.expm1(-x)


def _farthest(
    chosen: str, references: Sequence[datetime], other: str, candidates: Sequence[datetime], decay: float
) -> list[str]:
    apart = [_seconds(candidate, at) for candidate, at in zip(candidates, references, strict=True)]
    return _disagreement(chosen, other, math.exp(decay * _within(max(apart, key=abs), decay)))


def _acquired(headers: Sequence[PetHeader]) -> list[datetime]:
    found = [header.acquired for header in headers if header.acquired is not None]
    if len(found) < len(headers):
        missing = len(headers) - len(found)
        raise DicomError(f"AcquisitionDate or AcquisitionTime is missing in {missing} of {len(headers)} slices: no SUV")
    return found


# --- what was injected, and when


def _injection(header: PetHeader, reference: datetime, decay: float, warnings: list[str]) -> tuple[datetime, str]:
    """The full date and time where it fits the scan, else the time of day on the scan's date or the day before."""
    half_life = math.log(2) / decay
    by_clock = None if header.injected_at is None else datetime.combine(reference.date(), header.injected_at)
    if by_clock is not None and by_clock > reference:
        by_clock -= timedelta(days=1)
    full = header.injected
    if full is not None and -CLOCKS_DIFFER_S <= _seconds(reference, full) < 2 * half_life:
        if by_clock is not None and half_life < LONG_LIVED_S:
            ratio = math.exp(decay * _within(_seconds(full, by_clock), decay))
            warnings += _disagreement("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime", ratio)
        return full, "date and time of injection"
    if half_life >= LONG_LIVED_S:
        raise DicomError(_no_date(full, reference, half_life))
    if by_clock is None:
        raise DicomError("RadiopharmaceuticalStartTime is missing, and no date and time fits: no SUV without")
    if full is not None:
        hours = _seconds(reference, full) / 3600
        warnings.append(f"RadiopharmaceuticalStartDateTime lies {hours:.1f} h before the scan: its date is ignored")
    warnings += _late(_seconds(reference, by_clock) / half_life)
    return by_clock, "time of day of injection"


def _late(passed: float) -> list[str]:
    """A warning where a time of day puts the injection many half-lives before the scan; no SUV where none is left."""
    found = f"the scan starts {passed:.1f} half-lives after RadiopharmaceuticalStartTime: one of the times may be wrong"
    if passed > TOO_LATE:
        raise DicomError(f"{found}, no SUV from them")
    return [found] if passed > LATE else []


def _no_date(full: datetime | None, reference: datetime, half_life: float) -> str:
    found = "missing" if full is None else f"{_seconds(reference, full) / 3600:.1f} h before the scan"
    return (
        f"RadiopharmaceuticalStartDateTime is {found}: with a half-life of {half_life / 3600:.1f} h "
        "SUV needs the date of injection"
    )


def _decay_constant(header: PetHeader, warnings: list[str]) -> float:
    sent, named = header.half_life_s, header.nuclide_half_life_s
    if sent is not None and sent > 0:
        if named is not None:
            warnings += _disagreement("RadionuclideHalfLife", "the half-life of the nuclide named", named / sent)
        return math.log(2) / sent
    if named is None:
        raise DicomError("RadionuclideHalfLife is missing, and no known nuclide is named: no SUV without")
    return math.log(2) / named


def _dose_bq(header: PetHeader, warnings: list[str]) -> float:
    if header.n_tracers > 1:
        raise DicomError(f"{header.n_tracers} radiopharmaceuticals are named, expected 1: no SUV from their sum")
    dose = header.dose
    if dose is None or dose <= 0:
        raise DicomError(f"RadionuclideTotalDose is {'missing' if dose is None else f'{dose:g}'}: no SUV without")
    if dose >= MEGABECQUEREL:
        return dose
    if not _is_fdg(header):
        raise DicomError(f"RadionuclideTotalDose is {dose:g}, too little for Bq, and the tracer is not FDG: no SUV")
    warnings.append(f"RadionuclideTotalDose is {dose:g}: taken as MBq")
    return dose * 1e6


def _is_fdg(header: PetHeader) -> bool:
    """By name or code; where no tracer is named, fluorine-18 is taken for it."""
    half_life = header.half_life_s or header.nuclide_half_life_s or 0
    unnamed = not header.tracer and FLUORINE_S[0] < half_life < FLUORINE_S[1]
    return unnamed or any(name in header.tracer for name in FDG)


def _weight_kg(header: PetHeader, warnings: list[str]) -> float:
    weight = header.weight
    if weight is None or weight <= 0:
        raise DicomError("PatientWeight is missing or 0: no SUV without")
    if weight <= GRAMS:
        return weight
    warnings.append(f"PatientWeight is {weight:g}: taken as grams")
    return weight / 1000


def _height_cm(header: PetHeader, warnings: list[str]) -> float:
    height = header.height
    if height is None or height <= 0:
        raise DicomError(f"PatientSize is missing or 0: no SUVbw from {header.suv_type or header.units} without")
    if height <= CENTIMETRES:
        return 100 * height
    warnings.append(f"PatientSize is {height:g}: taken as centimetres")
    return height


# --- times, and ways that disagree


def _seconds(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()


def _within(seconds: float, decay: float) -> float:
    """Times so far apart that their decay is no number any more are as wrong when cut to a hundred half-lives."""
    limit = 100 * math.log(2) / decay
    return min(max(seconds, -limit), limit)


def _is_near(one: datetime, other: datetime) -> bool:
    return abs(_seconds(one, other)) <= DAY_S


def _disagreement(chosen: str, other: str, ratio: float) -> list[str]:
    """A warning where the other way gives `ratio` times the SUV, or the half-life, of the chosen one."""
    off = ratio - 1
    if abs(off) <= AGREEMENT:
        return []
    return [f"{other} differs by {100 * off:+.1f} % from {chosen}, which is used"]
