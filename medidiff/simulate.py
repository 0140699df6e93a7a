"""A lower dose from a full-dose scan: noise of the series' own level and colour, inserted slice by slice.

The scanner behind a series is not known, so it is fitted to the noise that the series shows in homogeneous soft
tissue: `I0` and the kernel's gains are changed until full-dose noise from the fan-beam chain of `physics.ct`, put
into the same slices and measured in the same regions, has the measured level and spectrum:

    A(f) <- A(f) sqrt(S(f) / S_sim(f)),    I0 <- I0 sigma_sim^2 / sigma^2

Slices thicker than their spacing share data. With thickness `T` and spacing `d` neighbours correlate by
`r = 1 - d / T` (overlapping boxes); the noise of slice `k` is the moving average `sum_j w_j n_(k+j)`,
`w = (1, ..., 1, f)`, with `f` chosen to give exactly `r`. The white noise `n_j` depends on the series, the seed and
`j` alone: not on order or workers.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError, UsageError
from medidiff.io.dicom import Series
from medidiff.noise.spectrum import MIN_FREQUENCY, Spectrum, homogeneous_regions, region_spectrum
from medidiff.physics.ct import (
    DEFAULT_GEOMETRY,
    GAIN_STEP,
    KERNELS,
    FanGeometry,
    Kernel,
    noise_from_white,
    noise_image,
    white_noise,
)
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

ELECTRONIC_VARIANCE = 10.0  # counts; 8 to 11 in the literature (CT.md)
COLOUR_SLICES = 32  # whose noise is measured
SAMPLED_SLICES = 8  # in which it is simulated as well, and the level is compared
ROUNDS = 4  # of fitting; the first starts from a flat kernel
FLAT = Kernel("measured", gains=(1.0,) * 25)
LOW_GAIN_LIMIT = 3.0  # below that frequency: more than this is anatomy, not noise
UNIT_GAIN = 4  # the gain that is 1: at 0.13 cycles a pixel kernels of the body leave contrast as it is
FIRST_I0 = 2e5
LOWEST_LEVEL_HU = 0.7  # a quieter series is a phantom without noise, or rounded to whole HU
AIR_HU = -1000.0


@dataclass(frozen=True)
class Acquisition:
    """What the headers tell about how a series was acquired.

    series_uid    identifies the series; only its hash is used
    thickness_mm  slice thickness, 0 when unknown
    tube_load     (slices,) mAs or mA of each slice, empty when unknown
    """

    series_uid: str
    thickness_mm: float = 0.0
    tube_load: tuple[float, ...] = ()

    @classmethod
    def of(cls, series: Series) -> Acquisition:
        """What a DICOM series says; the tube load only where every slice has one."""
        loads = tuple(instance.mas or 0.0 for instance in series.instances)
        return cls(series.uid, series.thickness_mm or 0.0, loads if min(loads) > 0 else ())

    def relative_load(self, index: int) -> float:
        """Tube load of a slice over the series' median; 1 when unknown."""
        if not self.tube_load:
            return 1.0
        return self.tube_load[index] / float(np.median(self.tube_load))


@dataclass(frozen=True)
class Calibration:
    """The scanner fitted to a series, and how well it fits.

    i0             photons a ray at full dose, for a slice of median tube load
    level_hu       measured and simulated full-dose noise in homogeneous soft tissue
    mean_frequency measured and simulated, cycles / mm
    n_regions      homogeneous regions behind it; 0 when nothing was measured
    """

    i0: float
    kernel: Kernel
    electronic_variance: float = ELECTRONIC_VARIANCE
    geometry: FanGeometry = DEFAULT_GEOMETRY
    level_hu: tuple[float, float] | None = None
    mean_frequency: tuple[float, float] | None = None
    n_regions: int = 0


@dataclass(frozen=True)
class LowDose:
    """One simulated scan: every number that determines it."""

    dose_fraction: float
    seed: int
    calibration: Calibration
    z_weights: tuple[float, ...]

    def parameters(self) -> dict[str, Any]:
        """For a JSON record."""
        return asdict(self)

    @property
    def description(self) -> str:
        """For a DICOM DerivationDescription (ASCII, at most 1024 characters)."""
        c, g = self.calibration, self.calibration.geometry
        kernel = f"gains {' '.join(f'{x:.3g}' for x in c.kernel.gains)}" if c.kernel.gains else c.kernel.window
        return (
            f"Simulated {100 * self.dose_fraction:g} % dose: fan-beam noise insertion (Yu 2012), seed {self.seed}, "
            f"I0 {c.i0:.4g}, electronic variance {c.electronic_variance:g}, "
            f"source-isocentre-detector {g.source_isocentre:g}/{g.source_detector:g} mm, {g.n_views} views, "
            f"{g.n_bins} bins, kernel {kernel}, z weights {' '.join(f'{w:.3g}' for w in self.z_weights)}"
        )


