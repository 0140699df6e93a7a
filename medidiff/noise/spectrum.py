"""The colour of noise: its power spectrum, in homogeneous regions of real slices too.

    NPS(f_x, f_y) = dx dy / (N_x N_y) <|DFT(ROI - trend)|^2>        HU^2 mm^2   (ICRU report 87)

The trend is a second-order polynomial, the one-dimensional spectrum an average over rings, and the mean frequency
`sum f NPS(f) / sum NPS(f)` of the latter. The integral of the two-dimensional spectrum is the variance.

In a patient, regions are chosen where the *smoothed* image is flat: smoothing leaves anatomy and removes the noise,
so the choice does not favour regions where the noise happens to be low. They are tapered, so that slow changes of
anatomy do not leak into high frequencies. Each region's ring average is divided by its variance and the median over
regions taken, so that a vessel in some of them does not count.

Spectra are means over regions, so a scan need not be in memory: add up `power_spectra` slice by slice and hand their
mean to `spectrum_of` (phantoms), or collect the `region_powers` of some slices for `robust_spectrum` (patients).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

ROI = 32
SOFT_TISSUE_HU = (-20.0, 150.0)
SMOOTHING = 3.0  # pixels; the standard deviation of the Gaussian that shows anatomy without noise
FLATTEST = 0.25  # this share of the soft-tissue regions is used
MAX_REGIONS = 24  # in a slice
MIN_FREQUENCY = 2 / ROI  # cycles a pixel; below it the trend was removed and anatomy remains


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Ring-averaged noise power spectrum.

    frequency  (rings,) cycles / mm
    power      (rings,) HU^2 mm^2
    level      standard deviation in HU: the root of the two-dimensional integral
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    level: float

    @property
    def mean_frequency(self) -> float:
        """Cycles / mm."""
        return float((self.frequency * self.power).sum() / self.power.sum())

    @property
    def peak_frequency(self) -> float:
        """Cycles / mm of the highest ring."""
        return float(self.frequency[np.argmax(self.power)])


def detrend(rois: NDArray[np.floating]) -> NDArray[np.float64]:
    """Regions (n, k, k) less the second-order polynomial that fits each best."""
    k = rois.shape[-1]
    y, x = (np.mgrid[:k, :k] - (k - 1) / 2).reshape(2, -1) / k
    basis, _ = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))
    flat = rois.reshape(len(rois), -1).astype(np.float64)
    return (flat - (flat @ basis) @ basis.T).reshape(rois.shape)


def power_spectra(
    rois: NDArray[np.floating], pixel_mm: float, taper: NDArray[np.floating] | float = 1.0
) -> NDArray[np.float64]:
    """(n, k, k) noise power of each region in HU^2 mm^2; zero frequency first. `taper` has unit mean square."""
    k = rois.shape[-1]
    return pixel_mm**2 / k**2 * np.abs(np.fft.fft2(detrend(rois) * taper)) ** 2


def hann_taper(size: int) -> NDArray[np.float64]:
    """(size, size) separable Hann window of unit mean square: leaves the power of white noise as it is."""
    taper = np.outer(*[np.hanning(size + 2)[1:-1]] * 2)
    return taper / np.sqrt((taper**2).mean())


def ring_average(spectra: NDArray[np.floating], pixel_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies (rings,) in cycles / mm and mean power (n, rings) of (n, k, k) spectra; rings are 1 / k wide.

    Rings below MIN_FREQUENCY are left out. The corners are in: up to 0.7 cycles a pixel.
    """
    k = spectra.shape[-1]
    f = np.fft.fftfreq(k)
    radius = np.hypot(f, f[:, None]).ravel()
    ring = np.rint(radius * k).astype(int)
    count = np.bincount(ring)
    flat = spectra.reshape(len(spectra), -1)
    power = np.stack([np.bincount(ring, row) for row in flat]) / count
    frequency = np.bincount(ring, radius) / count
    kept = frequency >= MIN_FREQUENCY * (1 - 1e-9)
    return frequency[kept] / pixel_mm, power[:, kept]


