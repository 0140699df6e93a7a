"""Half-lives of positron emitters, by their codes in RadionuclideCodeSequence (PS3.16 CID 4020) or their name.

Seconds, from the evaluated nuclear structure data file (ENSDF, National Nuclear Data Center). Codes are those of SNOMED
CT and of the older SNOMED RT, which scanners send under several scheme names (SRT, SNM3, 99SDM).
"""

from __future__ import annotations

import re

# symbol: (half-life in s, SNOMED CT, SNOMED RT, name)
NUCLIDES: dict[str, tuple[float, str, str, str]] = {
    "11C": (1221.84, "40565003", "C-105A1", "Carbon"),
    "13N": (597.9, "21576001", "C-107A1", "Nitrogen"),
    "15O": (122.24, "129504001", "C-B1038", "Oxygen"),
    "18F": (6586.2, "77004003", "C-111A1", "Fluorine"),
    "38K": (458.2, "423764008", "C-135A4", "Potassium"),
    "61Cu": (12020.0, "71425003", "C-127A1", "Copper"),
    "62Cu": (580.2, "422934004", "C-127A5", "Copper"),
    "64Cu": (45721.0, "3932008", "C-127A2", "Copper"),
    "66Ga": (33494.0, "79477007", "C-131A1", "Gallium"),
    "68Ga": (4062.6, "35337001", "C-131A3", "Gallium"),
    "68Ge": (23410000.0, "53315004", "C-128A2", "Germanium"),
    "76Br": (58320.0, "79523006", "C-113A2", "Bromine"),
    "82Rb": (75.45, "79197006", "C-159A2", "Rubidium"),
    "86Y": (53064.0, "10738001", "C-162A3", "Yttrium"),
    "89Zr": (282276.0, "63360001", "C-168A4", "Zirconium"),
    "90Y": (230580.0, "14691008", "C-162A7", "Yttrium"),
    "94mTc": (3120.0, "424079002", "C-163AA", "Technetium"),
    "124I": (360806.0, "40937006", "C-114A5", "Iodine"),
}
_BY_CODE = {code: symbol for symbol, (_, *codes, _) in NUCLIDES.items() for code in codes}
_BY_NAME = {
    (mass_of.group(), word): symbol
    for symbol, (*_, name) in NUCLIDES.items()
    if (mass_of := re.match(r"\d+m?", symbol))
    for word in (symbol[mass_of.end() :].lower(), name.lower())
}


def half_life_s(code: str, meaning: str) -> float | None:
    """Half-life in s of a nuclide by its code, else by its name ("^18^Fluorine", "F-18", "18F"); None when unknown."""
    mass, word = re.search(r"\d+m?", meaning), re.search(r"[A-Za-z]{2,}|[A-Z](?![a-z])", meaning)
    named = _BY_NAME.get((mass.group(), word.group().lower())) if mass and word else None
    symbol = _BY_CODE.get(code, named)
    return None if symbol is None else NUCLIDES[symbol][0]
