"""What the diffusion page shows: the forward process of a slice, what it leaves, and the way to the reverse.

The case is in the address, as a key; everything else is chosen on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from dashboard import state
from dashboard.diffusing import HALF_WAY, Lesion, Noised, Recognised, Window, forward, measured, spread_of
from dashboard.filmstrip import Panel, Region, movie, png, sheet, short
from dashboard.library import Case, Image
from dashboard.views import sampling
from dashboard.views.computing import computed, without_place
from dashboard.views.viewer import FIRST, PRESETS
from medidiff.diffusion.story import WAYS, share_of_way
from medidiff.errors import MedidiffError
from medidiff.figures import Placement
from medidiff.inference.restore import LADDER_RANGE
from medidiff.noise.level import noise_level

PLACES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0)
FIRST_PLACES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
MOST_PLACES = 7
FRAMES = 25
SECONDS, PAUSE = 0.25, 1.5  # of a frame of the movie, and of its ends
SIZES = (256, 128)
LESIONS = {"HU": Lesion(10.0, 50.0), "SUV": Lesion(10.0, 2.0)}
MEASURES = {
    "structure": ("Structure", "correlation of the scan with the best linear estimate of it"),
    "window": ("In the window", "SSIM of that estimate in the window, where the scan is neither black nor white"),
    "lesion": ("Lesion", "share of right answers of an ideal observer; 0.5 is guessing"),
}
DEFINED = (
    "*Still recognisable* is what the best linear estimate of the scan, made from the scan plus noise, has in common "
    "with the scan: its correlation (structure) and its SSIM in the window; and, of a lesion, how often an ideal "
    "observer tells a place with it from one without."
)


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is looked at."""

    image: Image
    index: int
    window: Window
    region: Region
    placement: Placement

    @property
    def shown(self) -> tuple[int, Window, Region, Placement]:
        """What of the image."""
        return self.index, self.window, self.region, self.placement


def show() -> None:
    """All of the page below its name."""
    case = _case()
    if case is None or case.scan is None:
        st.info("No CT or PET scan is listed: add a folder in the worklist.")
        return
    try:
        chosen = _choice(case.scan)
        kind = st.segmented_control("Show", list(VIEWS), default=next(iter(VIEWS)), key="diffusion view", required=True)
        if kind is not None:
            VIEWS[kind](chosen)
    except MedidiffError as error:
        st.error(without_place(str(error), case.scan))
    except OSError as error:
        st.error(f"The scan could not be read ({error.strerror}); add its folder again in the worklist.")


def _case() -> Case | None:
    """One of those with a scan that can be shown; the one in the address, or looked at last, first."""
    listed: dict[str, Case] = {}
    for case in state.library().cases():
        if case.scan is not None and not case.scan.reason:
            listed.setdefault(case.scan.key, case)
    if not listed:
        return None
    by_key = {case.key: case for case in listed.values()}
    asked = st.query_params.get("case") or st.session_state.get("case")
    wanted = state.library().case(asked) if asked else None
    first = listed.get(wanted.scan.key) if wanted and wanted.scan else None
    keys = list(by_key)
    at = keys.index(first.key) if first else 0
    key = st.selectbox("Case", keys, at, format_func=lambda key: _named(by_key[key]), key="diffusion case")
    case = by_key[key]
    st.session_state["case"] = st.query_params["case"] = case.key
    return case


def _named(case: Case) -> str:
    image = case.scan
    assert image is not None
    parts = (image.modality, image.group[:6], image.kernel, f"{image.slices} slices", image.key[:4])
    return " ".join(filter(None, parts))


