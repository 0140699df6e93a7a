"""What is read off a PET image: uptake of lesions, recovery of phantom spheres, noise of uniform regions.

SUVmean, SUVmax   of the voxels of a fixed region
SUVpeak           the greatest mean of a sphere of 12 mm across, centred on any voxel of the region; the sphere may
                  reach beyond it, and a voxel counts with the part of it that lies inside (PERCIST, Wahl et al. 2009,
                  J Nucl Med 50:122S; IBSI reference manual, "global intensity peak")
MTV               metabolic tumour volume in mL: voxels of the region at 41 % of its SUVmax or more (EANM procedure
                  guidelines 2.0, Boellaard et al. 2015)
TLG               MTV times the SUVmean of those voxels, in g (SUV times mL, at 1 g/mL)

NEMA NU 2-2018, section 7, for sphere j of activity `ratio` times the background's (0: cold):

    Q_j = (C_j / B_j - 1) / (ratio - 1) * 100 %       N_j = SD_j / B_j * 100 %

C_j is the mean in a disc of the sphere's diameter on its central slice; B_j and SD_j are the mean and the standard
deviation of the means in 12 discs of that size in the background, on each of 5 slices.

Foci that a method invents where uptake is even, found by the filter matched to a blob on what lies around it:

    d = G(w) y - G(2 w) y      G: Gaussian of that full width at half maximum in mm; 0 where uptake is even

A local maximum of `d` above a threshold is a focus; the threshold is a multiple of the standard deviation of `d` in a
full-count image of the same object, so that noise alone exceeds it as often as a normal distribution says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate, find_objects, gaussian_filter, maximum_filter

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

PEAK_MM = 12.0
MTV_SHARE = 0.41
SUBSAMPLES = 10
FOCUS_MM = 10.0
FWHM = 2 * np.sqrt(2 * np.log(2))

# The UDPET challenge (Ultra-low Dose PET Imaging): weights of its metrics, and of dose reduction factors.
UDPET_METRICS = {"NRMSE": 0.30, "PSNR": 0.30, "SSIM": 0.40}
UDPET_REDUCTIONS = {4: 0.05, 10: 0.15, 20: 0.20, 50: 0.25, 100: 0.35}


def sphere_kernel(spacing_mm: Spacing, diameter_mm: float = PEAK_MM) -> NDArray[np.float64]:
    """Part of each voxel, around a central one, that lies in a sphere; all sides odd, the sum is 1."""
    radius = diameter_mm / 2
    halves = [int(np.ceil(radius / step - 0.5)) for step in spacing_mm]
    axes = [_points(half, step) for half, step in zip(halves, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside = (z**2 + y**2 + x**2 <= radius**2).astype(float)
    n, rows, columns = (2 * half + 1 for half in halves)
    parts = inside.reshape(n, SUBSAMPLES, rows, SUBSAMPLES, columns, SUBSAMPLES).mean((1, 3, 5))
    return parts / parts.sum()


def _points(half: int, step: float) -> NDArray[np.float64]:
    n = (2 * half + 1) * SUBSAMPLES
    return (np.arange(n) - (n - 1) / 2) * step / SUBSAMPLES


def sphere_means(planes: Sequence[Array | None], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, columns) mean of the sphere centred on each pixel of the middle plane.

    One plane for each of the kernel, None beyond the volume: what is not there does not count.
    """
    total, weight = 0.0, 0.0
    for plane, part in zip(planes, kernel, strict=True):
        if plane is not None:
            total = total + correlate(np.asarray(plane, np.float64), part, mode="constant")
            weight = weight + correlate(np.ones(plane.shape), part, mode="constant")
    return np.asarray(total / weight)


@dataclass(frozen=True)
class Lesion:
    """Uptake in a region: SUV, mL and g."""

    mean: float
    max: float
    peak: float
    mtv_ml: float
    tlg: float


