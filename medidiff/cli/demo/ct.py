"""The CT half of `medidiff demo`: a quarter of the dose, reconstructed, against the full dose and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff import DISCLAIMER
from medidiff.cli.demo.parts import Sections, Study, cell, console, reconstructed, tell, tell_places, write_table

if TYPE_CHECKING:
    from medidiff.evaluate import Row
    from medidiff.volume import Volume

LOW, RECONSTRUCTED, FULL, TRUTH = "low dose", "reconstructed", "full dose", "noise-free truth"
STUDY = Study(Path("data_samples") / "ct", "--data", {LOW: "low_dose", FULL: "full_dose", TRUTH: "noise_free"})
SHOWN = (("RMSE", "hu"), ("bias", "hu"), ("PSNR", "abdomen"), ("SSIM", "abdomen"))
NAMES = {"RMSE": "RMSE, HU", "bias": "bias, HU", "PSNR": "PSNR, dB", "SSIM": "SSIM"}
ZOOM = ((0.33, 0.64), (0.15, 0.46))  # rows, columns of the liver, as fractions of the slice


def show(study: Mapping[str, Path], out: Path, model: str) -> None:
    """Reconstruct the low dose into `out`, measure, draw and tell."""
    from medidiff.evaluate import compare
    from medidiff.io.dicom import load_volume

    series = reconstructed(study[LOW], out / "reconstruction", model)
    volumes = {name: load_volume(folder) for name, folder in {**study, RECONSTRUCTED: series}.items()}
    rows = [
        row
        for reference in (TRUTH, FULL)
        for method in (LOW, RECONSTRUCTED, TRUTH)
        if method != reference
        for row in compare(volumes[method], volumes[reference], case=f"against {reference}", method=method)
    ]
    table, picture = write_table(out / "metrics.csv", rows), draw(out / "side_by_side.png", volumes)
    _report(rows)
    tell_places(series, picture, table)


def draw(path: Path, volumes: Mapping[str, Volume]) -> Path:
    """The middle slice before, after, at full dose and without noise, what was changed, and the liver enlarged."""
    from medidiff.figures import side_by_side

    geometry = volumes[LOW].geometry
    middle = geometry.n_slices // 2
    zoom = tuple(slice(int(a * n), int(b * n)) for (a, b), n in zip(ZOOM, geometry.matrix, strict=True))
    return side_by_side(
        {name: volumes[name].read(middle) for name in (LOW, RECONSTRUCTED, FULL, TRUTH)},
        path,
        geometry=geometry,
        difference=(RECONSTRUCTED, LOW),
        title=f"Synthetic study, slice {middle + 1} of {geometry.n_slices}",
        zoom=(zoom[0], zoom[1]),
    )


def _report(rows: Sequence[Row]) -> None:
    from medidiff.metrics.image import PRESETS

    found = {(row.case.removeprefix("against "), row.method, row.metric, row.preset): row.value for row in rows}
    methods = (LOW, RECONSTRUCTED, TRUTH)
    sections: Sections = {
        (reference,): {
            NAMES[metric]: [
                cell(found.get((reference, method, metric, preset)), 3 if metric == "SSIM" else 2) for method in methods
            ]
            for metric, preset in SHOWN
        }
        for reference in (TRUTH, FULL)
    }
    tell(f"Synthetic CT at a quarter of the dose ({DISCLAIMER})", ("against", "metric", *methods), sections)
    window = PRESETS["abdomen"]
    console.print(
        f"RMSE and bias over all HU, PSNR and SSIM in the window {window.low:g} to {window.high:g} HU. "
        "Low and full dose share part of their noise: against the full dose nothing that removes noise can gain much "
        "more than the last column, so judge by the upper half."
    )
