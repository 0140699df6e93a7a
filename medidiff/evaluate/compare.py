"""How far a volume is from its reference: one row a number, with the intensity range that it was measured in.

RMSE, HU bias   over all voxels that hold a measurement in both volumes
PSNR, SSIM      mean over slices, as the low-dose CT literature reports them
"""

from __future__ import annotations

from collections.abc import Sequence

from medidiff.evaluate.engine import as_rows, context_of, judge, look, require_comparable
from medidiff.evaluate.registry import measures
from medidiff.progress import Progress, silent
from medidiff.results.rows import WHOLE, Row
from medidiff.volume import SliceSource

__all__ = ["compare", "require_comparable"]

METRICS = ("rmse", "psnr", "ssim", "bias")


def compare(
    candidate: SliceSource,
    reference: SliceSource,
    *,
    case: str = "",
    method: str = "",
    presets: Sequence[str] = ("hu", "abdomen"),
    progress: Progress = silent,
) -> list[Row]:
    """Rows of RMSE, PSNR, SSIM and bias of the whole image; slices are read one at a time.

    Voxels that are padding in either volume do not count. Raises UnitError or GeometryError when the two
    volumes do not belong together.
    """
    context = context_of(reference, presets)
    values, _ = judge(look(candidate, reference), measures(METRICS, context), progress, context.n_slices)
    return as_rows(case, method, (value for value in values if value.region == WHOLE))
