"""What the metrics page is about: choices that outlive a visit to another page, and the way to the viewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from dashboard import charts
from dashboard.results import Evaluation, Evaluations, Landing
from dashboard.views import viewer
from medidiff.report.folder import Outcome, Results, Stratum

T = TypeVar("T", bound=Hashable)

FURTHEST = "the slice that is furthest from the reference"


@dataclass(frozen=True)
class Chosen:
    """What the page is about."""

    found: Evaluations
    evaluation: Evaluation
    results: Results
    outcome: Outcome
    strata: list[Stratum]
    methods: list[str]
    names: Callable[[str], str]

    @property
    def rows(self) -> pd.DataFrame:
        """The lines of results.csv that are chosen, with the facts of their cases."""
        parts = [stratum.of(self.outcome.of(self.results.rows)) for stratum in self.strata]
        table = pd.concat(parts) if parts else self.results.rows.iloc[:0]
        return table[table["method"].isin(self.methods)]

    def points(self, stratum: Stratum | None = None) -> pd.DataFrame:
        """`charts.patients` of the chosen methods; of one stratum, or of all that are chosen."""
        strata = self.strata if stratum is None else [stratum]
        points = charts.patients(self.results, self.outcome, strata, self.names)
        return points[points["method"].isin(self.methods)]


def memory() -> dict[str, Any]:
    """Choices outlive a visit to another page, which Streamlit's own widgets do not."""
    kept: dict[str, Any] = st.session_state.setdefault("metrics", {})
    return kept


def choose(title: str, options: Sequence[T], name: str, shown: Callable[[T], str] = str) -> T:
    """One of the options, the first at first."""
    options, key = list(dict.fromkeys(options)), f"metrics-{name}"
    if st.session_state.get(key, memory().get(name)) not in options:
        st.session_state[key] = options[0]
    elif key not in st.session_state:
        st.session_state[key] = memory()[name]
    chosen: T = st.selectbox(title, options, key=key, format_func=shown)
    memory()[name] = chosen
    return chosen


def several(title: str, options: Sequence[str], name: str) -> list[str]:
    """Some of the options, all at first."""
    if len(options) < 2:
        return list(options)
    key = f"metrics-{name}"
    before = st.session_state.get(key, memory().get(name, options))
    st.session_state[key] = [option for option in before if option in options] or list(options)
    chosen = st.multiselect(title, options, key=key)
    memory()[name] = chosen
    return chosen


def offer(chosen: Chosen, case: str, method: str, name: str) -> None:
    """A button to the viewer, and what will be seen there."""
    landing = chosen.found.landing(chosen.evaluation, case, method)
    if landing is None:
        st.caption(f"No image of {chosen.names(case)} is listed.")
        return
    where = "the middle slice" if landing.index is None else f"slice {landing.index + 1}, {FURTHEST}"
    what = "" if landing.is_result else f" The result of {method} is not listed: its scan is shown."
    if st.button("Open in the viewer", key=f"metrics-open-{name}", type="primary"):
        go_to(landing)
    st.caption(f"Opens at {where}.{what}")


def go_to(landing: Landing) -> None:
    """The viewer, on this case and slice."""
    where = {} if landing.index is None else {"slice": str(landing.index)}
    st.switch_page(viewer.page(), query_params={"case": landing.case, **where})


def escaped(text: str) -> str:
    """Names are no Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$:])", r"\\\1", text)
