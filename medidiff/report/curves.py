"""Plots of measured functions: noise power spectra, transfer functions, calibration of claimed deviations.

A line is the mean over patients on one grid of x; thin lines are the cases it is the mean of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medidiff.report.folder import Results, Stratum
from medidiff.report.plots import COLUMNS, LONE, MOST_PANELS
from medidiff.report.styles import GREY, Plot, Style, finished, grid, legend, method_entries, plain, styles
from medidiff.report.words import listed, many, with_unit
from medidiff.results.rows import Curve

Array = NDArray[np.float64]
THIN = 30  # cases that are drawn beside their mean
NPS, NPS_BESIDE = "NPS", {"NPS reference": "--", "NPS input": ":"}
Panel = tuple[str, list[Curve]]


def spectra(results: Results) -> Iterator[Plot]:
    """Noise power spectra of candidates, and in grey those of reference and input."""
    yield from _plot(
        results, lambda c: c.name == NPS or c.name in NPS_BESIDE, _by_stratum, "Noise power spectra", "power",
        "Noise power spectra by method. Grey: the reference (dashed) and the input (dotted). Thin: single cases.",
    )  # fmt: skip


def transfers(results: Results) -> Iterator[Plot]:
    """Transfer functions of edges, a panel a rod."""
    yield from _plot(
        results, lambda c: c.name.startswith("TTF"), _by_stratum_and_name, "Task transfer functions", "transfer",
        "Task transfer functions by method, measured at the edges of rods; a nonlinear method has one per contrast "
        "and dose.",
    )  # fmt: skip


def calibrations(results: Results) -> Iterator[Plot]:
    """Coverage of claimed intervals against their nominal level; the diagonal is perfect."""
    yield from _plot(
        results, lambda c: c.name.startswith("calibration"), _by_stratum_and_name, "Calibration of the uncertainty",
        "coverage", "Share of errors inside the claimed interval against its nominal level. Grey: a perfect claim; "
        "below it the claim is too small, above it too large.",
    )  # fmt: skip


def _plot(
    results: Results,
    chosen: Callable[[Curve], bool],
    split: Callable[[Results, list[Curve]], list[Panel]],
    title: str,
    quantity: str,
    told: str,
) -> Iterator[Plot]:
    panels = split(results, [curve for curve in results.curves if chosen(curve) and len(curve.x) > 1])
    if not panels:
        return
    style, shown = styles(results.methods), panels[:MOST_PANELS]
    figure, axes = grid(len(shown), COLUMNS, (3.7 if len(shown) > 1 else LONE, 2.9))
    entries: dict[str, Line2D] = {}
    for axis, (label, curves) in zip(axes, shown, strict=True):
        entries |= _panel(axis, results, curves, style)
        axis.set_title(plain(label, 44))
        axis.set_xlabel(plain(with_unit(_x_name(curves[0]), curves[0].x_unit)))
        axis.set_ylabel(plain(with_unit(quantity, curves[0].y_unit)))
    legend(figure, entries)
    omitted = len(panels) - len(shown)
    more = f" {many(omitted, 'further panel is', 'further panels are')} left out; curves.json has them." * (omitted > 0)
    names = listed(entries)
    yield finished(title, figure, f"{told} Panels: {'; '.join(label for label, _ in shown)}. Lines: {names}.",
                   f"{told}{more}")  # fmt: skip


def _x_name(curve: Curve) -> str:
    return "nominal level" if curve.x_unit == "%" else "spatial frequency"


def _panel(axis: Any, results: Results, curves: list[Curve], style: dict[str, Style]) -> dict[str, Line2D]:
    patients = dict(zip(results.cases["case"], results.cases["patient"], strict=True))
    by_method: dict[str, list[Curve]] = defaultdict(list)
    beside: dict[str, dict[str, Curve]] = defaultdict(dict)
    for curve in curves:
        if curve.name in NPS_BESIDE:
            beside[curve.name].setdefault(curve.case, curve)  # the same for every method
        else:
            by_method[curve.method].append(curve)
    entries: dict[str, Line2D] = {}
    for name, found in beside.items():
        x, y = mean_curve([*found.values()], patients)
        (entries[name.removeprefix("NPS ")],) = axis.plot(x, y, color=GREY, linestyle=NPS_BESIDE[name], zorder=3)
    if curves[0].name.startswith("calibration"):
        (entries["perfect"],) = axis.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    for method in results.in_order(by_method):
        _lines(axis, by_method[method], patients, style[method])
    axis.set_ylim(bottom=0)
    return method_entries(results.in_order(by_method), style) | entries


def _lines(axis: Any, curves: list[Curve], patients: dict[str, str], look: Style) -> None:
    x, y = mean_curve(curves, patients)
    if 1 < len(curves) <= THIN:
        for curve in curves:
            axis.plot(curve.x, curve.y, color=look.colour, linewidth=0.5, alpha=0.3)
    every = max(1, len(x) // 8)
    axis.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, markevery=every, markersize=4)


def mean_curve(curves: Sequence[Curve], patients: dict[str, str]) -> tuple[Array, Array]:
    """Mean over patients of the means over their cases, where all curves are defined."""
    x = np.asarray(max(curves, key=lambda curve: len(curve.x)).x)
    low, high = max(min(c.x) for c in curves), min(max(c.x) for c in curves)
    inside = x[(x >= low) & (x <= high)]
    grouped: dict[str, list[Array]] = defaultdict(list)
    for curve in curves:
        grouped[patients.get(curve.case, curve.case)].append(np.interp(inside, curve.x, curve.y))
    return inside, np.mean([np.mean(found, axis=0) for found in grouped.values()], axis=0)


def _of_stratum(results: Results, stratum: Stratum, curves: list[Curve]) -> list[Curve]:
    cases = set(stratum.of(results.cases)["case"])
    return [curve for curve in curves if curve.case in cases]


def _by_stratum(results: Results, curves: list[Curve]) -> list[Panel]:
    found = [(stratum.label, _of_stratum(results, stratum, curves)) for stratum in results.strata]
    return [panel for panel in found if panel[1]]


def _by_stratum_and_name(results: Results, curves: list[Curve]) -> list[Panel]:
    """A panel a rod or region: unlike contrasts are never averaged."""
    panels = []
    for label, found in _by_stratum(results, curves):
        for name, region in dict.fromkeys((curve.name, curve.region) for curve in found):
            here = name if region == "all" or region in name else f"{name}, {region}"
            panels.append((f"{here}, {label}", [c for c in found if (c.name, c.region) == (name, region)]))
    return panels
