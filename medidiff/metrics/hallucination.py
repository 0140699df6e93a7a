"""Structures in an output that neither its input supports nor the reference has; two tests, one per kind of invention.

**Structure beyond the noise** (lesions, vessels: low frequencies). All images are smoothed with a Gaussian of SCALE_MM.
Image u holds structure that v does not at a pixel where

    |u - envelope(v)| > max(THRESHOLD * sigma, contrast(u) / 2)

envelope(v)  the nearest value between the least and the greatest of v within REACH scales. A blurred v goes nowhere
             else, so no image is accused of being smooth; amid noise it is one to two sigma off before THRESHOLD counts
sigma        local deviation of (input - reference), smoothed likewise: what noise alone may do. It is measured, so its
             colour and its change across the image are right
contrast(u)  how far u stands out of its surroundings (white or black top-hat of TOP_HAT scales). Halving the contrast
             of what is there is blur: one by less than SCALE_MM does no more than that to a point

*Added* is what the candidate holds and neither reference nor input do; *removed* what both of them hold and the
candidate does not. Small structures count as soon as their smoothed contrast does: an 8 mm disc of 40 HU keeps
`1 - exp(-R^2 / 2 SCALE_MM^2)` = 86 % of it.

**Fourier ring correlation** (texture: all frequencies; Saxton & Baumeister 1982, J Microsc 127:127; van Heel 1987,
Ultramicroscopy 21:95), per patch of PATCH pixels under a Hann window and ring q of RING frequencies:

    FRC(q) = Re sum_q A B* / sqrt(sum_q |A|^2 sum_q |B|^2)

A ring of n frequencies that are not correlated scatters by sqrt(3.78 / n): half of them are conjugates of the other
half but each has two parts, and the window ties neighbours together (mean(w^4) / mean(w^2)^2 = 1.944 each way). A
candidate's frequency is *unsupported* where it has power (POWER of the input's at least) but its correlation with the
reference and with the input both lie below 2 such deviations. Noise that was kept is the input's; noise that was made
up is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, grey_closing, grey_opening, maximum_filter, minimum_filter, uniform_filter

Array = NDArray[np.floating]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

SCALE_MM = 2.0
REACH = 2.0  # scales
TOP_HAT = 8.0  # scales: structures up to 16 mm across stand out
NOISE_WINDOW = 15.0  # scales
THRESHOLD = 3.0

PATCH = 64
STRIDE = 32
RING = 4
POWER = 0.02  # 14 % of the amplitude: the noise of a full dose beside that of a fiftieth
HANN_TIES = (35 / 128 / (3 / 8) ** 2) ** 2  # 3.78


@dataclass(frozen=True)
class Blur:
    """The scale of the structure test on one grid; a scale is a pixel at least."""

    pixel_mm: tuple[float, float]

    def scales(self, count: float) -> tuple[float, float]:
        """Pixels of that many scales, along rows and columns."""
        rows, columns = (count * max(SCALE_MM / mm, 1.0) for mm in self.pixel_mm)
        return rows, columns

    def window(self, radius: float) -> tuple[int, int]:
        """Odd sides of the square of that radius in scales."""
        rows, columns = (2 * round(half) + 1 for half in self.scales(radius))
        return rows, columns

    def __call__(self, image: Array) -> Image:
        return gaussian_filter(image.astype(np.float32), self.scales(1.0), mode="nearest")


def allowed(noise: Array, blur: Blur) -> Image:
    """Local standard deviation of smoothed noise (rows, columns)."""
    return np.sqrt(uniform_filter(blur(noise) ** 2, blur.window(NOISE_WINDOW / 2), mode="nearest"))


def beyond(image: Image, support: Image, sigma: Image, blur: Blur) -> Image:
    """How many sigma `image` stands out of the envelope of `support`; 0 where it does not or no more than blur may.

    Both images (rows, columns) are smoothed; positive where it is brighter, negative where it is darker.
    """
    reach, hat = blur.window(REACH), blur.window(TOP_HAT / 2)
    brighter = image - maximum_filter(support, reach, mode="nearest")
    darker = minimum_filter(support, reach, mode="nearest") - image
    brighter[brighter <= (image - grey_opening(image, hat, mode="nearest")) / 2] = 0
    darker[darker <= (grey_closing(image, hat, mode="nearest") - image) / 2] = 0
    signed = np.maximum(brighter, 0) - np.maximum(darker, 0)
    return np.divide(signed, sigma, out=np.zeros_like(signed), where=sigma > 0)


@dataclass(frozen=True)
class Excess:
    """Added and removed structure in sigma (rows, columns); 0 where there is none."""

    added: Image
    removed: Image


def excess(candidate: Array, reference: Array, scan: Array, pixel_mm: tuple[float, float]) -> Excess:
    """Structure that the candidate added or removed, each image (rows, columns)."""
    blur = Blur(pixel_mm)
    sigma = allowed(scan - reference, blur)
    x, r, y = blur(candidate), blur(reference), blur(scan)

    added = _both(beyond(x, r, sigma, blur), beyond(x, y, sigma, blur))
    removed = _both(beyond(r, x, sigma, blur), beyond(y, x, sigma, blur))
    return Excess(added, removed)


def _both(first: Image, second: Image) -> Image:
    """The lesser of two findings where both pass the threshold with one sign."""
    lesser = np.where(np.abs(first) < np.abs(second), first, second)
    return np.where((first * second > 0) & (np.abs(lesser) > THRESHOLD), lesser, np.float32(0))


@cache
def _rings() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Ring of every frequency of a patch, and the number in each; beyond the last ring up to Nyquist are corners."""
    f = np.fft.fftfreq(PATCH, 1 / PATCH)
    ring = np.rint(np.hypot(f, f[:, None]) / RING).astype(np.intp).ravel()
    return ring, np.bincount(ring).astype(float)


