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
candidate's frequency is *unsupported* where it has power (POWER of the input's there, and FAINT of all the noise that
the input has in the patch) but its correlation with the reference and with the input both lie below 2 such deviations.
Noise that was kept is the input's; noise that was made up is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import rfft2
from scipy.ndimage import uniform_filter

from medidiff.metrics.windows import greatest, least, smoothed

Array = NDArray[np.floating]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Transforms = NDArray[np.complex64]

SCALE_MM = 2.0
REACH = 2.0  # scales
TOP_HAT = 8.0  # scales: structures up to 16 mm across stand out
NOISE_WINDOW = 15.0  # scales
THRESHOLD = 3.0
STEP = 0.75  # scales; a Gaussian passes 1.5e-4 of what lies beyond the Nyquist frequency of such a grid

PATCH = 64
STRIDE = 32
RING = 4
POWER = 0.02  # of the input in that ring
FAINT = 0.002  # of all of the input's noise in that patch
HANN_TIES = (35 / 128 / (3 / 8) ** 2) ** 2  # 3.78


@dataclass(frozen=True)
class Grid:
    """Where smoothed images are known: at every `step`-th pixel; more would show nothing. Pairs: (rows, columns)."""

    pixel_mm: tuple[float, float]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image; one at least."""
        rows, columns = (max(SCALE_MM / mm, 1.0) for mm in self.pixel_mm)
        return rows, columns

    @property
    def step(self) -> tuple[int, int]:
        rows, columns = (max(int(scale * STEP), 1) for scale in self.scale)
        return rows, columns

    def window(self, scales: float) -> tuple[int, int]:
        """Odd sides of the square that reaches that far from its middle, in pixels of this grid."""
        rows, columns = (2 * round(scales * s / step) + 1 for s, step in zip(self.scale, self.step, strict=True))
        return rows, columns

    def smooth(self, image: Array) -> Image:
        return smoothed(image, self.scale, 3.5, "edge", self.step)

    def enlarge(self, image: Image, shape: tuple[int, ...]) -> Image:
        """Back to the pixels of the images, of that shape."""
        rows, columns = self.step
        return image.repeat(rows, 0).repeat(columns, 1)[: shape[0], : shape[1]]


@dataclass(frozen=True)
class Relief:
    """A smoothed image, the envelope of its neighbourhood, and how far it stands out as bright and as dark."""

    image: Image
    low: Image
    high: Image
    bright: Image
    dark: Image

    @classmethod
    def of(cls, image: Image, grid: Grid) -> Relief:
        reach, hat = grid.window(REACH), grid.window(TOP_HAT / 2)
        return cls(
            image, least(image, reach), greatest(image, reach),
            image - greatest(least(image, hat), hat), least(greatest(image, hat), hat) - image,
        )  # fmt: skip


def allowed(noise: Image, grid: Grid) -> Image:
    """Local standard deviation of smoothed noise."""
    return np.sqrt(uniform_filter(noise**2, grid.window(NOISE_WINDOW / 2), mode="nearest"))


def beyond(u: Relief, v: Relief, sigma: Image) -> Image:
    """How many sigma u stands out of the envelope of v, by the rule above; negative where it is darker, else 0."""
    brighter, darker = u.image - v.high, v.low - u.image
    brighter[brighter <= np.maximum(THRESHOLD * sigma, u.bright / 2)] = 0
    darker[darker <= np.maximum(THRESHOLD * sigma, u.dark / 2)] = 0
    signed = brighter - darker
    return np.divide(signed, sigma, out=np.zeros_like(signed), where=sigma > 0)


@dataclass(frozen=True)
class Excess:
    """Added and removed structure in sigma (rows, columns); 0 where there is none."""

    added: Image
    removed: Image


def excess(candidate: Array, reference: Array, scan: Array, pixel_mm: tuple[float, float]) -> Excess:
    """Structure that the candidate added or removed, each image (rows, columns)."""
    grid = Grid(pixel_mm)
    x, r, y = (Relief.of(grid.smooth(image), grid) for image in (candidate, reference, scan))
    sigma = allowed(y.image - r.image, grid)
    added = _both(beyond(x, r, sigma), beyond(x, y, sigma))
    removed = _both(beyond(r, x, sigma), beyond(y, x, sigma))
    return Excess(grid.enlarge(added, candidate.shape), grid.enlarge(removed, candidate.shape))


def _both(first: Image, second: Image) -> Image:
    """The lesser of two findings where they have one sign."""
    lesser = np.where(np.abs(first) < np.abs(second), first, second)
    return np.where(first * second > 0, lesser, np.float32(0))


@cache
def _rings() -> NDArray[np.float32]:
    """(PATCH * (PATCH / 2 + 1), N_RINGS) how often a frequency of the half plane counts in a ring; corners in none."""
    f, half = np.fft.fftfreq(PATCH, 1 / PATCH), np.arange(PATCH // 2 + 1)
    ring = np.rint(np.hypot(f[:, None], half) / RING)
    twice = np.where((half == 0) | (half == PATCH // 2), 1, 2)  # the other half plane is its conjugate
    return ((ring[..., None] == np.arange(1, N_RINGS + 1)) * twice[:, None]).reshape(-1, N_RINGS).astype(np.float32)


N_RINGS = PATCH // 2 // RING  # without the mean and the corners


def ring_frequencies(pixel_mm: float) -> NDArray[np.float64]:
    """(N_RINGS,) cycles / mm."""
    return np.arange(1, N_RINGS + 1) * RING / (PATCH * pixel_mm)


def chance() -> NDArray[np.float64]:
    """(N_RINGS,) standard deviation of the correlation of two patches that have nothing in common."""
    return np.sqrt(HANN_TIES / _rings().sum(0, dtype=np.float64))


def transforms(image: Array, corners: NDArray[np.intp]) -> Transforms:
    """(patches, frequencies of a half plane) of the windowed patches at `corners` (patches, 2), less their means."""
    patches = patches_at(image, corners)
    hann = np.hanning(PATCH + 1)[:-1].astype(np.float32)
    taper = hann[:, None] * hann
    mean = np.tensordot(patches, taper, 2) / taper.sum()
    return rfft2((patches - mean[:, None, None]) * taper).reshape(len(patches), -1)


def patches_at(image: Array, corners: NDArray[np.intp]) -> NDArray[np.float32]:
    """(patches, PATCH, PATCH) at `corners` (patches, 2)."""
    patches = sliding_window_view(image.astype(np.float32), (PATCH, PATCH))[corners[:, 0], corners[:, 1]]
    return np.asarray(patches, np.float32)


def patch_corners(measured: Mask) -> NDArray[np.intp]:
    """(patches, 2) first row and column of the half-overlapping patches that hold no padding."""
    rows, columns = (np.arange(0, n - PATCH + 1, STRIDE) for n in measured.shape)
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    kept = [bool(measured[r : r + PATCH, c : c + PATCH].all()) for r, c in corners]
    return corners[np.array(kept, bool)]


@dataclass(frozen=True)
class Correlation:
    """Ring by ring (patches, N_RINGS): the correlation of two images, and the power of each."""

    frc: Image
    power: Image
    other: Image


def ring_correlation(a: Transforms, b: Transforms) -> Correlation:
    """Of two stacks of transforms; 0 where either has no power."""
    cross, power, other = (_ring_sums(p, q) for p, q in ((a, b), (a, a), (b, b)))
    scale = np.sqrt(power) * np.sqrt(other)
    return Correlation(np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0), power, other)


def _ring_sums(a: Transforms, b: Transforms) -> Image:
    """(patches, N_RINGS) Re sum a b*."""
    return (a.real * b.real + a.imag * b.imag) @ _rings()


@dataclass(frozen=True)
class Texture:
    """Ring by ring (patches, N_RINGS): a candidate's correlation with reference and scan, and what neither supports."""

    with_reference: Image
    with_scan: Image
    unsupported: Mask


def texture(candidate: Transforms, reference: Transforms, scan: Transforms) -> Texture:
    """Of the transforms of the same patches in three images."""
    r, y = ring_correlation(candidate, reference), ring_correlation(candidate, scan)
    noise = scan - reference
    enough = np.maximum(POWER * y.other, FAINT * _ring_sums(noise, noise).sum(1, keepdims=True))
    low = 2 * chance()
    return Texture(r.frc, y.frc, (y.power > enough) & (r.frc < low) & (y.frc < low))
