"""The worklist: every scan and every reconstruction of the listed folders, one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import state
from dashboard.library import Case
from dashboard.thumbnails import thumbnail
from dashboard.views import reconstructing, viewer
from medidiff.errors import MedidiffError

HIDDEN = "Folder names may say who a patient is; they are shown to you alone, and in no address."


def show() -> None:
    st.header("Worklist")
    _add_folder()
    library = state.library()
    for problem in library.problems:
        st.warning(problem)
    cases = _chosen(library.cases())
    if not cases:
        st.info("Nothing to show: add a folder that holds a CT or PET scan, or a result of `medidiff reconstruct`.")
        return
    is_named = st.toggle("Show folders", help=HIDDEN)
    table = pd.DataFrame([_line(case, is_named) for case in cases])
    picked = st.dataframe(
        table,
        key="worklist",
        hide_index=True,
        row_height=96,
        height=min(96 * len(table) + 40, 700),
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "": st.column_config.ImageColumn("", width="small"),
            "Flags": st.column_config.Column(width="large"),
        },
    )
    rows = picked["selection"]["rows"]  # type: ignore[index]
    case = cases[rows[0]] if rows else None
    with st.container(horizontal=True):
        wanted = st.button("Open in the viewer", disabled=case is None or bool(case.main.reason), type="primary")
        reconstructing.ask(case)
    if wanted and case is not None:
        st.switch_page(viewer.page(), query_params={"case": case.key})
    reconstructing.running()
    if case is None:
        st.caption("Choose a line at its left edge. Columns sort by a click on their name.")


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


def _chosen(cases: list[Case]) -> list[Case]:
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
        and (case.flags or not flagged)
        and all(word in _searched(case) for word in words)
    ]  # fmt: skip


def _searched(case: Case) -> str:
    return " ".join([*map(str, _line(case, is_named=True).values())]).lower()


def _line(case: Case, is_named: bool) -> dict[str, Any]:
    image, record = case.main, case.record
    strength = record.get("strength")
    line = {
        "": thumbnail(image),
        "Study": image.group[:6],
        "Modality": image.modality,
        "Image": "reconstruction" if record else "scan",
        "Slices": image.slices,
        "Matrix": f"{image.matrix[0]} x {image.matrix[1]}",
        "Spacing, mm": " x ".join(f"{mm:.3g}" for mm in image.spacing_mm),
        "Kernel": image.kernel,
        "Model": " ".join(filter(None, [record.get("model") or record.get("method"), _short(record)])),
        "Mode": "" if strength is None else f"{record.get('mode')}, {strength:g} %",
        "Flags": "; ".join((*case.flags, *([image.reason] if image.reason else []))),
    }
    return line | ({"Folder": str(image.place)} if is_named else {})


def _short(record: dict[str, Any]) -> str:
    return str(record.get("model_sha256") or "")[:8]
