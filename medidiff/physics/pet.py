"""PET of a slice by parallel beams: strip integrals, attenuation at 511 keV, and the counts of full and low scans.

Means of the counts in a bin at angle `theta` and offset `s` of a slice with the activity `x` (Bailey et al.,
Positron Emission Tomography, 2005, chapter 3):

    t = k a (P x)              trues: `P` strip integrals in mm, `a = exp(-P mu)`, `k` counts per activity and mm
    s = F_s / (1 - F_s) G t    scatter: the trues smoothed by a wide Gaussian `G` along s, so that s / (t + s) = F_s
    r = F_r / (1 - F_r) mean(t + s)    randoms: even over the slice's bins, so that r / (t + s + r) = F_r

A scan draws `y ~ Poisson` of each; a shorter one keeps every event with the probability `p = 1 / DRF`, so its counts
are `Binomial(y, p)`: again Poisson, of `p` times the mean, and part of the full scan's. With less *activity* rather
than time, randoms, pairs of unrelated photons, fall as `p^2`.

A bin holds the mean over its width of the line integrals of square pixels. A pixel of side `d` casts a trapezoid of
area `d^2`, the convolution of boxes of widths `d |cos theta|` and `d |sin theta|`, centred at
`x cos(theta) + y sin(theta)` (De Man & Basu 2004, Phys Med Biol 49:2463, in its exact form for strips).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import binary_fill_holes, binary_opening, distance_transform_edt, gaussian_filter, label
from torch import Tensor

from medidiff.physics.operators import LinearOperator, SparseRows, as_batch, as_columns

Array = NDArray[np.float32]
Reduction = Literal["time", "dose"]

MU_WATER, MU_LUNG = 0.0096, 0.0029  # 1/mm at 511 keV
BONE_FROM_HU, BONE_SLOPE = 47.0, 5.10e-6  # at 120 kVp (Carney et al. 2006, Med Phys 33:976), 1/mm per HU
SCATTER_MM = 40.0  # standard deviation of G along s
BODY_BLUR_MM = 3.0  # standard deviation
BODY_SHARE = 0.1  # of the 90th percentile of what is above 0: less uptake is outside the body
LUNG_SHARE = 0.5  # of the body's median uptake
LUNG_DEPTH_MM, LUNG_RADIUS_MM, LUNG_ML = 15.0, 10.0, 60.0  # low uptake nearer the skin or smaller is fat or a cyst


@dataclass(frozen=True)
class ParallelGeometry:
    """Parallel rays over half a turn; bins are centred on the axis."""

    n_angles: int = 168
    n_bins: int = 128
    bin_mm: float = 4.0

    @property
    def angles(self) -> NDArray[np.float64]:
        """(angles,) of the bins' normals, radians."""
        return np.arange(self.n_angles) * np.pi / self.n_angles

    @property
    def radius_mm(self) -> float:
        return self.n_bins * self.bin_mm / 2


DEFAULT_GEOMETRY = ParallelGeometry()


class ParallelBeam(LinearOperator):
    """Strip integrals, in mm, of images (rows, columns) over half a turn, (angles, bins), on any device.

    Pixels that do not lie wholly inside the scanner's circle are not seen. `beam` shares matrices that were built.
    """

    def __init__(
        self,
        matrix: tuple[int, int],
        pixel_mm: float,
        geometry: ParallelGeometry = DEFAULT_GEOMETRY,
        device: torch.device | str = "cpu",
    ) -> None:
        self.in_shape = matrix
        self.out_shape = (geometry.n_angles, geometry.n_bins)
        self.device = torch.device(device)
        self.pixel_mm, self.geometry = pixel_mm, geometry
        self.matrix = _strips(matrix, pixel_mm, geometry)
        self._subsets: dict[int, tuple[sparse.csr_array, ...]] = {}

    def subsets(self, n: int) -> tuple[sparse.csr_array, ...]:
        """The rows of every n-th angle from the first, the second, ...; `n` divides the number of angles."""
        if n not in self._subsets:
            angles, bins = self.out_shape
            rows = np.arange(angles * bins).reshape(angles, bins)
            self._subsets[n] = tuple(self.matrix[rows[k::n].ravel()] for k in range(n))
        return self._subsets[n]

    def _forward(self, x: Tensor) -> Tensor:
        return as_batch(self._rows.times(as_columns(x)), self.out_shape)

    def _backward(self, y: Tensor) -> Tensor:
        return as_batch(self._columns.times(as_columns(y)), self.in_shape)

    @cached_property
    def _rows(self) -> SparseRows:
        return SparseRows.of(self.matrix.indptr, self.matrix.indices, self.matrix.data, self.device)

    @cached_property
    def _columns(self) -> SparseRows:
        turned = self.matrix.T.tocsr()
        return SparseRows.of(turned.indptr, turned.indices, turned.data, self.device)


