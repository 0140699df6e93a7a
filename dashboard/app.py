"""The app: its pages, and the words that stand under all of them."""

from __future__ import annotations

import streamlit as st

from dashboard.views import diffusion, metrics, reading, viewer, worklist
from medidiff import DISCLAIMER, __version__

st.set_page_config(page_title="medidiff review", layout="wide")
page = st.navigation(
    [
        st.Page(worklist.show, title="Worklist", url_path="worklist", default=True),
        viewer.page(),
        metrics.page(),
        reading.page(),
        diffusion.page(),
    ],
    position="top",
)
page.run()
st.caption(f"medidiff {__version__}. {DISCLAIMER.capitalize()}.")
