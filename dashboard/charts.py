"""The plots of a report as charts that can be asked: every point says what it is, and may be clicked.

The numbers are those of medidiff.report: a point is a patient, the mean over the cases of one patient in one stratum;
means and intervals are the lines of statistics.csv, limits of agreement those of agreement.csv. Colours and markers of
a method are those of the report, but for black, which is no colour on a dark page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from medidiff.report.curves import mean_curve
from medidiff.report.folder import Outcome, Results, Stratum
from medidiff.report.styles import GREY, styles
from medidiff.report.words import outcome_words, with_unit
from medidiff.results.rows import Curve

INK = "#e5e7eb"
SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
    "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z", "*": "wedge",
}  # fmt: skip
PICK = "point"  # the selection, and the column that names its points
BOXED = 5  # patients that make quartiles worth drawing, as in the report
SIDE = 0.32  # how far points lie beside their method, as a share of its room
HEIGHT = 320
FEW = alt.Axis(tickCount=6)
ROOMY = alt.Scale(zero=False, nice=False, padding=20)
LEGEND = alt.Legend(title=None, orient="top")

Names = Callable[[str], str]


def patients(results: Results, outcome: Outcome, strata: Sequence[Stratum], names: Names = str) -> pd.DataFrame:
    """A line a patient, method and stratum with its `value`; infinite values (identical images) are left out.

    point   tells lines apart; cases: of the patient, as results name them; case: as they are shown
    """
    parts = []
    for stratum in strata:
        table = stratum.of(outcome.of(results.rows))
        table = table[np.isfinite(table["value"])]
        grouped = table.groupby(["patient", "method"], sort=True)
        part = grouped.agg(value=("value", "mean"), cases=("case", tuple), dose=("dose", "first")).reset_index()
        parts.append(part.assign(stratum=stratum.label))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    scatter = dict(zip(sorted({*found["patient"]}), _scatter(found["patient"].nunique()), strict=True))
    return found.assign(
        dose=100 * found["dose"].astype(float),
        case=[", ".join(map(names, cases)) for cases in found["cases"]],
        beside=found["patient"].map(scatter).astype(float),
        point=[f"{row.stratum}|{row.patient}|{row.method}" for row in found.itertuples()],
    )


COLUMNS = ["patient", "method", "value", "cases", "dose", "stratum"]


def _scatter(n: int) -> np.ndarray:
    """A patient lies at the same side of every method, so that equal values are seen."""
    return np.random.default_rng(0).uniform(-SIDE, SIDE, n)


def responses(results: Results, outcome: Outcome, strata: Sequence[Stratum]) -> pd.DataFrame:
    """The lines of statistics.csv of an outcome with a known dose, where a group was measured at two doses or more."""
    table = _of_strata(outcome.of(results.summary), strata)
    table = table[table["dose"].notna() & np.isfinite(table["mean"])]
    doses = table.groupby(["group", "reference_noise"])["dose"].transform("nunique")
    return table[doses > 1].assign(dose=lambda lines: 100 * lines["dose"])


def agreements(results: Results, outcome: Outcome, stratum: Stratum, against: str) -> list[dict[str, Any]]:
    """The lines of agreement.csv of an outcome against the baseline or the reference, methods as in the study."""
    table = stratum.of(outcome.of(results.agreement))
    lines = {str(line["method"]): line for line in table[table["against"] == against].to_dict("records")}
    return [lines[method] for method in results.in_order(lines)]


def differences(points: pd.DataFrame, method: str, baseline: str | None) -> pd.DataFrame:
    """The patients of a method with the `difference` from the baseline, and the `mean` of both; None: the reference,
    where the value is a difference already."""
    ours = points[points["method"] == method]
    if baseline is None:
        return ours.assign(difference=ours["value"], mean=ours["patient"])
    theirs = points[points["method"] == baseline].set_index("patient")["value"]
    both = ours[ours["patient"].isin(theirs.index)]
    other = both["patient"].map(theirs).astype(float)
    return both.assign(difference=both["value"] - other, mean=(both["value"] + other) / 2)


def mean_curves(results: Results, curves: Sequence[Curve]) -> pd.DataFrame:
    """x, y of each method: the mean over patients of the means over their cases, where all curves are defined."""
    owners = dict(zip(results.cases["case"], results.cases["patient"], strict=True))
    by_method: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        by_method[curve.method].append(curve)
    parts = []
    for method in results.in_order(by_method):
        found = by_method[method]
        x, y = mean_curve(found, owners)
        patients = len({owners.get(curve.case, curve.case) for curve in found})
        parts.append(pd.DataFrame({"x": x, "y": y, "method": method, "patients": patients}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["x", "y", "method", "patients"])


def _of_strata(table: pd.DataFrame, strata: Sequence[Stratum]) -> pd.DataFrame:
    return pd.concat([stratum.of(table) for stratum in strata]) if strata else table.iloc[:0]


# ---------------------------------------------------------------- drawing


def label(outcome: Outcome) -> str:
    """`RMSE (hu, lung) / HU`."""
    return with_unit(outcome_words(outcome.metric, outcome.preset, outcome.region), outcome.unit)


def distribution_chart(
    results: Results, outcome: Outcome, points: pd.DataFrame, span: tuple[float, float]
) -> alt.LayerChart:
    """A box a method and a point a patient, of one stratum; `span` of values is that of all of them."""
    methods = results.in_order(points["method"])
    counts = points.groupby("method")["patient"].transform("nunique")
    x = alt.X("method:N", sort=methods, title=None, axis=alt.Axis(labelAngle=0 if len(methods) < 5 else -30))
    y = alt.Y("value:Q", title=label(outcome), scale=alt.Scale(domain=span, nice=False, padding=20))
    boxes = (
        alt.Chart(points[counts >= BOXED])
        .mark_boxplot(size=36, outliers=False, color=GREY, opacity=0.45, median={"color": INK})
        .encode(x=x, y=y)
    )
    beside = alt.XOffset("beside:Q", scale=alt.Scale(domain=[-1, 1]))
    return _dark(boxes + _points(results, points).encode(x=x, y=y, xOffset=beside))


def dose_chart(results: Results, outcome: Outcome, lines: pd.DataFrame, points: pd.DataFrame) -> alt.LayerChart:
    """Means with their intervals against dose, and beside them the patients."""
    axis = alt.Axis(values=sorted({*lines["dose"]}), labelExpr="format(datum.value, '~g')")
    scale = alt.Scale(type="log", nice=False, padding=25)
    x = alt.X("dose:Q", title="dose / % of full dose", scale=scale, axis=axis)
    colour, shape = _colour(results, LEGEND), _shape(results, LEGEND)
    drawn = alt.Chart(lines).encode(x=x, color=colour)
    means = drawn.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", title=label(outcome), scale=ROOMY), detail="method")
    bars = drawn.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    hints = _hints(["method", "dose", "mean", "low", "high", "n"])
    dots = drawn.mark_point(size=90, filled=True, opacity=1).encode(y="mean:Q", shape=shape, tooltip=hints)
    apart = points.assign(near=points["dose"] * 1.07 * 1.05 ** points["beside"])
    beside = _points(results, apart, size=30, legend=LEGEND).encode(x=alt.X("near:Q", scale=scale), y="value:Q")
    return _dark(bars + means + dots + beside)


def agreement_chart(results: Results, outcome: Outcome, line: dict[str, Any], points: pd.DataFrame) -> alt.LayerChart:
    """Differences of one method against means, the mean difference and the limits with their intervals as bands."""
    levels = pd.DataFrame(
        [
            {"level": level, "value": line[name], "low": line[f"{name}_low"], "high": line[f"{name}_high"]}
            for name, level in (("bias", "mean difference"), ("lower", "lower limit"), ("upper", "upper limit"))
        ]
    )
    levels = levels[np.isfinite(levels["value"])]
    hints = _hints(["level", "value", "low", "high"])
    clear = alt.condition("datum.level == 'mean difference'", alt.value(0.45), alt.value(0.18))
    bands = alt.Chart(levels.dropna()).mark_rect(color=GREY)
    bands = bands.encode(y="low:Q", y2="high:Q", opacity=clear, tooltip=hints)
    dash = alt.condition("datum.level == 'mean difference'", alt.value([1, 0]), alt.value([5, 4]))
    rules = alt.Chart(levels).mark_rule(color=INK).encode(y="value:Q", strokeDash=dash, tooltip=hints)
    is_zero_near = bool(levels["low"].min() <= 0 <= levels["high"].max())  # else it would leave no room for the points
    zero = alt.Chart(pd.DataFrame({"value": [0.0] * is_zero_near})).mark_rule(color=GREY).encode(y="value:Q")
    y = alt.Y("difference:Q", title=with_unit("difference", outcome.unit), scale=ROOMY)
    x: alt.X = alt.X("mean:Q", title=with_unit("mean of both", outcome.unit), scale=ROOMY, axis=FEW)
    if line["against"] == "reference":
        x = alt.X("mean:N", title="patient")
    return _dark(bands + zero + rules + _points(results, points, extra=["difference"]).encode(x=x, y=y))


def curve_chart(
    results: Results, means: pd.DataFrame, beside: pd.DataFrame, x_title: str, y_title: str, *, diagonal: bool
) -> alt.LayerChart:
    """A line a method; in grey what it is read beside, a column `line` of `beside`, and a diagonal."""
    x, y = alt.X("x:Q", title=x_title, axis=FEW), alt.Y("y:Q", title=y_title)
    drawn = alt.Chart(means).mark_line(strokeWidth=2, point={"size": 18}).encode(
        x=x, y=y, color=_colour(results, LEGEND), tooltip=_hints(["method", "x", "y", "patients"])
    )  # fmt: skip
    chart: Any = alt.layer(drawn)
    if len(beside):
        dash = alt.StrokeDash("line:N", legend=alt.Legend(title=None, orient="top"))
        grey = alt.Chart(beside).mark_line(color=GREY)
        chart = grey.encode(x=x, y=y, strokeDash=dash, tooltip=_hints(["line", "x", "y"])) + chart
    if diagonal:
        perfect = pd.DataFrame({"x": [0, 100], "y": [0, 100]})
        chart = alt.Chart(perfect).mark_line(color=GREY).encode(x=x, y=y) + chart
    return _dark(chart)


def _points(
    results: Results,
    points: pd.DataFrame,
    size: int = 70,
    extra: Sequence[str] = (),
    legend: alt.Legend | None = None,
) -> alt.Chart:
    """Patients, to be clicked; their cases stay behind: a list is nothing to draw."""
    pick = alt.selection_point(name=PICK, fields=[PICK])
    hints = [*extra, "value", "method", "case", "patient", "dose", "stratum"]
    return (
        alt.Chart(points.drop(columns="cases"))
        .mark_point(filled=True, size=size, cursor="pointer")
        .encode(
            color=_colour(results, legend),
            shape=_shape(results, legend),
            opacity=alt.condition(pick, alt.value(0.9), alt.value(0.25)),
            tooltip=_hints([hint for hint in hints if points[hint].notna().any()]),
        )
        .add_params(pick)
    )


def _hints(names: Sequence[str]) -> list[alt.Tooltip]:
    numbers = {"value", "mean", "low", "high", "difference", "x", "y"}
    return [alt.Tooltip(n, format=".4~g") if n in numbers else alt.Tooltip(n, title=TITLES.get(n, n)) for n in names]


TITLES = {"dose": "dose / %", "stratum": "cases of", "n": "patients"}


def _colour(results: Results, legend: alt.Legend | None = None) -> alt.Color:
    look = styles(results.methods)
    colours = [INK if look[m].colour == "#000000" else look[m].colour for m in results.methods]
    return alt.Color("method:N", scale=alt.Scale(domain=[*results.methods], range=colours), legend=legend)


def _shape(results: Results, legend: alt.Legend | None = None) -> alt.Shape:
    shapes = [SHAPES[style.marker] for style in styles(results.methods).values()]
    return alt.Shape("method:N", scale=alt.Scale(domain=[*results.methods], range=shapes), legend=legend)


def _dark(chart: alt.LayerChart) -> alt.LayerChart:
    return chart.properties(height=HEIGHT).configure_view(strokeWidth=0)
