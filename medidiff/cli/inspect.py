"""`medidiff inspect`: what a folder holds, one line per series, and whether it can be processed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import DicomError, InputError

if TYPE_CHECKING:
    from medidiff.io.dicom import Folder, Series

SAMPLED = 5  # slices of a series that are decoded to measure its noise
HEADINGS = (
    *("#", "modality", "slices x rows x columns", "spacing mm", "unit", "kernel", "kVp", "mAs", "encoding", "noise"),
    "",
)


def inspect(
    path: Annotated[Path, typer.Argument(help="A folder of scans, in any order and nesting, or one DICOM file.")],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON for scripts, with the series UIDs that `reconstruct --series` takes."),
    ] = False,
) -> None:
    """List the series of a folder: size, unit, kernel, dose, noise, and "usable" or the reason why not.

    Spacing is between slices, rows and columns. Noise, of CT, is the standard deviation in soft tissue, the median of
    up to five slices. Of PET the rule is told that made SUV of it. Series UIDs are printed with --json only.
    """
    from medidiff.io.dicom import scan

    with Bar("reading headers") as bar:
        folder = scan(path, progress=bar)
    if not folder.series:
        raise InputError(_nothing_found(path, folder))
    with Bar("measuring noise") as bar:
        measured = []
        for done, series in enumerate(folder.series, start=1):
            measured.append(_measure(series))
            bar(done, len(folder.series))
    if as_json:
        typer.echo(json.dumps(_as_json(folder, measured), indent=2))
    else:
        _print(folder, measured)


def _nothing_found(path: Path, folder: Folder) -> str:
    looked_at = folder.ignored + len(folder.damaged)
    hint = "give a folder that holds a CT or PET scan"
    if folder.damaged:
        hint = f"{len(folder.damaged)} damaged, first {folder.damaged[0][1]}"
    return f"{path}: no DICOM series among {looked_at} files looked at; {hint}"


def _measure(series: Series) -> tuple[Series, float | None]:
    """The series with its noise in HU; None for PET, and, perhaps with a reason, where pixels cannot be used."""
    import numpy as np

    from medidiff.io.dicom import open_series
    from medidiff.noise.level import noise_level

    if series.reason != series.gaps:
        return series, None
    source, is_ct = open_series(series, allow_gaps=True), series.unit == "HU"
    indices = sorted({round(k) for k in np.linspace(0, series.n_slices - 1, SAMPLED + 2)[1:-1]})
    try:
        slices = [source.read(index) for index in indices]
    except DicomError as error:
        return replace(series, reason=str(error), gaps=""), None
    return series, float(np.median([noise_level(slice_) for slice_ in slices])) if is_ct else None


def _as_json(folder: Folder, measured: list[tuple[Series, float | None]]) -> dict[str, Any]:
    damaged = [{"file": str(file), "reason": reason} for file, reason in folder.damaged]
    series = [_series_json(index, *item) for index, item in enumerate(measured, start=1)]
    return {"note": DISCLAIMER, "series": series, "ignored": folder.ignored, "damaged": damaged}


def _series_json(index: int, series: Series, noise: float | None) -> dict[str, Any]:
    return {
        "index": index,
        "uid": series.uid,
        "modality": series.modality,
        "slices": series.n_slices,
        "rows": series.rows,
        "columns": series.columns,
        "spacing_mm": list(series.spacing),
        "thickness_mm": series.thickness_mm,
        "tilt_degrees": round(series.tilt_degrees, 3),
        "unit": series.unit,
        "suv_rule": series.suv.rule if series.suv else None,
        "kernel": series.kernel,
        "kvp": series.kvp,
        "mas": series.mas,
        "transfer_syntax": series.transfer_syntax,
        "noise_hu": None if noise is None else round(noise, 2),
        "usable": series.usable,
        "reason": series.reason,
        "only_gaps": bool(series.gaps),
        "warnings": list(series.warnings),
    }


def _print(folder: Folder, measured: list[tuple[Series, float | None]]) -> None:
    rows = [HEADINGS, *(_row(index, *item) for index, item in enumerate(measured, start=1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for row in rows:
        console.print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    usable = sum(series.usable for series, _ in measured)
    console.print(f"{usable} of {len(measured)} series usable, {folder.ignored} files ignored ({DISCLAIMER})")
    for file, reason in folder.damaged:
        console.print(f"damaged: {reason if str(file) in reason else f'{file}: {reason}'}")


def _row(index: int, series: Series, noise: float | None) -> tuple[str, ...]:
    known = any(series.spacing)
    return (
        str(index),
        series.modality,
        f"{series.n_slices} x {series.rows} x {series.columns}",
        " x ".join(f"{step:.3g}" if step else "-" for step in series.spacing) if known else "-",
        series.unit if series.reason == series.gaps else "-",
        series.kernel or "-",
        _number(series.kvp),
        _number(series.mas),
        series.transfer_syntax,
        "-" if noise is None else f"{noise:.1f} HU",
        series.reason or "; ".join(("usable", *((series.suv.rule,) if series.suv else ()), *series.warnings)),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def register(app: typer.Typer) -> None:
    app.command()(inspect)
