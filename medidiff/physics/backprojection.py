"""Filtered backprojection of parallel and fan beams, over any arc.

    mu(x, y) = sum_views d_angle / U^2  Q(s'),    Q = (w cos(gamma) p) * h        (flat; s' = R tan(gamma))
                                                  Q = cos(gamma)^2 / R (w R cos(gamma) p) * g / R     (curved)

`h` is the apodised ramp on the pitch of the bins at the isocentre, `g(gamma) = (gamma / sin(gamma))^2 h(R gamma)`, `U`
the pixel's distance from the source along the central ray over `R`, and s' where its ray crosses the isocentre's line
(Kak & Slaney 1988, section 3.4; the curved detector's `1 / L^2` is `cos(gamma)^2 / (R U)^2`). Parallel rays: U = 1.

A line that is measured twice, at `angle` and from the other side at `angle + pi - 2 gamma`, is shared between the two
by weights that add up to 1 and fall smoothly to the ends of the arc (Noo et al. 2002, Phys Med Biol 47:2525, eq. 39):

    w = c(angle) / (c(angle) + c(angle + pi - 2 gamma)),    c: cos^2 over the first and last TAPER of the arc

A full turn gives 1/2, a short scan Parker-like weights. Lines that a limited angle lacks are taken for 0.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from medidiff.physics.ct import Kernel
from medidiff.physics.projectors import Array, Beam

Images = NDArray[np.float32]

TAPER = np.radians(10.0)
OVERSAMPLING = 4  # filtered bins are sinc-interpolated this finely, then linearly


def fbp(
    sinograms: NDArray[np.floating], beam: Beam, matrix: tuple[int, int], pixel_mm: float, kernel: Kernel
) -> Images:
    """(slices, rows, columns) attenuation in 1/mm of line integrals (slices, views, bins)."""
    weights = redundancy(beam) * np.cos(beam.gammas) * view_widths(beam)[:, None]
    filtered = _on_a_line(_filtered(sinograms * weights, beam, pixel_mm, kernel), beam)
    images = np.zeros((*matrix, len(sinograms)), np.float32)
    pitch = beam.isocentre_bin_mm / OVERSAMPLING / pixel_mm
    radius = beam.source_isocentre_mm / pixel_mm if beam.kind == "fan" else 0.0
    columns = np.ascontiguousarray(filtered.transpose(1, 2, 0))
    _backproject(columns, beam.angles, radius, 1 / pitch, OVERSAMPLING * (beam.n_bins - 1) / 2, images)
    return np.ascontiguousarray(images.transpose(2, 0, 1))


def view_widths(beam: Beam) -> Array:
    """(views,) radians that each view stands for: half way to its neighbours; at the ends of an arc as at their one."""
    gaps = np.diff(beam.angles)
    if gaps.size == 0:
        return np.ones(1)
    if is_closed(beam):
        around = (np.pi if beam.kind == "parallel" and _span(beam) < 1.5 * np.pi else 2 * np.pi) - np.ptp(beam.angles)
        return (np.append(gaps, around) + np.insert(gaps, 0, around)) / 2
    return np.asarray(np.gradient(beam.angles))


def is_closed(beam: Beam) -> bool:
    """True where the views go all round: a full turn, or half of one for parallel rays."""
    turns = (np.pi, 2 * np.pi) if beam.kind == "parallel" else (2 * np.pi,)
    return any(bool(abs(_span(beam) / turn - 1) < 0.01) for turn in turns)


def _span(beam: Beam) -> float:
    """The arc, its last step included."""
    return float(np.ptp(beam.angles) * len(beam.angles) / max(len(beam.angles) - 1, 1))


def redundancy(beam: Beam) -> Array:
    """(views, bins) shares of the lines, 1 for a line that is measured once."""
    angles, gammas = beam.angles[:, None], beam.gammas
    here, there = _taper(beam, angles), _taper(beam, angles + np.pi - 2 * gammas)
    return here / (here + there)


def _taper(beam: Beam, angles: Array) -> Array:
    """`c`, of angles of any turn."""
    arc = _span(beam)
    step = arc / len(beam.angles)
    along = np.mod(angles - beam.angles[0] + step / 2, 2 * np.pi)
    if is_closed(beam) and arc > 1.5 * np.pi:
        return np.ones_like(along)
    width = min(TAPER, arc / 2)
    edge = np.clip(np.minimum(along, arc - along) / width, 0, 1)
    return np.sin(np.pi / 2 * edge) ** 2


def _filtered(weighted: NDArray[np.floating], beam: Beam, pixel_mm: float, kernel: Kernel) -> Images:
    """(slices, views, OVERSAMPLING * bins) in 1/mm, on the bins' own spacing."""
    n, pitch = beam.n_bins, beam.isocentre_bin_mm
    n_fft = int(scipy.fft.next_fast_len(2 * n, real=True))
    away = np.minimum(np.arange(n_fft), n_fft - np.arange(n_fft))
    taps = np.where(away % 2 == 1, -1 / np.maximum(np.pi * away, 1) ** 2, 0.0)
    taps[0] = 0.25
    if beam.kind == "fan" and beam.detector == "curved":
        turn = np.minimum(away, n) * (beam.bin_mm / beam.source_detector_mm)
        taps[1:] *= (turn[1:] / np.sin(turn[1:])) ** 2
    gain = scipy.fft.rfft(taps).real * kernel.response(np.arange(n_fft // 2 + 1) / n_fft / pitch * pixel_mm)
    spectrum = scipy.fft.rfft(weighted.astype(np.float32), n_fft) * (OVERSAMPLING / pitch * gain).astype(np.float32)
    return np.asarray(scipy.fft.irfft(spectrum, OVERSAMPLING * n_fft)[..., : OVERSAMPLING * n])


def _on_a_line(filtered: Images, beam: Beam) -> Images:
    """Bins of a curved detector, evenly spaced in `gamma`, brought to even spacing in `R tan(gamma)`, times cos^2."""
    if beam.kind == "parallel" or beam.detector == "flat":
        return filtered
    fine = (np.arange(filtered.shape[-1]) - OVERSAMPLING * (beam.n_bins - 1) / 2) / OVERSAMPLING
    d_gamma = beam.bin_mm / beam.source_detector_mm
    gammas = np.arctan(fine * d_gamma)
    at = np.clip((gammas / d_gamma - fine[0]) * OVERSAMPLING, 0, filtered.shape[-1] - 1.001)
    low = at.astype(np.intp)
    share = (at - low).astype(np.float32)
    line = (1 - share) * filtered[..., low] + share * filtered[..., low + 1]
    return np.asarray(line * (np.cos(gammas) ** 2).astype(np.float32))


@numba.njit(nogil=True, cache=True, fastmath=True)
def _backproject(filtered: Any, angles: Any, radius: float, scale: float, centre: float, images: Any) -> None:
    """Adds (views, fine bins, slices) to (rows, columns, slices); lengths in pixels, `scale` fine bins a pixel.

    A `radius` of 0 stands for parallel rays.
    """
    rows, cols, n_slices = images.shape
    n_bins = filtered.shape[1]
    for view in range(angles.size):
        c, s = np.cos(angles[view]), np.sin(angles[view])
        for row in range(rows):
            y = row - 0.5 * (rows - 1)
            for col in range(cols):
                x = col - 0.5 * (cols - 1)
                magnified = radius / (radius - x * s + y * c) if radius > 0 else 1.0
                at = (x * c + y * s) * magnified * scale + centre
                low = int(np.floor(at))
                if low < 0 or low + 1 >= n_bins:
                    continue
                weight = magnified * magnified
                high = np.float32((at - low) * weight)
                rest = np.float32(weight) - high
                for k in range(n_slices):
                    images[row, col, k] += rest * filtered[view, low, k] + high * filtered[view, low + 1, k]