def z_weights(thickness_mm: float, spacing_mm: float) -> tuple[float, ...]:
    """Moving-average weights of unit power that give neighbours the correlation `1 - spacing / thickness`."""
    if spacing_mm <= 0 or thickness_mm <= spacing_mm * 1.001:
        return (1.0,)
    r = 1 - spacing_mm / thickness_mm
    m = int(thickness_mm / spacing_mm + 1e-6)
    last = (1 - np.sqrt(max(1 - 4 * r * (r * m - m + 1), 0))) / (2 * r)  # (m - 1 + f) / (m + f^2) = r
    weights = np.append(np.ones(m), last) if last > 1e-6 else np.ones(m)
    return tuple(float(w) for w in weights / np.linalg.norm(weights))


def generator_for(series_uid: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one slice of one series."""
    digest = hashlib.sha256(series_uid.encode()).digest()
    return np.random.default_rng([int.from_bytes(digest[:8], "little"), seed, index])


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True, eq=False)
class _Sample:
    """Some slices of a series, and homogeneous regions in them."""

    slices: NDArray[np.float32]
    loads: tuple[float, ...]
    corners: NDArray[np.intp]
    pixel_mm: float

    def spectrum(self, images: NDArray[np.floating]) -> Spectrum:
        return region_spectrum(images, self.corners, self.pixel_mm)

    def simulated(self, calibration: Calibration) -> Spectrum:
        """Spectrum of the simulated full-dose noise in the same regions."""
        with ThreadPoolExecutor(2) as pool:
            return self.spectrum(
                np.stack(list(pool.map(lambda k: self._noise(k, calibration), range(len(self.slices)))))
            )

    def _noise(self, k: int, calibration: Calibration) -> NDArray[np.float32]:
        return noise_image(
            self.slices[k],
            self.pixel_mm,
            dose_fraction=1.0,
            i0=calibration.i0 * self.loads[k],
            electronic_variance=calibration.electronic_variance,
            kernel=calibration.kernel,
            geometry=calibration.geometry,
            generator=np.random.default_rng(k),
            full_dose=True,
        )


def calibrate(
    source: SliceSource, acquisition: Acquisition, *, kernel: Kernel | None = None, i0: float | None = None
) -> Calibration:
    """Fit `I0` and the kernel to the noise of a series; what is given is kept.

    Raises InputError when there is no noise to measure, and UsageError for an `i0` that is no number of photons.
    """
    if i0 is not None and not i0 > 0:
        raise UsageError(f"I0 must be a number of photons above 0, found {i0:g}")
    if kernel is not None and i0 is not None:
        return Calibration(i0, kernel)
    sample = _sample(source, acquisition, SAMPLED_SLICES)
    measured = sample.spectrum(sample.slices) if len(sample.corners) else None
    if measured is None or measured.level < LOWEST_LEVEL_HU:
        found = "no homogeneous soft tissue" if measured is None else f"a noise of {measured.level:.2f} HU"
        raise InputError(f"the series has {found} to fit the simulation to: give --i0 and --kernel, e.g. 1e5 and hann")
    many = _sample(source, acquisition, COLOUR_SLICES)
    colour = many.spectrum(many.slices)
    fitted = Calibration(i0 or FIRST_I0, kernel or FLAT)
    for _ in range(ROUNDS):
        seen = sample.simulated(fitted)
        fitted = replace(
            fitted,
            i0=i0 or fitted.i0 * (seen.level / measured.level) ** 2,
            kernel=kernel or _corrected(fitted.kernel, seen, colour),
        )
    seen = sample.simulated(fitted)
    return replace(
        fitted,
        level_hu=(measured.level, seen.level),
        mean_frequency=(colour.mean_frequency, seen.mean_frequency),
        n_regions=len(many.corners),
    )


def _corrected(kernel: Kernel, seen: Spectrum, measured: Spectrum) -> Kernel:
    """The kernel with its gains multiplied by what the simulated spectrum lacks of the measured shape.

    The rings of a Spectrum lie at the gains' frequencies but for the first ones, below the trend, and the last.
    """
    lack = np.sqrt(measured.power / measured.level**2 * seen.level**2 / seen.power)
    n_low, n_high = round(MIN_FREQUENCY / GAIN_STEP), len(kernel.gains)
    gains = np.array(kernel.gains) * np.pad(lack, (n_low, n_high - n_low - len(lack)), mode="edge")
    gains = np.minimum(gains / gains[UNIT_GAIN], np.where(np.arange(n_high) < UNIT_GAIN, LOW_GAIN_LIMIT, np.inf))
    return replace(kernel, gains=tuple(round(float(g), 5) for g in gains))


def _sample(source: SliceSource, acquisition: Acquisition, n_slices: int) -> _Sample:
    """Slices spread over the series (its ends left out: they are often cut short by the table or the scan)."""
    n = source.geometry.n_slices
    indices = np.unique(np.linspace(0.05 * (n - 1), 0.95 * (n - 1), n_slices).round().astype(int))
    slices = np.stack([_air_for_padding(source.read(int(k)), source.padding(int(k))) for k in indices])
    loads = tuple(acquisition.relative_load(int(k)) for k in indices)
    return _Sample(slices, loads, homogeneous_regions(slices), _pixel_mm(source))


# ---------------------------------------------------------------- the scan


def low_dose(
    source: SliceSource,
    acquisition: Acquisition,
    dose_fraction: float,
    *,
    seed: int = 0,
    kernel: str | None = None,
    i0: float | None = None,
) -> LowDose:
    """Everything that a simulated scan of `dose_fraction` needs; raises UsageError, or what `calibrate` raises."""
    if not 0 < dose_fraction < 1:
        raise UsageError(f"the dose must be a fraction between 0 and 1, e.g. 0.25, found {dose_fraction:g}")
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, found {seed}")
    if kernel is not None and kernel not in KERNELS:
        raise UsageError(f"the kernel '{kernel}' is not known: choose one of {', '.join(KERNELS)}")
    calibration = calibrate(source, acquisition, kernel=KERNELS[kernel] if kernel else None, i0=i0)
    weights = z_weights(acquisition.thickness_mm, source.geometry.slice_spacing_mm)
    return LowDose(dose_fraction, seed, calibration, weights)


@dataclass(frozen=True, eq=False)
class LowDoseSource:
    """The slices of the simulated scan, computed when they are read (a `SliceSource`); padding is left as it was."""

    source: SliceSource
    acquisition: Acquisition
    scan: LowDose

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry

    @property
    def unit(self) -> Unit:
        return self.source.unit

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return self.source.padding(index)

    def read(self, index: int) -> NDArray[np.float32]:
        return self.insert(index, self.source.read(index), self.source.padding(index))

    def insert(self, index: int, hu: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """(rows, columns) slice `index` of the full-dose scan to that of the simulated one."""
        calibration = self.scan.calibration
        noise = noise_from_white(
            _air_for_padding(hu, padding),
            _pixel_mm(self.source),
            dose_fraction=self.scan.dose_fraction,
            i0=calibration.i0 * self.acquisition.relative_load(index),
            electronic_variance=calibration.electronic_variance,
            kernel=calibration.kernel,
            geometry=calibration.geometry,
            white=_white(self.acquisition.series_uid, self.scan, index, (hu.shape[0], hu.shape[1])),
        )
        return hu + noise if padding is None else np.where(padding, hu, hu + noise)

    def slices(self, workers: int = 2) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All slices in order, `workers` at a time, which change nothing in the result; this thread reads."""
        pending: deque[Future[NDArray[np.float32]]] = deque()
        n = self.geometry.n_slices
        with ThreadPoolExecutor(workers) as pool:
            for index in range(n + workers):
                if index < n:
                    hu, padding = self.source.read(index), self.source.padding(index)
                    pending.append(pool.submit(self.insert, index, hu, padding))
                if index >= workers:
                    yield index - workers, pending.popleft().result()


def _white(series_uid: str, scan: LowDose, index: int, matrix: tuple[int, int]) -> NDArray[np.float32]:
    """Unit white noise of a slice, correlated with its neighbours'."""
    layers = (white_noise(matrix, generator_for(series_uid, scan.seed, index + j)) for j in range(len(scan.z_weights)))
    return np.asarray(sum(np.float32(w) * layer for w, layer in zip(scan.z_weights, layers, strict=True)))


def _air_for_padding(hu: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    return hu if padding is None else np.where(padding, np.float32(AIR_HU), hu)


def _pixel_mm(source: SliceSource) -> float:
    """Side of a square pixel of the same area."""
    return float(np.sqrt(np.prod(source.geometry.pixel_spacing_mm)))
