"""The PET half of `medidiff demo`: a tenth of the counts, reconstructed, against the uptake behind the scan.

    body      voxels in which the truth holds more than BODY_SUV: PSNR, SSIM and NRMSE are measured there
    lesions   the regions of the mask, numbered; bias of SUVmean, SUVmax and SUVpeak in %

The truth has no blur. What even the full count lacks of a small lesion is partial volume, which no denoiser gives back:
so the full count has a column of its own, and the table on disk holds everything against it as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff import DISCLAIMER
from medidiff.cli.demo.parts import Cells, Study, cell, console, reconstructed, tell, tell_places, write_table
from medidiff.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medidiff.evaluate import Row
    from medidiff.evaluate.engine import Regions
    from medidiff.figures import Strip
    from medidiff.volume import Volume

MODEL = "pet"
LOW, RECONSTRUCTED, FULL, TRUTH = "low count", "reconstructed", "full count", "truth"
METHODS = (LOW, RECONSTRUCTED, FULL)
MASK, RECORD = "lesions", "record"
STUDY = Study(
    Path("data_samples") / "pet",
    "--pet-data",
    {LOW: "low_count", FULL: "full_count", TRUTH: "truth"},
    {MASK: "lesions.nii.gz", RECORD: "study.json"},
)
BODY_SUV, PRESET, BODY = 0.2, "suv", "body"
WINDOW_SUV = 8.0
MARGIN = 3  # voxels around the body in the picture
IMAGE = {"PSNR": ("PSNR, dB", 2, 1), "SSIM": ("SSIM", 3, 1), "NRMSE": ("NRMSE, %", 2, 100)}  # name, digits, factor
TOTAL, UPTAKE = "total activity bias", ("SUVmean", "SUVmax", "SUVpeak")


def has_model(name: str) -> bool:
    """Whether there is a model to show PET with; where the usual one is not embedded, one sentence says so."""
    from medidiff.model import embedded

    if name != MODEL or MODEL in embedded():
        return True
    console.print(
        f"PET is left out: no model '{MODEL}' is embedded in this installation; name a file with --pet-model.",
        soft_wrap=True,
    )
    return False


def show(study: Mapping[str, Path], out: Path, model: str) -> None:
    """Reconstruct the low count into `out`, measure, draw and tell."""
    from medidiff.io.dicom import load_volume

    lesions = lesion_names(study[RECORD])
    series = reconstructed(study[LOW], out / "reconstruction", model)
    folders = {name: study[name] for name in (LOW, FULL, TRUTH)} | {RECONSTRUCTED: series}
    volumes = {name: load_volume(folder) for name, folder in folders.items()}
    labels = _labels(study[MASK], volumes[TRUTH])
    rows = [row for reference in (TRUTH, FULL) for row in measure(volumes, reference, labels, lesions)]
    table, picture = write_table(out / "metrics.csv", rows), draw(out / "side_by_side.png", volumes, labels)
    _report(rows, lesions)
    tell_places(series, picture, table)


def lesion_names(record: Path) -> dict[int, str]:
    """What each number of the mask is, the largest lesion first; raises InputError where the record does not say."""
    try:
        listed = json.loads(record.read_text(encoding="utf-8"))["lesions"]
        by_size = sorted(listed, key=lambda one: -one["diameter_mm"])
        return {int(one["number"]): f"{one['number']} {one['where']}, {one['diameter_mm']:g} mm" for one in by_size}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{record}: expected 'lesions' with number, where and diameter_mm of each, as in data_samples/pet"
        ) from None


def measure(
    volumes: Mapping[str, Volume], reference: str, labels: NDArray[np.intp], lesions: Mapping[int, str]
) -> Iterator[Row]:
    """Rows of every image but the truth against a reference: the body, the total, the lesions."""
    from medidiff.evaluate.engine import as_rows, context_of, judge, look
    from medidiff.evaluate.registry import measures

    whole = volumes[reference]
    body = replace(whole, mask=volumes[TRUTH].array <= BODY_SUV)  # what lies outside counts as not measured
    context, case = context_of(whole, (PRESET,)), f"against {reference}"
    for method in (name for name in METHODS if name != reference):
        values, _ = judge(look(volumes[method], body), measures(("psnr", "ssim", "nrmse"), context))
        yield from as_rows(case, method, (replace(value, region=BODY) for value in values))
        views = look(volumes[method], whole, regions=_regions(labels, lesions))
        values, _ = judge(views, measures(("cov", "suv"), context))
        yield from as_rows(case, method, values)


def _regions(labels: NDArray[np.intp], lesions: Mapping[int, str]) -> Regions:
    """The masks of the lesions that a slice cuts."""
    return lambda k: {name: labels[k] == number for number, name in lesions.items() if (labels[k] == number).any()}


def _labels(mask: Path, scan: Volume) -> NDArray[np.intp]:
    """(slices, rows, columns) the number of the lesion that a voxel of the scan belongs to, 0 outside."""
    import numpy as np

    from medidiff.io.nifti import on_grid, open_labels
    from medidiff.volume import collect

    return np.rint(collect(on_grid(open_labels(mask, "SUV"), scan.geometry, even=True)).array).astype(np.intp)


def draw(path: Path, volumes: Mapping[str, Volume], labels: NDArray[np.intp]) -> Path:
    """The maximum intensity projection from the front, and the slice that cuts most lesions; dark is much uptake."""
    import numpy as np

    from medidiff.figures import strips
    from medidiff.metrics.preset import Preset

    index = max(range(len(labels)), key=lambda k: np.unique(labels[k]).size)
    box = _box(np.asarray((volumes[TRUTH].array > BODY_SUV).any(0)))
    shown = {name: volumes[name] for name in (*METHODS, TRUTH)}
    return strips(
        [_front(shown, box), _slice(shown, index, box)],
        path,
        window=Preset(0.0, WINDOW_SUV, unit="SUV"),
        title=f"Synthetic study: maximum intensity projection from the front, and slice {index + 1} of {len(labels)}",
    )


def _front(volumes: Mapping[str, Volume], box: tuple[slice, slice]) -> Strip:
    """Maxima along the rows' direction, the head up."""
    from medidiff.figures import Placement, Strip, side_letters

    geometry = next(iter(volumes.values())).geometry
    upwards = slice(None, None, -1 if geometry.normal[2] > 0 else 1)
    pixel_mm = (geometry.slice_spacing_mm, geometry.pixel_spacing_mm[1])
    images = {name: volume.array[upwards, :, box[1]].max(1) for name, volume in volumes.items()}
    return Strip(images, Placement(pixel_mm, side_letters(geometry)))


