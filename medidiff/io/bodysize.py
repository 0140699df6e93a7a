"""What uptake values are normalised by: body weight, lean and ideal body mass, body surface.

An uptake value is a / (D / N) with the activity concentration a, the activity D and the norm N; SUVbw takes the weight,
so SUVbw = SUV_N * W / N. Weight W in kg, height H in cm, the body mass index in kg / m^2 (PS3.3 C.8.9.1.1.4, SUV Type;
PS3.16 CID 85):

    LBM           1.10 W - 120 (W/H)^2  (male)       1.07 W - 148 (W/H)^2  (female)       Morgan 1994
    LBMJAMES128   1.10 W - 128 (W/H)^2               1.07 W - 148 (W/H)^2                 James 1976
    LBMJANMA      9270 W / (6680 + 216 BMI)          9270 W / (8780 + 244 BMI)            Janmahasatian 2005
    IBW           48.0 + 1.06 (H - 152)              45.5 + 0.91 (H - 152)                Sugawara 1999
    BSA           71.84 W^0.425 H^0.725 cm^2                                              Du Bois 1916

For other sexes than M and F the mean of both is taken, as the Image Biomarker Standardisation Initiative advises.
"""

from __future__ import annotations

from collections.abc import Callable


def _morgan(weight: float, height: float, female: bool) -> float:
    return (1.07 if female else 1.10) * weight - (148 if female else 120) * (weight / height) ** 2


def _james(weight: float, height: float, female: bool) -> float:
    return (1.07 if female else 1.10) * weight - (148 if female else 128) * (weight / height) ** 2


def _janmahasatian(weight: float, height: float, female: bool) -> float:
    index = weight / (height / 100) ** 2
    return 9270 * weight / (8780 + 244 * index if female else 6680 + 216 * index)


def _ideal(weight: float, height: float, female: bool) -> float:
    return 45.5 + 0.91 * (height - 152) if female else 48.0 + 1.06 * (height - 152)


LEAN: dict[str, Callable[[float, float, bool], float]] = {
    "LBM": _morgan,
    "LBMJAMES128": _james,
    "LBMJANMA": _janmahasatian,
    "IBW": _ideal,
}


def mass_kg(kind: str, weight_kg: float, height_cm: float, sex: str) -> float:
    """The norm of a key of LEAN in kg; `sex` is M, F, or anything else for the mean of both."""
    both = {"M": (False,), "F": (True,)}.get(sex, (False, True))
    return sum(LEAN[kind](weight_kg, height_cm, female) for female in both) / len(both)


def surface_cm2(weight_kg: float, height_cm: float) -> float:
    """Body surface in cm^2."""
    return 71.84 * weight_kg**0.425 * height_cm**0.725
