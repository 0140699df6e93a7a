"""Pictures of the best, the median and the worst case of every method, by RMSE of the whole case.

Every picture shows the slice with that case's largest RMSE: input, result, reference, and result minus reference,
zero in white. All differences of a report share one range, so that methods may be compared by eye.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.figures import Placement, difference_panel, panel
from medidiff.metrics.preset import PRESETS, WHOLE_RANGE, Preset
from medidiff.report.folder import Outcome, Results
from medidiff.report.summary import main_outcomes
from medidiff.report.words import decimals, number, unit_words
from medidiff.results.names import file_stem

Image = NDArray[np.floating]
FOLDER = "pictures"
REACHES = (1, 2, 5, 10, 20, 30, 60, 100, 200, 500, 1000)
REACH_IN_RMSE = 3.0
PIXELS = 11_000_000  # of all panels of a report: about 8 MB of page
MARGIN = 4
AIR_HU = -900.0
RANKS = ("worst", "median", "best")


@dataclass(frozen=True)
class Shown:
    """A method's case: which of its cases it is, and its RMSE."""

    method: str
    rank: str
    case: str
    rmse: float


@dataclass(frozen=True, eq=False)
class Slice:
    """What a file of pictures/ holds."""

    arrays: dict[str, Image]
    placement: Placement
    index: int
    rmse: float


@dataclass(frozen=True)
class Panel:
    name: str
    png: bytes
    alt: str


@dataclass(frozen=True)
class Picture:
    """One row of panels with its words; no panels where the folder has no file for it."""

    method: str
    rank: str
    case: str
    title: str
    caption: str
    panels: tuple[Panel, ...] = ()


def pictures(results: Results, shown: Sequence[Shown]) -> list[Picture]:
    """Worst, median and best of every method; drawn only where the folder has files of pictures."""

    slices = {(s.case, s.method): _read(_path(results, s)) for s in shown}
    known = [found for found in slices.values() if found is not None]
    if not known:
        return []
    outcome = _rmse_outcome(results)
    unit = "HU" if outcome is None else outcome.unit
    window = display_window(results, unit)
    typical = float(np.median([found.rmse for found in known]))
    reach = next((r for r in REACHES if r >= REACH_IN_RMSE * typical), REACHES[-1])
    factor = max(1, math.ceil(math.sqrt(sum(_pixels(s, unit) for s in known) / PIXELS)))
    return [_picture(results, s, slices[s.case, s.method], unit, window, reach, factor) for s in shown]


