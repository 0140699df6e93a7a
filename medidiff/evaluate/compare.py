"""How far a volume is from its reference: one row a number, with the intensity range that it was measured in.

RMSE, HU bias   over all voxels that hold a measurement in both volumes
PSNR, SSIM      mean over slices, as the low-dose CT literature reports them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, UnitError
from medidiff.metrics.image import PRESETS, Preset, hu_bias, mse, psnr, ssim
from medidiff.progress import Progress, silent
from medidiff.results.rows import WHOLE, Row
from medidiff.volume import SliceSource


def require_comparable(candidate: SliceSource, reference: SliceSource) -> None:
    """Raise UnitError or GeometryError unless both volumes lie voxel on voxel and have one unit."""
    if candidate.unit != reference.unit:
        raise UnitError(f"cannot compare {candidate.unit} with {reference.unit}: convert one of the volumes first")
    fault = candidate.geometry.difference(reference.geometry)
    if fault is not None:
        raise GeometryError(f"cannot compare two volumes of different geometry: {fault}; resample one of them first")


def compare(
    candidate: SliceSource,
    reference: SliceSource,
    *,
    case: str = "",
    method: str = "",
    presets: Sequence[str] = ("hu", "abdomen"),
    progress: Progress = silent,
) -> list[Row]:
    """Rows of RMSE, PSNR and SSIM per preset, and the HU bias; slices are read one at a time.

    Voxels that are padding in either volume do not count. Raises UnitError or GeometryError when the two
    volumes do not belong together.
    """
    require_comparable(candidate, reference)
    ranges = {name: PRESETS[name] for name in presets}
    per_slice = []
    for index in range(reference.geometry.n_slices):
        measured = _measured(candidate, reference, index)
        if measured.any():
            per_slice.append(_measure(candidate.read(index), reference.read(index), measured, ranges))
        progress(index + 1, reference.geometry.n_slices)
    if not per_slice:
        raise GeometryError("cannot compare two volumes without one voxel that holds a measurement in both")
    return [
        Row(case, method, WHOLE, metric, preset, value, unit)
        for (metric, preset, unit), value in _pool(per_slice, ranges).items()
    ]


Slice = dict[tuple[str, str], float]
Pooled = dict[tuple[str, str, str], float]


def _measured(a: SliceSource, b: SliceSource, index: int) -> NDArray[np.bool_]:
    """(rows, columns) True where both volumes hold a measurement."""
    measured = np.ones(b.geometry.matrix, bool)
    for padding in (a.padding(index), b.padding(index)):
        if padding is not None:
            measured &= ~padding
    return measured


def _measure(
    image: NDArray[np.floating], truth: NDArray[np.floating], measured: NDArray[np.bool_], ranges: Mapping[str, Preset]
) -> Slice:
    """Metrics of one slice; a slice without padding goes without a mask, so that SSIM leaves out its border."""
    mask = None if measured.all() else measured
    values: Slice = {("voxels", ""): float(measured.sum()), ("bias", ""): hu_bias(image, truth, mask)}
    for name, preset in ranges.items():
        values["mse", name] = mse(image, truth, preset, mask)
        values["PSNR", name] = psnr(image, truth, preset, mask)
        values["SSIM", name] = ssim(image, truth, preset, mask)
    return values


def _pool(per_slice: Sequence[Slice], ranges: Mapping[str, Preset]) -> Pooled:
    """RMSE and bias over all voxels, PSNR and SSIM averaged over slices."""
    voxels = np.array([values["voxels", ""] for values in per_slice])

    def mean(metric: str, preset: str, weights: NDArray[np.float64] | None = None) -> float:
        return float(np.average([values[metric, preset] for values in per_slice], weights=weights))

    pooled: Pooled = {}
    for name, preset in ranges.items():
        pooled["RMSE", name, "HU"] = float(np.sqrt(mean("mse", name, voxels))) * preset.range
        pooled["PSNR", name, "dB"] = mean("PSNR", name)
        pooled["SSIM", name, "1"] = mean("SSIM", name)
    pooled["bias", "hu", "HU"] = mean("bias", "", voxels)
    return pooled
