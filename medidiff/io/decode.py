"""Pixels of one frame, whatever the transfer syntax: one fixed decoder each, so that results do not depend on chance.

PS3.5 A.4. JPEG 2000 and HTJ2K by OpenJPEG, JPEG-LS by CharLS, RLE by pylibjpeg, JPEG by GDCM. What has no
decoder here is refused by name: JPEG processes 6/8 and 10/12 (retired in 2001) and JPEG XL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medidiff.errors import DecodeError
from medidiff.io.headers import MALFORMED, quiet_parsing, read_header

PLUGINS = {
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    RLELossless: "pylibjpeg",
    JPEGBaseline8Bit: "gdcm",
    JPEGExtended12Bit: "gdcm",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
}
JPEG_XL = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}


@dataclass(frozen=True, eq=False)
class _Layout:
    """How the frames of one file are encoded; parsed once, because a header of a thousand frames is slow."""

    decoder: Decoder
    options: dict[str, Any]
    offset: int


def syntax_name(syntax: str) -> str:
    return JPEG_XL.get(syntax) or UID(syntax).name


def can_decode(syntax: str) -> bool:
    uid = UID(syntax)
    return uid in PLUGINS or (uid.is_transfer_syntax and not uid.is_private and not uid.is_compressed)


def read_frame(path: Path, frame: int | None) -> NDArray[np.integer]:
    """(rows, columns) stored integers of a slice, or of frame 0, 1, ... of a multi-frame file.

    Raises DecodeError, naming the file, for pixel data that cannot be decoded.
    """
    try:
        with quiet_parsing():
            layout = _layout(path, path.stat().st_mtime_ns)
            if layout is None:
                return _deflated(path, frame)
            return _decode(path, frame or 0, layout)
    except (*MALFORMED, RuntimeError) as error:
        detail = " ".join(str(error).split())
        which = "" if frame is None else f", frame {frame + 1}"
        raise DecodeError(f"{path}{which}: the pixel data cannot be decoded ({detail}); copy the file again") from error


def _decode(path: Path, frame: int, layout: _Layout) -> NDArray[np.integer]:
    with path.open("rb") as file:
        file.seek(layout.offset)
        syntax = UID(layout.options["transfer_syntax_uid"])
        array, _ = layout.decoder.as_array(
            file, index=frame, raw=True, decoding_plugin=PLUGINS.get(syntax, ""), **layout.options
        )
    return array


@lru_cache(maxsize=4)
def _layout(path: Path, modified: int) -> _Layout | None:
    header = read_header(path)
    if header is None:
        raise DecodeError(f"{path}: no longer a DICOM file")
    syntax = header.transfer_syntax
    if not can_decode(syntax):
        raise DecodeError(f"{path}: no decoder for {syntax_name(syntax)}; convert it to a lossless transfer syntax")
    if syntax.is_deflated:
        return None
    if header.pixels is None:
        raise DecodeError(f"{path}: has no pixel data")
    given = {"transfer_syntax_uid": syntax, "pixel_keyword": header.pixels.keyword, "pixel_vr": header.pixels.vr}
    options = as_pixel_options(header.dataset, **given)
    options["pixel_keyword"] = header.pixels.keyword
    return _Layout(get_decoder(syntax), options, header.pixels.offset)


def _deflated(path: Path, frame: int | None) -> NDArray[np.integer]:
    dataset = dcmread(path)
    return get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=frame or 0, raw=True)[0]
