"""The image viewer as a Streamlit component: up to six images in one, two or four linked panes, around NiiVue.

Streamlit carries the description of the panes, a kilobyte; scripts, styles and volumes come from the HTTP routes under
/review/, which a browser can fetch, cache and show in parts. What Streamlit gets as the component's script is therefore
only a line that imports the real one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

NAME = "medidiff_viewer"
PANES = 6
LAYOUTS = (1, 2, 4)
PLANES = ("axial", "coronal", "sagittal")
TOOLS = ("circle", "rectangle", "freehand", "line", "mark")
# Streamlit makes a blob of this, which has no address for a path to start from. And leaving may come before arriving.
BOOTSTRAP = """
export default function (component) {
  const token = component.data.token;
  const query = token ? `?token=${encodeURIComponent(token)}` : "";
  const script = new URL(`/review/static/viewer.js${query}`, window.location.origin);
  let leave = () => {};
  let isGone = false;
  import(script.href).then(
    (viewer) => { if (!isGone) leave = viewer.default(component); },
    () => { if (!isGone) component.parentElement.append("The viewer could not be loaded: reload the page."); },
  );
  return () => { isGone = true; leave(); };
}
"""
_mount = st.components.v2.component(NAME, js=BOOTSTRAP)


def viewer(
    panes: Sequence[Mapping[str, object]],
    *,
    layout: int = 2,
    plane: str = "axial",
    window: Sequence[float] = (-160, 240),
    presets: Mapping[str, Sequence[float]] | None = None,
    modality: str = "CT",
    at_slice: int | None = None,
    height: int = 720,
    token: str | None = None,
    key: str | None = None,
    tools: Sequence[str] = (),
    rois: Sequence[Mapping[str, object]] = (),
    marks: Sequence[Mapping[str, object]] = (),
    mark_levels: Sequence[str] = (),
    is_blind: bool = False,
) -> dict[str, Any]:
    """Shows the panes and returns what the reader looks at and draws.

    panes     {"title", "volume": key, "slices", "kind": "image" | "difference" | "deviation", "unit": "HU" | "SUV"};
              "base": key of a volume of the same grid to blend it with, "overlay": key of its standard deviation,
              "fused": key of a PET of any grid that is laid on it
    window    (low, high) of the images in the unit of `modality`, "CT" or "PT"; presets: the same by name
    at_slice  index along the plane's own voxel axis, from 0; without it the middle
    height    of the whole viewer in CSS pixels
    tools     of TOOLS, which the reader may draw with; what there is no tool for is shown and stays as it is
    rois      {"id", "kind", "plane", "slice", "points_mm": [[x, y, z], ...]} (LPS): centre and rim of a circle, two
              opposite corners of a rectangle, the closed outline of a freehand region, two ends of a line
    marks     {"id", "slice", "plane", "position_mm", "pane": index into panes, "confidence": 1 .. len(mark_levels)}
    is_blind  nothing but the titles tells the images apart: no list of images, no blending, no deviation

    The answer has "view", "rois" and "marks". "view" has "slice" (index from 0 along the voxel axis), "plane",
    "window", "position_mm" (LPS), "layout", "strength" (per cent, 100 where nothing is blended) and "threshold" (of the
    deviation, None while it is not shown); it comes half a second after the last change, and is None before the first.
    "rois" and "marks" come at once, all of them; before the first change they are what was given.
    What changes in these arguments changes the view; what stays leaves it to the reader: rois and marks may be what was
    returned. Use another key for other images.
    Raises ValueError for a layout, plane or tool that does not exist and for more than six panes.
    """
    if layout not in LAYOUTS or plane not in PLANES or not 0 < len(panes) <= PANES or not set(tools) <= set(TOOLS):
        raise ValueError(f"expected 1 to {PANES} panes, a layout of {LAYOUTS}, plane of {PLANES} and tools of {TOOLS}")
    data = {
        "panes": [dict(pane) for pane in panes],
        "layout": layout,
        "plane": plane,
        "window": list(window),
        "presets": {name: list(limits) for name, limits in (presets or {}).items()},
        "modality": modality,
        "slice": at_slice,
        "height": height,
        "token": token,
        "tools": list(tools),
        "rois": [dict(roi) for roi in rois],
        "marks": [dict(mark) for mark in marks],
        "mark_levels": list(mark_levels),
        "is_blind": is_blind,
    }
    told = _mount(data=data, key=key, on_view_change=_silent, on_rois_change=_silent, on_marks_change=_silent)
    given = {"view": None, "rois": data["rois"], "marks": data["marks"]}
    return {name: before if told.get(name) is None else told[name] for name, before in given.items()}


def _silent() -> None:
    """Streamlit takes a state for one only where somebody listens."""