def _slice(volumes: Mapping[str, Volume], index: int, box: tuple[slice, slice]) -> Strip:
    from medidiff.figures import Placement, Strip

    placement = Placement.of(next(iter(volumes.values())).geometry)
    return Strip({name: volume.read(index)[box] for name, volume in volumes.items()}, placement)


def _box(there: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and columns of a mask, MARGIN more on each side."""
    import numpy as np

    spans = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(span[0] - MARGIN, 0), span[-1] + MARGIN + 1) for span in spans)
    return rows, columns


def _report(rows: Sequence[Row], lesions: Mapping[int, str]) -> None:
    from medidiff.metrics.preset import PRESETS
    from medidiff.results.rows import WHOLE

    against = {(row.region, row.metric, row.method): row.value for row in rows if row.case == f"against {TRUTH}"}

    def cells(region: str, metric: str, digits: int = 1, factor: float = 1) -> list[str]:
        found = (against.get((region, metric, method)) for method in METHODS)
        return [cell(None if value is None else factor * value, digits) for value in found]

    image = {name: cells(BODY, metric, digits, factor) for metric, (name, digits, factor) in IMAGE.items()}
    sections: dict[tuple[str, ...], Mapping[str, Cells]] = {("image",): image | {"activity, %": cells(WHOLE, TOTAL)}}
    for name in lesions.values():
        sections[tuple(name.split(", "))] = {f"{metric}, %": cells(name, f"{metric} bias") for metric in UPTAKE}
    tell(f"Synthetic PET at a tenth of the counts, against the truth ({DISCLAIMER})", ("", "", *METHODS), sections)
    preset = PRESETS[PRESET]
    console.print(
        f"PSNR, SSIM and NRMSE in the body (truth above {BODY_SUV:g} SUV), range {preset.low:g} to {preset.high:g} "
        "SUV. Activity (total) and uptake of the lesions: difference from the truth. That has no blur, so even the "
        "full count lacks uptake in small lesions (partial volume): judge the reconstruction by how near it comes to "
        "the last column. metrics.csv has everything against the full count, too."
    )
