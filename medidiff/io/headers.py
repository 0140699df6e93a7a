"""The header of one DICOM file: is it DICOM, is it whole, and what do its tags say.

PS3.10 7.1 (preamble and file meta), PS3.5 7.5 and A.4 (undefined lengths and fragments). Numbers and texts are
taken from the bytes as sent: scanners write decimal strings longer than 16 characters, with commas or stray
spaces, and these are no reason to refuse a scan.
"""

from __future__ import annotations

import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from medidiff.errors import DicomError

PIXEL_TAGS = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}
UNDEFINED = 0xFFFFFFFF

# What pydicom raises, at reading or at first use of an element, for bytes that are not DICOM after all.
MALFORMED = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class PixelElement:
    """Where the value of the pixel data element lies in its file; `length` may be UNDEFINED (fragments)."""

    keyword: str
    vr: str
    offset: int
    length: int


@dataclass(frozen=True, eq=False)
class FileHeader:
    """Everything before the pixel data; `pixels` is None where there are none, or the file is deflated.

    `whole` is False when the file ends before its pixel data do.
    """

    dataset: FileDataset
    pixels: PixelElement | None
    whole: bool = True

    @property
    def transfer_syntax(self) -> UID:
        return UID(self.dataset.file_meta.get("TransferSyntaxUID", ""))

    @property
    def is_deflated(self) -> bool:
        return self.transfer_syntax == DeflatedExplicitVRLittleEndian


def read_header(path: Path, tags: Sequence[BaseTag] | None = None) -> FileHeader | None:
    """The header of a file, or only some `tags` of it; None for what is not DICOM (and for a DICOMDIR).

    Raises DicomError for a header that is malformed.
    """
    with path.open("rb") as file:
        bare = _is_bare(file)
        if bare is None:
            return None
        file.seek(0)
        try:
            with quiet_parsing():
                only = None if tags is None else list(tags)
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=only, force=bare)
            header = _locate_pixels(file, dataset)
        except MALFORMED as error:
            if bare:
                return None
            raise DicomError(f"{path}: starts like DICOM, but its header is malformed; copy it again") from error
        if sop_class(dataset) == MediaStorageDirectoryStorage or (bare and "SOPClassUID" not in dataset):
            return None
        return header


class quiet_parsing:
    """While reading, values that break the standard's formats are neither errors nor printed warnings."""

    def __enter__(self) -> None:
        self._validation = disable_value_validation()
        self._warnings = warnings.catch_warnings()
        self._validation.__enter__()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc: object) -> None:
        self._warnings.__exit__(None, None, None)
        self._validation.__exit__(None, None, None)


def sop_class(dataset: Dataset) -> str:
    """SOPClassUID, from the file meta where the data set has none."""
    return text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def sop_instance(dataset: Dataset) -> str:
    """SOPInstanceUID, from the file meta where the data set has none."""
    return text(dataset, "SOPInstanceUID") or str(dataset.file_meta.get("MediaStorageSOPInstanceUID", ""))


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a text element; () when it is absent or empty."""
    element = dataset.get_item(keyword)
    value = None if element is None else element.value
    if not value:
        return ()
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    values = value.split("\\") if isinstance(value, str) else [value] if not isinstance(value, Sequence) else value
    return tuple(str(v).strip(" \0") for v in values)


def text(dataset: Dataset, keyword: str) -> str:
    """The first value of a text element; "" when it is absent or empty."""
    return next(iter(texts(dataset, keyword)), "")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a decimal or integer string; () when it is absent, empty or no number."""
    try:
        found = tuple(float(value.replace(",", ".")) for value in texts(dataset, keyword))
    except ValueError:
        return ()
    return found if all(map(math.isfinite, found)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    return next(iter(numbers(dataset, keyword)), None)


def _is_bare(file: BinaryIO) -> bool | None:
    """False for a DICOM file, True for a data set that may lack its preamble, None for anything else."""
    head = file.read(132)
    if head[128:] == b"DICM":
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    starts_like_dicom = head[:2] in (b"\x02\x00", b"\x08\x00") and (explicit or head[6:8] == b"\0\0")
    return True if starts_like_dicom and len(head) == 132 else None


def _locate_pixels(file: BinaryIO, dataset: FileDataset) -> FileHeader:
    """pydicom stops at the tag of the pixel data: read its length."""
    dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
    implicit, little = dataset.original_encoding
    header = FileHeader(dataset, None)
    head = b"" if header.is_deflated else file.read(8)
    order = "<" if little else ">"
    keyword = PIXEL_TAGS.get(struct.unpack(order + "HH", head[:4])) if len(head) == 8 else None
    if keyword is None:
        return header
    if implicit:
        vr, (length,) = "OW", struct.unpack(order + "L", head[4:])
    else:
        vr, (length,) = head[4:6].decode("ascii"), struct.unpack(order + "L", file.read(4))
    pixels = PixelElement(keyword, vr, file.tell(), length)
    return FileHeader(dataset, pixels, _is_whole(file, pixels))


def _is_whole(file: BinaryIO, pixels: PixelElement) -> bool:
    size = os.fstat(file.fileno()).st_size
    if pixels.length != UNDEFINED:
        return pixels.offset + pixels.length <= size
    offset = pixels.offset
    while offset + 8 <= size:
        file.seek(offset)
        group, element, length = struct.unpack("<HHL", file.read(8))
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        if (group, element) != (0xFFFE, 0xE000):
            return False
        offset += 8 + length
    return False
