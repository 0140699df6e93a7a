"""CT phantoms as sums of ellipses, imaged without noise and exactly: the truth of everything measured on them.

An ellipse of half axes `a, b`, turned by `phi`, with its centre at the origin has the Fourier transform

    F(f_x, f_y) = a b J1(2 pi r) / r,    r = hypot(a f_u, b f_v),   (f_u, f_v) = (f_x, f_y) turned by -phi

and filtered backprojection with the apodisation `A` shows an object through the transfer function `A(|f|)`. So the
noise-free image is the inverse Fourier series of `F A`: no pixel is ever drawn, no edge is a staircase, and the
resolution is the kernel's own. (Spectrum beyond the image's Nyquist frequency, which kernels with a cutoff above 1
let pass, is left out: it would be aliasing.)

    uniform   a water cylinder, for noise
    rods      six inserts from -200 to 900 HU, for resolution and contrast
    signals   faint discs in four sizes and contrasts, for detection: there in some slices, not in others
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from medidiff.physics.ct import Kernel
from medidiff.physics.ellipses import Ellipse

AIR_HU = -1000.0
BODY_MM = 100.0  # radius of the water cylinder
ROD_MM = 12.0
RODS_HU = (-200.0, 60.0, 340.0, -80.0, 900.0, 120.0)  # neighbours differ, so that streaks would show
ROD_RING_MM = 60.0
SIGNALS_MM_HU = ((5.0, 10.0), (7.0, 6.0), (10.0, 5.0))  # diameter, contrast; around the rim
INNER_SIGNAL_MM_HU = (7.0, 8.0)  # where the noise is highest; at a quarter dose none is certain, none hopeless
PLACES = 4  # of each signal, at one distance from the centre: one noise
SIGNAL_RING_MM = (25.0, 65.0)


@dataclass(frozen=True)
class Insert:
    """A known object; the `value` of its ellipse is its contrast in HU, 0 for a part that is just water."""

    ellipse: Ellipse
    role: Literal["rod", "signal", "background"]
    name: str


@dataclass(frozen=True)
class Phantom:
    """A body in air with inserts; lengths in mm, the origin is the centre of the image."""

    body: Ellipse
    inserts: tuple[Insert, ...]
    matrix: int = 256
    pixel_mm: float = 0.9

    def image(self, kernel: Kernel, *, signals: bool = True) -> NDArray[np.float32]:
        """(matrix, matrix) noise-free HU seen through `kernel`, with or without the signals."""
        shown = [i.ellipse for i in self.inserts if i.ellipse.value and (signals or i.role != "signal")]
        seen = band_limited([self.body, *shown], (self.matrix, self.matrix), self.pixel_mm, kernel.response)
        return (seen + AIR_HU).astype(np.float32)


def transform(ellipse: Ellipse, f_x: NDArray[np.floating], f_y: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Fourier transform of an ellipse, value mm^2, at frequencies in cycles / mm."""
    c, s = np.cos(ellipse.phi), np.sin(ellipse.phi)
    r = np.hypot(ellipse.a * (c * f_x + s * f_y), ellipse.b * (c * f_y - s * f_x))
    bessel = np.where(r > 0, j1(2 * np.pi * r) / np.where(r > 0, r, 1), np.pi)
    shift: NDArray[np.complex128] = np.exp(-2j * np.pi * (f_x * ellipse.x0 + f_y * ellipse.y0))
    return shift * (ellipse.value * ellipse.a * ellipse.b * bessel)


def band_limited(
    ellipses: Sequence[Ellipse],
    matrix: tuple[int, int],
    pixel_mm: float,
    response: Callable[[NDArray[np.floating]], NDArray[np.floating]],
) -> NDArray[np.float64]:
    """(rows, columns) sum of ellipses at the pixels' centres, through a transfer function of cycles a pixel."""
    rows, cols = matrix
    f_y, f_x = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)
    spectrum = sum(transform(e, f_x / pixel_mm, f_y / pixel_mm) for e in ellipses) * response(np.hypot(f_x, f_y))
    to_corner = np.exp(-1j * np.pi * (f_x * (cols - 1) + f_y * (rows - 1)))
    return np.fft.irfft2(spectrum * to_corner, matrix) / pixel_mm**2


def uniform(matrix: int = 256, pixel_mm: float = 0.9) -> Phantom:
    """Water, all of it but the rim to be measured in."""
    return Phantom(_water(), (_background(0.75 * BODY_MM),), matrix, pixel_mm)


def rods(matrix: int = 256, pixel_mm: float = 0.9) -> Phantom:
    """Six rods on a ring, and water in the middle."""
    places = _ring(ROD_RING_MM, len(RODS_HU), turn=0.1)
    found = [
        Insert(Ellipse(ROD_MM, ROD_MM, hu, x, y), "rod", f"rod {hu:g} HU")
        for hu, (x, y) in zip(RODS_HU, places, strict=True)
    ]
    return Phantom(_water(), (*found, _background(40.0)), matrix, pixel_mm)


def signals(matrix: int = 256, pixel_mm: float = 0.9) -> Phantom:
    """Faint discs, each kind at PLACES places equally far from the centre."""
    inner, outer = SIGNAL_RING_MM
    rim = _ring(outer, PLACES * len(SIGNALS_MM_HU), turn=0.1)
    found = [_signal(*INNER_SIGNAL_MM_HU, place) for place in _ring(inner, PLACES, turn=0.4)]
    found += [_signal(*SIGNALS_MM_HU[k % len(SIGNALS_MM_HU)], place) for k, place in enumerate(rim)]
    return Phantom(_water(), (*found, _background(0.75 * BODY_MM)), matrix, pixel_mm)


PHANTOMS: dict[str, Callable[[int, float], Phantom]] = {"uniform": uniform, "rods": rods, "signals": signals}


def _water() -> Ellipse:
    return Ellipse(BODY_MM, BODY_MM, -AIR_HU)


def _background(radius_mm: float) -> Insert:
    return Insert(Ellipse(radius_mm, radius_mm, 0.0), "background", "water")


def _signal(diameter_mm: float, hu: float, place: tuple[float, float]) -> Insert:
    radius = diameter_mm / 2
    return Insert(Ellipse(radius, radius, hu, *place), "signal", f"disc {diameter_mm:g} mm {hu:g} HU")


def _ring(radius_mm: float, n: int, turn: float) -> list[tuple[float, float]]:
    """Places evenly around the centre, turned so that edges meet the pixel grid in many ways."""
    angles = turn + 2 * np.pi * np.arange(n) / n
    return [(float(radius_mm * np.cos(t)), float(radius_mm * np.sin(t))) for t in angles]
