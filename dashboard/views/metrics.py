"""Metrics: the plots and tables of a report, to be asked; a point leads to the viewer, on its case and worst slice."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.navigation.page import StreamlitPage

from dashboard.results import Evaluation, Evaluations, evaluations
from dashboard.views import metrics_charts, metrics_tables
from dashboard.views.metrics_chosen import Chosen, choose, memory, several
from medidiff.errors import MedidiffError
from medidiff.report.folder import Outcome, Results
from medidiff.report.summary import main_outcomes
from medidiff.report.words import many
from medidiff.results.rows import WHOLE

OWN_NAMES = re.compile(r"\d{3}_(CT|PT)_.*")  # of cases of `medidiff evaluate`; those of NIfTI files are the files'
HIDDEN = "Cases that are called like files may say who a patient is: they are shown to you alone, and in no address."


def page() -> StreamlitPage:
    """What other pages go to."""
    return st.Page(show, title="Metrics", url_path="metrics")


def show() -> None:
    st.header("Metrics")
    found = evaluations()
    listed = found.all()
    for problem in found.problems:
        st.warning(problem)
    if not listed:
        st.info(
            "No results yet: add a folder in the worklist that `medidiff evaluate` or `medidiff run` wrote, or start "
            "`medidiff review` with such a folder."
        )
        return
    study, *rest = st.columns([2, 1, 1, 1])
    with study:
        evaluation = _study(listed)
    try:
        with st.spinner("reading the results"):
            results = found.results(evaluation)
    except MedidiffError as error:
        st.error(str(error))
        return
    outcome = _outcome(results, rest)
    _about(evaluation, results)
    chosen = _chosen(found, evaluation, results, outcome)
    if chosen is None:
        st.info("Choose at least one method and one group of cases.")
        return
    if why := found.why_not(evaluation):
        st.info(why)
    metrics_charts.view(chosen)
    metrics_charts.picked(chosen)
    metrics_tables.every_case(chosen)
    metrics_tables.statistics(chosen)


def _study(listed: Sequence[Evaluation]) -> Evaluation:
    """The one in the address, else the one looked at last, else the newest."""
    by_key = {evaluation.key: evaluation for evaluation in listed}
    asked = st.query_params.get("study")
    if asked in by_key and memory().get("address") != asked:
        st.session_state["metrics-study"] = asked
    key = choose("Study", list(by_key), "study", lambda key: by_key[key].label)
    st.query_params["study"] = memory()["address"] = key
    return by_key[key]


def _about(evaluation: Evaluation, results: Results) -> None:
    patients = many(results.cases["patient"].nunique(), "patient")
    against = f", compared with {results.baseline}" if len(results.methods) > 1 else ""
    made = f"medidiff {evaluation.record.get('medidiff', 'of an unknown version')}"
    st.caption(
        f"{many(len(results.methods), 'method')} on {patients} ({many(len(results.cases), 'case')}){against}; {made}."
    )
    if failures := evaluation.record.get("failures"):
        st.warning(f"{many(len(failures), 'result')} could not be measured and count nowhere; the report names them.")
    if evaluation.record.get("status") == "unfinished":
        st.warning("This study is unfinished: it holds what was measured so far.")


def _outcome(results: Results, places: Sequence[DeltaGenerator]) -> Outcome:
    """One metric in one range and region, those of the report's main table first."""
    outcomes = [*dict.fromkeys([*main_outcomes(results), *results.outcomes(results.rows)])]
    words: dict[str, Callable[[str], str]] = {"metric": str, "preset": _preset, "region": _region}
    for place, (part, shown) in zip(places, words.items(), strict=True):
        with place:
            wanted = choose(part.capitalize(), [getattr(outcome, part) for outcome in outcomes], part, shown)
        outcomes = [outcome for outcome in outcomes if getattr(outcome, part) == wanted]
    return outcomes[0]


def _preset(name: str) -> str:
    return name or "none"


def _region(name: str) -> str:
    return "whole image" if name == WHOLE else name


def _chosen(found: Evaluations, evaluation: Evaluation, results: Results, outcome: Outcome) -> Chosen | None:
    """Cases and methods of an outcome; None where none is left."""
    strata = [stratum for stratum in results.strata if len(stratum.of(outcome.of(results.rows)))]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        labels = several("Cases of", [stratum.label for stratum in strata], "strata")
        methods = several("Methods", list(results.methods), "methods")
        names = _names(evaluation, results)
    kept = [stratum for stratum in strata if stratum.label in labels]
    if not kept or not methods:
        return None
    return Chosen(found, evaluation, results, outcome, kept, [m for m in results.methods if m in methods], names)


def _names(evaluation: Evaluation, results: Results) -> Callable[[str], str]:
    """What cases are called on screen: not like files, until that is asked for."""
    is_named_by_us = str(evaluation.record.get("format", "")).startswith("medidiff-study")
    secret = [case for case in results.cases["case"] if not is_named_by_us and not OWN_NAMES.fullmatch(case)]
    if not secret or st.toggle("Show names of files", key="metrics-names", help=HIDDEN):
        return str
    numbers = {case: f"case {k}" for k, case in enumerate(results.cases["case"], 1)}
    hidden = set(secret)
    return lambda case: numbers[case] if case in hidden else case
