"""Grey pictures with words under them: sheets (PNG) and movies (GIF), which carry the disclaimer wherever they go.

A slice that is larger than its place is thinned, not averaged: averaging would hide the noise that is to be seen. A
GIF of 256 grey levels holds them exactly, and plays everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from medidiff import DISCLAIMER
from medidiff.figures import Placement

Grey = NDArray[np.uint8]
WIDTH = 1440  # pixels of a sheet: Streamlit blurs what is wider
WIDEST = 480  # of one picture
LINE, SIZE, GAP = 15, 12, 6
PAPER, INK, FAINT = 14, 225, 165


@dataclass(frozen=True)
class Region:
    """A square of `size` pixels around a row and a column, moved inside of the slice; size 0: all of it."""

    row: int = 0
    column: int = 0
    size: int = 0

    def of(self, plane: Grey) -> Grey:
        if not self.size:
            return plane
        places = []
        for centre, n in zip((self.row, self.column), plane.shape, strict=True):
            first = min(max(centre - self.size // 2, 0), max(n - self.size, 0))
            places.append(slice(first, first + self.size))
        return plane[tuple(places)]


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture (rows, columns) with lines under it."""

    grey: Grey
    lines: tuple[str, ...] = ()


def sheet(
    rows: Sequence[Sequence[Panel | None]], placement: Placement, note: str, *, labels: Sequence[str] = (),
    widest: int = WIDEST,
) -> Picture.Image:  # fmt: skip
    """Rows of panels of one size, a label above each row, and below them `note` and the disclaimer."""
    columns = max(len(row) for row in rows)
    first = next(panel for row in rows for panel in row if panel is not None)
    width = min((WIDTH - GAP) // columns - GAP, widest)
    height = _height(first.grey, placement, width)
    words = [max((len(panel.lines) for panel in row if panel), default=0) for row in rows]
    step = [height + LINE * n + (LINE if labels else 0) + 2 * GAP for n in words]
    page = Picture.new("L", (columns * (width + GAP) + GAP, sum(step) + 2 * LINE + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(page)
    top = GAP
    for k, row in enumerate(rows):
        if labels:
            draw.text((GAP, top), labels[k], INK, _font(SIZE))
        below = top + (LINE if labels else 0)
        for j, panel in enumerate(row):
            if panel is not None:
                _place(page, draw, panel, (GAP + j * (width + GAP), below), (width, height), placement.sides)
        top += step[k]
    draw.text((GAP, top), note, FAINT, _font(SIZE))
    draw.text((GAP, top + LINE), f"{DISCLAIMER.capitalize()}.", INK, _font(SIZE))
    return page


def _place(
    page: Picture.Image, draw: ImageDraw.ImageDraw, panel: Panel, corner: tuple[int, int], size: tuple[int, int],
    sides: tuple[str, str],
) -> None:  # fmt: skip
    picture, (left, top), (width, height) = Picture.fromarray(panel.grey), corner, size
    is_smaller = width < picture.width
    how = Picture.Resampling.NEAREST if is_smaller else Picture.Resampling.BICUBIC
    page.paste(picture.resize(size, how), corner)
    for letter, x, anchor in zip(sides, (left + 3, left + width - 3), ("lm", "rm"), strict=True):
        draw.text((x, top + height // 2), letter, 255, _font(SIZE), anchor=anchor, stroke_width=2, stroke_fill=0)
    for n, line in enumerate(panel.lines):
        draw.text((left, top + height + 2 + n * LINE), line, INK if n == 0 else FAINT, _font(SIZE))


def _height(grey: Grey, placement: Placement, width: int) -> int:
    """At the slice's true proportions."""
    rows, columns = grey.shape
    down, across = placement.pixel_mm
    return round(width * rows * down / (columns * across))


def short(value: float) -> str:
    """A number as a caption holds it: three digits, and no exponent where it fits."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}" if abs(value) < 1e5 else f"{value:.0e}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """One with Greek letters, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def png(page: Picture.Image) -> bytes:
    """With the disclaimer in its metadata too."""
    about, file = PngInfo(), io.BytesIO()
    about.add_text("Description", DISCLAIMER)
    page.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def movie(frames: Sequence[Picture.Image], seconds: Sequence[float]) -> bytes:
    """A GIF that goes round and round; `seconds` is how long each frame stands."""
    file = io.BytesIO()
    first, *rest = frames
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=[round(1000 * one) for one in seconds],
        loop=0,
        optimize=False,
        comment=DISCLAIMER.encode(),
    )
    return file.getvalue()
