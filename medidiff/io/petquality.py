"""What sets a PET series aside, by rule, in one sentence.

SeriesType (PS3.3 C.8.9.1.1.1) tells static scans from dynamic and gated ones and from reprojections; ImageType names
maximum intensity projections. Slices that lie on one another at different times are several time points, whatever
SeriesType says. RescaleSlope belongs to each slice and must be above zero; RescaleIntercept is 0 (C.8.9.4).
"""

from __future__ import annotations

import re

import numpy as np

from medidiff.errors import DicomError
from medidiff.io.series import SAME_PLACE_MM, Instance
from medidiff.io.suv import Suv, suv_of

PROJECTION = re.compile(r"\\(MIP|MIPS|\w*PROJECTION|REPROJECTED)\b|MIP\b")
KINDS = {"DYNAMIC": "a dynamic series", "GATED": "a gated series"}


def uptake(stack: tuple[Instance, ...]) -> tuple[Suv | None, str]:
    """The uptake values of a stack, or None and why there are none."""
    try:
        return suv_of([i.pet for i in stack if i.pet is not None]), ""
    except DicomError as error:
        return None, str(error)


def _reprojection(stack: tuple[Instance, ...]) -> str:
    kind = "\\".join(stack[0].image_type).upper()
    says = any(i.pet is not None and "REPROJECTION" in i.pet.series_type for i in stack)
    if says or PROJECTION.search(kind):
        return f"a projection (ImageType {kind}), no slices: choose the series that it was made from"
    return ""


def _time_points(stack: tuple[Instance, ...]) -> str:
    named = next((KINDS[word] for i in stack if i.pet for word in i.pet.series_type if word in KINDS), "")
    if named:
        return f"{named} is not supported: export one time point as a static series"
    if not stack[0].has_place:
        return ""
    places = np.round([i.along_normal_mm / SAME_PLACE_MM for i in stack])
    times = {(i.pet.acquired, i.pet.frame_reference_s, i.pet.duration_s, i.phase) for i in stack if i.pet}
    n = int(np.unique(places, return_counts=True)[1].max())
    if n == 1 or len(times) == 1:
        return ""
    return f"{n} slices at one place, from {len(times)} times: a dynamic or gated series is not supported: export one"


def _slope(stack: tuple[Instance, ...]) -> str:
    n = sum(i.slope is None or i.slope <= 0 for i in stack)
    return f"RescaleSlope is missing or not above zero in {n} of {len(stack)} slices, no SUV without" if n else ""


PET_FAULTS = (_reprojection, _time_points, _slope)
