"""What pages and routes of one server share: the settings, the library, and the files made of it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from threading import RLock
from typing import TypeVar

import sqlalchemy as sa

from dashboard.jobs import Jobs
from dashboard.library import Library
from dashboard.settings import Review
from dashboard.volumes import Volumes
from medidiff.results.database import open_database

T = TypeVar("T")


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Called once, also by threads that come at the same time: `cache` alone would let each of them begin."""
    made, lock = cache(make), RLock()

    @wraps(make)
    def shared() -> T:
        with lock:
            return made()

    shared.cache_clear = made.cache_clear  # type: ignore[attr-defined]
    return shared


@once
def review() -> Review:
    """The settings of this process."""
    return Review.from_environment()


@once
def library() -> Library:
    """Everything that was asked for on the command line; the first call reads the headers."""
    asked = review()
    found = Library([Path(root) for root in asked.roots])
    for path in asked.paths:
        found.add(Path(path))
    return found


@once
def folder() -> Path:
    """A folder that only this user may read, and that goes with the server."""
    made = Path(tempfile.mkdtemp(prefix="medidiff_review_"))  # of mode 0700
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@once
def volumes() -> Volumes:
    """Files that the browser is sent."""
    place = folder() / "volumes"
    place.mkdir()
    return Volumes(library(), place)


@once
def database() -> sa.Engine | None:
    """Where reader studies are kept; None where the command line named none."""
    url = review().database
    return None if url is None else open_database(url)


@once
def jobs() -> Jobs:
    """Reconstructions that were started from a page; they end with the server, before its folder goes."""
    started = Jobs(folder() / "jobs")
    atexit.register(started.stop)
    return started
