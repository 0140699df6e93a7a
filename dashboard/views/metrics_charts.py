"""The charts of the metrics page; a click on a point leads to the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import charts
from dashboard.views.metrics_chosen import Chosen, choose, escaped, go_to, memory, offer
from medidiff.report.folder import Stratum
from medidiff.report.words import many, with_unit
from medidiff.results.rows import WHOLE, Curve

VIEWS = ("Every patient", "Dose", "Agreement", "Functions")
MOST_PANELS, SIDE_BY_SIDE = 9, 2
PICKED = "metrics-picked"
BESIDE = {"NPS": ("NPS reference", "NPS input")}  # functions of a scan, drawn beside those of methods
PLANES = "NPS plane"
FIRST = ("NPS", "TTF", "calibration")  # of what is listed
Kind = tuple[str, str]  # name and region of a function
AXES = {"%": "nominal level", "1/mm": "spatial frequency"}  # of functions, by the unit; else a deviation


def view(chosen: Chosen) -> None:
    before = memory().get("view", VIEWS[0])
    with st.container(horizontal=True, vertical_alignment="center"):
        wanted = st.segmented_control("View", VIEWS, default=before, key="metrics-view", label_visibility="collapsed")
        opens = st.toggle("A click on a point opens the viewer", memory().get("opens", True), key="metrics-opens")
    memory().update(view=wanted or VIEWS[0], opens=opens)
    draw = {VIEWS[1]: _doses, VIEWS[2]: _agreement, VIEWS[3]: _functions}.get(str(wanted), _distributions)
    draw(chosen)


def _distributions(chosen: Chosen) -> None:
    every = chosen.points()
    if every.empty:
        st.info("All values are infinite: the images are identical.")
        return
    span = float(every["value"].min()), float(every["value"].max())
    panels = [
        (str(name), charts.distribution_chart(chosen.results, chosen.outcome, points, span))
        for name, points in every.groupby("stratum", sort=False)
    ]
    _panels(panels, "distribution")
    st.caption(
        f"A point is a patient: the mean over the cases. Boxes, from {charts.BOXED} patients on: quartiles and median, "
        "whiskers to the furthest values within 1.5 interquartile ranges."
    )


def _doses(chosen: Chosen) -> None:
    lines = charts.responses(chosen.results, chosen.outcome, chosen.strata)
    lines = lines[lines["method"].isin(chosen.methods)]
    if lines.empty:
        st.info("This outcome was measured at one dose only, or at an unknown one.")
        return
    panels = []
    for (group, reference), part in lines.groupby(["group", "reference_noise"]):
        strata = [s for s in chosen.strata if (s.group, s.reference_noise) == (group, reference)]
        points = pd.concat([chosen.points(stratum) for stratum in strata])
        title = str(group) or "all cases"
        panels.append((title, charts.dose_chart(chosen.results, chosen.outcome, part, points[points["dose"].notna()])))
    _panels(panels, "dose")
    share = 100 * chosen.results.settings.confidence
    st.caption(f"Large: mean over patients with its {share:g} % bootstrap interval. Small: patients.")


def _agreement(chosen: Chosen) -> None:
    results, outcome = chosen.results, chosen.outcome
    known = set(outcome.of(results.agreement)["against"])
    options = [against for against in (results.baseline, "reference") if against in known]
    if not options:
        st.info("Agreement needs a second method, or an error whose best value is 0 as the bias.")
        return
    against = choose("Against", options, "against", lambda a: f"{a} (baseline)" if a == results.baseline else a)
    panels, told = [], []
    for stratum in chosen.strata:
        points = chosen.points(stratum)
        for line in charts.agreements(results, outcome, stratum, against):
            baseline = None if against == "reference" else against
            both = charts.differences(points, line["method"], baseline)
            if line["method"] in chosen.methods and len(both):
                title = f"{line['method']}, {stratum.label}"
                panels.append((title, charts.agreement_chart(results, outcome, line, both)))
                told.append(_limits(line, stratum))
    _panels(panels, "agreement")
    st.caption(
        f"Bland-Altman: method minus {against}, a point a patient. Solid: mean difference; dashed: limits of "
        "agreement, mean ± 1.96 SD; bands: their 95 % intervals (Student's, and exact by the noncentral t)."
    )
    st.dataframe(pd.DataFrame(told), hide_index=True)


def _limits(line: dict[str, Any], stratum: Stratum) -> dict[str, Any]:
    numbers = {
        f"{title}{end}": line[f"{name}{column}"]
        for name, title in (("bias", "Mean difference"), ("lower", "Lower limit"), ("upper", "Upper limit"))
        for column, end in (("", ""), ("_low", ", from"), ("_high", ", to"))
    }
    return {"Cases of": stratum.label, "Method": line["method"], "Patients": int(line["n"]), **numbers}


def _functions(chosen: Chosen) -> None:
    curves = [c for c in chosen.results.curves if c.name != PLANES and 1 < len(c.x) == len(c.y)]
    beside = {name for names in BESIDE.values() for name in names}
    kinds = [*dict.fromkeys((curve.name, curve.region) for curve in curves if curve.name not in beside)]
    kinds.sort(key=lambda kind: not kind[0].startswith(FIRST))
    if not kinds:
        st.info("No noise spectra, transfer functions or calibration curves were measured.")
        return
    kind = choose("Function", kinds, "function", _kind_words)
    panels = [
        (stratum.label, chart) for stratum in chosen.strata if (chart := _function(chosen, stratum, curves, kind))
    ]
    _panels(panels, "function", is_picked=False)
    st.caption("Means over patients. Grey: reference and input, or the diagonal of a perfect claim.")


def _kind_words(kind: Kind) -> str:
    """Name and region, where the name does not say it."""
    name, region = kind
    return name if region == WHOLE or region in name else f"{name}, {region}"


def _function(chosen: Chosen, stratum: Stratum, curves: Sequence[Curve], kind: Kind) -> Any:
    """The chart of one function in one stratum; None where no method has it."""
    results, cases = chosen.results, set(stratum.of(chosen.results.cases)["case"])
    here = [curve for curve in curves if curve.case in cases]
    found = [curve for curve in here if (curve.name, curve.region) == kind and curve.method in chosen.methods]
    if not found:
        return None
    grey = {name: [curve for curve in here if curve.name == name] for name in BESIDE.get(kind[0], ())}
    beside = [charts.mean_curves(results, some).assign(line=name.split()[-1]) for name, some in grey.items() if some]
    unit, y_unit = found[0].x_unit, found[0].y_unit
    return charts.curve_chart(
        results,
        charts.mean_curves(results, found),
        pd.concat(beside).drop_duplicates(["line", "x"]) if beside else pd.DataFrame({"x": [], "y": [], "line": []}),
        with_unit(AXES.get(unit, "deviation"), unit),
        with_unit(kind[0], y_unit),
        diagonal=unit == "%",
    )


def _panels(panels: Sequence[tuple[str, Any]], name: str, *, is_picked: bool = True) -> None:
    """Charts two in a row, each with its title; a click on a point is noted."""
    shown = panels[:MOST_PANELS]
    for start in range(0, len(shown), SIDE_BY_SIDE):
        row = shown[start : start + SIDE_BY_SIDE]
        for (title, chart), place in zip(row, st.columns(SIDE_BY_SIDE), strict=False):
            key = f"metrics-{name}-{title}"
            with place:
                st.markdown(f"**{escaped(title)}**")
                if is_picked:
                    st.altair_chart(chart, key=key, on_select=partial(_note, key), selection_mode=charts.PICK)
                else:
                    st.altair_chart(chart, key=key)
    if (over := len(panels) - MOST_PANELS) > 0:
        st.caption(f"{many(over, 'further panel is', 'further panels are')} left out: choose fewer cases.")


def _note(key: str) -> None:
    """Which point was clicked; a click beside all of them takes it back."""
    found = st.session_state[key]["selection"].get(charts.PICK) or [{}]
    st.session_state[PICKED] = found[0].get(charts.PICK)


def picked(chosen: Chosen) -> None:
    """Opens what was clicked, or says what it is."""
    points = chosen.points()
    found = points[points["point"] == st.session_state.get(PICKED)]
    if found.empty:
        return
    line = found.iloc[0]
    cases = list(line["cases"])
    if memory()["opens"] and len(cases) == 1:
        landing = chosen.found.landing(chosen.evaluation, cases[0], line["method"])
        if landing is not None and landing.is_result:
            st.session_state[PICKED] = None  # who comes back stays
            go_to(landing)
    with st.container(border=True):
        told = f"{line['method']}, {line['patient']}: {line['value']:.4g} {chosen.outcome.unit}"
        st.markdown(f"**{escaped(told)}**")
        case = cases[0]
        if len(cases) > 1:
            case = st.selectbox("Case", cases, format_func=chosen.names, key="metrics-case")
        offer(chosen, case, line["method"], "picked")
