"""`medidiff evaluate`: folders of results against a reference, as tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import PartialFailure

if TYPE_CHECKING:
    from medidiff.evaluate.folder import Outcome
    from medidiff.results.rows import Row

KNOWN = "What is known of the scans"
INPUT = "Input and output"


def evaluate(
    reference: Annotated[
        Path,
        typer.Option(
            help="What counts as right: a DICOM folder (one or more series), a folder "
            "of studies, a NIfTI file, or a folder of NIfTI files."
        ),
    ],
    candidate: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]PATH",
            help="What is judged, the same kinds of path; "
            "repeat it for several methods. The first is the one that the others are compared with.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the tables; made if absent.")],
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="Intensity range to measure in, repeatable: hu (all CT numbers), abdomen, lung, bone, suv, "
            "ldct-benchmark-chest, ldct-benchmark-abdomen or ldct-benchmark-neuro. Default: hu and abdomen (PET: suv).",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure, repeatable: rmse, nrmse, psnr, ssim, "
            "ms-ssim, vif, gmsd, haarpsi, bias, uncertainty, hallucination, companions, cov and more. "
            "Default: rmse, nrmse, psnr, ssim and bias.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Regions to measure in as well: a NIfTI mask or label map, or a "
            "folder of them (one for all scans, or a folder for each).",
            rich_help_panel=KNOWN,
        ),
    ] = None,
    scan: Annotated[
        Path | None, typer.Option(help="The noisy scans that the candidates were made from.", rich_help_panel=KNOWN)
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="The noise-free images, of simulations.", rich_help_panel=KNOWN)
    ] = None,
    dose: Annotated[
        float | None, typer.Option(help="Fraction of the full dose, e.g. 0.25.", rich_help_panel=KNOWN)
    ] = None,
    reference_noise: Annotated[
        str,
        typer.Option(
            help="Noise of the reference: none (it is the truth), shared (the low "
            "dose was simulated from it) or independent (another acquisition).",
            rich_help_panel=KNOWN,
        ),
    ] = "independent",
    unit: Annotated[str, typer.Option(help="HU for CT, SUV for PET.", rich_help_panel=INPUT)] = "HU",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier evaluation in the same folder.", rich_help_panel=INPUT),
    ] = False,
) -> None:
    """Measure how far images are from a reference: two or more folders in, a table out.

    medidiff evaluate --reference FULL_DOSE --candidate ours=RESULT --candidate nlm=OTHER -o TABLES

    DICOM and NIfTI may be mixed. Scans are matched by name or by position, and refused where that leaves a doubt.

    OUT/results.csv has one line per case, method, region and metric. The same command continues an interrupted one.
    """
    from medidiff.evaluate.folder import evaluate as run
    from medidiff.evaluate.plan import METRICS, Evaluation, make_plan, named

    wanted = Evaluation(
        reference=reference,
        candidates=named(candidate),
        presets=tuple(preset or ()),
        metrics=tuple(dict.fromkeys(metric or METRICS)),
        mask=mask,
        scan=scan,
        truth=truth,
        dose=dose,
        reference_noise=cast("Any", reference_noise),  # checked with everything else
        unit=cast("Any", unit),
    )
    with Bar("Measuring") as bar:
        outcome = run(make_plan(wanted), out, overwrite=overwrite, progress=bar)
    _report(outcome)
    _show(outcome)
    if outcome.failures:
        failed = "; ".join(f"{case}, {method}: {why.rstrip('.')}" for case, method, why in outcome.failures)
        raise PartialFailure(f"{failed}; everything else is finished and kept, the same command does the rest")


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(evaluate)


def _report(outcome: Outcome) -> None:
    """The page is drawn from the tables; where it cannot be, they stay."""
    from medidiff.report import build

    with outcome.noting("report"):
        build(outcome.folder)


def _show(outcome: Outcome) -> None:
    console = Console(highlight=False)
    for preset in dict.fromkeys(row.preset for row in outcome.rows):
        console.print(_table([row for row in outcome.rows if row.preset == preset and row.region == "all"], preset))
    plain = Console(highlight=False, soft_wrap=True)
    for text in outcome.sentences:
        plain.print(escape(text))
    for text in outcome.warnings:
        plain.print(escape(f"warning: {text}"))
    files = {"results.csv": "all numbers", "report.html": "the report", "study.json": "how they were made"}
    for name, what in files.items():
        if (outcome.folder / name).exists():
            plain.print(escape(f"{outcome.folder / name}: {what}"))
    plain.print(f"Numbers are means over cases; {DISCLAIMER}.")


def _table(rows: Sequence[Row], preset: str) -> Table:
    """Methods down, metrics across: the mean over cases, and how many cases."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        cells[row.method, _heading(row)].append(row.value)
    headings = list(dict.fromkeys(_heading(row) for row in rows))
    table = Table(title=f"preset {preset}" if preset else "without a preset", title_style="bold")
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("n", justify="right")
    for method in dict.fromkeys(row.method for row in rows):
        found = [cells[method, heading] for heading in headings]
        table.add_row(escape(method), *map(_cell, found), str(max(map(len, found))))
    return table


def _heading(row: Row) -> str:
    return row.metric if row.unit in ("1", "") else f"{row.metric}, {row.unit}"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = math.fsum(values) / len(values)
    return f"{mean + 0.0:.4g}"
