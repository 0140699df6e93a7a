"""What a schedule does to an image on its way from 0 (the image) to 1 (noise), and what is still recognisable there.

The noise level sigma(t) is relative to the standard deviation of the image's pixels. A schedule decides only *when* a
level is reached; what a level leaves is a property of the image and measured on it:

    shown       x_t = m + sqrt(alpha_bar) (x + sigma n - m)      variance-preserving, as the literature shows it
    correlation of x and x + sigma n over the pixels             1 / sqrt(1 + sigma^2 / var x)
    structure   correlation of x and its best linear estimate    Wiener filter H = P / (P + sigma^2)
    lesion      d' = |s| / sigma of the ideal observer           white noise, signal s and background known exactly
                Phi(d' / sqrt 2)                                 its share of right answers, lesion against none

P is the power spectrum of the images (their squared Fourier transform over the number of pixels, the mean taken out),
averaged over them and over rings of one frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from medidiff.diffusion.schedule import (
    FINE_STEPS,
    alpha_bar_aggressive,
    alpha_bar_cosine,
    alpha_bar_linear,
    karras,
    slice_noise,
)

Image = NDArray[np.float32]
Double = NDArray[np.float64]
KARRAS_RANGE = (0.004, 160.0)  # 0.002 to 80 where the deviation of images is 0.5 (Karras et al. 2022, table 1)
NOISIEST = 0.5 / FINE_STEPS  # as far from 1 as a table of alpha_bar ends where sigma is infinite there


def _way(alpha_bar: Callable[[int], Tensor], last: float) -> Callable[[Double], Double]:
    """sigma(t) read from a table of a schedule whose last entry is at t = `last`; log alpha_bar is interpolated."""
    table = np.concatenate([[0.0], -alpha_bar(FINE_STEPS).log().numpy()])
    places = np.concatenate([[0.0], last - np.arange(FINE_STEPS)[::-1] / FINE_STEPS])

    def way(t: Double) -> Double:
        return np.sqrt(np.expm1(np.interp(t, places, table)))

    return way


def _karras(t: Double) -> Double:
    steps = np.arange(FINE_STEPS + 1) / FINE_STEPS
    return np.interp(t, steps, karras(FINE_STEPS + 1, *KARRAS_RANGE).numpy()[::-1])


WAYS: dict[str, Callable[[Double], Double]] = {
    "linear": _way(alpha_bar_linear, 1.0),
    "cosine": _way(alpha_bar_cosine, 1.0),
    "aggressive": _way(alpha_bar_aggressive, 1.0 - NOISIEST),
    "karras": _karras,
}
"""schedule -> t in [0, 1], any shape -> sigma relative to the standard deviation of the image, increasing."""


def share_of_way(schedule: str, sigma: float) -> float:
    """The t at which a schedule reaches a noise level; 0 and 1 where it lies outside of its range."""
    t = np.linspace(0, 1, FINE_STEPS + 1)
    return float(np.interp(sigma, WAYS[schedule](t), t))


def variance_preserving(noised: Image, sigma: float, mean: float, deviation: float) -> Image:
    """`x + sigma n` shrunk towards the mean, so that its deviation stays that of x; sigma in the image's unit."""
    return np.asarray(mean + (noised - mean) / np.hypot(1, sigma / deviation), np.float32)


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's, over all pixels; 0 where one of the two is constant."""
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (a, b))
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Known:
    """What the best linear estimate knows of images (n, rows, columns): mean, deviation, and their spectrum as `rfft2`
    lays it out."""

    images: Image
    mean: float
    deviation: float
    spectrum: Double

    @classmethod
    def of(cls, images: Image) -> Known:
        mean = float(images.mean(dtype=np.float64))
        deviation = float(images.std(dtype=np.float64))
        return cls(images, mean, deviation, _spectrum(np.asarray(images - mean, np.float64)))

    def noised(self, k: int, sigma: float, case: int) -> Image:
        """Image k and noise of `sigma` times the deviation; the same realisation at every level, k standing for z."""
        rows, columns = self.images.shape[1:]
        noise = slice_noise(case, k, (1, rows, columns))[0].numpy()
        return np.asarray(self.images[k] + sigma * self.deviation * noise, np.float32)

    def estimate(self, noised: Image, sigma: float) -> Image:
        """The Wiener filter's answer to `x + sigma n`."""
        power = (sigma * self.deviation) ** 2
        if not power:
            return noised
        kept = self.spectrum / (self.spectrum + power) * np.fft.rfft2(noised - self.mean)
        return np.asarray(self.mean + np.fft.irfft2(kept, s=noised.shape), np.float32)


def _spectrum(centred: Double) -> Double:
    """Mean over images and over rings one bin of the longer side wide."""
    rows, columns = centred.shape[1:]
    power = (np.abs(np.fft.rfft2(centred)) ** 2).mean(0) / (rows * columns)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    ring = np.rint(frequency * max(rows, columns)).astype(np.intp)
    twice = np.broadcast_to(np.where((np.arange(columns // 2 + 1) * 2) % columns == 0, 1.0, 2.0), power.shape)
    totals, counts = (np.bincount(ring.ravel(), values.ravel()) for values in (power * twice, twice))
    return np.asarray((totals / np.maximum(counts, 1))[ring], np.float64)


def estimates(images: Image, sigmas: Sequence[float], case: int = 0) -> Iterator[tuple[int, int, Image]]:
    """(level, image, best linear estimate) for each of `sigmas` (relative to the images' deviation) and of `images`
    (n, rows, columns, any unit); white noise from `case`, a seed of `case_seed`."""
    known = Known.of(images)
    for i, sigma in enumerate(sigmas):
        for k in range(len(images)):
            yield i, k, known.estimate(known.noised(k, sigma, case), sigma)


def recognisability(
    images: Image, sigmas: Sequence[float], case: int = 0, alike: Callable[[Image, Image], float] = correlation
) -> Double:
    """(levels, images): how `alike` (estimate, image) are; with `correlation`, 1 is all and 0 nothing.

    Along a schedule: `recognisability(images, WAYS["cosine"](t))`.
    """
    found = np.empty((len(sigmas), len(images)))
    for i, k, estimate in estimates(images, sigmas, case):
        found[i, k] = alike(estimate, images[k])
    return found


def disc(pixel_mm: tuple[float, float], diameter_mm: float, contrast: float) -> Double:
    """A disc (rows, columns) in an empty field; a pixel at its edge has the share of 8 x 8 points that are inside."""
    half = [int(np.ceil(diameter_mm / 2 / mm)) + 1 for mm in pixel_mm]
    down, across = ((np.arange(-n * 8, (n + 1) * 8) + 0.5 - 4) / 8 * mm for n, mm in zip(half, pixel_mm, strict=True))
    inside = np.hypot(down[:, None], across) < diameter_mm / 2
    blocks = inside.reshape(2 * half[0] + 1, 8, 2 * half[1] + 1, 8)
    return np.asarray(contrast * blocks.mean((1, 3)), np.float64)


def detectability(signal: NDArray[np.floating], sigma: float) -> float:
    """d' of a known signal in white noise of standard deviation `sigma` a pixel; infinite without noise."""
    size = float(np.sqrt((np.asarray(signal, np.float64) ** 2).sum()))
    return size / sigma if sigma else float("inf")


def share_right(d_prime: float) -> float:
    """How often the observer picks the image with the signal from a pair: 0.5 is guessing."""
    return float(ndtr(d_prime / np.sqrt(2)))
