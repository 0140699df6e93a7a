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
) -> dict[str, Any] | None:
    """Shows the panes and returns what the reader looks at: None until they moved.

    panes     {"title", "volume": key, "slices", "kind": "image" | "difference" | "deviation", "unit": "HU" | "SUV"}
    window    (low, high) of the images in the unit of `modality`, "CT" or "PT"; presets: the same by name
    at_slice  index along the plane's own voxel axis, from 0; without it the middle
    height    of the whole viewer in CSS pixels

    The answer has "slice" (index from 0 along the voxel axis), "plane", "window", "position_mm" (LPS) and "layout", and
    comes half a second after the last change. What changes in these arguments changes the view; what stays leaves it
    to the reader. Raises ValueError for a layout or plane that does not exist and for more than six panes.
    """
    if layout not in LAYOUTS or plane not in PLANES or not 0 < len(panes) <= PANES:
        raise ValueError(f"expected 1 to {PANES} panes, a layout of {LAYOUTS} and a plane of {PLANES}")
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
    }
    return _mount(data=data, key=key, on_view_change=lambda: None).view