@dataclass
class LesionSums:
    """A region shown slice after slice; keeps sums, and the values that may still count for MTV."""

    spacing_mm: Spacing
    voxels: int = 0
    total: float = 0.0
    peak: float = -np.inf
    high: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(self, planes: Sequence[Array | None], mask: Mask, kernel: NDArray[np.float64]) -> None:
        """The slice in the middle of `planes` (as `sphere_means`) with the region's mask (rows, columns) there."""
        middle = planes[len(planes) // 2]
        if middle is None or not mask.any():
            return
        values = middle[mask].astype(np.float64)
        self.voxels += values.size
        self.total += float(values.sum())
        high = np.concatenate([self.high, values])
        self.high = high[high >= MTV_SHARE * high.max()]
        box = _box(mask, kernel.shape[1:])
        means = sphere_means([None if plane is None else plane[box] for plane in planes], kernel)
        self.peak = max(self.peak, float(means[mask[box]].max()))

    def lesion(self) -> Lesion:
        ml = float(np.prod(self.spacing_mm)) / 1000
        return Lesion(
            mean=self.total / self.voxels, max=float(self.high.max()), peak=self.peak,
            mtv_ml=ml * self.high.size, tlg=ml * float(self.high.sum()),
        )  # fmt: skip


def _box(mask: Mask, margin: Sequence[int]) -> tuple[slice, slice]:
    """The part of a slice that holds the mask and what spheres on it reach."""
    ((rows, columns),) = find_objects(mask.astype(np.uint8))
    down, right = (n // 2 for n in margin)
    return (
        slice(max(rows.start - down, 0), rows.stop + down),
        slice(max(columns.start - right, 0), columns.stop + right),
    )


def lesion(volume: Array, mask: Mask, spacing_mm: Spacing) -> Lesion:
    """Uptake of a region; `volume` in SUV and `mask` are (slices, rows, columns), spacing in the same order."""
    kernel = sphere_kernel(spacing_mm)
    half = len(kernel) // 2
    planes = [None] * half + list(volume) + [None] * half
    sums = LesionSums(spacing_mm)
    for k, there in enumerate(mask):
        sums.add(planes[k : k + len(kernel)], there, kernel)
    return sums.lesion()


def bias_percent(value: float, reference: float) -> float:
    """How far `value` is from `reference`, in % of the latter."""
    return 100 * (value / reference - 1) if reference else float("nan")


def disc_weights(
    matrix: tuple[int, int], pixel_mm: tuple[float, float], centre_mm: tuple[float, float], diameter_mm: float
) -> NDArray[np.float64]:
    """(rows, columns) part of each pixel that lies in a disc; `centre_mm` (x, y) from the centre of the image."""
    y, x = (
        (np.arange(n * SUBSAMPLES) - (n * SUBSAMPLES - 1) / 2) * mm / SUBSAMPLES - at
        for n, mm, at in zip(matrix, pixel_mm, centre_mm[::-1], strict=True)
    )
    weights = np.zeros(matrix)
    rows, columns = (np.flatnonzero(np.abs(u) <= diameter_mm / 2) // SUBSAMPLES for u in (y, x))
    if rows.size and columns.size:
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        y, x = (u.reshape(-1, SUBSAMPLES)[part].ravel() for u, part in zip((y, x), box, strict=True))
        inside = (y[:, None] ** 2 + x**2 <= (diameter_mm / 2) ** 2).astype(float)
        weights[box] = inside.reshape(y.size // SUBSAMPLES, SUBSAMPLES, -1, SUBSAMPLES).mean((1, 3))
    return weights


def disc_mean(image: Array, pixel_mm: tuple[float, float], centre_mm: tuple[float, float], diameter_mm: float) -> float:
    """Mean of a slice (rows, columns) in a disc, pixels on its rim counted in part."""
    weights = disc_weights((image.shape[0], image.shape[1]), pixel_mm, centre_mm, diameter_mm)
    return float((image * weights).sum() / weights.sum())


def contrast_recovery(sphere: float, background: Array, ratio: float) -> float:
    """Q_j in %, of the mean in the sphere's disc, those of the background's discs, and the true activity ratio."""
    return float(100 * (sphere / np.mean(background) - 1) / (ratio - 1))


def background_variability(background: Array) -> float:
    """N_j in %, of the means of the background's discs of one size, at least two."""
    return float(100 * np.std(background, ddof=1) / np.mean(background))


def udpet_mean(values: Mapping[int, float]) -> float:
    """One figure of a metric known at all dose reduction factors, weighted as the UDPET challenge does."""
    return sum(weight * values[reduction] for reduction, weight in UDPET_REDUCTIONS.items())


def udpet_score(scores: Mapping[str, float]) -> float:
    """One figure of the scores (or ranks) in NRMSE, PSNR and SSIM, weighted as the UDPET challenge does."""
    return sum(weight * scores[metric] for metric, weight in UDPET_METRICS.items())


def matched_filter(volume: Array, spacing_mm: Spacing, width_mm: float = FOCUS_MM) -> NDArray[np.float64]:
    """(slices, rows, columns) `d`, in the unit of the volume: high where a focus of about `width_mm` may be."""
    narrow, wide = ([scale * width_mm / FWHM / step for step in spacing_mm] for scale in (1, 2))
    values = np.asarray(volume, np.float64)
    return np.asarray(gaussian_filter(values, narrow, mode="nearest") - gaussian_filter(values, wide, mode="nearest"))


def foci_above(filtered: Array, inside: Mask, threshold: float) -> int:
    """Local maxima among the 26 neighbours, within `inside`, of more than `threshold`; all (slices, rows, columns)."""
    summits = (filtered == maximum_filter(filtered, 3)) & (filtered > threshold)
    return int(np.count_nonzero(summits & inside))
