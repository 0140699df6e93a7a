"""Part of a page: something that takes seconds, with a button, a bar and a way to stop it.

The work goes on in a thread when the page is run again; what was finished once is there at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable

import streamlit as st

from dashboard.library import Image
from dashboard.work import Make, Sized, Task, work

SECONDS = 0.5


def computed(key: Hashable, make: Make, label: str, image: Image) -> Sized | None:
    """The result of `make`; None while it is not there, and then the page shows how to get it, or how far it is.

    `image` is the one it is made of, whose place is left out of what is told of failures.
    """
    task = work().known(key)
    if task is not None and task.result is not None:
        return task.result
    if task is not None and task.is_active:
        st.fragment(_bar, run_every=SECONDS)(task)
        return None
    if task is not None and task.told:
        st.error(without_place(task.told, image))
    st.button(label, type="primary", on_click=_ask, args=(key, make))
    return None


def without_place(told: str, image: Image) -> str:
    """A sentence without the folder or file that an image lies in, which may be named after a patient."""
    return told.replace(str(image.place), "this scan")


def _ask(key: Hashable, make: Make) -> None:
    work().ask(key, make, _reader())


def _bar(task: Task) -> None:
    if not task.is_active:
        st.rerun(scope="app")
    doing = task.state if task.readers else "stopping"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(task.done / task.total if task.total else 0.0, f"{doing}, {task.done} of {task.total or '?'}")
        st.button("Stop", on_click=work().give_up, args=(_reader(),))


def _reader() -> str:
    """Of this session."""
    return str(st.session_state.setdefault("reader", secrets.token_hex(8)))
