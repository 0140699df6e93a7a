"""Fan-beam CT of one slice: line integrals, filtered backprojection, and the noise of a lower dose.

Every ray is a line `x cos(theta) + y sin(theta) = s` (mm, origin at the isocentre). A fan ray of source angle
`beta` and fan angle `gamma` is the line `theta = beta - gamma`, `s = R sin(gamma)`, so reconstruction first
rebins to parallel beams, as scanners do (Kak & Slaney 1988, section 3.4.3), and then filters with an apodised ramp:

    mu(x, y) = (pi / N_theta) sum_theta (p_theta * h)(x cos theta + y sin theta),    H(f) = |f| A(f)

Noise of a scan at the fraction `a` of a dose of `I0` photons a ray, with electronic noise of variance `N_e` (counts):

    var P          = e^P / (a I0) * (1 + N_e e^P / (a I0))                      all the noise of that scan
    var P inserted = (1 - a) / a * e^P / I0 * (1 + (1 + a) / a * N_e e^P / I0)  what a full-dose scan lacks of it

(Yu et al. 2012, JCAT 36:477; the second is the first at `a` less the first at 1.) Noise is white from ray to ray, so
it is drawn where it is needed, on the rebinned grid: a cell of `d_theta d_s` averages the
`2 d_theta d_s / (d_beta d_gamma R cos(gamma))` fan rays of a full turn that fall into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from medidiff.units import MU_WATER_PER_MM, hu_to_mu

Array = NDArray[np.floating]  # float64, or float32 where speed counts

MIN_COUNTS = 1.0  # a ray never has fewer expected photons: -ln of starved rays is not Gaussian, scanners clip it too
SAMPLING = 1.5  # rebinned bins per image pixel: carries 0.75 cycles a pixel, the corners of a sharp kernel's spectrum
OVERSAMPLING = 6  # filtered bins are sinc-interpolated this finely, so that backprojection may take the nearest
FIXED_POINT = 16  # fraction bits of the bin index in backprojection
NOISE_VIEWS = 576  # over half a turn
VARIANCE_MATRIX = 128  # line integrals behind the noise level are smooth: projected from an image of about this size
VARIANCE_VIEWS = 96
GAIN_STEP = 1 / 32  # cycles a pixel between the gains of a measured kernel
MARGIN = 2  # zeros around an image, so that interpolation at its rim needs no branch


@dataclass(frozen=True)
class FanGeometry:
    """A full turn of equiangular fans; the default is the third-generation scanner of the LDCT-and-Projection-data.

    `bin_mm` is the detector pitch along the arc. `bowtie_radius_mm` is the radius of the water cylinder whose
    attenuation the bowtie filter evens out by half; 0 is no bowtie.
    """

    source_isocentre: float = 595.0
    source_detector: float = 1085.6
    n_views: int = 1152
    n_bins: int = 736
    bin_mm: float = 1.2858
    bowtie_radius_mm: float = 0.0

    @property
    def d_gamma(self) -> float:
        return self.bin_mm / self.source_detector

    @property
    def d_beta(self) -> float:
        return 2 * np.pi / self.n_views

    @property
    def gammas(self) -> Array:
        """(bins,) fan angles of the bin centres."""
        return (np.arange(self.n_bins) - (self.n_bins - 1) / 2) * self.d_gamma

    @property
    def betas(self) -> Array:
        """(views,) source angles."""
        return np.arange(self.n_views) * self.d_beta

    def bowtie(self, s_mm: Array) -> Array:
        """Transmission of the bowtie filter for rays at distance `s_mm` from the isocentre; 1 in the middle."""
        chord = 2 * np.sqrt(np.clip(self.bowtie_radius_mm**2 - s_mm**2, 0, None))
        return np.exp(-0.5 * MU_WATER_PER_MM * (2 * self.bowtie_radius_mm - chord))

    def rays_per_cell(self, s_mm: Array, d_s: float, d_theta: float) -> Array:
        """Fan rays of a full turn in one cell of the half-turn parallel grid."""
        cos_gamma = np.sqrt(1 - np.clip(s_mm / self.source_isocentre, -0.95, 0.95) ** 2)
        return 2 * d_theta * d_s / (self.d_beta * self.d_gamma * self.source_isocentre * cos_gamma)


DEFAULT_GEOMETRY = FanGeometry()


WINDOWS: dict[str, Callable[[Array], Array]] = {
    "ram-lak": lambda x: np.ones_like(x),
    "shepp-logan": lambda x: np.sinc(x / 2),
    "cosine": lambda x: np.cos(np.pi * x / 2),
    "hamming": lambda x: 0.54 + 0.46 * np.cos(np.pi * x),
    "hann": lambda x: 0.5 + 0.5 * np.cos(np.pi * x),
}


@dataclass(frozen=True)
class Kernel:
    """Apodisation of the ramp filter: `A(f) = window(f / f_c)^order (1 + boost (f / f_c)^2)` below `f_c`, 0 above.

    window  ram-lak, shepp-logan, cosine, hamming or hann
    cutoff  `f_c` as a fraction of the image's Nyquist frequency 1 / (2 pixel); at most 1.5 (above 1 the corners
            of the image's spectrum are filled too, as sharp kernels do)
    order   power of the window: 2, 3, ... are smoother
    boost   lift of the high frequencies by edge-enhancing kernels
    gains   `A` at 0, 1/32, 2/32, ... cycles a pixel, instead of the formula: a kernel that was measured
    """

    window: str = "hann"
    cutoff: float = 1.0
    order: float = 1.0
    boost: float = 0.0
    gains: tuple[float, ...] = ()

    def response(self, cycles_per_pixel: Array) -> Array:
        """`A` at frequencies in cycles per image pixel."""
        f = np.abs(cycles_per_pixel)
        if self.gains:
            return np.interp(f, np.arange(len(self.gains)) * GAIN_STEP, self.gains)
        x = f / (0.5 * self.cutoff)
        shape = WINDOWS[self.window](np.minimum(x, 1)) ** self.order * (1 + self.boost * x**2)
        return np.where(x <= 1, shape, 0.0)


KERNELS = {name: Kernel(name) for name in WINDOWS}


# ---------------------------------------------------------------- lines through an image


@numba.njit(nogil=True, cache=True, inline="always")
def walk(theta: float, s_pixels: float, rows: int, cols: int) -> Any:
    """Joseph's (1982) path of a line: whether it walks over rows, first and last step, start, slope, step length.

    At step `k` the line crosses row (or column) `k` at `start + slope * k`, and there lies inside (-1, cells).
    """
    c, sn = np.cos(theta), np.sin(theta)
    over_rows = abs(c) >= abs(sn)
    main, cross = (c, sn) if over_rows else (sn, c)
    steps, cells = (rows, cols) if over_rows else (cols, rows)
    slope = -cross / main
    start = s_pixels / main + 0.5 * (cells - 1) - slope * 0.5 * (steps - 1)
    first, last = 0, steps if -1.0 < start < cells else 0
    if abs(slope) > 1e-9:
        near, far = (-1.0 - start) / slope, (cells - start) / slope
        low, high = min(near, far), max(near, far)
        first = int(min(max(np.ceil(low), 0.0), steps))
        last = int(min(max(np.floor(high) + 1, first), steps))
    return over_rows, first, last, start, slope, 1.0 / abs(main)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _gather_lines(image: Any, image_t: Any, theta: Any, s_pixels: Any, out: Any) -> None:
    """Sum over each line of an image (and its transpose) that has MARGIN zeros on every side."""
    rows, cols = image.shape[0] - 2 * MARGIN, image.shape[1] - 2 * MARGIN
    for ray in range(theta.size):
        over_rows, first, last, start, slope, length = walk(theta[ray], s_pixels[ray], rows, cols)
        source = image if over_rows else image_t
        total = 0.0
        for k in range(first, last):
            x = start + slope * k + MARGIN
            i = int(x)
            low = source[k + MARGIN, i]
            total += low + (x - i) * (source[k + MARGIN, i + 1] - low)
        out[ray] = total * length


def line_integrals(image: Array, pixel_mm: float, theta: Array, s_mm: Array) -> Array:
    """(rays,) integrals in mm of an image (rows, columns) along the lines (theta, s); the dtype is kept."""
    padded = np.pad(image, MARGIN)
    out = np.empty(theta.size, image.dtype)
    _gather_lines(padded, np.ascontiguousarray(padded.T), theta, s_mm / pixel_mm, out)
    return out * image.dtype.type(pixel_mm)


def fan_lines(geometry: FanGeometry) -> tuple[Array, Array]:
    """(views * bins,) `theta` and `s` in mm of every ray."""
    theta = geometry.betas[:, None] - geometry.gammas
    s = np.broadcast_to(geometry.source_isocentre * np.sin(geometry.gammas), theta.shape)
    return theta.ravel(), s.ravel()


def project(mu: Array, pixel_mm: float, geometry: FanGeometry = DEFAULT_GEOMETRY) -> Array:
    """(views, bins) line integrals of an attenuation image (rows, columns) in 1/mm; the dtype is kept."""
    theta, s = fan_lines(geometry)
    return line_integrals(mu, pixel_mm, theta, s).reshape(geometry.n_views, geometry.n_bins)


# ---------------------------------------------------------------- reconstruction


def rebin(sinogram: Array, geometry: FanGeometry, s_mm: Array) -> Array:
    """(views, bins) of a full turn to (views / 2, len(s_mm)) parallel beams over half a turn; `s_mm` is symmetric.

    The shift `beta = theta + gamma` is a Fourier phase (the turn is periodic), so it keeps the noise's spectrum.
    """
    order = np.arange(geometry.n_views // 2 + 1)[:, None]
    spectrum = scipy.fft.rfft(sinogram, axis=0) * np.exp(1j * order * geometry.gammas)
    parallel = scipy.fft.irfft(spectrum, geometry.n_views, axis=0)
    gamma = np.arcsin(np.clip(s_mm / geometry.source_isocentre, -1, 1))
    seen = np.abs(gamma) <= geometry.gammas[-1]
    resampled = np.where(seen, CubicSpline(geometry.gammas, parallel, axis=1)(np.where(seen, gamma, 0)), 0.0)
    half = geometry.n_views // 2
    return 0.5 * (resampled[:half] + resampled[half:, ::-1])  # the line (theta + pi, -s) is the line (theta, s)


@lru_cache(maxsize=8)
def _ramp(n_fft: int) -> Array:
    """Spectrum of the band-limited ramp on a unit grid, exact at frequency 0 (Kak & Slaney eq. 3.61)."""
    n = np.minimum(np.arange(n_fft), n_fft - np.arange(n_fft))
    taps = np.where(n % 2 == 1, -1 / np.maximum(np.pi * n, 1) ** 2, 0.0)
    taps[0] = 0.25
    return scipy.fft.rfft(taps).real


def _filtered(parallel: Array, kernel: Kernel, n_fft: int) -> NDArray[np.float32]:
    """(views, bins) to (views, OVERSAMPLING * n_fft) ramp-filtered; per unit of the bin spacing."""
    gain = OVERSAMPLING * _ramp(n_fft) * kernel.response(np.arange(n_fft // 2 + 1) / n_fft * SAMPLING)
    spectrum = scipy.fft.rfft(parallel.astype(np.float32, copy=False), n_fft, axis=1) * gain.astype(np.float32)
    return scipy.fft.irfft(spectrum, OVERSAMPLING * n_fft, axis=1)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _backproject(filtered: Any, cosines: Any, sines: Any, centre: float, scale: float, out: Any) -> None:
    """Sum over views of the nearest filtered bin; `scale` is bins per pixel, `centre` the bin of the isocentre."""
    rows, cols = out.shape
    views = filtered.shape[0]
    one = float(1 << FIXED_POINT)
    out[:] = 0
    for view in range(views):
        line = filtered[view]
        across = np.int32(cosines[view] * scale * one)
        corner = (centre - cosines[view] * scale * 0.5 * (cols - 1) + 0.5) * one
        for row in range(rows):
            index = np.int32(corner + sines[view] * scale * (row - 0.5 * (rows - 1)) * one)
            target = out[row]
            for col in range(cols):
                target[col] += line[index >> FIXED_POINT]
                index += across


def _n_bins(rows: int, cols: int) -> int:
    """Rebinned bins that cover the image's diagonal, a length that FFTs like."""
    return int(scipy.fft.next_fast_len(int(np.ceil(SAMPLING * (np.hypot(rows, cols) + 4))), real=True))


