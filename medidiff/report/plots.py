"""Plots of single numbers: how they spread over patients, how they follow the dose, how methods agree.

The patient is the unit here as in the statistics: a point is the mean over the cases of one patient in one stratum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from medidiff.report.folder import Outcome, Results, Stratum
from medidiff.report.styles import GREY, Plot, Style, finished, grid, legend, method_entries, plain, styles
from medidiff.report.summary import by_study, main_outcomes
from medidiff.report.words import listed, many, outcome_words, with_unit

if TYPE_CHECKING:
    import pandas as pd

MOST_PANELS, COLUMNS = 9, 3
LONE = 4.9  # inches of a panel that is alone: two such figures lie side by side
BOXED = 5  # patients that make quartiles worth drawing
JOINED = 30  # patients whose points are joined by lines
COMPANION_LINES = {"PSNR input": ":", "PSNR truth": "--", "PSNR limit": "-."}


def distributions(results: Results) -> Iterator[Plot]:
    """One plot an outcome: a panel a stratum, a box a method, a point a patient."""
    style = styles(results.methods)
    for outcome in main_outcomes(results):
        table = outcome.of(results.rows)
        table = table[np.isfinite(table["value"])]
        strata = [stratum for stratum in results.strata if len(stratum.of(table))]
        if not strata:
            continue
        shown = strata[:MOST_PANELS]
        figure, axes = grid(len(shown), COLUMNS, (_panel_width(results, len(shown)), 2.6), sharey=True)
        for axis, stratum in zip(axes, shown, strict=True):
            _distribution(axis, _of_patients(stratum.of(table)), results, style)
            axis.set_title(plain(stratum.label))
            axis.set_ylabel(_label(outcome) if axis.get_subplotspec().is_first_col() else "")
        name = outcome_words(outcome.metric, outcome.preset, outcome.region)
        left_out = _omitted(len(strata) - len(shown)) + _infinite(results, outcome)
        yield finished(
            f"{name}: every patient", figure,
            f"Values of every patient, and box plots, of {name} by method; panels: {listed(s.label for s in shown)}. "
            f"{_in_words(results, outcome, shown)}",
            "A point is a patient, lines join one patient's results. Boxes, from "
            f"{BOXED} patients on: quartiles and median, whiskers to the furthest values within 1.5 interquartile "
            f"ranges.{left_out}",
        )  # fmt: skip


def _panel_width(results: Results, panels: int) -> float:
    return float(np.clip(0.55 * len(results.methods) + 1.2, 3.2, 6.0) if panels > 1 else LONE)


def _distribution(axis: Any, patients: pd.DataFrame, results: Results, style: dict[str, Style]) -> None:
    """Patients x methods: boxes, points beside their middle so that equal ones are seen, joined where few."""
    methods = results.in_order(patients.columns)
    scatter = np.random.default_rng(0).uniform(-0.16, 0.16, len(patients))
    values = patients[methods].to_numpy(float)
    if len(methods) > 1 and len(patients) <= JOINED:
        places = np.arange(len(methods))[:, None] + scatter
        axis.plot(places, values.T, color=GREY, linewidth=0.5, alpha=0.45, zorder=1)
    for k, method in enumerate(methods):
        seen = values[:, k][~np.isnan(values[:, k])]
        if len(seen) >= BOXED:
            _box(axis, k, seen)
        look = style[method]
        axis.plot(k + scatter[~np.isnan(values[:, k])], seen, look.marker, color=look.colour, markersize=4.5,
                  alpha=0.85, markeredgewidth=0, zorder=3, rasterized=len(seen) > 2000)  # fmt: skip
    axis.set_xticks(range(len(methods)), [plain(m, 18) for m in methods])
    if len(methods) > 3 or max(map(len, methods)) > 9:
        axis.tick_params("x", rotation=30)
        for text in axis.get_xticklabels():
            text.set_horizontalalignment("right")
    axis.set_xlim(-0.6, len(methods) - 0.4)


def _box(axis: Any, place: float, values: np.ndarray) -> None:
    ink = {"color": "#374151", "linewidth": 1.0}
    axis.boxplot(
        [values], positions=[place], widths=0.52, showfliers=False, boxprops=ink, whiskerprops=ink, capprops=ink,
        medianprops={"color": "#111827", "linewidth": 1.8}, manage_ticks=False, zorder=2,
    )  # fmt: skip


def dose_responses(results: Results) -> Iterator[Plot]:
    """One plot an outcome that was measured at two doses or more: mean and interval of every method against dose."""
    style = styles(results.methods)
    for outcome in main_outcomes(results):
        table = outcome.of(results.summary)
        table = table[table["dose"].notna() & np.isfinite(table["mean"])]
        groups = {key: part for key, part in table.groupby(["group", "reference_noise"]) if part["dose"].nunique() > 1}
        if not groups:
            continue
        shown = dict([*groups.items()][:MOST_PANELS])
        figure, axes = grid(len(shown), COLUMNS, (4.2 if len(shown) > 1 else LONE, 3.0), sharey=True)
        entries: dict[str, Line2D] = {}
        for axis, (key, part) in zip(axes, shown.items(), strict=True):
            entries |= _dose_response(axis, part, results, style)
            if outcome.metric == "PSNR":
                entries |= _companions(axis, results, outcome, key, style)
            _dose_axis(axis, part["dose"])
            axis.set_title(plain(key[0]))
            axis.set_ylabel(_label(outcome) if axis.get_subplotspec().is_first_col() else "")
        legend(figure, entries)
        name = outcome_words(outcome.metric, outcome.preset, outcome.region)
        yield finished(
            f"{name} against dose", figure,
            f"Line plot of mean {name} against dose. {_in_words(results, outcome, results.strata)}",
            f"Mean over patients; bars: {100 * results.settings.confidence:g} % bootstrap interval."
            f"{_told_companions(entries)}{_omitted(len(groups) - len(shown))}",
        )  # fmt: skip


def _dose_response(axis: Any, part: pd.DataFrame, results: Results, style: dict[str, Style]) -> dict[str, Line2D]:
    methods = results.in_order(part["method"])
    for k, method in enumerate(methods):
        line, look = part[part["method"] == method].sort_values("dose"), style[method]
        x = 100 * line["dose"] * 1.015 ** (k - (len(methods) - 1) / 2)  # side by side, so that bars do not hide bars
        error = np.nan_to_num(np.abs(line[["low", "high"]].to_numpy(float).T - line["mean"].to_numpy(float)))
        axis.errorbar(x, line["mean"], error, color=look.colour, marker=look.marker, linestyle=look.line, capsize=2,
                      elinewidth=0.8)  # fmt: skip
    return method_entries(methods, style)


def _companions(
    axis: Any, results: Results, outcome: Outcome, key: tuple[str, str], style: dict[str, Style]
) -> dict[str, Line2D]:
    """Input, truth and limit in grey; the best blend of each method in its colour, hollow."""
    entries = {}
    same = (results.summary["group"] == key[0]) & (results.summary["reference_noise"] == key[1])
    table = results.summary[same & results.summary["dose"].notna() & np.isfinite(results.summary["mean"])]
    for metric, dashes in COMPANION_LINES.items():
        means = Outcome(metric, outcome.preset, "all", "dB").of(table).groupby("dose")["mean"].mean()
        if len(means):
            (entries[metric.removeprefix("PSNR ")],) = axis.plot(100 * means.index, means, dashes, color=GREY, zorder=1)
    blends = Outcome("PSNR best blend", outcome.preset, "all", "dB").of(table)
    for method, part in blends.groupby("method"):
        line, look = part.sort_values("dose"), style[str(method)]
        (drawn,) = axis.plot(100 * line["dose"], line["mean"], look.marker, color=look.colour, markerfacecolor="none",
                             markersize=9, zorder=2)  # fmt: skip
        entries["best blend (hollow)"] = drawn
    return entries


def _told_companions(entries: dict[str, Line2D]) -> str:
    if "input" not in entries:
        return ""
    return " Grey: the input, the noise-free truth, and the limit that no estimate of this reference can pass."


def _dose_axis(axis: Any, doses: pd.Series) -> None:
    ticks = sorted({*(100 * doses)})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("dose / % of full dose")


def bland_altman(results: Results) -> Iterator[Plot]:
    """One plot for each of the first two outcomes: a panel a method and stratum, differences from the baseline."""
    style = styles(results.methods)
    for outcome in main_outcomes(results)[:2]:
        table = outcome.of(results.rows)
        lines = outcome.of(results.agreement)
        panels = [
            (stratum, line, _of_patients(stratum.of(table[np.isfinite(table["value"])])))
            for stratum in results.strata
            for line in by_study(results, stratum.of(lines))
            if line["against"] == results.baseline and line["n"] > 1
        ]
        if not panels:
            continue
        shown = panels[:MOST_PANELS]
        columns = min(max(len(results.methods) - 1, 2), COLUMNS)
        figure, axes = grid(len(shown), columns, (3.5 if len(shown) > 1 else LONE, 2.8))
        for axis, (stratum, line, patients) in zip(axes, shown, strict=True):
            _agreement(axis, line, patients, results.baseline, style[line["method"]])
            axis.set_title(plain(f"{line['method']}, {stratum.label}", 44))
            axis.set_xlabel(plain(with_unit("mean of both", outcome.unit)))
            axis.set_ylabel(plain(with_unit("difference", outcome.unit)))
        name = outcome_words(outcome.metric, outcome.preset, outcome.region)
        yield finished(
            f"{name}: agreement with {results.baseline}", figure,
            f"Bland-Altman plots of {name} against {results.baseline}. {_limits_in_words(shown)}",
            f"Bland-Altman: method minus {results.baseline} per patient; solid: mean difference, dashed: limits of "
            f"agreement (mean ± 1.96 SD), bars at the right: their 95 % intervals.{_omitted(len(panels) - len(shown))}",
        )  # fmt: skip


def _agreement(axis: Any, line: dict[str, Any], patients: pd.DataFrame, baseline: str, look: Style) -> None:
    both = patients[[line["method"], baseline]].dropna()
    ours, theirs = both.to_numpy(float).T
    for level, dashes in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        interval = [line[f"{level}_low"], line[f"{level}_high"]]
        if np.isfinite(interval).all():
            place = [1.0 if level == "bias" else 0.975] * 2
            axis.plot(place, interval, "_-", transform=axis.get_yaxis_transform(), color="#374151", linewidth=0.9,
                      clip_on=False)  # fmt: skip
        axis.axhline(line[level], color="#374151", linestyle=dashes, linewidth=1.0)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.plot((ours + theirs) / 2, ours - theirs, look.marker, color=look.colour, markeredgewidth=0, alpha=0.9)
    axis.margins(x=0.15)


def _limits_in_words(panels: list[tuple[Stratum, dict[str, Any], pd.DataFrame]]) -> str:
    return " ".join(
        f"{line['method']}, {stratum.label}: mean difference {line['bias']:.3g}, limits {line['lower']:.3g} to "
        f"{line['upper']:.3g}, n = {int(line['n'])}."
        for stratum, line, _ in panels
    )


def _of_patients(table: pd.DataFrame) -> pd.DataFrame:
    """Patients x methods."""
    return table.groupby(["patient", "method"])["value"].mean().unstack("method")


def _in_words(results: Results, outcome: Outcome, strata: list[Stratum]) -> str:
    """Means per method, for those who cannot see the plot."""
    table = outcome.of(results.summary)
    told = []
    for stratum in strata:
        means = {line["method"]: line["mean"] for line in stratum.of(table).to_dict("records")}
        if means:
            told.append(f"{stratum.label}: " + ", ".join(f"{m} {means[m]:.4g}" for m in results.in_order(means)))
    return f"Means: {'; '.join(told)}."


def _label(outcome: Outcome) -> str:
    return plain(with_unit(outcome_words(outcome.metric, outcome.preset, outcome.region), outcome.unit), 48)


def _omitted(count: int) -> str:
    return f" {many(count, 'further panel is', 'further panels are')} left out; agreement.csv has their numbers." * (
        count > 0
    )


def _infinite(results: Results, outcome: Outcome) -> str:
    count = int(np.isinf(outcome.of(results.rows)["value"]).sum())
    return f" {many(count, 'infinite value', 'infinite values')} (identical images) cannot be drawn." * (count > 0)
