"""Files and folders that are there whole or not at all: written under a temporary name beside them, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.errors import OutputError


def write_whole(target: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it, so that it is there whole or not at all.

    Raises OutputError, naming the file and the reason.
    """
    with replacing(target) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that takes its place when the block succeeds, and vanishes otherwise.

    Raises OutputError for any operating system error inside the block.
    """
    temporary = target.with_name(f".{target.name}.tmp")  # one name: what a killed run left is used up by the next
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            yield temporary
            os.replace(temporary, target)
    finally:
        _remove(temporary)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """`replacing` for a folder; the caller has checked that `target`, if it exists, may be replaced."""
    with replacing(target) as temporary:
        temporary.mkdir()
        yield temporary
        if target.exists():
            shutil.rmtree(target)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise OutputError, naming `target` and the reason, for any operating system error inside the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}); check the path, its permissions "
            "and the free space"
        ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is read-only or a parent is a file: then there is nothing to remove
        return