def _reconstruct(parallel: Array, kernel: Kernel, shape: tuple[int, int], n_fft: int) -> Any:
    """Image times pixel size of a half turn of parallel beams at `pixel / SAMPLING`, centred on bin (n - 1) / 2."""
    views, n_bins = parallel.shape
    theta = np.arange(views) * np.pi / views
    out = np.empty(shape, np.float32)
    filtered = _filtered(parallel, kernel, n_fft)
    scale = SAMPLING * OVERSAMPLING
    _backproject(filtered, np.cos(theta), np.sin(theta), OVERSAMPLING * (n_bins - 1) / 2, scale, out)
    out *= np.pi / views * SAMPLING
    return out


def bin_centres(n_bins: int, pixel_mm: float) -> Array:
    """(bins,) distances from the isocentre in mm of the rebinned bins of an image with this pixel size."""
    return (np.arange(n_bins) - (n_bins - 1) / 2) * pixel_mm / SAMPLING


def fbp(
    sinogram: Array, geometry: FanGeometry, matrix: tuple[int, int], pixel_mm: float, kernel: Kernel
) -> NDArray[np.float32]:
    """Attenuation image (rows, columns) in 1/mm of a (views, bins) fan-beam sinogram of a full turn."""
    n_bins = _n_bins(*matrix)
    parallel = rebin(sinogram, geometry, bin_centres(n_bins, pixel_mm))
    n_fft = int(scipy.fft.next_fast_len(2 * n_bins, real=True))
    return _reconstruct(parallel, kernel, matrix, n_fft) / np.float32(pixel_mm)