def _choice(image: Image) -> Chosen:
    """The slice, what of it, and its grey levels."""
    geometry = image.open().geometry
    left, middle, right = st.columns(3)
    n = image.slices
    with left:
        index = st.slider("Slice", 1, n, n // 2 + 1, key=f"slice {image.key}") - 1 if n > 1 else 0
    with middle:
        window = _window(image)
    with right:
        region = _region(image)
    return Chosen(image, index, window, region, Placement.of(geometry))


def _window(image: Image) -> Window:
    modality = image.modality if image.modality in PRESETS else "CT"
    spread = spread_of(image)
    low, high = (round(spread.mean + k * spread.deviation, 1) for k in (-2, 2))
    windows: dict[str, tuple[float, float]] = {**PRESETS[modality]}
    windows["wide"] = (low if image.unit == "HU" else 0.0, high)
    name = st.selectbox(
        f"Window, {image.unit}",
        list(windows),
        list(windows.values()).index(FIRST[modality]),
        format_func=lambda one: f"{one} ({windows[one][0]:g} to {windows[one][1]:g})",
        key=f"window {image.key}",
    )
    return Window(*windows[name], unit=image.unit)


def _region(image: Image) -> Region:
    rows, columns = image.matrix
    sizes = [0, *(size for size in SIZES if size < min(rows, columns))]
    size = st.selectbox(
        "Region", sizes, format_func=lambda n: f"{n} x {n} pixels" if n else "whole slice", key=f"region {image.key}"
    )
    if not size:
        return Region()
    down, across = st.columns(2)
    half = size // 2
    row = down.slider("Its row", half, rows - half, rows // 2, key=f"row {image.key}")
    return Region(row, across.slider("Its column", half, columns - half, columns // 2, key=f"column {image.key}"), size)


# ------------------------------------------------------------------------------------------------------------- forward


def _forward(chosen: Chosen) -> None:
    image, spread = chosen.image, spread_of(chosen.image)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        ts = st.multiselect(
            "Share of the way", PLACES, FIRST_PLACES, max_selections=MOST_PLACES, key="places",
            format_func=lambda t: f"{t:g}",
        )  # fmt: skip
        seed = int(st.number_input("Seed", 0, 2**31, 0, key="forward seed"))
    preserving = st.toggle("Shrunk as in the literature (variance preserving)", True, key="preserving")
    st.caption(
        f"A schedule leads from the scan (0) to noise (1). σ is relative to the pixels' own spread in this case, "
        f"{spread.deviation:.3g} {image.unit}; ᾱ is the scan's share of the power. The same noise in all pictures. "
        f"{_start(chosen)}"
    )
    if not ts:
        st.info("Choose a place on the way.")
        return
    with st.spinner("adding noise"):
        strip = _strip(chosen.image, *chosen.shown, seed, preserving, tuple(sorted(ts)))
    st.image(strip, output_format="PNG")
    moving = st.toggle(f"Movie, {FRAMES} frames", key="forward movie")
    film = b""
    if moving:
        with st.spinner("drawing the movie"):
            film = _film(chosen.image, *chosen.shown, seed, preserving)
        st.image(film)
    with st.container(horizontal=True):
        st.download_button("Filmstrip (PNG)", strip, "medidiff_forward.png", "image/png", on_click="ignore")
        if moving:
            st.download_button("Movie (GIF)", film, "medidiff_forward.gif", "image/gif", on_click="ignore")


def _start(chosen: Chosen) -> str:
    """Where on the schedules the sampler of medidiff begins."""
    if chosen.image.unit != "HU":  # the noise of PET is a share of the local activity, and no one number
        return ""
    level = LADDER_RANGE[1] * noise_level(chosen.image.open().read(chosen.index))
    sigma = level / spread_of(chosen.image).deviation
    places = ", ".join(f"{name} {100 * share_of_way(name, sigma):.1f} %" for name in WAYS)
    return f"medidiff walks back from {level:.3g} HU only, since it starts from the scan: that is {places} of the way."


@lru_cache(maxsize=16)
def _strip(
    image: Image, index: int, window: Window, region: Region, placement: Placement, seed: int, preserving: bool,
    ts: tuple[float, ...],
) -> bytes:  # fmt: skip
    """PNG, a row a schedule."""
    planes = forward(image, index, ts, seed, preserving=preserving)
    panels = [_panel(one, image, window, region) for one in planes]
    rows = [panels[k : k + len(ts)] for k in range(0, len(panels), len(ts))]
    return png(sheet(rows, placement, _note(window, index), labels=list(WAYS)))


@lru_cache(maxsize=4)
def _film(
    image: Image, index: int, window: Window, region: Region, placement: Placement, seed: int, preserving: bool
) -> bytes:
    """GIF of all schedules beside each other; a frame is one place on the way."""
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        ones = forward(image, index, [float(t)], seed, preserving=preserving)
        panels = [_panel(one, image, window, region, one.schedule) for one in ones]
        frames.append(sheet([panels], placement, _note(window, index)))
    return movie(frames, [PAUSE, *[SECONDS] * (FRAMES - 2), PAUSE])


def _panel(one: Noised, image: Image, window: Window, region: Region, *titles: str) -> Panel:
    level = one.sigma * spread_of(image).deviation
    told = f"t {one.t:.2f}   ᾱ {one.alpha_bar:.2g}", f"σ {short(one.sigma)} = {short(level)} {image.unit}"
    return Panel(region.of(window.grey(one.plane)), (*titles, *told))


def _note(window: Window, index: int) -> str:
    return f"Forward process. Window {window.low:g} to {window.high:g} {window.unit}, slice {index + 1}."


# -------------------------------------------------------------------------------------------------------- recognisable


def _recognisable(chosen: Chosen) -> None:
    image, usual = chosen.image, LESIONS[chosen.image.unit]
    st.markdown(DEFINED)
    with st.container(horizontal=True):
        diameter = st.number_input("Lesion, mm", 2.0, 100.0, usual.diameter_mm, key=f"diameter {image.unit}")
        contrast = st.number_input(f"Contrast, {image.unit}", 0.1, 2000.0, usual.contrast, key=f"contrast {image.unit}")
    lesion = Lesion(float(diameter), float(contrast))
    key = ("recognisable", image.key, chosen.window, lesion)
    found = computed(key, lambda tell: measured(image, chosen.window, lesion, tell), "Measure", image)
    if not isinstance(found, Recognised):
        return
    deviation = spread_of(image).deviation
    for column, (name, (title, what)) in zip(st.columns(len(MEASURES)), MEASURES.items(), strict=True):
        with column:
            st.altair_chart(_curves(found, name, title))
            st.caption(f"{title}: {what}.")
    st.markdown("**Half-way, and where half is lost**")
    st.dataframe(_table(found, deviation, image.unit), hide_index=True)
    st.caption(
        f"Measured on {found.slices} even slices of this case, white noise, the window chosen above; at "
        f"{len(found.levels)} noise levels, those half-way among them, and interpolated between. A schedule decides "
        "when a level is reached, not what it leaves: all curves are one curve along different ways. The lesion lies "
        "in the added noise alone, its place and surroundings known. “Half is lost” is where a curve passes the middle "
        "between all and nothing."
    )


def _curves(found: Recognised, name: str, title: str) -> alt.LayerChart:
    ts = np.linspace(0, 1, 101)
    table = pd.concat(
        pd.DataFrame({"t": ts, "left": found.along(schedule, ts.tolist())[name], "schedule": schedule})
        for schedule in WAYS
    )
    low = 0.5 if name == "lesion" else 0.0
    lines = (
        alt.Chart(table)
        .mark_line()
        .encode(
            x=alt.X("t", title="share of the way"),
            y=alt.Y("left", title="still recognisable", scale=alt.Scale(domain=[low, 1])),
            color=alt.Color("schedule", sort=list(WAYS), legend=alt.Legend(orient="bottom", title=None)),
            tooltip=["schedule", alt.Tooltip("t", format=".2f"), alt.Tooltip("left", format=".3f")],
        )
    )
    half = alt.Chart(pd.DataFrame({"t": [HALF_WAY]})).mark_rule(strokeDash=[4, 4], color="grey").encode(x="t")
    return (half + lines).properties(title=title, height=280)


def _table(found: Recognised, deviation: float, unit: str) -> pd.DataFrame:
    lines = []
    for schedule, way in WAYS.items():
        sigma, halves = float(way(np.array(HALF_WAY))), found.halves(schedule)
        at = {name: float(values[0]) for name, values in found.along(schedule, [HALF_WAY]).items()}
        lines.append(
            {"Schedule": schedule, "σ half-way": round(sigma, 3), f"Noise, {unit}": round(sigma * deviation, 2)}
            | {f"{MEASURES[name][0]} half-way": round(value, 3) for name, value in at.items()}
            | {f"{MEASURES[name][0]}: half is lost at": _place(halves[name]) for name in ("window", "lesion")}
        )
    return pd.DataFrame(lines)


def _place(t: float | None) -> float | None:
    return None if t is None else round(t, 2)


# ------------------------------------------------------------------------------------------------------------- reverse


def _reverse(chosen: Chosen) -> None:
    sampling.reverse(chosen.image, *chosen.shown)


def _compared(chosen: Chosen) -> None:
    sampling.compared(chosen.image, *chosen.shown)


VIEWS: dict[str, Callable[[Chosen], None]] = {
    "Forward": _forward,
    "Still recognisable": _recognisable,
    "Reverse": _reverse,
    "Side by side": _compared,
}
