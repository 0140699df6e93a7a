"""Part of the diffusion page: the reverse process of a slice step by step, and what its choices change."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import state
from dashboard.diffusing import (
    MOST_STEPS,
    ROWS,
    Abilities,
    Cell,
    Compared,
    Reverse,
    Scores,
    Walk,
    Window,
    cost,
    embedded_for,
    noise_of,
)
from dashboard.diffusing import compared as compare
from dashboard.diffusing import reverse as walk_back
from dashboard.filmstrip import Panel, Region, movie, png, sheet, short
from dashboard.library import Image
from dashboard.views.computing import computed
from medidiff.diffusion.samplers import SAMPLERS
from medidiff.diffusion.schedule import LADDERS
from medidiff.figures import Placement
from medidiff.inference.restore import LADDER_RANGE

OWN = "the sampler's own"
COLUMNS = 8  # of the filmstrip: scan, six steps, end
NO_GUIDANCE = "This model was never trained without its scan, which guidance compares with."
SECONDS, PAUSE = 0.7, 2.0  # of a frame of the movie, and of its ends


def reverse(image: Image, index: int, window: Window, region: Region, placement: Placement) -> None:
    able = _told(image)
    if not able.can_sample:
        return
    walk = _walk(able)
    other = _reference(image)
    key = ("reverse", image.key, index, walk, window, None if other is None else other.key)
    made = computed(
        key,
        lambda tell: walk_back(image, index, walk, window, other, tell),
        f"Compute, {walk.evaluations} evaluations",
        image,
    )
    if not isinstance(made, Reverse):
        return
    note = f"Reverse process, {_words(walk)}. {_where(window, index)}"
    with st.spinner("drawing"):
        strip, film = _strip(made, region, placement, note), _film(made, region, placement, note)
    st.image(strip, output_format="PNG")
    _cost(made, walk)
    if made.scores:
        st.dataframe(_scored(made.scores, window), hide_index=True)
    st.image(film)
    with st.container(horizontal=True):
        st.download_button("Filmstrip (PNG)", strip, "medidiff_reverse.png", "image/png", on_click="ignore")
        st.download_button("Movie (GIF)", film, "medidiff_reverse.gif", "image/gif", on_click="ignore")


def _told(image: Image) -> Abilities:
    """What the embedded model of this unit can do."""
    able = Abilities.of(embedded_for(image.unit))
    if not able.can_sample:
        st.info(f"Model '{able.name}' gives one best estimate and draws no samples: it has no reverse process.")
        return able
    low, high = LADDER_RANGE
    known = "" if able.trained is None else (
        f" 95 % of its training with noise was at {able.trained[0]:.2g} to {able.trained[1]:.2g} times the scan's "
        f"noise, and {able.mean:.0%} of all training was of the mean, without any."
    )  # fmt: skip
    st.caption(
        f"Model '{able.name}' can sample. The sampler starts from the mean (the quantitative result) plus noise of "
        f"{high:g} times the scan's own and walks down to {low:g} times.{known} What a sample adds to the mean is "
        "invented: a possibility, not a measurement."
    )
    return able


def _walk(able: Abilities) -> Walk:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        sampler = st.selectbox("Sampler", list(SAMPLERS), list(SAMPLERS).index(Walk().sampler), key="sampler")
        steps = int(st.number_input("Steps", 1, MOST_STEPS, Walk().steps, key="steps"))
        ladder = st.selectbox("Schedule", [OWN, *LADDERS], key="ladder")
        scale = float(
            st.number_input(
                "Guidance", 0.0, 20.0, 1.0, 0.5, key="guidance", disabled=not able.guided,
                help=None if able.guided else NO_GUIDANCE,
            )
        )  # fmt: skip
        strength = float(st.slider("Strength, %", 0, 100, 100, key="reverse strength"))
        seed = int(st.number_input("Seed", 0, 2**31, 0, key="reverse seed"))
    return Walk(sampler, steps, None if ladder == OWN else ladder, scale if able.guided else 1.0, strength, seed)


def _reference(image: Image) -> Image | None:
    """Another scan of the same grid to score against, such as the full dose; if just one has less noise, that one."""
    others = {one.key: one for one in _beside(image, frozenset(state.library().images))}
    if not others:
        st.caption("No other scan of the same grid is listed, such as the full dose, so nothing is scored.")
        return None
    better = [key for key, one in others.items() if noise_of(one) < noise_of(image)]
    key = st.selectbox(
        "Score against (same grid)",
        list(others),
        list(others).index(better[0]) if len(better) == 1 else None,
        placeholder="nothing",
        format_func=lambda key: f"{others[key].kernel} {key[:4]}, {_noise(others[key])}".strip(),
        key=f"against {image.key}",
    )
    if key and key not in better:
        st.warning(f"It is noisier than the scan ({_noise(image)}), so the scores say little about the truth.")
    return others[key] if key else None


def _noise(image: Image) -> str:
    level = noise_of(image)
    return f"noise {level:.3g} HU" if image.unit == "HU" else f"noise {100 * level:.3g} % of the activity"


@lru_cache(maxsize=32)
def _beside(image: Image, listed: frozenset[str]) -> list[Image]:
    """Scans, no results; as long as the same is listed."""
    library = state.library()
    made = {one.key for case in library.cases() for one in (case.reconstruction, case.deviation) if one}
    return [one for one in library.beside(image) if one.key not in made]


def _cost(made: Reverse, walk: Walk) -> None:
    held = (
        "" if made.weight == 1 else f" The scan lies outside of what the model has seen: {made.weight:.0%} is changed."
    )
    st.caption(
        f"{made.seconds:.1f} s, {walk.evaluations} network evaluations with the one for the mean. "
        f"σ is in units of the scan's own noise, {made.level:.3g} {_unit(made)}. State: what the sampler holds; "
        f"estimate: the clean image that the network makes of it.{held}"
    )


def _unit(made: Reverse) -> str:
    return made.unit if made.unit == "HU" else "SUV (median over the body)"


def _scored(scores: Mapping[str, Scores], window: Window) -> pd.DataFrame:
    limits = f"{window.low:g} to {window.high:g}"
    return pd.DataFrame(
        {
            "": name,
            f"RMSE, {window.unit}": round(one.rmse, 3),
            f"PSNR in {limits}, dB": round(one.psnr, 2),
            f"SSIM in {limits}": round(one.ssim, 4),
        }
        for name, one in scores.items()
    )


def _stages(made: Reverse, region: Region) -> list[tuple[Panel, Panel]]:
    """(state, estimate) of every step; at the end sample and result."""
    n = len(made.stages) - 1
    pairs = []
    for k, stage in enumerate(made.stages):
        level = f"σ {stage.sigma:.2g} = {short(stage.sigma * made.level)} {made.unit}"
        told = _times(stage.evaluations)
        words = ("the sample", "the result") if k == n else (f"step {k + 1} of {n}: state", "estimate")
        state_, estimate = (region.of(grey) for grey in (stage.state, stage.estimate))
        pairs.append((Panel(state_, (words[0], level)), Panel(estimate, (words[1], told))))
    return pairs


@lru_cache(maxsize=4)
def _strip(made: Reverse, region: Region, placement: Placement, note: str) -> bytes:
    """PNG: scan and mean, up to six steps, sample and result."""
    *walked, end = _stages(made, region)
    shown = sorted({round(k) for k in np.linspace(0, len(walked) - 1, min(COLUMNS - 2, len(walked)))})
    first = Panel(region.of(made.scan), ("the scan",)), Panel(region.of(made.mean), ("mean, no sampling",))
    columns = [first, *(walked[k] for k in shown), end]
    rows = [[column[row] for column in columns] for row in (0, 1)]
    return png(sheet(rows, placement, note))


@lru_cache(maxsize=4)
def _film(made: Reverse, region: Region, placement: Placement, note: str) -> bytes:
    """GIF of state and estimate, a frame a step and one for the end."""
    frames = [sheet([pair], placement, note) for pair in _stages(made, region)]
    seconds = [PAUSE, *[SECONDS] * (len(frames) - 2), PAUSE]
    return movie(frames, seconds[: len(frames)])


def _times(evaluations: int) -> str:
    return f"{evaluations} evaluation{'s' if evaluations > 1 else ''}"


def _words(walk: Walk) -> str:
    ladder = "" if walk.ladder is None else f" on {walk.ladder}"
    steps = f"{walk.steps} step{'s' if walk.steps > 1 else ''}"
    return (
        f"{walk.sampler}{ladder}, {steps}, guidance {walk.cfg_scale:g}, strength {walk.strength:g} %, seed {walk.seed}"
    )


def _where(window: Window, index: int) -> str:
    return f"Window {window.low:g} to {window.high:g} {window.unit}, slice {index + 1}."


# ------------------------------------------------------------------------------------------------------------ compared


def compared(image: Image, index: int, window: Window, region: Region, placement: Placement) -> None:
    able = _told(image)
    if not able.can_sample:
        return
    base = _walk(able)
    offered = [name for name in ROWS if name != "guidance" or able.guided]
    if not able.guided:
        st.caption(f"No row for guidance. {NO_GUIDANCE}")
    names = st.pills("Vary", offered, selection_mode="multi", default=offered, key=f"vary {able.name}")
    names = [name for name in ROWS if name in names]
    other = _reference(image)
    if not names:
        st.info("Choose what to vary.")
        return
    key = ("compared", image.key, index, base, tuple(names), window, None if other is None else other.key)
    made = computed(
        key,
        lambda tell: compare(image, index, base, names, window, other, tell),
        f"Compute, {cost(base, names)} evaluations",
        image,
    )
    if not isinstance(made, Compared):
        return
    note = f"{_words(base)}, but for what a row varies. {_where(window, index)}"
    page = _grid(made, window, region, placement, note)
    st.image(page, output_format="PNG")
    if made.deviation is not None:
        st.caption(
            f"Where seeds differ the model chooses, not the scan: their standard deviation is {made.deviation_rms:.3g} "
            f"{image.unit} (root mean square over the slice); white is {made.reach:g} {image.unit} and more."
        )
    st.dataframe(_listed(made, window), hide_index=True)
    st.caption("Seconds and evaluations include the mean, which is computed once; strength is applied to one sample.")
    st.download_button("Grid (PNG)", page, "medidiff_compared.png", "image/png", on_click="ignore")


@lru_cache(maxsize=4)
def _grid(made: Compared, window: Window, region: Region, placement: Placement, note: str) -> bytes:
    def panel(cell: Cell) -> Panel:
        return Panel(region.of(cell.grey), (cell.label, *_lines(cell, window)))

    rows: dict[str, list[Panel | None]] = {"": [panel(cell) for cell in made.first]}
    rows |= {name: [panel(cell) for cell in cells] for name, cells in made.rows.items()}
    if made.deviation is not None:
        told = f"0 to {made.reach:g} {window.unit}; {made.deviation_rms:.3g} over the slice"
        rows["seed"].append(Panel(region.of(made.deviation), ("deviation over seeds", told)))
    return png(sheet(list(rows.values()), placement, note, widest=280))


def _lines(cell: Cell, window: Window) -> list[str]:
    spent = f"{cell.seconds:.1f} s, {_times(cell.evaluations)}" if cell.evaluations else ""
    if cell.scores is None:
        return [spent] if spent else []
    scores = cell.scores
    told = f"RMSE {scores.rmse:.3g} {window.unit}, PSNR {scores.psnr:.1f}, SSIM {scores.ssim:.3f}"
    return [told, *([spent] if spent else [])]


def _listed(made: Compared, window: Window) -> pd.DataFrame:
    lines = []
    for row, cells in {"": made.first, **made.rows}.items():
        for cell in cells:
            line: dict[str, object] = {"Varied": row, "Result": cell.label}
            if cell.scores is not None:
                line |= _scored({"": cell.scores}, window).drop(columns="").iloc[0].to_dict()
            if cell.evaluations:
                line |= {"Seconds": round(cell.seconds, 2), "Evaluations": cell.evaluations}
            lines.append(line)
    return pd.DataFrame(lines)
