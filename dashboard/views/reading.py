"""Reader study: read blinded, make a new study, see what came out. Studies are kept in the server's database."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard import state
from dashboard.reading.design import reader_name
from dashboard.reading.session import Reading
from dashboard.views import reading_item, reading_new, reading_results
from medidiff.errors import MedidiffError
from medidiff.results.readings import Study, list_studies, read_orders

PARTS = ("Read", "New study", "Results")
NO_DATABASE = (
    "Reader studies are kept in a database: start the dashboard with one, "
    "`medidiff review FOLDER --database sqlite:///FILE`."
)


def page() -> StreamlitPage:
    """What other pages go to."""
    return st.Page(show, title="Reader study", url_path="reading")


def show() -> None:
    try:
        engine = state.database()
        if engine is None:
            st.header("Reader study")
            st.info(NO_DATABASE)
        elif (reading := st.session_state.get("reading")) is not None:
            reading_item.show(reading)
        else:
            _choose(engine)
    except MedidiffError as error:
        st.error(str(error))


def _choose(engine: sa.Engine) -> None:
    st.header("Reader study")
    studies = list_studies(engine)
    part = st.segmented_control(
        "Part", PARTS, default=PARTS[0 if studies else 1], key="reading part", label_visibility="collapsed"
    )
    if part == "New study":
        reading_new.show(engine)
        return
    study = _study(studies)
    if study is None:
        st.info("There is no study yet: make one under New study.")
    elif part == "Results":
        reading_results.show(engine, study)
    elif study.unblinded is not None:
        st.info("This study was unblinded and takes no more answers: its results are under Results.")
    else:
        _log_in(engine, study)


def _study(studies: Sequence[Study]) -> Study | None:
    """The one in the address, by its number, or the one that is chosen."""
    if not studies:
        return None
    by_number = {study.id: study for study in studies}  # a study itself would be the session's, as it was once
    numbers, wanted = list(by_number), st.query_params.get("study", "")
    first = numbers.index(int(wanted)) if wanted.isdecimal() and int(wanted) in numbers else 0
    number = st.selectbox(
        "Study", numbers, index=first, format_func=lambda number: f"{number}: {by_number[number].name}"
    )
    st.query_params["study"] = str(number)
    return by_number[number]


def _log_in(engine: sa.Engine, study: Study) -> None:
    with st.form("log in"), st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Your code name", placeholder="r1", help="Made up, not your own: it stands beside your answers."
        )
        wanted = st.form_submit_button("Read", type="primary")
    if wanted:
        st.session_state["asked to read"] = (study.id, reader_name(text))
    number, name = st.session_state.get("asked to read", (None, ""))
    if number != study.id:
        return
    if name in read_orders(engine, study.id):
        _begin(engine, study, name)
    st.warning(f"Nobody has read this study as {name} yet. If you have, correct the name: your answers are kept.")
    if st.button(f"Begin as {name}"):
        _begin(engine, study, name)


def _begin(engine: sa.Engine, study: Study, name: str) -> None:
    del st.session_state["asked to read"]
    reading_item.begin(Reading.begin(engine, study, name))
    st.rerun()
