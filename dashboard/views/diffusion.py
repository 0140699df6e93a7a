"""The diffusion page: what noise does to a slice of a case, and how the model's sampler walks back."""

from __future__ import annotations

import streamlit as st
from streamlit.navigation.page import StreamlitPage


def page() -> StreamlitPage:
    """What other pages go to."""
    return st.Page(show, title="Diffusion", url_path="diffusion")


def show() -> None:
    st.header("Diffusion")
    from dashboard.views import process  # torch takes seconds to import, and the other pages do without

    process.show()
