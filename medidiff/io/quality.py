"""What is wrong with a stack of slices, by rule, in one sentence with the numbers.

The SOP class decides what a file is, not ImageType (a real CT may be DERIVED/SECONDARY); ImageType only sets
localizers aside (PS3.3 C.8.2.1.1.1) and tells maps that are not in HU (C.8.2.1.1.1, multi-energy CT). A step
above 1.5 x the median is a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    PositronEmissionTomographyImageStorage,
)

from medidiff.io.decode import can_decode, syntax_name
from medidiff.io.petquality import PET_FAULTS, uptake
from medidiff.io.series import (
    SAME_PLACE_MM,
    Instance,
    Series,
    geometry,
    series_uid,
    shared_frame_of_reference,
)
from medidiff.units import Unit
from medidiff.volume import Geometry

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
PET_CLASS = PositronEmissionTomographyImageStorage
CLASSES = (*CT_CLASSES, PET_CLASS)
GAP = 1.5  # steps above this multiple of the median are missing slices
TILT_DEGREES = 0.5  # a smaller angle is rounding of the header
HU_UNITS = ("", "[hnsf'U]", "HU")

NOT_HU = {
    r"MONO_?E|MONOENERG|MONOCHROMATIC|VIRT_MONO|\bVMI\b|\bKEV\b": "a virtual monoenergetic image",
    r"IODINE|IODMAP|\bMAT_|MATERIAL|\bVNC\b|VNU|WATER\(|CALCIUM|URIC": "a material map",
    r"EFF_ATOMIC|Z[_ ]?EFF|EFFECTIVE[_ ]?Z|RHO[_/ ]Z": "a map of the effective atomic number",
    r"ELECTRON_DENSITY|\bRHO\b|EDW?_MAP": "a map of electron density",
    r"PERFUSION|RCBF|RCBV|\bMTT\b|\bTTP\b|\bCBF\b|\bCBV\b": "a perfusion map",
}
LEARNED_OR_ITERATIVE = {
    r"^I\d\d[fhs]?\b|\bSAFIRE|\bADMIRE|\bIRIS\b|\bQIR\b": "Siemens SAFIRE, ADMIRE, IRIS or QIR",
    r"\bASI?R\b|ASIR|\bVEO\b|\bMBIR\b|TRUE ?FIDELITY|\bDLIR": "GE ASiR, Veo or TrueFidelity",
    r"\bAIDR|\bAICE|\bPIQE|\bFIRST\b(?!.{0,3}(PASS|PHASE|SCAN))": "Canon AIDR, FIRST, AiCE or PIQE",
    r"IDOSE|\bIMR\d?\b|PRECISE ?IMAGE": "Philips iDose, IMR or Precise Image",
    r"\bKARL\b|\bAIIR\b|CLEAR ?VIEW|CLEAR ?INFINITY|INTELLI ?IP|\bIPV\b": "an iterative or learned method",
    r"CLARICT|PIXELSHINE|SUBTLE|DEEP ?RECON|DENOISE": "a denoiser",
    r"\bMEDIDIFF\b(?! FROM| FBP\b)": "medidiff",
    r"ITERATIVE": "an iterative method",
}
DENOISERS = ("a denoiser", "medidiff")
NAMED = {name: pattern for pattern, name in LEARNED_OR_ITERATIVE.items()}
DENOISED = "its noise is of another kind than that of filtered back-projection"
SIEMENS_STRENGTH = re.compile(r"^[A-Z][a-z]\d\d[a-z]?-[1-5]\b")  # Br38f\3: the second value is the ADMIRE strength


def assemble(stack: tuple[Instance, ...], damaged: int = 0) -> Series:
    """The series of a sorted stack, with the verdict; `damaged` files of it could not be read."""
    first, place = stack[0], _place(stack)
    kvp, mas, thickness = (_median(stack, name) for name in ("kvp", "mas", "thickness_mm"))
    spacing = first.pixel_spacing if len(first.pixel_spacing) == 2 else (0.0, 0.0)
    series = Series(
        uid=series_uid(stack),
        modality=first.modality or "?",
        sop_class_uid=first.sop_class_uid,
        kernel="+".join(sorted({i.kernel for i in stack} - {""})),
        kvp=kvp,
        mas=mas,
        transfer_syntax=_syntaxes(stack),
        n_slices=len(stack),
        rows=first.rows,
        columns=first.columns,
        spacing=(place.slice_spacing_mm if place else 0.0, spacing[0], spacing[1]),
        tilt_degrees=place.tilt_degrees if place else 0.0,
        thickness_mm=thickness,
        frame_of_reference=shared_frame_of_reference(stack),
        instances=stack,
    )
    return _judge(series, place, damaged, OTHER) if series.unit == "HU" else _judge_pet(series, place, damaged)


def _judge_pet(series: Series, place: Geometry | None, damaged: int) -> Series:
    """The verdict on a PET series, with its uptake values where they can be known."""
    found, reason = uptake(series.instances)
    judged = _judge(replace(series, suv=found), place, damaged, (*OTHER_PET, lambda stack: reason))
    return judged if found is None else replace(judged, warnings=(*judged.warnings, *found.warnings))


def _judge(series: Series, place: Geometry | None, damaged: int, other: tuple[Fault, ...]) -> Series:
    for fault in (*other, *BROKEN):
        reason = fault(series.instances)
        if reason:
            return replace(series, reason=reason, is_broken=fault in BROKEN)
    assert place is not None  # no fault of place was found
    gaps = "; ".join(filter(None, (_damaged(damaged), _gaps(place))))
    return replace(series, reason=gaps, gaps=gaps, warnings=tuple(_warnings(series, place)))


def _syntaxes(stack: tuple[Instance, ...]) -> str:
    names = sorted({syntax_name(i.transfer_syntax) for i in stack})
    return " + ".join(names) if len(names) < 3 else f"{len(names)} transfer syntaxes"


def _place(stack: tuple[Instance, ...]) -> Geometry | None:
    return None if _misplaced(stack) or _duplicates(stack) else geometry(stack)


def _median(stack: tuple[Instance, ...], name: str) -> float | None:
    values = [value for i in stack if (value := getattr(i, name)) is not None]
    return float(np.median(values)) if values else None


# --- faults: each a function of the stack that returns the sentence, or "" ---


def _wrong_class(stack: tuple[Instance, ...]) -> str:
    uid, modality = stack[0].sop_class_uid, stack[0].modality
    if not uid or not all(i.sop_instance_uid for i in stack):
        return "SOPClassUID or SOPInstanceUID is empty, in the data set and in the file meta"
    if uid in CLASSES:
        return ""
    name = UID(uid).name if UID(uid).is_valid else "an unknown SOP class"  # a damaged one may hold other header bytes
    if "Secondary Capture" in name:
        return "secondary capture, set aside"
    if "PET" in name:
        return "enhanced PET is not supported yet: export the series as classic PET images, one file a slice"
    if modality == "MR":
        return "MR is not supported yet: medidiff reads CT in HU and PET in SUV"
    return f"{name} is neither a CT nor a PET image"


def _localizer(stack: tuple[Instance, ...]) -> str:
    return "localizer, set aside" if "LOCALIZER" in stack[0].image_type[2:] else ""


def _not_hu(stack: tuple[Instance, ...]) -> str:
    kind = "\\".join(stack[0].image_type).upper()
    for pattern, name in NOT_HU.items():
        if re.search(pattern, kind):
            return f"{name} (ImageType {kind}), its values are not HU of a conventional CT"
    types, units = ({getattr(i, name) for i in stack} for name in ("rescale_type", "real_world_unit"))
    if wrong := sorted(types - {"", "HU", "US"}):
        return f"RescaleType is {wrong[0]}, expected HU"
    if wrong := sorted(units - set(HU_UNITS)):
        return f"values are in {wrong[0]} (real world value mapping), expected HU"
    n = sum(not i.slope or i.intercept is None for i in stack)
    return (
        f"RescaleSlope or RescaleIntercept is missing or zero in {n} of {len(stack)} slices, no HU without" if n else ""
    )


def _colour(stack: tuple[Instance, ...]) -> str:
    return f"{stack[0].samples} samples per pixel, expected 1" if stack[0].samples != 1 else ""


def _undecodable(stack: tuple[Instance, ...]) -> str:
    names = sorted({syntax_name(i.transfer_syntax) for i in stack if not can_decode(i.transfer_syntax)})
    return f"no decoder for {', '.join(names)}: convert it to a lossless transfer syntax" if names else ""


def _misplaced(stack: tuple[Instance, ...]) -> str:
    first = stack[0]
    if not first.has_place:
        expected = {
            "ImagePositionPatient": "position",
            "ImageOrientationPatient": "orientation",
            "PixelSpacing": "pixel_spacing",
        }
        missing = [keyword for keyword, name in expected.items() if not getattr(first, name)]
        return (
            f"{' and '.join(missing) or 'position, orientation or spacing'} missing or malformed in {len(stack)} slices"
        )
    right, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    lengths = (float(np.linalg.norm(right)), float(np.linalg.norm(down)))
    if not np.allclose(lengths, 1, atol=0.01) or abs(right @ down) > 0.01:
        return f"ImageOrientationPatient {first.orientation} is not two perpendicular unit vectors"
    if min(first.pixel_spacing) <= 0 or first.rows < 1 or first.columns < 1:
        return f"pixel spacing {first.pixel_spacing} mm and size {first.rows} x {first.columns} must be above zero"
    return ""


def _duplicates(stack: tuple[Instance, ...]) -> str:
    positions = np.array([i.along_normal_mm for i in stack])
    same = np.flatnonzero(np.diff(positions) < SAME_PLACE_MM)
    if not len(same):
        return ""
    n, all_one = len(same), len(same) + 1 == len(stack)
    count = f"{n + 1} slices share a position" if all_one else f"{n} of {len(stack)} slices are duplicates"
    return f"{count} (at {positions[same[0]]:.2f} mm along the normal): keep one slice per position"


def _cut_short(stack: tuple[Instance, ...]) -> str:
    return "" if any(i.whole for i in stack) else "the pixel data are missing or incomplete: copy the files again"


Fault = Callable[[tuple[Instance, ...]], str]
OTHER: tuple[Fault, ...] = (_wrong_class, _localizer, _not_hu, _colour)  # no CT scan: nobody asked for it
OTHER_PET: tuple[Fault, ...] = (_wrong_class, *PET_FAULTS, _colour)
BROKEN: tuple[Fault, ...] = (_cut_short, _undecodable, _misplaced, _duplicates)  # a CT scan that cannot be used


def _damaged(damaged: int) -> str:
    if not damaged:
        return ""
    return f"{damaged} file{'s' * (damaged > 1)} of the series cannot be read (--allow-gaps processes the others)"


def _gaps(place: Geometry) -> str:
    median = place.slice_spacing_mm
    at = np.flatnonzero(place.steps_mm > GAP * median) if place.n_slices > 2 else ()
    if not len(at):
        return ""
    missing = sum(max(1, round(float(place.steps_mm[k]) / median) - 1) for k in at)
    where = ", ".join(f"{place.steps_mm[k]:.2f} mm after slice {k + 1}" for k in at[:3])
    more = f" and {len(at) - 3} more" if len(at) > 3 else ""
    return (
        f"about {missing} slice{'s' * (missing > 1)} missing: a step of {where}{more} where the median is "
        f"{median:.2f} mm (--allow-gaps processes what is there)"
    )


def _denoised_by(words: str, kernel: str, unit: Unit) -> str:
    """What took noise out of a series before, by kernel, filter, algorithm or description; "" where nothing says so.

    PET is reconstructed iteratively as a rule: there only a denoiser counts.
    """
    if unit == "SUV":
        return next((name for name in DENOISERS if re.search(NAMED[name], words, re.I)), "")
    if SIEMENS_STRENGTH.match(kernel):
        return "Siemens ADMIRE"
    return next((name for pattern, name in LEARNED_OR_ITERATIVE.items() if re.search(pattern, words, re.I)), "")


def _warnings(series: Series, place: Geometry) -> list[str]:
    stack, found = series.instances, []
    if place.tilt_degrees > TILT_DEGREES:
        found.append(f"gantry tilt of {place.tilt_degrees:.1f} degrees: the affine is sheared")
    if not place.is_even:
        low, high = place.steps_mm.min(), place.steps_mm.max()
        found.append(f"uneven spacing: steps of {low:.2f} to {high:.2f} mm, median {place.slice_spacing_mm:.2f} mm")
    if made_by := _denoised_by(stack[0].reconstruction, series.kernel, series.unit):
        name = series.kernel or "unknown"
        found.append(f"kernel {name}: already reconstructed iteratively or by deep learning ({made_by}): {DENOISED}")
    if any(i.rescale_type == "US" and not i.real_world_unit for i in stack):
        found.append("RescaleType is US (unspecified): the values are taken as HU")
    if any(i.lossy for i in stack):
        found.append("lossy compressed")
    if not stack[0].series_uid:
        found.append("SeriesInstanceUID is empty: slices of one folder were taken as one series")
    if series.frame_of_reference is None:
        several = len({i.frame_of_reference for i in stack}) > 1
        found.append("every slice names another frame of reference" if several else "FrameOfReferenceUID is missing")
    return found