# ---------------------------------------------------------------- noise


def total_variance(p: Any, dose_fraction: float, i0: Any, electronic_variance: float) -> Any:
    """Variance of the line integral `p` measured with `dose_fraction * i0` photons (delta method)."""
    inverse_counts = 1 / np.maximum(dose_fraction * i0 * np.exp(-p), MIN_COUNTS)
    return inverse_counts * (1 + electronic_variance * inverse_counts)


def inserted_variance(p: Any, dose_fraction: float, i0: Any, electronic_variance: float) -> Any:
    """Variance that a full-dose line integral lacks to be one of `dose_fraction` (Yu et al. 2012, eq. 12)."""
    lower = total_variance(p, dose_fraction, i0, electronic_variance)
    return np.maximum(lower - total_variance(p, 1.0, i0, electronic_variance), 0)


def _coarse(mu: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Block means of about VARIANCE_MATRIX pixels on a side, and the block; the image is zero-padded symmetrically."""
    block = max(1, round(max(mu.shape) / VARIANCE_MATRIX))
    short = [(-n) % block for n in mu.shape]
    if any(short):
        mu = np.pad(mu, [(n // 2, n - n // 2) for n in short])
    rows, cols = mu.shape[0] // block, mu.shape[1] // block
    return np.ascontiguousarray(mu.reshape(rows, block, cols, block).mean((1, 3))), block


@numba.njit(nogil=True, cache=True, fastmath=True)
def _enlarge(coarse: Any, first: float, step: float, out: Any) -> None:
    """Linear interpolation of a half-turn sinogram: views wrap with s -> -s, bins start at `first` (in coarse bins)."""
    n_views, n_bins = coarse.shape
    row = np.empty(n_bins, coarse.dtype)
    for view in range(out.shape[0]):
        position = view * n_views / out.shape[0]
        v = int(position)
        w = position - v
        wraps = v + 1 == n_views
        for b in range(n_bins):
            after = coarse[0, n_bins - 1 - b] if wraps else coarse[v + 1, b]
            row[b] = (1 - w) * coarse[v, b] + w * after
        for b in range(out.shape[1]):
            x = min(max(first + step * b, 0.0), n_bins - 1.001)
            i = int(x)
            out[view, b] = row[i] + (x - i) * (row[i + 1] - row[i])


def smooth_line_integrals(hu: Array, pixel_mm: float, n_views: int, n_bins: int) -> NDArray[np.float32]:
    """(views, bins) parallel line integrals on the rebinned grid, from a coarse image: good for noise levels only."""
    mu = np.maximum(hu_to_mu(np.asarray(hu, np.float32)), 0).astype(np.float32, copy=False)
    image, block = _coarse(mu)
    coarse_bins = int(np.hypot(*image.shape)) + 5
    s = (np.arange(coarse_bins) - (coarse_bins - 1) / 2) * pixel_mm * block
    theta = np.repeat(np.arange(VARIANCE_VIEWS) * np.pi / VARIANCE_VIEWS, coarse_bins)
    coarse = line_integrals(image, pixel_mm * block, theta, np.tile(s, VARIANCE_VIEWS))
    out = np.empty((n_views, n_bins), np.float32)
    step = 1 / (SAMPLING * block)
    first = (coarse_bins - 1) / 2 - step * (n_bins - 1) / 2
    _enlarge(coarse.reshape(VARIANCE_VIEWS, coarse_bins), first, step, out)
    return out


def white_noise(matrix: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """Unit white noise on the rebinned grid of an image, for `noise_from_white`."""
    return generator.standard_normal((NOISE_VIEWS, _n_bins(*matrix)), dtype=np.float32)


def noise_image(
    hu: NDArray[np.float32],
    pixel_mm: float,
    *,
    dose_fraction: float,
    i0: float,
    electronic_variance: float = 10.0,
    kernel: Kernel,
    geometry: FanGeometry = DEFAULT_GEOMETRY,
    generator: np.random.Generator,
    full_dose: bool = False,
) -> NDArray[np.float32]:
    """Zero-mean noise in HU, (rows, columns), to add to a slice.

    By default it turns a noisy full-dose scan (`i0` photons a ray) into one of `dose_fraction`. With `full_dose`
    it is all the noise of a scan of `dose_fraction`, for noise-free slices; `dose_fraction` may then be 1.
    """
    return noise_from_white(
        hu,
        pixel_mm,
        dose_fraction=dose_fraction,
        i0=i0,
        electronic_variance=electronic_variance,
        kernel=kernel,
        geometry=geometry,
        white=white_noise((hu.shape[0], hu.shape[1]), generator),
        full_dose=full_dose,
    )


def noise_from_white(
    hu: NDArray[np.float32],
    pixel_mm: float,
    *,
    dose_fraction: float,
    i0: float,
    electronic_variance: float,
    kernel: Kernel,
    geometry: FanGeometry,
    white: NDArray[np.float32],
    full_dose: bool = False,
) -> NDArray[np.float32]:
    """`noise_image` with its random numbers given: mixed between slices they correlate the noise along z."""
    n_views, n_bins = white.shape
    s = bin_centres(n_bins, pixel_mm)
    p = smooth_line_integrals(hu, pixel_mm, n_views, n_bins)
    photons = (i0 * geometry.bowtie(s)).astype(np.float32)
    rays = geometry.rays_per_cell(s, pixel_mm / SAMPLING, np.pi / n_views).astype(np.float32)
    variance = (total_variance if full_dose else inserted_variance)(p, dose_fraction, photons, electronic_variance)
    noise = white * np.sqrt(variance / rays)
    return _reconstruct(noise, kernel, (hu.shape[0], hu.shape[1]), n_bins) * np.float32(
        1000 / (MU_WATER_PER_MM * pixel_mm)
    )
