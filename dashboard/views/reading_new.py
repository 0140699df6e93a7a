"""Part of the reader study: its owner chooses images and questions, and stores the study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
import streamlit as st

from dashboard import state
from dashboard.library import Image
from dashboard.reading.candidates import Candidate, candidates, cases_of
from dashboard.reading.design import DEFAULT_SCALES, LEVELS, PREFERENCE, Design, Images, Lesion, Scale, designed
from dashboard.reading.order import items
from dashboard.reading.truth import COLUMNS, from_labels, from_table
from dashboard.roots import permitted
from dashboard.thumbnails import thumbnail
from dashboard.views.viewer import PRESETS
from dashboard.views.worklist import HIDDEN
from medidiff.errors import MedidiffError, UsageError
from medidiff.results.readings import create_study

POINTS = 7  # columns for anchors; a scale may have fewer
WORDS = "Image", "Kernel", "Slices", "Key"


def show(engine: sa.Engine) -> None:
    name = st.text_input("Name of the study", placeholder="noise 2025", help="Readers see it: no patients, no arms.")
    modality = st.segmented_control("Modality", list(PRESETS), default="CT", key="study modality") or "CT"
    rows = candidates(state.library(), modality)
    if not rows:
        st.info("No image of this modality is listed: start the dashboard with the folders of the study.")
        return
    try:
        images = _images(rows)
        questions = _questions(modality)
        lesions = _truth(images) if questions["levels"] else {}
    except MedidiffError as error:
        st.error(str(error))
        return
    if st.button("Make the study", type="primary"):
        _make(engine, name, modality, images, lesions, questions)


def _images(rows: list[Candidate]) -> dict[int, dict[str, Image]]:
    """Images by arm of every case that has all of the chosen arms."""
    st.subheader("Images")
    st.caption(
        "One line an image. Give each the number of its case and a short name of its arm; a line without an arm is "
        "left out. Readers see neither."
    )
    is_named = st.toggle("Show folders", help=HIDDEN, key="study folders", on_change=_remember)
    edited = st.data_editor(
        pd.DataFrame([_line(row, is_named) for row in rows]),
        key=f"study images {rows[0].image.modality} {is_named}",
        hide_index=True,
        row_height=64,
        disabled=["", *WORDS, "Folder"],
        column_config={"": st.column_config.ImageColumn("", width="small")},
    )
    typed = {
        row.image.key: (case, _text(arm)) for case, arm, row in zip(edited["Case"], edited["Arm"], rows, strict=True)
    }
    st.session_state["study edited"] = typed
    named = [(int(case), arm, row.image) for row in rows for case, arm in [typed[row.image.key]] if not pd.isna(case)]
    found = list(dict.fromkeys(arm for _, arm, _ in named if arm))
    arms = st.multiselect(
        "Arms, the reference first", found, default=found[:2], key="study arms " + "/".join(found),
        help="The others are compared with the first. Cases that lack one of them are left out.",
    )  # fmt: skip
    cases = cases_of([one for one in named if one[1]], arms) if arms else {}
    left_out = len({case for case, arm, _ in named if arm}) - len(cases)
    st.caption(f"Cases with all arms: {len(cases)}" + (f", left out: {left_out}." if left_out else "."))
    return {number: {arm: images[arm] for arm in arms} for number, images in cases.items()}


def _remember() -> None:
    """With folders the table is another one: it starts from what was typed into this one."""
    st.session_state["study typed"] = st.session_state.get("study edited", {})


def _text(cell: Any) -> str:
    """Of a cell that may be empty in any of pandas' ways."""
    return "" if pd.isna(cell) else str(cell).strip()


def _line(row: Candidate, is_named: bool) -> dict[str, Any]:
    image = row.image
    case, arm = st.session_state.get("study typed", {}).get(image.key, (row.case, row.arm))
    line = {
        "": thumbnail(image), "Case": case, "Arm": arm, "Image": f"{image.modality} {image.group[:6]}",
        "Kernel": image.kernel, "Slices": image.slices, "Key": image.key[:4],
    }  # fmt: skip
    return line | ({"Folder": str(image.place)} if is_named else {})


