"""Part of the reader study: one item after the other, blinded. Every click is in the database before the next.

Images go by names that say nothing and are others for every item; the address holds the number of the study alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import state
from dashboard.library import Image
from dashboard.reading.design import Scale
from dashboard.reading.session import DONE, MARKS, OPENED, PREFERENCE, SCORE, SIDES, Answers, Reading, lacking
from dashboard.viewer import viewer
from dashboard.views.viewer import PRESETS
from medidiff.errors import InputError, MedidiffError

HEIGHT = 740
WIDTHS = (3.4, 1)
MARKED = ("id", "slice", "plane", "position_mm", "pane", "confidence")


def begin(reading: Reading) -> None:
    """Make this the session's reading, at the first item that is not finished."""
    st.session_state["reading"] = reading
    _go(reading.next(reading.answers()))


def show(reading: Reading) -> None:
    """An item, or the end. Images and questions run apart: an answer must not make the image flicker."""
    position = st.session_state["item"]
    if position >= len(reading.items):
        st.success(f"All {len(reading.items)} items are read and kept. Thank you.")
        st.caption("As long as the study is open you may go back and change an answer; both answers are kept.")
        st.button("Back to the last item", on_click=_go, args=(len(reading.items) - 1,))
        st.button("Leave", on_click=_forget)
        return
    left, right = st.columns(WIDTHS)
    with left:
        st.fragment(_images)(reading, position, st.session_state["visit"])
    with right:
        st.fragment(_questions)(reading, position, st.session_state["visit"])


def _images(reading: Reading, position: int, visit: str) -> None:
    _leave_if_over(visit)
    try:
        _open(reading, position, visit)
        count = st.empty()
        _keep_marks(reading, position, _shown(reading, position, visit)["marks"])
        if _marks_lesions(reading, position):
            count.caption(f"Mark every lesion, with how sure you are. Kept: {len(st.session_state['marks'])}.")
    except MedidiffError as error:
        st.error(str(error))


def _questions(reading: Reading, position: int, visit: str) -> None:
    _leave_if_over(visit)
    st.markdown(f"**Item {position + 1} of {len(reading.items)}** as {reading.reader}")
    if told := st.session_state.pop("not kept", None):
        st.error(told)
    try:
        answers = reading.answers()
    except MedidiffError as error:
        st.error(str(error))
        return
    if len(reading.items[position].arms) == 2:
        _ask_preference(reading, position, visit, answers.get(position, {}))
    else:
        for scale in reading.design.scales:
            _ask(reading, position, visit, scale, answers.get(position, {}))
    _move(reading, position, visit, answers)


def _leave_if_over(visit: str) -> None:
    """A button has moved on, and this part of the page is run once more as it was: nothing of it may be shown."""
    if st.session_state.get("reading") is None or st.session_state["visit"] != visit:
        st.rerun()


def _marks_lesions(reading: Reading, position: int) -> bool:
    return bool(reading.design.levels) and len(reading.items[position].arms) == 1


def _open(reading: Reading, position: int, visit: str) -> None:
    """Once a visit: write down when, and take the marks that are there to the viewer."""
    if st.session_state.get("opened") != visit:
        answers = reading.answers().get(position, {})
        reading.save(position, OPENED, True)
        st.session_state["opened"] = visit
        st.session_state["marks"] = answers.get(MARKS, [])


def _shown(reading: Reading, position: int, visit: str) -> dict[str, Any]:
    """The images of an item, under names of their own; what the viewer says of them."""
    design, item = reading.design, reading.items[position]
    images = [_image(design.cases[item.case].images[design.arms[arm]]) for arm in item.arms]
    titles = SIDES if len(images) == 2 else ("image",)
    purpose = f"{reading.study}/{reading.reader}/{position}"
    panes = [
        {
            "title": title, "volume": state.volumes().alias(image.key, f"{purpose}/{title}"), "slices": image.slices,
            "kind": "image", "unit": image.unit,
        }
        for title, image in zip(titles, images, strict=True)
    ]  # fmt: skip
    marks_lesions = _marks_lesions(reading, position)
    return viewer(
        panes,
        layout=len(panes),
        plane="axial",
        window=design.window,
        presets=PRESETS[design.modality],
        modality=design.modality,
        height=HEIGHT,
        key=_key(visit),
        tools=("mark",) if marks_lesions else (),
        marks=st.session_state["marks"],
        mark_levels=design.levels if marks_lesions else (),
        is_blind=True,
    )


