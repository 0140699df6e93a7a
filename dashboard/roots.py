"""Which files may be read: those inside of the given roots, links followed first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medidiff.errors import InputError


def inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path, its links followed, lies in one of the roots."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def permitted(path: Path, roots: Sequence[Path]) -> Path:
    """The path itself, its links followed. Raises InputError for one outside of the roots or one that is not there.

    The answer is the same for both, so that nobody can ask what lies outside.
    """
    resolved = path.expanduser().resolve()
    if not inside(resolved, roots) or not resolved.exists():
        raise InputError(
            f"{path}: not found among the folders that this dashboard may read; "
            "give another one, or start `medidiff review` with --root FOLDER"
        )
    return resolved


def new_folder(path: Path, roots: Sequence[Path]) -> Path:
    """Where a result may be written: dots and links followed, inside of the roots, in a folder that is there."""
    resolved = path.expanduser().resolve()
    permitted(resolved.parent, roots)
    if not inside(resolved, roots):
        raise InputError(f"{path}: lies outside of the folders of this dashboard; name a new folder inside of them")
    return resolved
