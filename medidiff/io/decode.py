"""Pixels of one frame, whatever the transfer syntax: one fixed decoder each, so that results do not depend on chance.

PS3.5 A.4. JPEG 2000 and HTJ2K by OpenJPEG, JPEG-LS by CharLS, RLE by pylibjpeg, JPEG by GDCM; the 12-bit lossy
JPEG processes by GDCM's own reader, which pydicom does not trust but which agrees with dcmtk bit for bit. What
has no decoder here, JPEG XL above all, is refused by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
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
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
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

ALL_PLUGINS_FAILED = "Unable to decode as exceptions were raised by all available plugins: "  # pydicom; we ask one

# Compressed syntaxes that are read: name, and pydicom's plugin ("" where GDCM reads the file itself).
COMPRESSED = {
    RLELossless: ("RLE lossless", "pylibjpeg"),
    JPEGBaseline8Bit: ("JPEG baseline", "gdcm"),
    JPEGExtended12Bit: ("JPEG extended", ""),
    UID("1.2.840.10008.1.2.4.53"): ("JPEG process 6/8", ""),
    UID("1.2.840.10008.1.2.4.55"): ("JPEG process 10/12", ""),
    JPEGLossless: ("JPEG lossless", "gdcm"),
    JPEGLosslessSV1: ("JPEG lossless SV1", "gdcm"),
    JPEGLSLossless: ("JPEG-LS lossless", "pyjpegls"),
    JPEGLSNearLossless: ("JPEG-LS near-lossless", "pyjpegls"),
    JPEG2000Lossless: ("JPEG 2000 lossless", "pylibjpeg"),
    JPEG2000: ("JPEG 2000", "pylibjpeg"),
    HTJ2KLossless: ("HTJ2K lossless", "pylibjpeg"),
    HTJ2KLosslessRPCL: ("HTJ2K lossless RPCL", "pylibjpeg"),
    HTJ2K: ("HTJ2K", "pylibjpeg"),
}
# Names for what pydicom 3.0 does not know, and shorter ones for what everybody knows.
OTHER_NAMES = {
    ImplicitVRLittleEndian: "implicit little endian",
    ExplicitVRLittleEndian: "explicit little endian",
    ExplicitVRBigEndian: "explicit big endian",
    DeflatedExplicitVRLittleEndian: "deflated explicit little endian",
    UID("1.2.840.10008.1.2.4.110"): "JPEG XL lossless",
    UID("1.2.840.10008.1.2.4.111"): "JPEG XL recompression",
    UID("1.2.840.10008.1.2.4.112"): "JPEG XL",
}


def syntax_name(syntax: str) -> str:
    uid = UID(syntax)
    return COMPRESSED[uid][0] if uid in COMPRESSED else OTHER_NAMES.get(uid) or uid.name or "unknown"


def can_decode(syntax: str) -> bool:
    uid = UID(syntax)
    return uid in COMPRESSED or (uid.is_transfer_syntax and not uid.is_private and not uid.is_compressed)


def read_frame(path: Path, frame: int | None) -> NDArray[np.integer]:
    """(rows, columns) stored integers of a slice, or of frame 0, 1, ... of a multi-frame file.

    Raises DecodeError, naming the file, for pixel data that cannot be decoded and for a file that is gone.
    """
    try:
        with quiet_parsing():
            return _reader(path, path.stat().st_mtime_ns)(frame or 0)
    except FileNotFoundError as error:
        raise DecodeError(f"{path}: is gone since the folder was listed; put it back and start again") from error
    except (*MALFORMED, RuntimeError) as error:
        detail = " ".join(str(error).split()).removeprefix(ALL_PLUGINS_FAILED)
        which = "" if frame is None else f", frame {frame + 1}"
        raise DecodeError(f"{path}{which}: the pixel data cannot be decoded ({detail}); copy the file again") from error


@lru_cache(maxsize=2)
def _reader(path: Path, modified: int) -> Callable[[int], NDArray[np.integer]]:
    """Frame number -> pixels, for one file; kept, because parsing a header of a thousand frames is slow."""
    header = read_header(path)
    if header is None:
        raise DecodeError(f"{path}: no longer a DICOM file")
    syntax = header.transfer_syntax
    if not can_decode(syntax):
        raise DecodeError(f"{path}: no decoder for {syntax_name(syntax)}; convert it to a lossless transfer syntax")
    _, plugin = COMPRESSED.get(syntax, ("", ""))
    if syntax in COMPRESSED and not plugin:
        return _gdcm_frames(path).__getitem__
    decoder = get_decoder(syntax)
    if header.is_deflated:
        dataset = dcmread(path)
        return lambda frame: decoder.as_array(dataset, index=frame, raw=True)[0]
    if header.pixels is None:
        raise DecodeError(f"{path}: has no pixel data")
    given = {"transfer_syntax_uid": syntax, "pixel_keyword": header.pixels.keyword, "pixel_vr": header.pixels.vr}
    options = as_pixel_options(header.dataset, **given) | given
    return partial(_decode_at, path, header.pixels.offset, decoder, plugin, options)


def _decode_at(
    path: Path, offset: int, decoder: Decoder, plugin: str, options: dict[str, Any], frame: int
) -> NDArray[np.integer]:
    with path.open("rb") as file:
        file.seek(offset)
        return decoder.as_array(file, index=frame, raw=True, decoding_plugin=plugin, **options)[0]


def _gdcm_frames(path: Path) -> NDArray[np.integer]:
    """(frames, rows, columns) of a whole file, as GDCM reads it."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    with _silent_stderr():
        readable = reader.Read()
        image = reader.GetImage()
        buffer = image.GetBuffer() if readable else ""
    if not buffer:
        raise ValueError("GDCM finds no image")
    size = list(image.GetDimensions())
    dtype = np.dtype(image.GetPixelFormat().GetScalarTypeAsString().lower())
    return np.frombuffer(buffer.encode("utf-8", "surrogateescape"), dtype).reshape(-1, size[1], size[0])


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """GDCM's JPEG library tries 8 bits first and prints that the data have 12, for every slice."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
