"""Part of the viewer: what was drawn, measured in every image that is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import state
from dashboard.library import Case
from dashboard.measuring import Reading, Region, Shown, Voxels, histogram, profile, readings, spectrum
from dashboard.sheet import Curves, sheet
from medidiff import DISCLAIMER, __version__
from medidiff.errors import InputError, MedidiffError
from medidiff.report.styles import COLOURS

TOOLS = ("circle", "rectangle", "freehand", "line")
MOST_SLICES = 10
NAMES = {
    "region": "Region", "kind": "Kind", "plane": "Plane", "image": "Image", "unit": "Unit", "pixels": "Pixels",
    "area_mm2": "Area, mm²", "mean": "Mean", "sd": "SD", "low": "Minimum", "high": "Maximum", "bias": "Bias",
    "against": "against",
}  # fmt: skip
NUMBERS = ("Area, mm²", "Mean", "SD", "Minimum", "Maximum", "Bias")
HOW = "Draw with a tool above the images: circle, rectangle, freehand or line. Every image is measured at that place."


def show(case: Case, panes: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> None:
    """Tables and curves below the viewer; `told` is what the viewer returned."""
    regions = list(_regions(told.get("rois") or []))
    if not regions:
        st.caption(HOW)
        return
    view = told.get("view") or {}
    try:
        images = list(_images(panes, float(view.get("strength") or 0) if "strength" in view else 100.0))
        _measured(regions, images, view)
    except MedidiffError as error:
        st.error(str(error))


def _regions(drawn: Sequence[Mapping[str, Any]]) -> Iterator[Region]:
    for told in drawn:
        try:
            yield Region.of(told)
        except InputError as error:
            st.warning(str(error))


def _images(panes: Sequence[Mapping[str, Any]], strength: float) -> Iterator[Shown]:
    """What the panes show, each image once; a difference is the bias that the table has."""
    seen: set[str] = set()
    for pane in panes:
        volume, fused = str(pane["volume"]), str(pane.get("fused") or "")
        if pane["kind"] != "difference" and volume not in seen:
            base = _voxels(str(pane["base"])) if pane.get("base") and strength < 100 else None
            title = f"{pane['title']}, {strength:g} %" if base else str(pane["title"])
            yield Shown(title, str(pane["unit"]), _voxels(volume), base, strength, pane["kind"] == "image")
        if fused and fused not in seen:
            yield Shown(f"{pane['title']} (PET)", "SUV", _voxels(fused))
        seen |= {fused} if pane["kind"] == "difference" else {volume, fused}


def _voxels(name: str) -> Voxels:
    return Voxels(state.volumes().whole(name))


def _measured(regions: Sequence[Region], images: Sequence[Shown], view: Mapping[str, Any]) -> None:
    compared = [image.title for image in images if image.is_compared]
    st.subheader("Measurements")
    reference = None
    if len(compared) > 1:
        reference = st.selectbox("Bias against", compared, key="bias against", width=360)
    table = _table(readings(regions, images, reference))
    if len(table):
        number = st.column_config.NumberColumn(format="%.4g")
        st.dataframe(table, hide_index=True, column_config=dict.fromkeys(NUMBERS, number))
    lines = [region for region in regions if region.kind == "line"]
    areas = [region for region in regions if region.is_area]
    curves: dict[tuple[str, str], Curves] = {}
    left, middle, right = st.columns(3)
    with left:
        curves |= _profile(lines, images)
    with middle:
        curves |= _spectrum(areas, images)
    with right:
        curves |= _histogram(areas, images)
    _exports(table, curves, regions, images, view)


def _table(found: Sequence[Reading]) -> pd.DataFrame:
    names = [field.name for field in fields(Reading)]
    return pd.DataFrame([asdict(one) for one in found], columns=names).rename(columns=NAMES)


def _chosen(label: str, regions: Sequence[Region]) -> Region | None:
    """The one drawn last, or another."""
    names = {region.name: region for region in reversed(regions)}
    if len(names) > 1:
        return names[st.selectbox(label, list(names), key=label)]
    return next(iter(names.values()), None)


def _profile(lines: Sequence[Region], images: Sequence[Shown]) -> dict[tuple[str, str], Curves]:
    line = _chosen("Profile of", lines)
    if line is None:
        return {}
    found = {image.title: profile(line, image) for image in images if image.is_compared}
    return _drawn(("distance, mm", _unit(images)), {title: curve for title, curve in found.items() if curve[0].size})


def _spectrum(areas: Sequence[Region], images: Sequence[Shown]) -> dict[tuple[str, str], Curves]:
    area = _chosen("Noise power of", areas)
    if area is None:
        return {}
    each_side = st.slider("Slices on each side", 0, MOST_SLICES, 0, key="each side", help="More of them: less chance.")
    try:
        found = {image.title: spectrum(area, image, each_side) for image in images if image.is_compared}
    except InputError as error:
        st.caption(f"No noise power spectrum: {error}.")
        return {}
    st.caption(
        "Noise power spectrum of an even region; "
        + "; ".join(f"{title}: mean {one.mean_frequency:.2f} /mm, SD {one.level:.3g}" for title, one in found.items())
    )
    names = ("spatial frequency, 1/mm", f"noise power, ({_unit(images)})² mm²")
    return _drawn(names, {title: (one.frequency, one.power) for title, one in found.items()})


def _histogram(areas: Sequence[Region], images: Sequence[Shown]) -> dict[tuple[str, str], Curves]:
    area = _chosen("Histogram of", areas)
    if area is None:
        return {}
    edges, shares = histogram(area, [image for image in images if image.is_compared])
    middles = (edges[:-1] + edges[1:]) / 2
    return _drawn((f"value, {_unit(images)}", "share of the pixels"), {t: (middles, y) for t, y in shares.items()})


def _unit(images: Sequence[Shown]) -> str:
    return " and ".join(dict.fromkeys(image.unit for image in images if image.is_compared))


def _drawn(names: tuple[str, str], curves: Curves) -> dict[tuple[str, str], Curves]:
    """On the page; nothing where there is no curve."""
    if not curves:
        return {}
    x, y = names
    colours = alt.Scale(domain=list(curves), range=[COLOURS[k % len(COLOURS)] for k in range(len(curves))])
    chart = (
        alt.Chart(_long(names, curves))
        .mark_line(interpolate="linear")
        .encode(
            x=alt.X("x:Q", title=x),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero="share" in y or "power" in y)),
            color=alt.Color("image:N", title=None, scale=colours, legend=alt.Legend(orient="top", columns=1)),
            tooltip=["image:N", alt.Tooltip("x:Q", title=x, format=".4g"), alt.Tooltip("y:Q", title=y, format=".4g")],
        )
    )
    st.altair_chart(chart)
    return {names: curves}


def _long(names: tuple[str, str], curves: Curves) -> pd.DataFrame:
    parts = [pd.DataFrame({"image": title, "x": x, "y": y}) for title, (x, y) in curves.items()]
    return pd.concat(parts, ignore_index=True).assign(x_is=names[0], y_is=names[1])


def _exports(
    table: pd.DataFrame, curves: Mapping[tuple[str, str], Curves], regions: Sequence[Region], images: Sequence[Shown],
    view: Mapping[str, Any],
) -> None:  # fmt: skip
    with st.container(horizontal=True):
        _download("Table (CSV)", "measurements.csv", _signed(table))
        if curves:
            long = pd.concat([_long(names, lines) for names, lines in curves.items()], ignore_index=True)
            _download("Curves (CSV)", "curves.csv", _signed(long))
        st.download_button(
            "Picture (PNG)",
            lambda: sheet(regions, images, _windows(view, images), curves),
            "measurements.png",
            "image/png",
            on_click="ignore",
        )


def _signed(table: pd.DataFrame) -> pd.DataFrame:
    """With what made it, and what it is not for, on every line."""
    return table.assign(medidiff=__version__, note=DISCLAIMER)


def _download(label: str, name: str, table: pd.DataFrame) -> None:
    st.download_button(label, table.to_csv(index=False, lineterminator="\n"), name, "text/csv", on_click="ignore")


def _windows(view: Mapping[str, Any], images: Sequence[Shown]) -> dict[str, tuple[float, float]]:
    """As in the viewer where it told; PET is shown inverted."""
    usual: dict[str, tuple[float, float]] = {"HU": (-160.0, 240.0), "SUV": (7.0, 0.0)}
    if not view.get("window") or not images:
        return usual
    low, high = map(float, view["window"])
    unit = images[0].unit
    return usual | {unit: (high, low) if unit == "SUV" else (low, high)}