N_RINGS = PATCH // 2 // RING  # without the mean and the corners


def ring_frequencies(pixel_mm: float) -> NDArray[np.float64]:
    """(N_RINGS,) cycles / mm."""
    return np.arange(1, N_RINGS + 1) * RING / (PATCH * pixel_mm)


def chance() -> NDArray[np.float64]:
    """(N_RINGS,) standard deviation of the correlation of two patches that have nothing in common."""
    return np.sqrt(HANN_TIES / _rings()[1][1 : N_RINGS + 1])


def transforms(image: Array, corners: NDArray[np.intp]) -> NDArray[np.complex64]:
    """(patches, PATCH^2) Fourier transforms of the windowed patches at `corners` (patches, 2), less their means."""
    patches = sliding_window_view(image, (PATCH, PATCH))[corners[:, 0], corners[:, 1]].astype(np.float32)
    hann = np.hanning(PATCH + 1)[:-1].astype(np.float32)
    taper = hann[:, None] * hann
    mean = (patches * taper).sum((1, 2), keepdims=True) / taper.sum()
    return np.fft.fft2((patches - mean) * taper).reshape(len(patches), -1).astype(np.complex64)


def patch_corners(measured: Mask) -> NDArray[np.intp]:
    """(patches, 2) first row and column of the half-overlapping patches that hold no padding."""
    rows, columns = (np.arange(0, n - PATCH + 1, STRIDE) for n in measured.shape)
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    kept = [bool(measured[r : r + PATCH, c : c + PATCH].all()) for r, c in corners]
    return corners[np.array(kept, bool)]


def ring_sums(products: Array) -> NDArray[np.float64]:
    """(patches, N_RINGS) sums over rings of (patches, PATCH^2)."""
    ring, _ = _rings()
    order = np.argsort(ring, kind="stable")
    starts = np.searchsorted(ring[order], np.arange(1, N_RINGS + 2))
    return np.add.reduceat(products[:, order].astype(np.float64), starts, axis=1)[:, :N_RINGS]


@dataclass(frozen=True)
class Correlation:
    """Ring by ring (patches, N_RINGS): the correlation of two images, and the power of each."""

    frc: NDArray[np.float64]
    power: NDArray[np.float64]
    other: NDArray[np.float64]


def ring_correlation(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> Correlation:
    """Of two stacks of transforms; 0 where either has no power."""
    power, other = ring_sums(np.abs(a) ** 2), ring_sums(np.abs(b) ** 2)
    scale = np.sqrt(power * other)
    cross = ring_sums((a * b.conj()).real)
    return Correlation(np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0), power, other)


def unsupported(with_reference: Correlation, with_scan: Correlation) -> NDArray[np.bool_]:
    """(patches, N_RINGS) True where the candidate has power that neither the reference nor the scan explains."""
    threshold = 2 * chance()
    powerful = with_scan.power > POWER * with_scan.other
    return powerful & (with_reference.frc < threshold) & (with_scan.frc < threshold)