def _image(key: str) -> Image:
    image = state.library().images.get(key)
    if image is None or image.reason:
        raise InputError(
            "an image of this item is not in the listed folders, or was written anew since the study was made; tell "
            "the owner of the study: the dashboard has to be started with the folders as they were"
        )
    return image


def _key(visit: str) -> str:
    """Of the viewer, which is a new one at every visit."""
    return f"reading-{visit}"


def _keep_marks(reading: Reading, position: int, found: Sequence[Mapping[str, Any]]) -> None:
    """Marks that were set, moved or deleted since the last run."""
    marks = [{name: mark.get(name) for name in MARKED} for mark in found]
    if marks != st.session_state["marks"]:
        reading.save(position, MARKS, marks)
        st.session_state["marks"] = marks


def _ask(reading: Reading, position: int, visit: str, scale: Scale, answers: Answers) -> None:
    question = SCORE + scale.name
    key, given = f"{question}/{visit}", answers.get(question)
    st.radio(
        scale.name,
        range(1, len(scale.anchors) + 1),
        index=None if given is None else given - 1,
        horizontal=True,
        key=key,
        on_change=_keep,
        args=(reading, position, question, key, given),
    )
    st.caption(" · ".join(f"{score}\u00a0{anchor}" for score, anchor in enumerate(scale.anchors, 1)))


def _ask_preference(reading: Reading, position: int, visit: str, answers: Answers) -> None:
    key, given = f"{PREFERENCE}/{visit}", answers.get(PREFERENCE)
    st.radio(
        reading.design.preference,
        SIDES,
        index=None if given is None else SIDES.index(given),
        horizontal=True,
        key=key,
        on_change=_keep,
        args=(reading, position, PREFERENCE, key, given),
    )
    st.caption("A is on the left, B on the right.")


def _keep(reading: Reading, position: int, question: str, key: str, before: object) -> None:
    """The answer just given; one that could not be kept is taken back, so that nobody believes that it was."""
    try:
        reading.save(position, question, st.session_state[key])
    except MedidiffError as error:
        st.session_state["not kept"] = str(error)
        st.session_state[key] = before


def _move(reading: Reading, position: int, visit: str, answers: Mapping[int, Answers]) -> None:
    """Buttons of this visit: a second click that comes late must not count for the item after it."""
    is_lacking = bool(lacking(reading.design, reading.items[position], answers.get(position, {})))

    def button(label: str, act: Callable[..., None], *args: object, **settings: Any) -> None:
        st.button(label, key=f"{label}/{visit}", on_click=act, args=(reading, position, *args), **settings)

    with st.container(horizontal=True):
        button("Back", _turn, position - 1, disabled=position == 0)
        button("Next", _finish, type="primary", shortcut="Ctrl+Enter", disabled=is_lacking)
    if is_lacking:
        st.caption("Answer everything to go on.")
    onward = reading.next(answers)
    if onward > position:
        button(f"Go on at item {onward + 1}" if onward < len(reading.items) else "To the end", _turn, onward)
    button("Leave", _turn, None, type="tertiary", help="Your answers are kept.")


def _finish(reading: Reading, position: int) -> None:
    """No mark at all is an answer, too, and is kept as one."""
    try:
        _keep_last_marks(reading, position)
        answers = reading.answers().get(position, {})
        if lacking(reading.design, reading.items[position], answers):
            return
        if _marks_lesions(reading, position) and not st.session_state["marks"] and MARKS not in answers:
            reading.save(position, MARKS, [])
        if DONE not in answers:
            reading.save(position, DONE, True)
    except MedidiffError as error:
        st.session_state["not kept"] = str(error)
    else:
        _go(position + 1)


def _turn(reading: Reading, position: int, to: int | None) -> None:
    """To another item, or out of the study."""
    try:
        _keep_last_marks(reading, position)
    except MedidiffError as error:
        st.session_state["not kept"] = str(error)
    else:
        _forget() if to is None else _go(to)


def _keep_last_marks(reading: Reading, position: int) -> None:
    """A mark that was set just before a button was pressed: the viewer has told it, but has not been run since."""
    told = st.session_state.get(_key(st.session_state["visit"])) or {}
    if told.get("marks") is not None:
        _keep_marks(reading, position, told["marks"])


def _go(position: int) -> None:
    """A visit has a name that no other has: a browser that was connected to another server may remember old answers."""
    st.session_state["item"] = position
    st.session_state["visit"] = secrets.token_hex(8)


def _forget() -> None:
    for name in ("reading", "item", "opened", "marks"):
        st.session_state.pop(name, None)
