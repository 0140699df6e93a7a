"""Pictures of slices as a radiologist expects them: windowed, right side of the patient at the left, sizes stated.

Figures are built through matplotlib's objects and the Agg canvas: no global state, no display, safe in threads.
The letters at the sides say where the patient's sides are; they come from the geometry and are never assumed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from medidiff import DISCLAIMER
from medidiff.metrics.image import PRESETS, Preset
from medidiff.volume import Geometry

PANEL_INCHES, GAP_INCHES, BOTTOM_INCHES, TOP_INCHES, BAR_INCHES = 4.2, 0.04, 0.3, 0.6, 0.75
SIDES = (("R", "L"), ("A", "P"), ("F", "H"))  # where the axes x, y, z of LPS begin and end
DPI = 150
PANEL_PIXELS = (256, 720)  # a panel has at least and at most so many on its longer side, where whole factors allow
SHADES = 241  # of a map of differences, odd so that zero has one; the rest of a palette of 256 is for letters

Slice = NDArray[np.floating]


@dataclass(frozen=True)
class Placement:
    """What a slice shows of the patient: size of its pixels (down, across), letters of its left and right edge."""

    pixel_mm: tuple[float, float]
    sides: tuple[str, str]

    @classmethod
    def of(cls, geometry: Geometry) -> Placement:
        return cls(geometry.pixel_spacing_mm, side_letters(geometry))


@dataclass(frozen=True)
class Strip:
    """Slices in a row of a figure, label -> (rows, columns), all of one size and at one place."""

    images: Mapping[str, Slice]
    placement: Placement

    @property
    def proportion(self) -> float:
        """Height of a slice over its width, in mm."""
        rows, columns = next(iter(self.images.values())).shape
        return rows * self.placement.pixel_mm[0] / (columns * self.placement.pixel_mm[1])


def side_by_side(
    images: Mapping[str, Slice],
    path: Path,
    *,
    geometry: Geometry,
    window: Preset = PRESETS["abdomen"],
    difference: tuple[str, str] | None = None,
    difference_range_hu: float = 60.0,
    title: str = "",
    zoom: tuple[slice, slice] | None = None,
) -> Path:
    """Write a PNG of windowed slices in a row, and return its path.

    images      label -> (rows, columns) in HU, all of one size
    difference  labels (a, b): a last panel shows a - b, red above zero and blue below, up to +-`difference_range_hu`
    zoom        (rows, columns) of a region shown enlarged in a second row
    """
    panels, placement = len(images) + (difference is not None), Placement.of(geometry)
    regions = [(slice(None), slice(None))] + ([zoom] if zoom is not None else [])
    figure, axes = _grid([PANEL_INCHES] * len(regions), panels, BAR_INCHES)
    for row, region in enumerate(regions):
        for axis, (label, image) in zip(axes[row], images.items(), strict=False):
            _show(axis, image[region], placement, cmap="gray", vmin=window.low, vmax=window.high)
            axis.set_title(label if row == 0 else "", fontsize=11, pad=4)
        if difference is not None:
            change = np.asarray(images[difference[0]], np.float64)[region] - images[difference[1]][region]
            _show_difference(axes[row, -1], change, placement, difference_range_hu)
            axes[row, -1].set_title(" - ".join(difference) if row == 0 else "", fontsize=11, pad=4)
    if zoom is not None:
        _outline(axes[0], zoom, geometry)
    spacing = " x ".join(f"{value:.3g}" for value in dict.fromkeys(geometry.pixel_spacing_mm))
    caption = f"Window {window.low:g} to {window.high:g} HU, pixel {spacing} mm."
    _write_around(figure, title, f"{caption} {DISCLAIMER.capitalize()}.")
    return save(figure, path)


def strips(rows: Sequence[Strip], path: Path, *, window: Preset, colours: str = "gray_r", title: str = "") -> Path:
    """Write a PNG of several strips with the same labels, one below the other, and return its path.

    All are shown in one window; `colours` is a map of matplotlib, usually the inverted grey of nuclear medicine.
    """
    figure, axes = _grid([PANEL_INCHES * row.proportion for row in rows], len(rows[0].images))
    for k, row in enumerate(rows):
        for axis, (label, image) in zip(axes[k], row.images.items(), strict=True):
            _show(axis, image, row.placement, cmap=colours, vmin=window.low, vmax=window.high)
            axis.set_title(label if k == 0 else "", fontsize=11, pad=4)
    caption = f"Window {window.low:g} to {window.high:g} {window.unit}. {DISCLAIMER.capitalize()}."
    _write_around(figure, title, caption)
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        FigureCanvasAgg(figure).print_figure(partial, format="png", dpi=DPI, metadata={"Description": DISCLAIMER})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def panel(image: Slice, placement: Placement, low: float, high: float) -> bytes:
    """PNG of one windowed slice, a grey level a pixel where it is isotropic, with side letters and a bar of length."""
    return _png(_panel(image, placement, cmap="gray", vmin=low, vmax=high).convert("L"))


def difference_panel(change: Slice, placement: Placement, reach: float) -> bytes:
    """PNG of a map of differences: red above zero, blue below, white at zero, up to +-`reach`."""
    colours = matplotlib.colormaps["RdBu_r"].resampled(SHADES)
    drawn = _panel(change, placement, bar=f"{reach:g}", cmap=colours, vmin=-reach, vmax=reach)
    palette = Image.new("P", (1, 1))
    table = [*colours(np.arange(SHADES))[:, :3].ravel() * 255, *np.repeat(np.linspace(0, 255, 256 - SHADES), 3)]
    palette.putpalette([round(level) for level in table])
    return _png(drawn.quantize(palette=palette, dither=Image.Dither.NONE))


def _panel(image: Slice, placement: Placement, bar: str = "", **look: Any) -> Image.Image:
    """A slice alone, one image pixel on one pixel or a square of them; `bar` is written at the ends of a colour bar."""
    rows, columns = image.shape
    tall = rows * placement.pixel_mm[0] / placement.pixel_mm[1]
    factor = max(1, -(-PANEL_PIXELS[0] // max(columns, round(tall))))
    factor = max(1, min(factor, PANEL_PIXELS[1] // max(columns, round(tall))))
    size = columns * factor, round(tall * factor)
    points = max(size) / 512 * 150  # so that letters have one size relative to the panel
    figure = Figure((size[0] / points, size[1] / points), dpi=points)
    _show(figure.add_axes((0, 0, 1, 1)), image, placement, **look)
    if bar:
        figure.add_artist(Rectangle((0.56, 0.01), 0.43, 0.09, color="white", alpha=0.85, linewidth=0))
        _colour_bar(figure.add_axes((0.62, 0.03, 0.31, 0.02), zorder=2), bar, look["cmap"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _colour_bar(axis: Any, end: str, colours: Any) -> None:
    axis.imshow(np.linspace(0, 1, SHADES)[None], aspect="auto", cmap=colours)
    axis.set(xticks=[], yticks=[])
    for place, label in ((0.0, f"\N{MINUS SIGN}{end}"), (0.5, "0"), (1.0, f"+{end}")):
        axis.text(place, 1.3, label, transform=axis.transAxes, ha="center", fontsize=7)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def side_letters(geometry: Geometry) -> tuple[str, str]:
    """The letters (R L A P F H) at the left and the right edge of a picture of a slice."""
    axis = int(np.argmax(np.abs(geometry.right)))
    begin, end = SIDES[axis]
    return (begin, end) if geometry.right[axis] > 0 else (end, begin)


def _grid(heights: Sequence[float], columns: int, right: float = 0.0) -> tuple[Figure, NDArray[np.object_]]:
    """A figure with rows of panels of these heights in inches, room for a title and a caption, and `right` of a bar."""
    step = PANEL_INCHES + GAP_INCHES
    width = columns * step + right
    height = sum(heights) + len(heights) * GAP_INCHES + BOTTOM_INCHES + TOP_INCHES
    figure = Figure((width, height), facecolor="white")
    axes = np.empty((len(heights), columns), object)
    for row, column in np.ndindex(axes.shape):
        below = heights[row + 1 :]
        left, bottom = column * step, BOTTOM_INCHES + sum(below) + len(below) * GAP_INCHES
        box = (left / width, bottom / height, PANEL_INCHES / width, heights[row] / height)
        axes[row, column] = figure.add_axes(box)
    return figure, axes


def _write_around(figure: Figure, title: str, caption: str) -> None:
    height = figure.get_figheight()
    figure.text(0.5, 1 - 0.08 / height, title, fontsize=12, ha="center", va="top")
    figure.text(0.06 / figure.get_figwidth(), 0.08 / height, caption, fontsize=9)


def _show(axis: Any, image: Slice, placement: Placement, **look: Any) -> Any:
    """One slice at its true proportions, in mm, with the side letters and a bar of 5 cm or, if small, 1 cm."""
    height, width = (n * mm for n, mm in zip(image.shape, placement.pixel_mm, strict=True))
    shown = axis.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **look)
    axis.set_axis_off()
    ink, halo = ("white", "black") if look["cmap"] == "gray" else ("black", "white")
    outline = [withStroke(linewidth=2, foreground=halo)]
    for letter, x, side in zip(placement.sides, (0.02, 0.98), ("left", "right"), strict=True):
        axis.text(x, 0.5, letter, transform=axis.transAxes, color=ink, ha=side, va="center", fontsize=11,
                  path_effects=outline)  # fmt: skip
    bar_mm = 50.0 if width > 80 else 10.0
    left, line = 0.04 * width, 0.965 * height
    axis.plot(
        [left, left + bar_mm],
        [line, line],
        color=ink,
        linewidth=2,
        path_effects=[withStroke(linewidth=4, foreground=halo)],
    )
    axis.text(left, line - 0.015 * height, f"{bar_mm / 10:g} cm", color=ink, fontsize=8, va="bottom",
              path_effects=outline)  # fmt: skip
    return shown


def _show_difference(axis: Any, change: Slice, placement: Placement, reach: float) -> None:
    """A map of differences, white at zero, with its colour bar at the right."""
    shown = _show(axis, change, placement, cmap="RdBu_r", vmin=-reach, vmax=reach)
    box, figure = axis.get_position(), axis.figure
    bar = figure.colorbar(shown, cax=figure.add_axes((box.x1 * 1.003, box.y0, 0.008, box.height)), extend="both")
    bar.set_label("difference, HU", fontsize=9, labelpad=0)
    bar.ax.tick_params(labelsize=8)


def _outline(axes: Any, region: tuple[slice, slice], geometry: Geometry) -> None:
    """A frame around the region that is enlarged below."""
    rows, columns = region
    down, across = geometry.pixel_spacing_mm
    for axis in axes:
        corner, size = (columns.start * across, rows.start * down), (columns.stop - columns.start) * across
        tall = (rows.stop - rows.start) * down
        axis.add_patch(Rectangle(corner, size, tall, fill=False, edgecolor="orange", linewidth=1))
