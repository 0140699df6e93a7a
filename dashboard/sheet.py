"""A picture of measurements for a paper or a file: the slices with what was drawn on them, and the curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dashboard.measuring import PLANES, Array, Region, Section, Shown
from medidiff import DISCLAIMER
from medidiff.report.styles import COLOURS, look, plain

PANEL_INCHES, LEAST_INCHES, CURVE_INCHES, DPI = 3.6, 0.9, 2.6, 150
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom
INK = "#ffd866"
RIM = 96  # points of a circle

Curves = Mapping[str, tuple[Array, Array]]


def outline(region: Region, section: Section) -> Array:
    """What is drawn of a region, as (column, row) of the displayed section, (n, 2)."""
    points = section.pixels(region.points_mm)
    if region.kind == "circle":
        steps = np.array(section.steps_mm)
        radius = np.hypot(*((points[1] - points[0]) * steps))
        turn = np.linspace(0, 2 * np.pi, RIM)
        points = points[0] + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1) / steps
    elif region.kind == "rectangle":
        (a, b), (c, d) = points[:2]
        points = np.array([(a, b), (c, b), (c, d), (a, d), (a, b)])
    elif region.kind == "freehand":
        points = np.concatenate([points, points[:1]])
    return section.on_display(points)


def sheet(
    regions: Sequence[Region],
    images: Sequence[Shown],
    window: Mapping[str, tuple[float, float]],
    curves: Mapping[tuple[str, str], Curves],
) -> bytes:
    """A PNG: a row of pictures for each slice that something was drawn on, and a panel for each set of curves.

    window   grey levels by unit, the first value black; curves: what the axes are called -> title -> (x, y)
    """
    rows = _slices(regions)
    columns = max(len(images), 1)
    n_curves = -(-len(curves) // columns)
    heights = [_height(row[0], images) for row in rows] + [CURVE_INCHES] * n_curves
    with look():
        figure = Figure((PANEL_INCHES * columns, sum(heights) + 0.4), layout="constrained", facecolor="white")
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for row, drawn in enumerate(rows):
            for column, image in enumerate(images):
                _picture(figure.add_subplot(grid[row, column]), image, drawn, window.get(image.unit, (0, 1)))
        for k, (names, lines) in enumerate(curves.items()):
            _curve(figure.add_subplot(grid[len(rows) + k // columns, k % columns]), names, lines)
        units = dict.fromkeys(image.unit for image in images if image.is_compared and image.unit in window)
        shown = "; ".join(f"{min(window[unit]):g} to {max(window[unit]):g} {unit}" for unit in units)
        figure.supxlabel(f"Window {shown}. {DISCLAIMER.capitalize()}.", fontsize=8)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_figure(file, format="png", dpi=DPI, metadata={"Description": DISCLAIMER})
    return file.getvalue()


def _slices(regions: Sequence[Region]) -> list[list[Region]]:
    """Regions of one plane and one slice together."""
    found: dict[tuple[str, float], list[Region]] = {}
    for region in regions:
        found.setdefault((region.plane, _depth(region)), []).append(region)
    return list(found.values())


def _depth(region: Region) -> float:
    return round(float(region.points_mm[0, PLANES[region.plane][2]]), 1)


def _height(region: Region, images: Sequence[Shown]) -> float:
    """Inches of a row of pictures: a few thick slices are a low one."""
    for image in images:
        section = image.section(region.plane, region.points_mm[0])
        if section is not None:
            across, down = (n * mm for n, mm in zip(section.values.shape, section.steps_mm, strict=True))
            return max(PANEL_INCHES * min(down / across, 1.5), LEAST_INCHES)
    return LEAST_INCHES


def _picture(axis: Any, image: Shown, drawn: Sequence[Region], window: tuple[float, float]) -> None:
    first = drawn[0]
    section = image.section(first.plane, first.points_mm[0])
    axis.set_axis_off()
    axis.set_title(plain(image.title), loc="center")
    if section is None:
        return
    shown: NDArray[np.float64] = section.display()
    low, high = sorted(window)
    colours = "gray" if window[0] < window[1] else "gray_r"
    axis.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect=section.steps_mm[1] / section.steps_mm[0])
    for region in drawn:
        line = outline(region, section)
        axis.plot(*line.T, color=INK, linewidth=1.2)
        axis.annotate(plain(region.name), line[0], color=INK, fontsize=8)
    places = ((0.01, 0.5, "left"), (0.99, 0.5, "right"), (0.5, 0.97, "center"), (0.5, 0.03, "center"))
    for letter, (x, y, side) in zip(LETTERS[first.plane], places, strict=True):
        axis.text(x, y, letter, transform=axis.transAxes, color=INK, ha=side, va="center", fontsize=9)


def _curve(axis: Any, names: tuple[str, str], lines: Curves) -> None:
    for k, (title, (x, y)) in enumerate(lines.items()):
        axis.plot(x, y, color=COLOURS[k % len(COLOURS)], label=plain(title))
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    axis.legend(fontsize=7)
