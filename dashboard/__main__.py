"""The server: `python -m dashboard`, started by `medidiff review` with its settings in the environment."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import streamlit as st

import dashboard.views.diffusion
import dashboard.views.metrics
import dashboard.views.reading
import dashboard.views.viewer
import dashboard.views.worklist  # noqa: F401  loaded before the first visitor comes, who would wait for it
from dashboard import state
from dashboard.routes import middleware, routes

CONFIG = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",  # a traceback may hold paths
    "theme.base": "dark",
}


def main() -> None:
    review = state.review()
    Thread(target=state.library, daemon=True).start()  # headers of many scans take a while
    app = st.App(Path(__file__).with_name("app.py"), routes=routes(), middleware=middleware(review))
    app.run(config=CONFIG | {"server.address": review.host, "server.port": review.port})


if __name__ == "__main__":
    main()