@lru_cache(maxsize=4)
def beam(matrix: tuple[int, int], pixel_mm: float, geometry: ParallelGeometry = DEFAULT_GEOMETRY) -> ParallelBeam:
    """The projector of a grid, built once."""
    return ParallelBeam(matrix, pixel_mm, geometry)


def _strips(matrix: tuple[int, int], pixel_mm: float, geometry: ParallelGeometry) -> sparse.csr_array:
    """(angles * bins, rows * columns) of float32, mm."""
    y, x = ((np.arange(n) - (n - 1) / 2) * pixel_mm for n in matrix)
    inside = np.hypot(np.abs(x) + pixel_mm / 2, np.abs(y)[:, None] + pixel_mm / 2) <= geometry.radius_mm
    pixels = np.flatnonzero(inside).astype(np.int32)
    at_x, at_y = np.broadcast_to(x, matrix)[inside], np.broadcast_to(y[:, None], matrix)[inside]
    n_pixels = matrix[0] * matrix[1]
    rows = [_one_angle(theta, at_x, at_y, pixels, n_pixels, pixel_mm, geometry) for theta in geometry.angles]
    whole = sparse.vstack(rows, format="csr")
    indices = (whole.indices.astype(np.int32), whole.indptr.astype(np.int32))  # half the memory of the default
    return sparse.csr_array((whole.data, *indices), shape=whole.shape)


def _one_angle(
    theta: float, x: NDArray[Any], y: NDArray[Any], pixels: NDArray[np.int32], n_pixels: int, pixel_mm: float,
    geometry: ParallelGeometry,
) -> sparse.csr_array:  # fmt: skip
    """(bins, pixels): what part of each pixel's area every bin sees, over the bin's width."""
    wide = pixel_mm * max(abs(np.cos(theta)), abs(np.sin(theta)))
    narrow = max(pixel_mm * min(abs(np.cos(theta)), abs(np.sin(theta))), 1e-4 * pixel_mm)
    centre = (x * np.cos(theta) + y * np.sin(theta) + geometry.radius_mm) / geometry.bin_mm  # in bins from the edge
    reach = (wide + narrow) / 2 / geometry.bin_mm
    first = np.floor(centre - reach).astype(np.int32)
    edges = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    below = _trapezoid((edges - centre[:, None]) * geometry.bin_mm, wide, narrow)
    weights = np.diff(below, axis=1) * (pixel_mm**2 / geometry.bin_mm)
    bins = edges[:, :-1]
    seen = (weights > 1e-6 * pixel_mm) & (bins >= 0) & (bins < geometry.n_bins)
    columns = np.broadcast_to(pixels[:, None], bins.shape)
    shape = (geometry.n_bins, n_pixels)
    return sparse.csr_array((weights[seen].astype(np.float32), (bins[seen], columns[seen])), shape=shape)


def _trapezoid(t: NDArray[np.floating], wide: float, narrow: float) -> NDArray[np.floating]:
    """Part of the convolution of two boxes, centred at 0, that lies below `t`."""
    outer, inner = (wide + narrow) / 2, (wide - narrow) / 2
    ramps = sum(
        sign * np.maximum(t + shift, 0) ** 2
        for sign, shift in ((1, outer), (-1, inner), (-1, -inner), (1, -outer))
    )  # fmt: skip
    return np.clip(ramps / (2 * wide * narrow), 0, 1)


# ---------------------------------------------------------------- attenuation


def mu_of_hu(hu: NDArray[np.floating]) -> NDArray[np.floating]:
    """Attenuation at 511 keV in 1/mm of CT numbers: water and air below 47 HU, water and bone above."""
    soft = MU_WATER * (1 + np.maximum(hu, -1000) / 1000)
    return np.where(hu > BONE_FROM_HU, MU_WATER * (1 + BONE_FROM_HU / 1000) + BONE_SLOPE * (hu - BONE_FROM_HU), soft)


def hu_of_mu(mu: NDArray[np.floating]) -> NDArray[np.floating]:
    """CT numbers that `mu_of_hu` takes to `mu`, the CT that a phantom would have."""
    knee = MU_WATER * (1 + BONE_FROM_HU / 1000)
    return np.where(mu > knee, BONE_FROM_HU + (mu - knee) / BONE_SLOPE, 1000 * (mu / MU_WATER - 1))


def mu_of_activity(activity: NDArray[np.floating], spacing_mm: tuple[float, float, float]) -> Array:
    """Attenuation at 511 keV in 1/mm guessed from the uptake itself, (slices, rows, columns): the body is water, and
    large regions of low uptake well inside it are lung.

    It decides how noise is distributed, not how much uptake is shown: the scan is corrected with the same factors.
    """
    sigmas = [min(BODY_BLUR_MM / step, 1.0) for step in spacing_mm]
    smooth = gaussian_filter(activity, sigmas)
    above = smooth[smooth > 0]
    if above.size == 0:
        return np.zeros(activity.shape, np.float32)
    threshold = BODY_SHARE * float(np.quantile(above, 0.9))
    body = np.stack([binary_fill_holes(plane) for plane in smooth > threshold])
    mu = np.where(body, MU_WATER, 0.0)
    mu[_lungs(smooth, body, spacing_mm)] = MU_LUNG
    return mu.astype(np.float32)


