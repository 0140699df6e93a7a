"""The worklist: every scan and every reconstruction of the listed folders, one line each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import state
from dashboard.flags import ADDED, ADDED_SIGMA, BIAS_HU, BIAS_PERCENT, COVERAGE, COVERAGE_PERCENT, Figures
from dashboard.library import Case
from dashboard.results import evaluations
from dashboard.thumbnails import thumbnail
from dashboard.views import reconstructing, viewer
from medidiff.errors import MedidiffError

SIMULATED = re.compile(r"simulated (?:([\d.]+) % dose|1/([\d.]+) of)")  # what `medidiff simulate` calls a series
FLAGS = (
    "From the run: its warnings, and where less was changed than the model would. From an evaluation: bias of a tissue "
    f"beyond {BIAS_HU:g} HU, or of uptake beyond {BIAS_PERCENT:g} %; coverage of the claimed 90 % interval below "
    f"{COVERAGE_PERCENT:g} %; added structure beyond {ADDED_SIGMA:g} times the noise. What was not measured is not "
    "flagged."
)
ALWAYS = ("", "Flags")
MEASURED = ("PSNR", "SSIM", COVERAGE, ADDED)
FORMATS = {
    "PSNR": "%.2f", "SSIM": "%.3f", COVERAGE: "%.0f", ADDED: "%.1f", "Dose": "%.3g", "Strength": "%.3g", "mAs": "%.0f",
    "Slice, mm": "%.2f", "Pixel": "%.2f",
}  # fmt: skip
HELP = {
    "Dose, %": "Of the full dose, where an evaluation says so or the scan was simulated.",
    "mAs": "Median over the slices.",
    COVERAGE: "Share of the errors, against the truth, that lie in the interval that the method claims for 90 %.",
    ADDED: "The strongest structure that neither scan nor reference holds, in deviations of the noise.",
    "Evaluation": "Where PSNR, SSIM and flags come from: the newest that judged this image.",
}
MOMENT = 1.5  # seconds that a page may spend on pictures before it is there
MOST_PICTURES = 500  # no more are kept: a longer list is searched first
HIDDEN = "Folder names may say who a patient is; they are shown to you alone, and in no address."


def show() -> None:
    st.header("Worklist")
    _add_folder()
    library = state.library()
    for problem in library.problems:
        st.warning(problem)
    found = evaluations()
    figures = found.figures()
    for problem in found.problems:
        st.warning(problem)
    cases = _chosen(library.cases(), figures)
    if not cases:
        st.info("Nothing to show: add a folder that holds a CT or PET scan, or a result of `medidiff reconstruct`.")
        return
    is_named = st.toggle("Show folders", help=HIDDEN)
    pictures, is_whole = _pictures(cases)
    table = _table([_line(case, figures, is_named) for case in cases], pictures)
    picked = st.dataframe(
        table,
        key="worklist",
        hide_index=True,
        row_height=96,
        placeholder="",
        height=min(96 * len(table) + 40, 700),
        on_select="rerun",
        selection_mode="single-row",
        column_config=_columns(table),
    )
    rows = picked["selection"]["rows"]
    case = cases[rows[0]] if rows else None
    with st.container(horizontal=True):
        wanted = st.button("Open in the viewer", disabled=case is None or bool(case.main.reason), type="primary")
        reconstructing.ask(case)
    if wanted and case is not None:
        st.switch_page(viewer.page(), query_params={"case": case.key})
    reconstructing.running()
    if case is None:
        st.caption("Choose a line at its left edge. Columns sort by a click on their name.")
    if not is_whole:
        st.session_state["pictures"] = "to be drawn"
        _more_pictures(cases)


def _table(lines: Sequence[dict[str, Any]], pictures: Sequence[str | None]) -> pd.DataFrame:
    """Lines with their pictures; figures stand before their evaluation, and columns that say nothing are left out."""
    table = pd.DataFrame(lines)
    table.insert(0, "", pictures)
    measured = [name for start in MEASURED for name in sorted(table) if name.startswith(start)]
    others = [name for name in table if name not in measured]
    place = others.index("Evaluation")
    ordered = table[[*others[:place], *measured, *others[place:]]]
    empty = [name for name in ordered if name not in ALWAYS and ordered[name].replace("", None).isna().all()]
    return ordered.drop(columns=empty)


def _pictures(cases: Sequence[Case]) -> tuple[list[str | None], bool]:
    """Thumbnails, as many as can be made in a moment, and whether these are all: a packed file takes seconds."""
    pictures: list[str | None] = []
    since = time.monotonic()
    wanted = cases[:MOST_PICTURES]
    for case in wanted:
        if time.monotonic() - since > MOMENT:
            break
        pictures.append(thumbnail(case.main))
    return [*pictures, *[None] * (len(cases) - len(pictures))], len(pictures) == len(wanted)


@st.fragment(run_every=2 * MOMENT)
def _more_pictures(cases: Sequence[Case]) -> None:
    """Makes those that are missing while the table can be read, and draws it again."""
    if st.session_state.pop("pictures", None) is None:  # the first time it is part of the page, which is not yet there
        _pictures(cases)
        st.rerun()


def _add_folder() -> None:
    with st.form("add", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        path = st.text_input("Add a folder", placeholder="a folder below those this dashboard may read")
        wanted = st.form_submit_button("Add")
    if not wanted or not path.strip():
        return
    try:
        with st.spinner("reading headers"):
            found = state.library().add(Path(path.strip()))
    except MedidiffError as error:
        st.error(str(error))
    else:
        st.success(f"{found} more images listed" if found else "nothing in it that was not listed already")


def _chosen(cases: list[Case], figures: Mapping[str, Figures]) -> list[Case]:
    """What the filters and the search leave."""
    with st.container(horizontal=True):
        modality = st.segmented_control("Modality", sorted({case.main.modality for case in cases}), key="modality")
        kind = st.segmented_control("Kind", ["reconstructions", "scans"], key="kind")
        flagged = st.toggle("Flagged only", key="flagged")
        words = st.text_input("Search", key="search", placeholder="kernel, model, flag, folder").lower().split()
    return [
        case for case in cases
        if modality in (None, case.main.modality)
        and kind in (None, "reconstructions" if case.record else "scans")
        and (_flags(case, figures) or not flagged)
        and (not words or all(word in _searched(case, figures) for word in words))
    ]  # fmt: skip


def _searched(case: Case, figures: Mapping[str, Figures]) -> str:
    return " ".join(map(str, _line(case, figures, is_named=True).values())).lower()


def _flags(case: Case, figures: Mapping[str, Figures]) -> list[str]:
    """What a reviewer should know, of the image, of its run and of its evaluation."""
    judged = figures.get(case.key)
    return [*([case.main.reason] if case.main.reason else []), *case.flags, *(judged.flags if judged else ())]


def _line(case: Case, figures: Mapping[str, Figures], is_named: bool) -> dict[str, Any]:
    """What is known of a case; numbers as numbers, by which a column can be sorted."""
    image, record, judged = case.main, case.record, figures.get(case.key)
    line = {
        "Study": image.group[:6],
        "Modality": image.modality,
        "Image": "reconstruction" if record else "scan",
        "Flags": "; ".join(_flags(case, figures)),
        "Model": " ".join(filter(None, [record.get("model") or record.get("method"), _short(record)])),
        "Mode": _mode(record),
        "Strength, %": record.get("strength"),
        "Dose, %": _dose(case, figures),
        **(judged.named if judged else {}),
        "Evaluation": judged.evaluation if judged and judged.named else "",
        "Kernel": image.kernel,
        "mAs": None if image.series is None else image.series.mas,
        "Slices": image.slices,
        "Rows": image.matrix[0],
        "Columns": image.matrix[1],
        "Slice, mm": image.spacing_mm[0],
        "Pixel, mm": image.spacing_mm[1],
    }
    return line | ({"Folder": str(image.place)} if is_named else {})


def _mode(record: Mapping[str, Any]) -> str:
    """In texture mode with the dose whose noise is shown."""
    shown = f", noise of {100 * record['dose']:.3g} % dose" if record.get("dose") else ""
    return f"{record.get('mode', '')}{shown}"


def _dose(case: Case, figures: Mapping[str, Figures]) -> float | None:
    """In % of the full one: as an evaluation says, of the image or its scan, or as `medidiff simulate` wrote it."""
    images = [image for image in (case.main, case.scan) if image is not None]
    for image in images:
        if (judged := figures.get(image.key)) is not None and judged.dose is not None:
            return 100 * judged.dose
    for image in images:
        if image.series is not None and (found := SIMULATED.search(image.series.instances[0].reconstruction)):
            percent, factor = found.groups()
            return float(percent) if percent else 100 / float(factor)
    return None


def _short(record: Mapping[str, Any]) -> str:
    return str(record.get("model_sha256") or "")[:8]


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    """How columns are shown: pictures, and numbers to as many digits as they are read."""
    numbers = {
        name: st.column_config.NumberColumn(name, format=form, help=HELP.get(name))
        for name in table
        if (form := next((form for start, form in FORMATS.items() if name.startswith(start)), None))
    }
    return numbers | {
        "": st.column_config.ImageColumn("", width="small"),
        "Flags": st.column_config.Column(width=280, help=FLAGS),
        "Model": st.column_config.Column(width=90),
        "Mode": st.column_config.Column(width=100),
        "Evaluation": st.column_config.Column(width="medium", help=HELP["Evaluation"]),
    }
