"""The viewer: a case's images side by side, linked; which case is in the address, as a key that says nothing."""

from __future__ import annotations

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard import state
from dashboard.library import Case, Image
from dashboard.viewer import viewer

PRESETS = {
    "CT": {"abdomen": (-160, 240), "lung": (-1350, 150), "bone": (-450, 1050), "brain": (0, 80)},
    "PT": {"0 to 5": (0, 5), "0 to 7": (0, 7), "0 to 10": (0, 10), "0 to 20": (0, 20)},
}
FIRST = {"CT": (-160, 240), "PT": (0, 7)}
HEIGHT = 720
MOST = 6  # images that a viewer takes


def page() -> StreamlitPage:
    """What other pages go to."""
    return st.Page(show, title="Viewer", url_path="viewer")


def show() -> None:
    case = _case()
    if case is None:
        st.info("Choose a case in the worklist.")
        return
    for flag in case.flags:
        st.warning(flag)
    panes = _panes(case)
    modality = case.main.modality
    viewer(
        panes,
        layout=min(len(panes), 2),
        plane="axial",
        window=FIRST.get(modality, FIRST["CT"]),
        presets=PRESETS.get(modality, PRESETS["CT"]),
        modality=modality,
        height=HEIGHT,
        key=f"viewer-{case.key}",
    )


def _case() -> Case | None:
    """The one in the address; else the one looked at last."""
    key = st.query_params.get("case") or st.session_state.get("case")
    case = state.library().case(key) if key else None
    if case is None or case.main.reason:
        return None
    st.session_state["case"] = st.query_params["case"] = case.key
    return case


def _panes(case: Case) -> list[dict[str, object]]:
    """The scan, what was made of it, their difference, and the deviation; then what the reader adds."""
    result, scan = case.reconstruction, case.scan
    panes = [_pane("scan", scan.key, scan)] if scan else []
    if result:
        panes.append(_pane("reconstruction", result.key, result))
    if result and scan and result in state.library().beside(scan):
        panes.append(_pane("reconstruction - scan", f"{result.key}-{scan.key}", result, "difference"))
    if case.deviation:
        panes.append(_pane("standard deviation", case.deviation.key, case.deviation, "deviation"))
    return [*panes, *_added(case, MOST - len(panes))]


def _added(case: Case, room: int) -> list[dict[str, object]]:
    """Others of the same grid, such as the full dose."""
    shown = {image.key for image in (case.scan, case.reconstruction, case.deviation) if image}
    others = {image.key: image for image in state.library().beside(case.main) if image.key not in shown}
    if not others:
        return []
    names = {key: f"{image.modality} {image.group[:6]} {image.kernel} {key[:4]}" for key, image in others.items()}
    chosen = st.multiselect(
        "Also show (same grid)", list(others), format_func=lambda key: names[key], max_selections=room, key="beside"
    )
    return [_pane(names[key], key, others[key]) for key in chosen]


def _pane(title: str, volume: str, image: Image, kind: str = "image") -> dict[str, object]:
    return {"title": title, "volume": volume, "slices": image.slices, "kind": kind, "unit": image.unit}
