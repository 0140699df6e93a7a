"""Resolution from the edge of a rod: the task transfer function, at the rod's own contrast and noise.

    ESF(d)   mean HU at the distance d = r - R from the edge of a rod of known centre and radius R
    LSF      = dESF / dd, tapered, so that noise far from the edge does not count
    TTF(f)   = |sum LSF exp(-2 pi i f d)| / |sum LSF|

(Richard et al. 2012, Med Phys 39:4115.) The pixels around a circle sample the edge much finer than their size: bins
are a tenth of a pixel. A bin averages and a difference quotient too, which `sinc^2(f bin)` undoes. A nonlinear method
has another TTF for each contrast and each dose, and one realisation shows its noise rather than its resolution: the
sums of an `Edge` are linear in the image, so add them up over realisations first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS_A_PIXEL = 10
REACH = 0.75  # of the radius; so far on both sides of the edge is looked
FLAT = 0.5  # of the reach; the taper begins there
N_FREQUENCIES = 71
HIGHEST = 0.7  # cycles a pixel: the diagonal of the image's spectrum


@dataclass(frozen=True, eq=False)
class Edge:
    """The pixels around a circular edge.

    pixels    indices into the flattened slice
    bin       which bin each of them falls into
    distance  (bins,) mean distance of a bin's pixels from the edge in mm, outwards; nan where it has none
    """

    pixels: NDArray[np.intp]
    bin: NDArray[np.intp]
    distance: NDArray[np.float64]
    pixel_mm: float

    def sums(self, image: NDArray[np.floating]) -> NDArray[np.float64]:
        """(bins,) mean value in each bin of one slice; linear in the image."""
        n = len(self.distance)
        count = np.maximum(np.bincount(self.bin, minlength=n), 1)
        return np.bincount(self.bin, image.ravel()[self.pixels], minlength=n) / count


@dataclass(frozen=True, eq=False)
class Transfer:
    """A transfer function: 1 at frequency 0; frequencies in cycles / mm."""

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]

    def frequency_at(self, level: float) -> float:
        """The lowest frequency at which it falls to `level`; nan when it never does."""
        below = np.flatnonzero(self.value < level)
        if not len(below):
            return float("nan")
        k = int(below[0])
        high, low = self.value[k - 1], self.value[k]
        return float(np.interp((high - level) / (high - low), [0, 1], self.frequency[k - 1 : k + 1]))

    def at(self, frequency: float) -> float:
        return float(np.interp(frequency, self.frequency, self.value))


def circular_edge(distance_mm: NDArray[np.floating], radius_mm: float, pixel_mm: float) -> Edge:
    """The edge of a rod; `distance_mm` (rows, columns) is how far each pixel is from the rod's centre."""
    d = distance_mm.ravel() - radius_mm
    reach = REACH * radius_mm
    pixels = np.flatnonzero(np.abs(d) < reach)
    step = pixel_mm / BINS_A_PIXEL
    bins = ((d[pixels] + reach) / step).astype(np.intp)
    n = int(np.ceil(2 * reach / step))
    count = np.bincount(bins, minlength=n)
    total = np.bincount(bins, d[pixels], minlength=n)
    return Edge(pixels, bins, np.where(count > 0, total / np.maximum(count, 1), np.nan), pixel_mm)


def transfer_function(edge: Edge, sums: NDArray[np.floating]) -> Transfer:
    """TTF of the mean over realisations of `Edge.sums`."""
    step, full = edge.pixel_mm / BINS_A_PIXEL, np.isfinite(edge.distance)
    reach = 0.5 * step * len(edge.distance)
    grid = -reach + step * (np.arange(len(sums)) + 0.5)
    spread = np.interp(grid, edge.distance[full], sums[full])
    between = (grid[1:] + grid[:-1]) / 2
    line = np.diff(spread) * _taper(between, reach)
    f = np.linspace(0, HIGHEST, N_FREQUENCIES) / edge.pixel_mm
    value = np.abs(np.exp(-2j * np.pi * f[:, None] * between) @ line) / np.sinc(f * step) ** 2
    return Transfer(f, value / value[0])


def _taper(d: NDArray[np.floating], reach: float) -> NDArray[np.float64]:
    """1 near the edge, a half cosine to 0 at `reach`."""
    x = np.clip((np.abs(d) / reach - FLAT) / (1 - FLAT), 0, 1)
    return 0.5 + 0.5 * np.cos(np.pi * x)
