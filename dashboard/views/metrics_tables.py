"""The tables of the metrics page: every case, the statistics of the outcome, and the chosen lines as a download."""

from __future__ import annotations

import io
import zipfile
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import charts
from dashboard.views.metrics_chosen import Chosen, escaped, offer
from medidiff import DISCLAIMER, __version__
from medidiff.results.rows import COLUMNS

SUMMARY = {
    "n": "Patients", "cases": "Cases", "mean": "Mean", "low": "Interval, from", "high": "Interval, to",
    "median": "Median", "sd": "SD",
}  # fmt: skip
COMPARISON = {
    "n": "Patients", "difference": "Difference", "low": "Interval, from", "high": "Interval, to", "p": "p",
    "p_holm": "Holm p", "hedges_g": "Hedges g", "primary": "Primary",
}  # fmt: skip


def every_case(chosen: Chosen) -> None:
    """A line a case and method; one can be opened."""
    st.subheader("Every case")
    rows = chosen.rows.reset_index(drop=True)
    table = (
        pd.DataFrame(
            {
                "Case": [chosen.names(case) for case in rows["case"]],
                "Patient": rows["patient"],
                "Group": rows["group"],
                "Dose, %": 100 * rows["dose"],
                "Method": rows["method"],
                charts.label(chosen.outcome): rows["value"],
                "Slices": rows["n_slices"],
            }
        )
        .replace({"Group": ""}, None)
        .dropna(axis="columns", how="all")
    )
    event = st.dataframe(
        table, key="metrics-cases", hide_index=True, on_select="rerun", selection_mode="single-row",
        height=min(36 * len(table) + 40, 400),
    )  # fmt: skip
    selected = event["selection"]["rows"]
    if selected and selected[0] < len(rows):
        line = rows.iloc[selected[0]]
        offer(chosen, line["case"], line["method"], "case")
    st.download_button(
        "Download this table", partial(export, chosen), "medidiff_results.zip", "application/zip", on_click="ignore"
    )


def statistics(chosen: Chosen) -> None:
    """What statistics.csv and comparisons.csv say of the outcome, and the sentences of the study."""
    results, outcome = chosen.results, chosen.outcome
    share = f"{100 * results.settings.confidence:g} %"
    st.subheader("Statistics")
    summary = _lines(chosen, outcome.of(results.summary), SUMMARY)
    st.dataframe(summary, hide_index=True)
    st.caption(f"Mean over patients with its {share} interval (BCa bootstrap).")
    compared = _lines(chosen, outcome.of(results.comparisons), COMPARISON)
    if len(compared):
        st.dataframe(compared, hide_index=True)
        st.caption(
            f"Difference from {results.baseline} over the patients that both have, its {share} interval, p of a "
            "two-sided paired sign-flip test; Holm p where the outcome was declared as primary, others are exploratory."
        )
    with st.expander("What may be concluded", expanded=True):
        for sentence in results.sentences:
            st.markdown(f"- {escaped(sentence)}")


def _lines(chosen: Chosen, table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Lines of a table of statistics with these columns, stratum by stratum, methods as in the study."""
    parts = []
    for stratum in chosen.strata:
        of_stratum = stratum.of(table).set_index("method")
        lines = of_stratum.loc[[method for method in chosen.methods if method in of_stratum.index]]
        named = lines[list(columns)].rename(columns=columns).reset_index().rename(columns={"method": "Method"})
        named.insert(0, "Cases of", stratum.label)
        parts.append(named)
    return pd.concat(parts, ignore_index=True)


def export(chosen: Chosen) -> bytes:
    """The chosen lines of results.csv with its very columns, and what they are, which no CSV reader would take."""
    outcome = chosen.outcome
    version = chosen.evaluation.record.get("medidiff", "of an unknown version")
    about = [
        f"Made by medidiff {__version__} for {DISCLAIMER}.",
        f"results.csv: {charts.label(outcome)}, measured by medidiff {version}.",
        f"Methods: {', '.join(chosen.methods)}.",
        f"Cases of: {'; '.join(stratum.label for stratum in chosen.strata)}; they are called as on the page.",
    ]
    rows = chosen.rows
    shown = {"case": rows["case"].map(chosen.names), "value": [repr(float(value)) for value in rows["value"]]}
    table = rows[list(COLUMNS)].assign(**shown)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results.csv", table.to_csv(index=False, lineterminator="\n"))
        archive.writestr("README.txt", "\n".join(about) + "\n")
    return file.getvalue()
