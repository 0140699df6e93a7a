"""What `medidiff review` was asked for; it reaches the server, another process, through one environment variable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "MEDIDIFF_REVIEW"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Review:
    """paths   folders and files to list; roots: folders outside of which nothing is read
    token     who comes from another machine must show it; None on loopback
    database  URL of where reader studies are kept; None: there are none
    """

    paths: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8501
    token: str | None = None
    database: str | None = None

    @classmethod
    def of(
        cls, paths: Sequence[Path], roots: Sequence[Path], host: str = "127.0.0.1", port: int = 8501,
        token: str | None = None, database: str | None = None,
    ) -> Review:  # fmt: skip
        """With absolute paths; without roots the given folders are the roots."""
        folders = [path if path.is_dir() else path.parent for path in paths]
        absolute = [tuple(str(p.resolve()) for p in some) for some in (paths, roots or folders)]
        return cls(absolute[0], absolute[1], host, port, token, database)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Review:
        """As another process left it; an empty one where there is none."""
        asked = json.loads(environ.get(VARIABLE, "{}"))
        places: dict[str, Any] = {name: [Path(place) for place in asked.pop(name, [])] for name in ("paths", "roots")}
        return cls.of(**places, **asked)

    def environment(self) -> dict[str, str]:
        """What the server's process must be started with."""
        return {VARIABLE: json.dumps(asdict(self))}
