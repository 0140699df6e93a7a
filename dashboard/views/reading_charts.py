"""Charts of a reader study, from the tables of its analysis. Colours are told apart by everybody (Okabe and Ito)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from dashboard.reading.analysis import ALL

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
SIZE, STEP = 300, alt.Step(22)  # pixels
LONGEST = 320  # of a name
NAMES = alt.Axis(labelLimit=LONGEST)
HEADER = alt.Header(labelAngle=0, labelAlign="left", labelLimit=LONGEST)


def scores(table: pd.DataFrame) -> alt.Chart:
    """How often each score was given: a bar an arm and a row a question, of all readers or of everybody."""
    shown = table[table["reader"] == ALL] if (table["reader"] == ALL).any() else table
    columns = [name for name in shown if name.startswith("scored_")]
    long = shown.melt(["question", "arm", "reader"], columns, "score", "images").dropna()
    long["score"] = long["score"].str.removeprefix("scored_").astype(int)
    return (
        alt.Chart(long)
        .mark_bar()
        .encode(
            x=alt.X("sum(images):Q", stack="normalize", title="share of images", axis=alt.Axis(format="%")),
            y=alt.Y("arm:N", title=None, sort=None, axis=NAMES),
            color=alt.Color("score:O", scale=alt.Scale(scheme="viridis")),
            order=alt.Order("score:O"),
            row=alt.Row("question:N", title=None, sort=_in_order(shown, "question"), header=HEADER),
            tooltip=["question", "arm", "score", "sum(images)"],
        )
        .properties(width=2 * SIZE, height=STEP)
    )


def differences(table: pd.DataFrame, arms: Sequence[str]) -> alt.FacetChart:
    """Mean difference from the reference with its interval, of all readers: a line an arm and a row a question."""
    shown = table[table["reader"] == ALL]
    base = alt.Chart().encode(
        y=alt.Y("arm:N", title=None, sort=None, axis=NAMES),
        color=_arms(arms, legend=None),
        tooltip=["question", "arm", "difference", "low", "high", "p_holm"],
    )
    return _intervals(base, "difference", 0, alt.X("low:Q", title="difference of the scores"), shown, "question")


def preferences(table: pd.DataFrame) -> alt.FacetChart:
    """Share of the cases in which an arm was preferred, with its interval: a line a reader and a row a pair of arms."""
    shown = table.assign(pair=table["arm"] + " over " + table["other"])
    base = alt.Chart().encode(
        y=alt.Y("reader:N", title=None, sort=None, axis=NAMES),
        color=alt.value(COLOURS[4]),
        tooltip=["pair", "reader", "cases", "preferred", "share", "low", "high", "p"],
    )
    across = alt.X("low:Q", title="preferred", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    return _intervals(base, "share", 0.5, across, shown, "pair")


def _intervals(
    base: alt.Chart, value: str, equal: float, across: alt.X, shown: pd.DataFrame, row: str
) -> alt.FacetChart:  # fmt: skip
    """Values with their intervals, beside a line where nothing differs."""
    rule = alt.Chart().mark_rule(strokeDash=[4, 4], color="grey").encode(x=alt.datum(equal))
    lines = base.mark_rule(strokeWidth=2).encode(x=across, x2="high:Q")
    points = base.mark_point(filled=True, size=70).encode(x=f"{value}:Q")
    layers = alt.layer(rule, lines, points, data=shown).properties(width=2 * SIZE, height=STEP)
    return layers.facet(row=alt.Row(f"{row}:N", title=None, sort=_in_order(shown, row), header=HEADER))


def curves(table: pd.DataFrame, arms: Sequence[str]) -> alt.Chart:
    """The ROC and the AFROC curve of every arm."""
    unit = alt.Scale(domain=[0, 1])
    return (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("x:Q", title="normal cases with a mark", scale=unit),
            y=alt.Y("y:Q", title="abnormal cases (ROC), lesions (AFROC) found", scale=unit),
            color=_arms(arms, legend=alt.Legend(labelLimit=LONGEST)),
            order="step:Q",
            column=alt.Column("curve:N", title=None, sort=["ROC", "AFROC"]),
            tooltip=["curve", "arm", "x", "y"],
        )
        .properties(width=SIZE, height=SIZE)
    )


def _arms(arms: Sequence[str], legend: alt.Legend | None) -> alt.Color:
    """The same colour for an arm of the design in every chart."""
    scale = alt.Scale(domain=list(arms), range=list(COLOURS[: len(arms)]))
    return alt.Color("arm:N", scale=scale, legend=legend)


def _in_order(table: pd.DataFrame, column: str) -> list[str]:
    return [str(name) for name in dict.fromkeys(table[column])]
