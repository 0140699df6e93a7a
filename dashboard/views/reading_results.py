"""Part of the reader study: how far the readers are, the export, and, once unblinded, what came out."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import sqlalchemy as sa
import streamlit as st

from dashboard.reading.analysis import Analysis, analyse, completion
from dashboard.reading.design import Design, reader_name
from dashboard.reading.export import exported
from dashboard.reading.record import Read, finished, read
from dashboard.views import reading_charts
from medidiff.results.readings import Study, unblind

CLOSES = (
    "Unblinding shows which image was of which arm, and closes the study: no answer can be given or changed "
    "afterwards, and there is no way back."
)
SINGLE = "Lines of one reader and preferences are not adjusted for their number; differences of all readers are (Holm)."


def show(engine: sa.Engine, study: Study) -> None:
    items = read(engine, study)
    st.subheader("Readers")
    if not items:
        st.info("Nobody has begun.")
    table = completion(items)
    if len(table):
        st.dataframe(
            table, hide_index=True, column_config={"median_seconds": st.column_config.NumberColumn(format="%.1f")}
        )
    analysis = None
    if study.unblinded is None:
        _ask_to_unblind(engine, study, items)
    else:
        st.caption(f"Unblinded by {study.unblinded_by} on {study.unblinded:%Y-%m-%d, %H:%M} UTC.")
        analysis = _analysed(study, items)
        _results(Design(**study.design), items, analysis)
    st.download_button(
        "Export (ZIP)",
        exported(engine, study, items, analysis.tables() if analysis else {}),
        file_name=f"reader_study_{study.id}.zip",
        mime="application/zip",
        help="Answers, marks, history and design; as long as the study is blind, without arms.",
    )


def _ask_to_unblind(engine: sa.Engine, study: Study, items: Sequence[Read]) -> None:
    unfinished = sorted({item.reader for item in items} - set(finished(items)))
    with st.expander("Unblind"):
        st.warning(CLOSES)
        if unfinished:
            st.warning(f"Not finished: {', '.join(unfinished)}. Readers are analysed together once they have finished.")
        with st.form("unblind", border=False):
            by = st.text_input("Your code name", help="It is kept with the time.")
            is_over = st.checkbox("The reading is over.")
            wanted = st.form_submit_button("Unblind the study")
    if wanted and not is_over:
        st.error("say that the reading is over first")
    elif wanted:
        unblind(engine, study.id, reader_name(by))
        st.rerun()


def _analysed(study: Study, items: Sequence[Read]) -> Analysis:
    """Made once a session: an unblinded study does not change."""
    made = st.session_state.setdefault("analyses", {})
    key = (study.id, study.created)
    if key not in made:
        with st.spinner("analysing"):
            made[key] = analyse(Design(**study.design), items)
    found: Analysis = made[key]
    return found


def _results(design: Design, items: Sequence[Read], analysis: Analysis) -> None:
    whole = finished(items)
    together = (
        f"{len(whole)} of {len({item.reader for item in items})} readers have finished and are analysed together."
    )
    st.caption(f"{together} The reference is {design.arms[0]}. {SINGLE}")
    if len(analysis.scores):
        st.subheader("Scores")
        st.altair_chart(reading_charts.scores(analysis.scores), width="content")
        _table(analysis.scores)
    if len(analysis.differences):
        st.subheader(f"Differences from {design.arms[0]}")
        if whole:
            st.altair_chart(reading_charts.differences(analysis.differences, design.arms), width="content")
        _table(analysis.differences)
    if len(analysis.preferences):
        st.subheader("Preferences")
        st.altair_chart(reading_charts.preferences(analysis.preferences), width="content")
        _table(analysis.preferences)
    if len(analysis.agreement):
        st.subheader("Agreement")
        _table(analysis.agreement)
    if len(analysis.detection):
        _detection(design, analysis)


def _detection(design: Design, analysis: Analysis) -> None:
    st.subheader("Detection")
    if len(analysis.curves):
        st.altair_chart(reading_charts.curves(analysis.curves, design.arms), width="content")
    _table(analysis.detection)


def _table(table: pd.DataFrame) -> None:
    numbers = {
        name: st.column_config.NumberColumn(format="%.2g" if "p" in name.split("_") else "%.3f")
        for name, values in table.items()
        if values.dtype.kind == "f"
    }  # fmt: skip
    st.dataframe(table, hide_index=True, column_config=numbers)