def _lungs(smooth: NDArray[np.floating], body: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Any:
    """Where uptake is low, deep and in one large piece."""
    in_plane = spacing_mm[1:]
    deep = np.stack([distance_transform_edt(plane, in_plane) > LUNG_DEPTH_MM for plane in body])
    low = deep & (smooth < LUNG_SHARE * float(np.median(smooth[body])))
    radii = [round(LUNG_RADIUS_MM / step) for step in in_plane]
    disc = np.hypot(*np.ogrid[-1 : 1 : (2 * radii[0] + 1) * 1j, -1 : 1 : (2 * radii[1] + 1) * 1j]) <= 1
    pieces, _ = label(binary_opening(low, disc[None]))
    sizes = np.bincount(pieces.ravel()) * float(np.prod(spacing_mm)) / 1000
    sizes[0] = 0
    return (sizes >= LUNG_ML)[pieces]


# ---------------------------------------------------------------- counts


@dataclass(frozen=True)
class Contamination:
    """Events that are not trues: scatter over trues and scatter, and randoms over prompts, of the full scan."""

    scatter_fraction: float = 0.35
    randoms_fraction: float = 0.30


@dataclass(frozen=True, eq=False)
class Means:
    """Expected counts of slices, (slices, angles, bins) each; `factors` are what `P x` is multiplied by."""

    trues: Array
    scatter: Array
    randoms: Array
    factors: Array


@dataclass(frozen=True, eq=False)
class Events:
    """Drawn counts, (slices, angles, bins): trues with scatter, and randoms."""

    coincidences: NDArray[np.int64]
    randoms: NDArray[np.int64]

    @property
    def prompts(self) -> NDArray[np.int64]:
        return self.coincidences + self.randoms


@dataclass(frozen=True, eq=False)
class Sinograms:
    """What a reconstruction is given, (slices, angles, bins) each: `counts ~ Poisson(factors (P x) + additive)`."""

    counts: Array
    factors: Array
    additive: Array


def expected(
    line_integrals: Array, attenuation: Array, calibration: float, contamination: Contamination, bin_mm: float
) -> Means:
    """Means of a full scan from `P x` and `a` (slices, angles, bins); `calibration` in counts per activity and mm."""
    factors = attenuation * np.float32(calibration)
    trues = factors * line_integrals
    odds = contamination.scatter_fraction / (1 - contamination.scatter_fraction)
    scatter = gaussian_filter(trues, (0, 0, SCATTER_MM / bin_mm), mode="constant", truncate=3)
    scatter *= odds * _total(trues) / np.maximum(_total(scatter), np.finfo(np.float32).tiny)
    odds = contamination.randoms_fraction / (1 - contamination.randoms_fraction)
    randoms = odds * (trues + scatter).mean((1, 2), keepdims=True)
    return Means(trues, scatter, np.broadcast_to(randoms, trues.shape), factors)


def _total(sinograms: Array) -> Any:
    """(slices, 1, 1) counts of each slice."""
    return sinograms.sum((1, 2), keepdims=True)


def draw(means: Means, generators: list[np.random.Generator]) -> Events:
    """The events of a full scan, a generator for each slice."""
    both = means.trues + means.scatter
    drawn = [(g.poisson(t), g.poisson(r)) for g, t, r in zip(generators, both, means.randoms, strict=True)]
    return Events(np.stack([t for t, _ in drawn]), np.stack([r for _, r in drawn]))


def thin(events: Events, drf: float, reduction: Reduction, generators: list[np.random.Generator]) -> Events:
    """The part of the events that a scan of 1 / `drf` of the time or the activity would have; all of them for 1."""
    if drf == 1:
        return events
    keep, keep_randoms = 1 / drf, (1 / drf if reduction == "time" else 1 / drf**2)
    pairs = zip(generators, events.coincidences, events.randoms, strict=True)
    kept = [(g.binomial(t, keep), g.binomial(r, keep_randoms)) for g, t, r in pairs]
    return Events(np.stack([t for t, _ in kept]), np.stack([r for _, r in kept]))


def sinograms(means: Means, events: Events, drf: float, reduction: Reduction) -> Sinograms:
    """Events with what corrects them, known without error: attenuation, mean scatter, mean randoms."""
    p = np.float32(1 / drf)
    randoms = means.randoms * (p if reduction == "time" else p**2)
    return Sinograms(events.prompts.astype(np.float32), means.factors * p, means.scatter * p + randoms)


def without_noise(means: Means) -> Sinograms:
    """A full scan with exactly the expected counts."""
    additive = means.scatter + means.randoms
    return Sinograms(means.trues + additive, means.factors, additive)
