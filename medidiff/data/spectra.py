"""Random noise of the colours that real CT series have.

Their spectra, up to a factor, were found to be (benchmarks/noise_spectra.py; fits to 0.3 to 0.8 dB)

    P(f) = (f + c) A(f)^2,    A(f) = exp(-(f / f_0)^p) (1 + b (2 f)^2)

with f in cycles a pixel: `A` is the reconstruction kernel, which anatomy passes as well; `c` stands for what
keeps real spectra flat towards zero (helical interpolation, beam hardening correction, adaptive filters), where an
ideal ramp has none. Smooth kernels fall gently (p of 1.3 to 2.5), sharp ones late and steeply (5 to 6). A smooth random
ripple makes up for what the formula cannot say.

The noise bank (`prepare.SHARPEST`: ramp to 0.75 cycles a pixel) is not a ramp on the pixels' grid: what lies beyond 0.5
along the axes is aliased to 0.25 and more, in the same direction. So it is divided by what it is,

    B(f_x, f_y) = sum over aliases (m, n) of |f + (m, n)| where that is below 0.75

Without it, noise of every kernel has a step of 4 dB at 0.25 cycles a pixel that no real smooth series has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter1d

from medidiff.config import Settings, rising

BANK_CUTOFF = 0.75  # cycles a pixel, of prepare.SHARPEST
HIGHEST = float(np.sqrt(0.5))  # in the corners of an image's spectrum
GRID = np.linspace(0, HIGHEST, 97)


class SpectrumRanges(Settings):
    """What `random_spectrum` draws from; frequencies in cycles a pixel."""

    width: Annotated[tuple[float, float], rising(above=0)] = (0.12, 0.70)  # f_0, uniform
    steepness: Annotated[tuple[float, float], rising(above=0)] = (
        1.2,
        6.5,
    )  # p, log-uniform; narrow kernels are never steep
    flatness: Annotated[tuple[float, float], rising(above=0)] = (0.001, 1.0)  # c, log-uniform
    boost: float = Field(default=5.0, ge=0)  # b is 0 in half of the draws, else uniform up to this
    ripple_db: float = Field(default=0.7, ge=0)
    ripple_length: float = Field(default=0.1, gt=0)


@dataclass(frozen=True, eq=False)
class Colour:
    """A kernel and the power spectrum of noise that went through it, tabulated at GRID; power up to a factor."""

    kernel: NDArray[np.float64]
    power: NDArray[np.float64]


def random_spectrum(generator: np.random.RandomState, ranges: SpectrumRanges) -> Colour:
    """The colour of one random scanner."""
    width = generator.uniform(*ranges.width)
    low, high = ranges.steepness
    steepness = np.exp(generator.uniform(np.log(low), np.log(min(high, 1.5 + 9 * width))))
    flatness = np.exp(generator.uniform(*np.log(ranges.flatness)))
    boost = max(generator.uniform(-ranges.boost, ranges.boost), 0.0)
    kernel = np.exp(-((GRID / width) ** steepness)) * (1 + boost * (2 * GRID) ** 2)
    kernel *= 10 ** (_ripple(generator, ranges) / 20)
    return Colour(kernel, (GRID + flatness) * kernel**2)


def _ripple(generator: np.random.RandomState, ranges: SpectrumRanges) -> NDArray[np.float64]:
    """A smooth random curve over GRID in dB, 0 at frequency 0, where anatomy must pass unchanged."""
    sigma = ranges.ripple_length / (GRID[1] - GRID[0])
    curve = gaussian_filter1d(generator.normal(size=GRID.size), sigma, mode="wrap")
    curve *= ranges.ripple_db * np.sqrt(2 * sigma * np.sqrt(np.pi))  # the filter's gain for white noise
    return curve - curve[0]


@lru_cache(maxsize=8)
def _grid(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial frequencies and the bank's power B, both (rows, columns // 2 + 1).

    A window is not periodic, which fills the lowest frequencies: B is not taken to be less there than it is at two
    cycles a window.
    """
    y, x = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    bank = np.zeros((rows, columns // 2 + 1))
    for m in (-1, 0, 1):
        for n in (-1, 0, 1):
            radius = np.hypot(y + m, x + n)
            bank += np.where(radius <= BANK_CUTOFF, radius, 0)
    return radial_frequency(rows, columns), np.maximum(bank, 2 / max(rows, columns))


def radial_frequency(rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns // 2 + 1) cycles a pixel at the places of `scipy.fft.rfft2`."""
    return np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])


def apply_spectrum(
    clean: NDArray[np.float32], noise: NDArray[np.float32], colour: Colour
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Anatomy (..., rows, columns) through the colour's kernel, and noise of the bank with its power spectrum.

    The level of the noise is left to the caller. Filters are periodic at the borders.
    """
    radius, bank = _grid(clean.shape[-2], clean.shape[-1])
    gain = np.sqrt(np.interp(radius, GRID, colour.power) / bank)
    gain[0, 0] = 1.0  # a constant is a bias, not noise
    return filtered(clean, colour.kernel), multiplied(noise, gain)


def filtered(stack: NDArray[np.float32], response: NDArray[np.float64]) -> NDArray[np.float32]:
    """(..., rows, columns) through a radial frequency response given at GRID, periodic at the borders."""
    return multiplied(stack, np.interp(_grid(stack.shape[-2], stack.shape[-1])[0], GRID, response))


def multiplied(stack: NDArray[np.float32], response: NDArray[np.floating]) -> NDArray[np.float32]:
    """(..., rows, columns) through a response given at `radial_frequency`, periodic at the borders."""
    shape = (stack.shape[-2], stack.shape[-1])
    return scipy.fft.irfft2(scipy.fft.rfft2(stack) * response.astype(np.float32), s=shape).astype(np.float32)


def random_unevenness(
    generator: np.random.RandomState, shape: tuple[int, int], deviation: float
) -> NDArray[np.float32]:
    """(rows, columns) smooth positive factor for the noise: the exponential of a random quadratic polynomial.

    `deviation` is that of its logarithm. Bowtie filters and tube-current modulation even the noise out between the
    middle of the patient and the skin, the bank has neither.
    """
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    a, b, c, d, e = generator.normal(0, deviation, 5).astype(np.float32)
    in_x, in_y = a * x + c * (x * x - 1 / 3), b * y + d * (y * y - 1 / 3)
    return np.exp(in_y[:, None] + in_x + e * np.outer(y, x)).astype(np.float32)


def correlate_along_z(noise: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """(slices + 2, ...) independent noise to (slices, ...): each with `share` of both neighbours, of unchanged power.

    Neighbours correlate by 2 s / (1 + 2 s^2), the next but one by s^2 / (1 + 2 s^2): for s = 0.15 by 0.29 and 0.02, as
    in real series (0.1 to 0.35 and 0.0); overlapping slices have more.
    """
    s = np.float32(share)
    return (noise[1:-1] + s * (noise[:-2] + noise[2:])) / np.sqrt(1 + 2 * s * s)
