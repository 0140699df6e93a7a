"""The viewer: a case's images side by side, linked; which case is in the address, as a key that says nothing."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard import state
from dashboard.library import Case, Image
from dashboard.results import asked_slice
from dashboard.viewer import viewer
from dashboard.views import measuring

PRESETS = {
    "CT": {"abdomen": (-160, 240), "lung": (-1350, 150), "bone": (-450, 1050), "brain": (0, 80)},
    "PT": {"0 to 5": (0, 5), "0 to 7": (0, 7), "0 to 10": (0, 10), "0 to 15": (0, 15), "0 to 20": (0, 20)},
}
FIRST = {"CT": (-160, 240), "PT": (0, 7)}
HEIGHT = 740
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
    drawn = f"drawn {case.key}"  # what was drawn is there again when the reader comes back from another page
    told = viewer(
        panes,
        layout=min(len(panes), 2),
        plane="axial",
        window=FIRST.get(modality, FIRST["CT"]),
        presets=PRESETS.get(modality, PRESETS["CT"]),
        modality=modality,
        at_slice=asked_slice(case.main.slices),
        height=HEIGHT,
        tools=measuring.TOOLS,
        rois=st.session_state.get(drawn, ()),
        key=f"viewer-{case.key}",
    )
    st.session_state[drawn] = told["rois"]
    measuring.show(case, panes, told)


def _case() -> Case | None:
    """The one in the address; else the one looked at last."""
    key = st.query_params.get("case") or st.session_state.get("case")
    case = state.library().case(key) if key else None
    if case is None or case.main.reason:
        return None
    st.session_state["case"] = st.query_params["case"] = case.key
    return case


def _panes(case: Case) -> list[dict[str, object]]:
    """The scan, what was made of it, their difference, the deviation, PET and CT fused; then what the reader adds."""
    result, scan = case.reconstruction, case.scan
    panes = [_pane("scan", scan.key, scan)] if scan else []
    is_blendable = bool(result and scan and result in state.library().beside(scan))
    if result:
        layers = {"base": scan.key} if scan and is_blendable else {}
        layers |= {"overlay": case.deviation.key} if case.deviation else {}
        panes.append(_pane("reconstruction", result.key, result) | layers)
    if result and scan and is_blendable:
        panes.append(_pane("reconstruction - scan", f"{result.key}-{scan.key}", result, "difference"))
    if case.deviation:
        panes.append(_pane("standard deviation", case.deviation.key, case.deviation, "deviation"))
    panes += _fused(case)
    return [*panes, *_added(case, MOST - len(panes))]


def _fused(case: Case) -> list[dict[str, object]]:
    """The CT with the PET on it, whichever of the two the case is; the reader chooses where there are several."""
    library = state.library()
    others = library.fusable(case.main) or (library.fusable(case.scan) if case.scan else [])
    if not others:
        return []
    other = _one("Fuse with", others)
    ct, pet = (case.main, other) if case.main.unit == "HU" else (other, case.main)
    return [_pane("PET on CT", ct.key, ct) | {"fused": pet.key}]


def _one(label: str, images: Sequence[Image]) -> Image:
    if len(images) == 1:
        return images[0]
    names = {image.key: _name(image) for image in images}
    key = st.selectbox(label, list(names), format_func=lambda key: names[key], key="fuse")
    return next(image for image in images if image.key == key)


def _added(case: Case, room: int) -> list[dict[str, object]]:
    """Others of the same grid, such as the full dose."""
    shown = {image.key for image in (case.scan, case.reconstruction, case.deviation) if image}
    others = {image.key: image for image in state.library().beside(case.main) if image.key not in shown}
    if not others:
        return []
    names = {key: _name(image) for key, image in others.items()}
    chosen = st.multiselect(
        "Also show (same grid)", list(others), format_func=lambda key: names[key], max_selections=room, key="beside"
    )
    return [_pane(names[key], key, others[key]) for key in chosen]


def _name(image: Image) -> str:
    return f"{image.modality} {image.group[:6]} {image.kernel} {image.key[:4]}"


def _pane(title: str, volume: str, image: Image, kind: str = "image") -> dict[str, object]:
    return {"title": title, "volume": volume, "slices": image.slices, "kind": kind, "unit": image.unit}
