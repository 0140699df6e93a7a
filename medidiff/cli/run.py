"""`medidiff run`: a whole study from one file: cases, methods, metrics, statistics, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar

if TYPE_CHECKING:
    from medidiff.study.estimate import Estimate
    from medidiff.study.plan import Plan

plain = Console(highlight=False, soft_wrap=True)


def run(
    study: Annotated[Path, typer.Argument(help="Study file, for example pipelines/study_ct.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the study: key=value, for example data_root=/path/to/scans or slices=10."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cases worked on at the same time. Without it, as the study says.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, time one slice of each method, and write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another study's results; what still holds is kept.")
    ] = False,
) -> None:
    """Run a study: restore every case with every method, measure, compare, report (research use only).

    Everything is checked before anything runs. Stop it at any time with Ctrl-C; the same command goes on from
    what is finished.
    """
    from medidiff.study.plan import make_plan

    with Bar("Checking cases") as bar:
        plan = make_plan(study, overrides or [], bar)
    plain.print(_size(plan), markup=False)
    if dry_run:
        _estimate(plan, workers)
    else:
        _run(plan, workers, overwrite)
    plain.print(f"{DISCLAIMER[0].upper()}{DISCLAIMER[1:]}.", markup=False)


def _size(plan: Plan) -> str:
    patients = len({case.patient for case in plan.cases})
    slices = sum(case.n_slices for case in plan.cases)
    return (
        f"{plan.study.name}: {len(plan.cases)} cases of {patients} patients, {slices} slices, "
        f"{len(plan.methods)} methods, compared with {plan.baseline}"
    )


def _run(plan: Plan, workers: int | None, overwrite: bool) -> None:
    from medidiff.study.run import run as run_study

    with Bar("Restoring and judging slices") as bar:
        done = run_study(plan, workers=workers, overwrite=overwrite, progress=bar)
    plain.print(f"{done.computed} results computed, {done.reused} were finished before", markup=False)
    for warning in done.warnings:
        plain.print(f"warning: {warning}", markup=False)
    for sentence in done.sentences:
        plain.print(sentence, markup=False)
    for name in ("report.html", "results.csv"):
        if (done.folder / name).exists():
            plain.print(str(done.folder / name), markup=False)


def _estimate(plan: Plan, workers: int | None) -> None:
    from medidiff.study.estimate import estimate

    found = estimate(plan, workers)
    plain.print(_table(found))
    finished = f", {found.finished} results are finished already" if found.finished else ""
    plain.print(
        f"about {_duration(found.seconds)} with {found.workers} workers "
        f"(reading and simulating the scans: {_duration(found.input)} of processor time){finished}",
        markup=False,
    )


def _table(found: Estimate) -> Table:
    table = Table("method", box=None)
    for heading in ("slices", "restore, s/slice", "metrics, s/slice", "together"):
        table.add_column(heading, justify="right")
    for line in found.lines:
        table.add_row(
            line.method, str(line.slices), f"{line.restore:.3f}", f"{line.judge:.3f}", _duration(line.seconds)
        )
    return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(run)