def _questions(modality: str) -> dict[str, Any]:
    """Settings of the design: what is asked, and in which order."""
    st.subheader("Questions")
    st.caption(
        "Each image on its own, from 1 (worst). Change, add or delete lines; a scale ends at its first empty cell."
    )
    table = st.data_editor(
        pd.DataFrame([_scale_line(scale) for scale in DEFAULT_SCALES]), key="study scales", num_rows="dynamic",
        hide_index=True,
    )  # fmt: skip
    columns = st.columns(2)
    with columns[0]:
        prefers = st.toggle("Preference: two arms of a case side by side", value=True, key="study prefers")
        wording = st.text_input("Its question", PREFERENCE, disabled=not prefers, key="study preference")
        window = st.selectbox("Images open in the window", list(PRESETS[modality]), key=f"study window {modality}")
    with columns[1]:
        marks = st.toggle("Lesions are marked", key="study marks")
        levels = st.text_input("How sure, lowest first", ", ".join(LEVELS), disabled=not marks, key="study levels")
        repeats = st.slider("Cases shown twice, %", 0, 100, 0, 5, key="study repeats")
        seed = st.number_input("Seed of the random order", 0, 2**31, 1, key="study seed")
    return {
        "scales": _scales(table.to_dict("records")), "preference": wording.strip() if prefers else "",
        "window": PRESETS[modality][window], "repeats": repeats / 100, "seed": int(seed),
        "levels": tuple(level.strip() for level in levels.split(",") if level.strip()) if marks else (),
    }  # fmt: skip


def _scale_line(scale: Scale) -> dict[str, str]:
    anchors = dict(enumerate(scale.anchors, 1))
    return {"Question": scale.name} | {str(score): anchors.get(score, "") for score in range(1, POINTS + 1)}


def _scales(lines: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Lines with a question; checked where the design is made."""
    found = []
    for line in lines:
        cells = [_text(line[column]) for column in ("Question", *map(str, range(1, POINTS + 1)))]
        anchors = cells[1 : cells.index("")] if "" in cells[1:] and cells[0] else cells[1:]
        if cells[0]:
            found.append({"name": cells[0], "anchors": tuple(anchors)})
    return found


def _truth(images: Mapping[int, Any]) -> dict[int, tuple[Lesion, ...]]:
    """Lesions by number of the case; cases whose lesions are not told have none here."""
    st.subheader("Where the lesions are")
    st.caption("For ROC and AFROC; readers never see it. Cases of which nothing is said are left out of both.")
    table = st.file_uploader(
        f"A table with the columns {', '.join(COLUMNS)} (LPS); cases that it does not name are normal", type="csv",
        key="study truth",
    )  # fmt: skip
    if table is not None:
        return from_table(table.getvalue(), images)
    lines = st.data_editor(
        pd.DataFrame([{"Case": case, "Label map (NIfTI file)": "", "No lesion": False} for case in images]),
        key="study maps " + " ".join(map(str, images)),
        hide_index=True,
        disabled=["Case"],
    )
    found: dict[int, tuple[Lesion, ...]] = {}
    for case, path, is_normal in lines.itertuples(index=False):
        if is_normal:
            found[int(case)] = ()
        elif _text(path):
            found[int(case)] = from_labels(permitted(Path(_text(path)), state.library().roots))
    return found


def _make(
    engine: sa.Engine, name: str, modality: str, images: Mapping[int, Mapping[str, Image]],
    lesions: Mapping[int, tuple[Lesion, ...]], questions: Mapping[str, Any],
) -> None:  # fmt: skip
    cases = [
        Images(number=number, images={arm: image.key for arm, image in found.items()}, lesions=lesions.get(number))
        for number, found in images.items()
    ]
    arms = list(next(iter(images.values()), {}))
    try:
        if not (name.strip() and images):
            raise UsageError("a study needs a name, and one case at least that has an image of every chosen arm")
        design = designed(name=name.strip(), modality=modality, arms=arms, cases=cases, **questions)
        number = create_study(engine, design.name, design.model_dump(mode="json"))
    except MedidiffError as error:
        st.error(str(error))
    else:
        st.success(_told(design, number))


def _told(design: Design, number: int) -> str:
    shown = items(design, "example")
    pairs = sum(len(item.arms) == 2 for item in shown)
    return (
        f"Study {number} is kept. Single images for each reader: {len(shown) - pairs}, pairs: {pairs}. "
        "Readers choose it under Read."
    )
