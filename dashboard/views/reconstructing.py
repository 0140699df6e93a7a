"""Part of the worklist: start a reconstruction of the chosen scan, see how far it is, stop it.

The work is a process of its own: a page that is closed or loaded again finds it where it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import state
from dashboard.jobs import ACTIVE, Job
from dashboard.library import Case
from dashboard.roots import new_folder
from medidiff.errors import InputError, MedidiffError

MODES = ("quantitative", "texture", "uncertainty")
SECONDS = 1.0


def ask(case: Case | None) -> None:
    """The form; the scan of a reconstruction is reconstructed again."""
    scan = None if case is None else case.scan
    with st.popover("Reconstruct", disabled=scan is None or bool(scan.reason)):
        if scan is None:
            return
        with st.form("reconstruct", border=False):
            mode = st.selectbox("Mode", MODES, key="mode")
            strength = st.slider("Strength, % (not for texture)", 0, 100, 100, key="strength")
            dose = st.number_input("Dose of the scan, as a fraction (texture)", 0.01, 1.0, 0.25, key="dose")
            out = st.text_input("New folder for the result", _suggested(scan.place), key="out")
            wanted = st.form_submit_button("Start", type="primary")
        if wanted:
            knob = {"dose": float(dose)} if mode == "texture" else {"strength": float(strength)}
            options: dict[str, Any] = {"mode": mode, **knob}
            options |= {"series": scan.uid} if scan.uid else {}
            _start(scan.place, Path(out.strip()), options)


def _suggested(place: Path) -> str:
    """A folder beside the scan, inside of the roots where that is possible."""
    stem = place.name.removesuffix(".gz").removesuffix(".nii")
    return str(place.with_name(f"{stem}_medidiff"))


def _start(scan: Path, out: Path, options: dict[str, Any]) -> None:
    library = state.library()
    try:
        folder = new_folder(out, library.roots)
        if any(job.out == folder and job.progress.state in ACTIVE for job in state.jobs().all):
            raise InputError(f"{out}: a reconstruction into it is under way; name another folder")
        state.jobs().start(scan, folder, options)
    except MedidiffError as error:
        st.error(str(error))


def running() -> None:
    """Every job of this server, newest first; looked at again and again only while one is under way."""
    jobs = state.jobs().all
    is_active = any(job.progress.state in ACTIVE for job in jobs)
    if jobs:
        st.fragment(_lines, run_every=SECONDS if is_active else None)()


def _lines() -> None:
    for number, job in reversed(list(enumerate(state.jobs().all))):
        _line(number, job)


def _line(number: int, job: Job) -> None:
    now = job.progress
    with st.container(horizontal=True, vertical_alignment="center"):
        share = now.done / now.total if now.total else 0.0
        st.progress(1.0 if now.state == "finished" else share, f"{now.state}, {now.done} of {now.total or '?'} slices")
        if now.state in ACTIVE:
            st.button("Cancel", key=f"cancel {number}", on_click=job.cancel)
    if now.state == "failed":
        st.error(now.told)
    if now.state == "cancelled":
        st.caption("What was finished is kept: start it again with the same folder to go on.")
    if now.state == "finished" and number not in st.session_state.setdefault("listed", set()):
        st.session_state["listed"].add(number)
        state.library().add(job.out)
        st.rerun(scope="app")
