"""What the numbers of an evaluation say of one image: figures for its line of the worklist, and flags.

A limit that is passed is a reason to look, and no verdict; what was not measured is not flagged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# ACR's phantom passes with water within 7 HU of 0: a method that moves a tissue by 5 takes most of what a scanner has.
# The calibration of accredited PET scanners repeats within 5 % (Kaalep et al. 2018, Eur J Nucl Med Mol Imaging 45:412).
BIAS_HU, BIAS_PERCENT = 5.0, 5.0
# Nobody measures the density of air, whose noise is clipped at -1024 HU on one side.
NOT_JUDGED = ("air",)
# Of an interval that claims 90 %: below 85 %, half as many errors again lie outside as it says.
COVERAGE_PERCENT = 85.0
# Added structure in deviations of the noise: a scan of 300 slices has about a million places of 2 mm, and of a million
# normal numbers one lies beyond 4.9. What is stronger is not chance.
ADDED_SIGMA = 5.0

WINDOWS = ("abdomen", "suv")  # in which indices are shown, where they were measured there; else in the first
ACTIVITY = ("SUVmean bias", "total activity bias")
COVERAGE, ADDED = "Coverage, %", "Added, sigma"


@dataclass(frozen=True)
class Figures:
    """What an evaluation says of one image.

    dose    fraction of the full one, None where unknown
    named   PSNR, SSIM and others, by the name of a column
    flags   in words
    """

    evaluation: str
    dose: float | None
    named: Mapping[str, float]
    flags: tuple[str, ...]


def figures_of(evaluation: str, rows: pd.DataFrame) -> Figures:
    """Of the rows of one method on one case."""
    values = {(line.metric, line.preset, line.region): float(line.value) for line in rows.itertuples()}
    named = {}
    for metric, column in (("PSNR", "PSNR, dB"), ("SSIM", "SSIM")):
        presets = [preset for name, preset, region in values if (name, region) == (metric, "all")]
        preset = next((name for name in (*WINDOWS, *presets) if name in presets), None)
        if preset is not None:
            named[f"{column} ({preset})"] = values[metric, preset, "all"]
    covered = values.get(("coverage", "", "patient"), values.get(("coverage", "", "all")))
    added = values.get(("strongest added", "", "all"))
    named |= {name: value for name, value in ((COVERAGE, covered), (ADDED, added)) if value is not None}
    flags = _bias(rows), _coverage(covered), _added(added, values.get(("added structure", "", "all")))
    return Figures(evaluation, known(rows["dose"].iloc[0]), named, tuple(filter(None, flags)))


def known(dose: float) -> float | None:
    """A dose of a table, where nan is an unknown one."""
    return None if math.isnan(dose) else float(dose)


def _bias(rows: pd.DataFrame) -> str:
    """Regions whose mean is off."""
    density = (rows["metric"] == "bias") & (rows["unit"] == "HU") & ~rows["region"].isin(NOT_JUDGED)
    told = []
    for chosen, limit, unit in ((density, BIAS_HU, "HU"), (rows["metric"].isin(ACTIVITY), BIAS_PERCENT, "%")):
        far = rows[chosen & (rows["value"].abs() > limit)]
        worst = far.assign(far=-far["value"].abs()).sort_values("far").drop_duplicates("region")
        told += [f"{_region(line.region)} {line.value:+.1f} {unit}" for line in worst.itertuples()]
    return f"bias: {', '.join(told)}" if told else ""


def _region(name: str) -> str:
    return "whole image" if name == "all" else name


def _coverage(covered: float | None) -> str:
    if covered is None or covered >= COVERAGE_PERCENT:
        return ""
    return f"low coverage: {covered:.0f} % of the errors lie in the interval that claims 90 %"


def _added(strongest: float | None, share: float | None) -> str:
    if strongest is None or strongest <= ADDED_SIGMA:
        return ""
    where = "" if share is None else f", {share:.2g} % of the image"
    return f"hallucination: added structure of {strongest:.1f} times the noise{where}"
