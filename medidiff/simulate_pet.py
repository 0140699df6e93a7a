"""A PET scan with fewer counts from a volume in SUV: projected, drawn, thinned, reconstructed again.

The volume is taken for the truth, with whatever noise and blur it holds: a reconstructed scan of a patient is not
the patient, so what comes out at a reduction of 1 is already a scan of a scan. Each slice is a 2-D acquisition

    volume -> 2 mm grid -> [blur of the detectors] -> physics.pet: attenuation, scatter, randoms, Poisson, Binomial
           -> OSEM on a 4 mm grid -> Gaussian of 5 mm -> grid of the volume

on another grid than it is reconstructed on (no inverse crime). One calibration holds for the volume: its slices have
`trues_per_slice` counts *on average*, more where there is more activity. The random numbers of a slice depend on the
scan's identity, the seed and the slice: not on workers, and the low scans of one seed are parts of one full scan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from medidiff.errors import InputError, UnitError, UsageError
from medidiff.physics.osem import ITERATIONS, SUBSETS, osem
from medidiff.physics.pet import (
    Contamination,
    Means,
    ParallelBeam,
    ParallelGeometry,
    Reduction,
    Sinograms,
    beam,
    draw,
    expected,
    mu_of_activity,
    mu_of_hu,
    sinograms,
    thin,
    without_noise,
)
from medidiff.progress import Progress, silent
from medidiff.regrid import OnGrid
from medidiff.volume import Geometry, Volume, collect

Array = NDArray[np.float32]

TRUES_PER_SLICE = 1e6  # what "full" means, on average
FINE_MM, COARSE_MM = 2.0, 4.0
FILTER_MM = 5.0
RESOLUTION_MM = 6.0  # FWHM of the detectors, for a truth on 2 mm voxels: recovery of EARL 1 (4.5 on 4 mm voxels)
LEAST_MATRIX = 128
CONTENT = 0.999  # part of the activity that the scanner's circle must hold
BLOCK = 16  # slices at a time; fixed, so that results do not depend on workers
FWHM = 2 * np.sqrt(2 * np.log(2))
HIGHEST_DRF = 1000.0
CT_BLUR_MM = 3.0  # FWHM at which CT is sampled on a PET grid


@dataclass(frozen=True)
class LowCount:
    """One simulated acquisition: every number that determines it.

    drf              dose reduction factor: a full scan has this many times the counts
    reduction        "time": a shorter scan, randoms fall with the rest; "dose": less activity, randoms fall faster
    trues_per_slice  trues of the full scan, mean over the slices
    resolution_mm    FWHM of the detectors' blur, 0 where the volume comes from a scanner
    """

    drf: float
    reduction: Reduction = "time"
    trues_per_slice: float = TRUES_PER_SLICE
    seed: int = 0
    resolution_mm: float = 0.0
    contamination: Contamination = field(default_factory=Contamination)
    iterations: int = ITERATIONS
    subsets: int = SUBSETS
    filter_mm: float = FILTER_MM

    def __post_init__(self) -> None:
        if not 1 <= self.drf <= HIGHEST_DRF:
            raise UsageError(f"the reduction factor must be 1 to {HIGHEST_DRF:g}, e.g. 20, found {self.drf:g}")
        if not self.trues_per_slice >= 1e3:
            raise UsageError(f"--counts must be at least 1000 trues a slice, e.g. 1e6, found {self.trues_per_slice:g}")
        if not 0 <= self.resolution_mm <= 20:
            raise UsageError(f"--resolution must be 0 to 20 mm, found {self.resolution_mm:g}")
        if self.seed < 0:
            raise UsageError(f"the seed must be 0 or more, found {self.seed}")
        if self.reduction not in ("time", "dose"):
            raise UsageError(f"the reduction '{self.reduction}' is not known: choose time or dose")

    def parameters(self) -> dict[str, Any]:
        """For a JSON record."""
        return asdict(self)

    @property
    def description(self) -> str:
        """For a DICOM DerivationDescription (ASCII, at most 1024 characters)."""
        c = self.contamination
        return (
            f"Simulated 1/{self.drf:g} of the {'time' if self.reduction == 'time' else 'activity'}: input taken as "
            f"truth, {self.trues_per_slice:.4g} trues a slice at full counts, scatter fraction {c.scatter_fraction:g}, "
            f"randoms fraction {c.randoms_fraction:g}, detectors {self.resolution_mm:g} mm, binomial thinning, "
            f"seed {self.seed}, OSEM {self.iterations} x {self.subsets}, Gaussian {self.filter_mm:g} mm"
        )


def simulate(
    volume: Volume,
    scan: LowCount,
    identity: str,
    *,
    ct: Volume | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> Volume:
    """The volume in SUV as `scan` would show it, on its own grid; attenuation from `ct` (HU) where it reaches.

    Raises UnitError, or InputError for a volume without activity.
    """
    return Acquired(volume, scan, identity, ct, workers).image(progress=progress)


@dataclass(frozen=True, eq=False)
class Acquired:
    """The full scan behind `simulate`, from which low scans and their counts are taken.

    Raises UnitError, or InputError for a volume without activity.
    """

    volume: Volume
    scan: LowCount
    identity: str
    ct: Volume | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        for one, unit, what in ((self.volume, "SUV", "PET"), (self.ct, "HU", "the CT for its attenuation")):
            if one is not None and one.unit != unit:
                raise UnitError(f"{what} must be in {unit}, found {one.unit}")
        if not self.volume.array.max() > 0:
            raise InputError("the volume holds no activity: all its values are 0 or below")

    @property
    def n_slices(self) -> int:
        return self.volume.geometry.n_slices

    @property
    def grid(self) -> Geometry:
        """Where the slices that are reconstructed lie: those of the volume, on other pixels around the same middle."""
        return _regridded(self.volume.geometry, self._matrix, COARSE_MM)

    @cached_property
    def coarse(self) -> ParallelBeam:
        """The projector of the grid that is reconstructed."""
        n = self._matrix
        return beam((n, n), COARSE_MM, ParallelGeometry(n_bins=n, bin_mm=COARSE_MM))

    @cached_property
    def _fine(self) -> ParallelBeam:
        """The projector of the grid that is simulated, into the same bins."""
        n = round(self._matrix * COARSE_MM / FINE_MM)
        return beam((n, n), FINE_MM, self.coarse.geometry)

    def counts(self, start: int, stop: int, drf: float | None = None) -> Sinograms:
        """Counts of slices start .. stop - 1 and what corrects them; `drf` in place of the scan's own."""
        drf, seeds = drf or self.scan.drf, range(start, stop)
        means = self.means(start, stop)
        events = draw(means, [self._generator(k, 0) for k in seeds])
        low = thin(events, drf, self.scan.reduction, [self._generator(k, 1 + round(1000 * drf)) for k in seeds])
        return sinograms(means, low, drf, self.scan.reduction)

    def reconstruct(self, data: Sinograms) -> Array:
        """(slices, n, n) at 4 mm, unfiltered."""
        return osem(data, self.coarse, self.scan.iterations, self.scan.subsets)

    def image(self, drf: float | None = None, progress: Progress = silent) -> Volume:
        """The reconstruction, filtered, on the grid of the volume; `drf` in place of the scan's own."""
        return self._image(lambda start, stop: self.counts(start, stop, drf), progress)

    def ideal(self, progress: Progress = silent) -> Volume:
        """The same reconstruction of the expected counts: what the mean of many full scans would tend to."""
        return self._image(lambda start, stop: without_noise(self.means(start, stop)), progress)

    def _image(self, data: Callable[[int, int], Sinograms], progress: Progress) -> Volume:
        self._prepare()
        stacks = []
        for (_, stop), stack in self._blocks(lambda start, stop: self.reconstruct(data(start, stop))):
            stacks.append(stack)
            progress(stop, self.n_slices)
        return self.placed(np.concatenate(stacks))

    def placed(self, images: Array) -> Volume:
        """(slices, n, n) at 4 mm to the filtered volume on the source's grid."""
        steps = (self.volume.geometry.slice_spacing_mm, COARSE_MM, COARSE_MM)
        smooth = gaussian_filter(images, [self.scan.filter_mm / FWHM / step if step else 0 for step in steps])
        (rows, columns), (row_mm, column_mm) = self.volume.geometry.matrix, self.volume.geometry.pixel_spacing_mm
        down = resampling(self._matrix, COARSE_MM, rows, row_mm)
        right = resampling(self._matrix, COARSE_MM, columns, column_mm)
        return replace(self.volume, array=np.ascontiguousarray(down @ smooth @ right.T))

    def _prepare(self) -> None:
        """Build once, here, what all workers share."""
        self.coarse.subsets(self.scan.subsets)
        self.calibration  # noqa: B018

    # -- the object and its means ----------------------------------------------------------------------------

    @cached_property
    def _activity(self) -> Array:
        """What takes part, never negative, blurred along z; in-plane blur follows on the fine grid."""
        values = self.volume.array if self.volume.mask is None else np.where(self.volume.mask, 0, self.volume.array)
        positive = np.maximum(values, 0, dtype=np.float32)
        step = self.volume.geometry.slice_spacing_mm
        sigma = self.scan.resolution_mm / FWHM / step if step else 0.0
        return np.asarray(gaussian_filter1d(positive, sigma, axis=0)) if sigma else positive

    @cached_property
    def _matrix(self) -> int:
        """Side of the grid that is reconstructed: its circle holds all but a thousandth of the activity."""
        (rows, columns), (row_mm, column_mm) = self.volume.geometry.matrix, self.volume.geometry.pixel_spacing_mm
        y, x = (np.arange(n) - (n - 1) / 2 for n in (rows, columns))
        radius = np.hypot(y[:, None] * row_mm, x * column_mm).ravel()
        order = np.argsort(radius)
        total = np.cumsum(self._activity.sum(0, dtype=np.float64).ravel()[order])
        reach = radius[order][np.searchsorted(total, CONTENT * total[-1])]
        return max(LEAST_MATRIX, 2 * int(np.ceil(reach / COARSE_MM + 1)))

    @cached_property
    def _attenuation(self) -> Array:
        """(slices, angles, bins) `exp(-P mu)`."""
        mu, coarse = self._mu, self.coarse
        found = [stack for _, stack in self._blocks(lambda start, stop: _project(coarse, mu[start:stop]))]
        return np.exp(-np.concatenate(found))

    @cached_property
    def _mu(self) -> Array:
        """(slices, n, n) at 4 mm, 1/mm."""
        n, geometry = self._matrix, self.volume.geometry
        activity = self._resampled(self._activity, n, COARSE_MM)
        mu = mu_of_activity(activity, (geometry.slice_spacing_mm or COARSE_MM, COARSE_MM, COARSE_MM))
        if self.ct is None:
            return mu
        wanted = _regridded(geometry, n, COARSE_MM)
        hu = collect(OnGrid(self.ct, wanted, CT_BLUR_MM / FWHM, subslices=1, outside=np.nan)).array
        return np.where(np.isnan(hu), mu, mu_of_hu(hu)).astype(np.float32)

    @cached_property
    def _line_integrals(self) -> Array:
        """(slices, angles, bins) `P x` of the activity, from the fine grid."""
        self._fine, self._activity  # noqa: B018  before the workers ask for them at once
        return np.concatenate([stack for _, stack in self._blocks(self._projected)])

    def _projected(self, start: int, stop: int) -> Array:
        fine = self._resampled(self._activity[start:stop], self._fine.in_shape[0], FINE_MM)
        sigma = self.scan.resolution_mm / FWHM / FINE_MM
        return _project(self._fine, gaussian_filter(fine, (0, sigma, sigma)))

    @cached_property
    def calibration(self) -> float:
        """Counts per SUV and mm."""
        trues = (self._attenuation * self._line_integrals).sum(dtype=np.float64) / self.n_slices
        return float(self.scan.trues_per_slice / trues)

    def means(self, start: int, stop: int) -> Means:
        """Expected counts of the full scan, of slices start .. stop - 1."""
        integrals, attenuation = self._line_integrals[start:stop], self._attenuation[start:stop]
        return expected(integrals, attenuation, self.calibration, self.scan.contamination, COARSE_MM)

    def _resampled(self, images: Array, n: int, pixel_mm: float) -> Array:
        """(slices, rows, columns) of the source on n x n pixels around the same middle."""
        (rows, columns), (row_mm, column_mm) = self.volume.geometry.matrix, self.volume.geometry.pixel_spacing_mm
        down, right = resampling(rows, row_mm, n, pixel_mm), resampling(columns, column_mm, n, pixel_mm)
        return np.ascontiguousarray(down @ images @ right.T)

    def _generator(self, index: int, stream: int) -> np.random.Generator:
        digest = hashlib.sha256(self.identity.encode()).digest()
        return np.random.default_rng([int.from_bytes(digest[:8], "little"), self.scan.seed, index, stream])

    def _blocks(self, work: Callable[[int, int], Array]) -> Iterator[tuple[tuple[int, int], Array]]:
        """`work(start, stop)` for all slices, in order."""
        blocks = [(start, min(start + BLOCK, self.n_slices)) for start in range(0, self.n_slices, BLOCK)]
        with ThreadPoolExecutor(self.workers) as pool:
            yield from zip(blocks, pool.map(lambda block: work(*block), blocks), strict=True)


