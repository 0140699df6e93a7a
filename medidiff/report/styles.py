"""How plots look: colours that colour-blind readers tell apart (Okabe and Ito 2008), and a marker and a line for each.

SVG files are the same for the same data, and carry their letters as outlines: no font is needed to read them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = "os^DvPX*", ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
GREY = "#6b7280"
LOOK = {
    "svg.hashsalt": "medidiff", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#4b5563", "axes.labelcolor": "#1f2937", "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "xtick.color": "#4b5563", "ytick.color": "#4b5563", "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": "#e5e7eb", "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False,
    "lines.linewidth": 1.5, "lines.markersize": 5, "axes.titlelocation": "left",
}  # fmt: skip
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Style:
    """How one method is drawn, in every plot."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Plot:
    """A drawn figure: what it shows in words for who does not see it, and the caption below it."""

    title: str
    svg: bytes
    alt: str
    caption: str
    width: int


@contextmanager
def look() -> Iterator[None]:
    """Figures made and written inside the block have the look of the report."""
    with matplotlib.rc_context(LOOK):
        yield


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """One style a method; no two of the first 280 agree."""
    return {
        method: Style(COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)], LINES[k % len(LINES)])
        for k, method in enumerate(methods)
    }


def grid(panels: int, columns: int, size: tuple[float, float], **share: Any) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, `size` inches each, in rows of `columns`."""
    columns = 2 if panels == 4 else min(panels, columns)
    rows = -(-panels // columns)
    figure = Figure((size[0] * columns + 0.4, size[1] * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel().tolist()
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def legend(figure: Figure, entries: dict[str, Line2D]) -> None:
    """One legend of the whole figure, above it."""
    names = [plain(name) for name in entries]
    figure.legend([*entries.values()], names, loc="outside upper left", handlelength=2.8,
                  ncols=min(len(names), max(2, int(figure.get_figwidth() / 1.4))))  # fmt: skip


def method_entries(chosen: Sequence[str], style: dict[str, Style]) -> dict[str, Line2D]:
    return {
        name: Line2D([], [], color=style[name].colour, marker=style[name].marker, linestyle=style[name].line)
        for name in chosen
    }


def plain(text: str, longest: int = 40) -> str:
    """A name that matplotlib neither takes for mathematics nor hides, in letters that its font has."""
    known = "".join(letter if ord(letter) < 0x400 else "?" for letter in " ".join(text.split()))
    short = known if len(known) <= longest else f"{known[: longest - 1]}…"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def finished(title: str, figure: Figure, alt: str, caption: str) -> Plot:
    """The figure as SVG."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return Plot(title, buffer.getvalue(), alt, caption, round(figure.get_figwidth() * POINTS_PER_INCH * 4 / 3))