def choose(results: Results) -> list[Shown]:
    """The cases by their RMSE in the table: for each method the worst, the median (the lower of two) and the best."""
    outcome = _rmse_outcome(results)
    if outcome is None:
        return []
    table = outcome.of(results.rows)
    chosen = []
    for method in results.methods:
        ordered = table[(table["method"] == method) & table["value"].notna()].sort_values(["value", "case"])
        cases = [*zip(ordered["case"], ordered["value"].astype(float), strict=True)]
        places = {"worst": len(cases) - 1, "median": (len(cases) - 1) // 2, "best": 0}
        seen: dict[int, list[str]] = {}
        for rank in RANKS:
            if cases:
                seen.setdefault(places[rank], []).append(rank)
        chosen += [Shown(method, _rank(ranks, len(cases)), *cases[place]) for place, ranks in seen.items()]
    return chosen


def _rank(ranks: Sequence[str], n: int) -> str:
    return "only" if n == 1 else " and ".join(ranks)


def _rmse_outcome(results: Results) -> Outcome | None:
    """RMSE over the whole range of its unit, or in the first preset it was measured in."""
    found = [o for o in results.outcomes(results.rows) if (o.metric, o.region) == ("RMSE", "all")]
    return next((o for o in found if o.preset == WHOLE_RANGE.get(o.unit)), found[0] if found else None)


def display_window(results: Results, unit: str) -> tuple[str, Preset]:
    """The first display window that the study measured in; where there is none, abdomen, or SUV 0 to 10."""
    asked = [*results.record.get("settings", {}).get("presets", ()), *(o.preset for o in main_outcomes(results))]
    windows = [name for name in asked if name in PRESETS and PRESETS[name].clip and PRESETS[name].unit == unit]
    if windows:
        return windows[0], PRESETS[windows[0]]
    return ("abdomen", PRESETS["abdomen"]) if unit == "HU" else ("", Preset(0, 10, unit=unit))


def _path(results: Results, shown: Shown) -> Path:
    return results.folder / FOLDER / f"{file_stem(shown.case, shown.method)}.npz"


def _read(path: Path) -> Slice | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.float32) for name in ("scan", "candidate", "reference")
                      if name in file.files}  # fmt: skip
            down, across = map(float, file["pixel_mm"])
            begin, end = (str(letter) for letter in np.atleast_1d(file["sides"]).ravel()[:2])
            placement = Placement((down, across), (begin, end))
            return Slice(arrays, placement, int(file["index"]), float(file["rmse"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not readable as a picture ({error}); remove it and run the study again") from None


def _crop(found: Slice, unit: str) -> Slice:
    """Without the air around the patient, the same for all panels."""
    reference = found.arrays["reference"]
    seen = reference > AIR_HU if unit == "HU" else reference > 0.02 * float(reference.max())
    if not seen.any():
        return found
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    box = tuple(slice(max(0, int(p[0]) - MARGIN), int(p[-1]) + MARGIN + 1) for p in (rows, columns))
    return replace(found, arrays={name: image[box] for name, image in found.arrays.items()})


def _pixels(found: Slice, unit: str) -> int:
    return (len(found.arrays) + 1) * _crop(found, unit).arrays["reference"].size


def _reduced(image: Image, factor: int) -> Image:
    """Means of factor x factor pixels; what is left over at the edges is dropped."""
    rows, columns = (n // factor * factor for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return blocks.mean((1, 3))


def _picture(
    results: Results,
    shown: Shown,
    found: Slice | None,
    unit: str,
    window: tuple[str, Preset],
    reach: float,
    factor: int,
) -> Picture:
    digits = decimals([shown.rmse], unit)
    title = f"{shown.rank.capitalize()} case: {shown.case} (RMSE {number(shown.rmse, digits)} {unit_words(unit)})"
    if found is None:
        return Picture(shown.method, shown.rank, shown.case, title, "The folder has no picture of this case.")
    cropped = _crop(found, unit)
    images = {name: _reduced(image, factor) for name, image in cropped.arrays.items()}
    down, across = found.placement.pixel_mm
    placement = Placement((down * factor, across * factor), found.placement.sides)
    low, high = window[1].low, window[1].high
    names = {"scan": "input", "candidate": shown.method, "reference": "reference"}
    panels = [
        Panel(names[name], panel(images[name], placement, low, high), f"{names[name]} of case {shown.case}, one slice")
        for name in ("scan", "candidate", "reference")
        if name in images
    ]
    change = np.asarray(images["candidate"], np.float64) - images["reference"]
    alt = (
        f"map of {shown.method} minus reference of case {shown.case}, RMSE of the slice "
        f"{number(found.rmse, digits)} {unit_words(unit)}"
    )
    panels.append(
        Panel(
            f"{shown.method} − reference, ±{reach:g} {unit_words(unit)}",
            difference_panel(change, placement, reach),
            alt,
        )
    )
    return Picture(
        shown.method, shown.rank, shown.case, title, _caption(found, unit, window, reach, factor), tuple(panels)
    )


def _caption(found: Slice, unit: str, window: tuple[str, Preset], reach: float, factor: int) -> str:
    name, preset = window
    spacing = " × ".join(f"{mm:.3g}" for mm in dict.fromkeys(found.placement.pixel_mm))
    told = [
        f"Slice {found.index + 1}, the one with the largest RMSE of the case "
        f"({number(found.rmse, decimals([found.rmse], unit))} {unit_words(unit)}).",
        f"Window {number(preset.low, 0)} to {number(preset.high, 0)} {unit_words(unit)}{f' ({name})' if name else ''}, "
        f"pixel {spacing} mm; difference −{reach} (blue) to +{reach} {unit_words(unit)} (red), zero white.",
    ]
    if factor > 1:
        told.append(f"To keep the file small, a pixel shown is the mean of {factor} × {factor}: noise looks weaker.")
    return " ".join(told)