def noise_spectrum(rois: NDArray[np.floating], pixel_mm: float) -> Spectrum:
    """Spectrum of noise-only, stationary regions (n, k, k): the mean over regions."""
    return spectrum_of(power_spectra(rois, pixel_mm).mean(0), pixel_mm)


def spectrum_of(plane: NDArray[np.floating], pixel_mm: float) -> Spectrum:
    """Ring average of a two-dimensional spectrum (k, k), zero frequency first, as `power_spectra` gives it."""
    frequency, power = ring_average(plane[None], pixel_mm)
    return Spectrum(frequency, power[0], float(np.sqrt(plane.sum() / (len(plane) * pixel_mm) ** 2)))


def sections(
    plane: NDArray[np.floating], pixel_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies in cycles / mm, and the power of a spectrum (k, k) along f_x and along f_y: the mean of 3 lines.

    They tell noise that has a direction, which rings hide. Lines and frequencies that the trend took are left out.
    """
    k = len(plane)
    kept = np.arange(round(MIN_FREQUENCY * k), k // 2)
    along_x, along_y = plane[[-1, 0, 1]].mean(0), plane[:, [-1, 0, 1]].mean(1)
    return kept / (k * pixel_mm), along_x[kept], along_y[kept]


def homogeneous_regions(
    slices: NDArray[np.floating], size: int = ROI, tissue_hu: tuple[float, float] = SOFT_TISSUE_HU
) -> NDArray[np.intp]:
    """(n, 3) slice, first row and first column of the flattest soft-tissue regions of (slices, rows, columns)."""
    found = [_flattest(image, size, tissue_hu) for image in slices]
    return np.concatenate([np.insert(corners, 0, k, axis=1) for k, corners in enumerate(found)]).astype(np.intp)


def _flattest(image: NDArray[np.floating], size: int, tissue_hu: tuple[float, float]) -> NDArray[np.intp]:
    """(n, 2) corners in one slice, half overlapping at most."""
    rows, cols = image.shape
    smooth = gaussian_filter(image.astype(np.float32), SMOOTHING)
    centres = np.s_[size // 2 : rows - size // 2 : size // 2, size // 2 : cols - size // 2 : size // 2]
    low = minimum_filter(smooth, size)[centres]
    high = maximum_filter(smooth, size)[centres]
    tissue = (low > tissue_hu[0]) & (high < tissue_hu[1])
    if not tissue.any():
        return np.empty((0, 2), np.intp)
    spread = np.where(tissue, high - low, np.inf)
    n = min(max(int(FLATTEST * tissue.sum()), min(4, int(tissue.sum()))), MAX_REGIONS)
    chosen = np.argsort(spread, axis=None)[:n]
    return np.stack(np.unravel_index(chosen, spread.shape), axis=1) * (size // 2)


def cut(slices: NDArray[np.floating], corners: NDArray[np.intp], size: int = ROI) -> NDArray[np.floating]:
    """(n, size, size) regions of (slices, rows, columns) at `corners` (n, 3)."""
    return np.stack([slices[k, r : r + size, c : c + size] for k, r, c in corners])


def region_spectrum(
    slices: NDArray[np.floating], corners: NDArray[np.intp], pixel_mm: float, size: int = ROI
) -> Spectrum:
    """Spectrum of the noise in regions of real slices, robust against what anatomy is left in some of them."""
    return robust_spectrum(*region_powers(cut(slices, corners, size), pixel_mm))


def region_powers(
    rois: NDArray[np.floating], pixel_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies (rings,), ring averages (n, rings) and variances (n,) of tapered regions (n, k, k)."""
    size = rois.shape[-1]
    spectra = power_spectra(rois, pixel_mm, hann_taper(size))
    variance = np.maximum(spectra.sum((1, 2)), 1e-12) / (size * pixel_mm) ** 2
    return *ring_average(spectra, pixel_mm), variance


def robust_spectrum(
    frequency: NDArray[np.float64], power: NDArray[np.float64], variance: NDArray[np.float64]
) -> Spectrum:
    """The median over regions of `region_powers`, of any number of slices together."""
    level2 = float(np.median(variance))
    return Spectrum(frequency, np.median(power / variance[:, None], axis=0) * level2, float(np.sqrt(level2)))
