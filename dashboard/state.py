"""What pages and routes of one server share: the settings, the library, and the files made of it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from dashboard.jobs import Jobs
from dashboard.library import Library
from dashboard.settings import Review
from dashboard.volumes import Volumes


@cache
def review() -> Review:
    """The settings of this process."""
    return Review.from_environment()


@cache
def library() -> Library:
    """Everything that was asked for on the command line; the first call reads the headers."""
    asked = review()
    found = Library([Path(root) for root in asked.roots])
    for path in asked.paths:
        found.add(Path(path))
    return found


@cache
def folder() -> Path:
    """A folder that only this user may read, and that goes with the server."""
    made = Path(tempfile.mkdtemp(prefix="medidiff_review_"))  # of mode 0700
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def volumes() -> Volumes:
    """Files that the browser is sent."""
    place = folder() / "volumes"
    place.mkdir()
    return Volumes(library(), place)


@cache
def jobs() -> Jobs:
    """Reconstructions that were started from a page; they end with the server, before its folder goes."""
    started = Jobs(folder() / "jobs")
    atexit.register(started.stop)
    return started
