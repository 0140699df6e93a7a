"""`medidiff demo`: the main job on the bundled study, with a table and a picture of what it did."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import medidiff
from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import InputError

if TYPE_CHECKING:
    from medidiff.evaluate import Row
    from medidiff.volume import Volume

BUNDLED = Path("data_samples") / "ct"
LOW, RECONSTRUCTED, FULL, TRUTH = "low dose", "reconstructed", "full dose", "noise-free truth"
FOLDERS = {LOW: "low_dose", FULL: "full_dose", TRUTH: "noise_free"}
SHOWN = (("RMSE", "hu"), ("bias", "hu"), ("PSNR", "abdomen"), ("SSIM", "abdomen"))
NAMES = {"RMSE": "RMSE, HU", "bias": "bias, HU", "PSNR": "PSNR, dB", "SSIM": "SSIM"}
ZOOM = ((0.33, 0.64), (0.15, 0.46))  # rows, columns of the liver, as fractions of the slice


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder with low_dose, full_dose and noise_free; default: the bundled study.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; an earlier demo is replaced.")] = (
        Path("demo_output")
    ),
    model: Annotated[str, typer.Option(help="Name of an embedded model (see medidiff models), or a file.")] = "ct",
) -> None:
    """Reconstruct the bundled synthetic CT study and show what was gained.

    Writes a DICOM series, a side-by-side picture and a table of metrics, and says where they are.
    """
    from medidiff.evaluate import compare
    from medidiff.inference import Options, reconstruct
    from medidiff.io.dicom import load_volume

    folders = find_study(data)
    options = Options.of(model=model, overwrite=True)
    with Bar("Reconstructing") as bar:
        record = reconstruct(folders[LOW], out / "reconstruction", options, progress=bar)
    series = out / "reconstruction" / record.series[0].folder
    volumes = {name: load_volume(folder) for name, folder in {**folders, RECONSTRUCTED: series}.items()}
    rows = [
        row
        for reference in (TRUTH, FULL)
        for method in (LOW, RECONSTRUCTED, TRUTH)
        if method != reference
        for row in compare(volumes[method], volumes[reference], case=f"against {reference}", method=method)
    ]
    table, picture = write_table(out / "metrics.csv", rows), draw(out / "side_by_side.png", volumes)
    _report(rows, {"DICOM series": series, "picture": picture, "table": table, "record": series.parent / "run.json"})


def find_study(data: Path | None) -> dict[str, Path]:
    """The folders of the study by name; raises InputError with one sentence when the study is not there."""
    beside = Path(medidiff.__file__).resolve().parents[1] / BUNDLED
    study = data or (BUNDLED if BUNDLED.is_dir() else beside)
    if data is None and not study.is_dir():
        raise InputError(
            f"{BUNDLED}: the sample study comes with the source repository, not with the installed package; "
            "run the demo in a copy of the repository, or name the folder with --data"
        )
    missing = [name for name in FOLDERS.values() if not (study / name).is_dir()]
    if missing:
        raise InputError(
            f"{study}: expected the folders {', '.join(FOLDERS.values())}, missing {', '.join(missing)}; "
            "name the folder that holds them with --data"
        )
    return {name: study / folder for name, folder in FOLDERS.items()}


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


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """All rows as CSV, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(vars(rows[0])))
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)
    return partial.replace(path)


def _report(rows: Sequence[Row], places: Mapping[str, Path]) -> None:
    from medidiff.metrics.image import PRESETS

    console = Console(highlight=False)
    found = {(row.case.removeprefix("against "), row.method, row.metric, row.preset): row for row in rows}
    table = Table(title=f"Synthetic CT at a quarter of the dose ({DISCLAIMER})", title_style="bold")
    for heading in ("against", "metric", LOW, RECONSTRUCTED, TRUTH):
        table.add_column(heading, justify="left" if heading in ("against", "metric") else "right", no_wrap=True)
    for reference in (TRUTH, FULL):
        for metric, preset in SHOWN:
            cells = [found.get((reference, method, metric, preset)) for method in (LOW, RECONSTRUCTED, TRUTH)]
            first, last = metric == SHOWN[0][0], metric == SHOWN[-1][0]
            table.add_row(reference if first else "", NAMES[metric], *map(_cell, cells), end_section=last)
    console.print(table)
    window = PRESETS["abdomen"]
    console.print(
        f"RMSE and bias over all HU, PSNR and SSIM in the window {window.low:g} to {window.high:g} HU. "
        "Low and full dose share part of their noise: against the full dose nothing that removes noise can gain much "
        "more than the last column, so judge by the upper half."
    )
    for name, place in places.items():
        console.print(f"{name}: {place}", soft_wrap=True, markup=False)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    digits = 3 if row.metric == "SSIM" else 2
    return f"{round(row.value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def register(app: typer.Typer) -> None:
    app.command()(demo)
