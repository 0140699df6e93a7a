"""Images as the browser gets them: NIfTI files made once, by key, in a folder of our own that never outgrows a limit.

    KEY         an image of the library
    KEY-KEY     the first less the second, which lie on one grid: the zero-centred difference
    ALIAS       an image, to somebody who must not know which

A viewer asks for one slice first, which costs a few milliseconds, and for the whole volume behind it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dashboard.library import Image, Library
from medidiff.errors import GeometryError, InputError
from medidiff.io.nifti import write_nifti
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource, Volume

NAME = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?")
LIMIT_BYTES = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Difference:
    """`first` less `second`, slice by slice (a `SliceSource`)."""

    first: SliceSource
    second: SliceSource

    @property
    def geometry(self) -> Geometry:
        return self.first.geometry

    @property
    def unit(self) -> Unit:
        return self.first.unit

    def read(self, index: int) -> NDArray[np.float32]:
        return self.first.read(index) - self.second.read(index)

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return None


class Volumes:
    """Files in `folder` of what the library holds."""

    def __init__(self, library: Library, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.library, self.folder, self.limit_bytes = library, folder, limit_bytes
        self._making: dict[str, threading.Lock] = {}
        self._aliases: dict[str, str] = {}
        self._secret = secrets.token_hex(16)
        self._lock = threading.Lock()

    def alias(self, key: str, purpose: str) -> str:
        """Another name of an image, for this purpose alone: who knows the image's own cannot tell what it is.

        It holds until the server ends.
        """
        name = hashlib.sha256("\0".join((self._secret, purpose, key)).encode()).hexdigest()[:16]
        self._aliases[name] = key
        return name

    def middle(self, name: str) -> Path:
        """A NIfTI file of the middle slice at its place. Raises InputError for a name that the library lacks."""

        def one(source: SliceSource) -> SliceSource:
            k = source.geometry.n_slices // 2
            return Volume(source.read(k)[None], source.geometry.select(k, k + 1), source.unit)

        return self._file(self._own(name), ".first.nii", one)

    def whole(self, name: str) -> Path:
        """The NIfTI file of all slices. Raises InputError for a name that the library lacks."""
        return self._file(self._own(name), ".nii", lambda source: source)

    def _own(self, name: str) -> str:
        """With the images' own names in place of others."""
        if not NAME.fullmatch(name):
            raise InputError("no such image")
        return "-".join(self._aliases.get(part, part) for part in name.split("-"))

    def _file(self, name: str, end: str, part: Callable[[SliceSource], SliceSource]) -> Path:
        path = self.folder / f"{name}{end}"
        with self._lock:
            lock = self._making.setdefault(path.name, threading.Lock())
        with lock:  # two viewers that ask at once share one file
            if path.exists():
                path.touch()
            else:
                write_nifti(path, part(self.source(name)), allow_uneven=True)
                self._forget_oldest(path)
        return path

    def source(self, name: str) -> SliceSource:
        """The slices behind a name. Raises InputError for one that the library lacks."""
        images = [self._image(key) for key in self._own(name).split("-")]
        if len(images) == 1:
            return images[0].open()
        first, second = (image.open() for image in images)
        if told := first.geometry.difference(second.geometry):
            raise GeometryError(f"images of different grids cannot be subtracted: {told}")
        return Difference(first, second)

    def _image(self, key: str) -> Image:
        image = self.library.images.get(key)
        if image is None or image.reason:
            raise InputError("no such image")
        return image

    def _forget_oldest(self, keep: Path) -> None:
        """A file that is being sent stays readable: it is unlinked, not emptied."""
        files = sorted(self.folder.glob("*.nii"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > self.limit_bytes and path != keep:
                path.unlink(missing_ok=True)