def _project(operator: ParallelBeam, images: Array) -> Array:
    columns = np.ascontiguousarray(images.reshape(len(images), -1).T)
    return np.ascontiguousarray((operator.matrix @ columns).T).reshape(len(images), *operator.out_shape)


def resampling(n_in: int, in_mm: float, n_out: int, out_mm: float) -> Array:
    """(n_out, n_in) weights that carry samples of one pitch to another around the same middle, 0 beyond the ends.

    To a finer pitch, linear interpolation; to a coarser one, the mean over each new cell: sums stay as they are.
    """
    here, there = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in ((n_in, in_mm), (n_out, out_mm)))
    apart = np.abs(there[:, None] - here)
    if out_mm <= in_mm:
        return np.maximum(1 - apart / in_mm, 0).astype(np.float32)
    overlap = np.clip((in_mm + out_mm) / 2 - apart, 0, in_mm)
    return (overlap / out_mm).astype(np.float32)


def _regridded(geometry: Geometry, n: int, pixel_mm: float) -> Geometry:
    """The same slices on n x n pixels around the same middle."""
    (rows, columns), (row_mm, column_mm) = geometry.matrix, geometry.pixel_spacing_mm
    down = ((rows - 1) * row_mm - (n - 1) * pixel_mm) / 2 * geometry.down
    right = ((columns - 1) * column_mm - (n - 1) * pixel_mm) / 2 * geometry.right
    return Geometry(
        geometry.origins_mm + down + right, geometry.right, geometry.down, (pixel_mm, pixel_mm), (n, n)
    )  # fmt: skip
