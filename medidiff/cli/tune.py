"""`medidiff tune`: the best strength of every classical method, found on patients that judge nothing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import UsageError

if TYPE_CHECKING:
    from medidiff.inference.tuned import Best, Tuned
    from medidiff.tune import TuneSettings

TRIALS = "What it is tuned on"


def tune(
    manifest: Annotated[Path, typer.Argument(help="The list of scans, for example pipelines/train_ct.csv.")],
    data: Annotated[Path, typer.Option(help="Folder that the paths of the list are relative to.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="YAML file for what is found.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="gaussian, bilateral, nlm, tv, bm3d; may be repeated. Default: all that are installed; with --model "
            "none."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="An embedded model or a file, for which the best blend with the scan is found."),
    ] = None,
    evaluations: Annotated[int, typer.Option(help="Strengths tried in each search, the same for all.")] = 10,
    against: Annotated[
        str,
        typer.Option(
            help="[b]truth[/b]: noise-free slices made from the scans, with simulated noise. [b]reference[/b]: the "
            "full dose of measured pairs, noisy itself.",
            rich_help_panel=TRIALS,
        ),
    ] = "truth",
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="smoothest, smooth, sharp; may be repeated. Default smooth, sharp.", rich_help_panel=TRIALS),
    ] = None,
    dose: Annotated[
        list[float] | None,
        typer.Option(help="Fraction of the dose; may be repeated. Default 0.5, 0.25, 0.1.", rich_help_panel=TRIALS),
    ] = None,
    slices: Annotated[int, typer.Option(help="Of each series.", rich_help_panel=TRIALS)] = 2,
    size: Annotated[
        int, typer.Option(help="Side of the judged window in pixels; 0 for whole slices.", rich_help_panel=TRIALS)
    ] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the simulated noise.", rich_help_panel=TRIALS)] = 0,
) -> None:
    """Find the strength of the classical methods on the 'tune' patients of a list of scans.

    Every method gets the same search and the same number of tries, over all slices and for each kernel and dose.

    The same command continues a stopped search.
    """
    from medidiff.tune import tune as run

    settings = _settings(
        methods=tuple(method) if method else (() if model else _installed()),
        models=tuple(model or ()),
        against=against,
        slices=slices,
        size=size or None,
        evaluations=evaluations,
        seed=seed,
        **({"kernels": tuple(kernel)} if kernel else {}),
        **({"doses": tuple(dose)} if dose else {}),
    )
    with Bar("Making slices, then searching") as bar:
        tuned = run(manifest, data, out, settings, progress=bar)
    _show(tuned)
    plain = Console(highlight=False, soft_wrap=True)
    plain.print(f"{out}: what was found ({DISCLAIMER})", markup=False)


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(tune)


def _installed() -> tuple[str, ...]:
    from medidiff.tune import TuneSettings

    return tuple(name for name in TuneSettings().methods if name != "bm3d" or find_spec("bm3d") is not None)


def _settings(**values: object) -> TuneSettings:
    """Settings of what a user gave; raises UsageError naming every fault at once."""
    from medidiff.tune import TuneSettings

    try:
        return TuneSettings.model_validate(values)
    except ValidationError as error:
        faults = [f"{_flag(str(e['loc'][0]))}: {e['input']} was given; {e['msg']}" for e in error.errors()]
        raise UsageError("; ".join(faults)) from None


def _flag(name: str) -> str:
    return "--" + {"kernels": "kernel", "doses": "dose"}.get(name, name)


def _show(tuned: Tuned) -> None:
    names = ("method", "slices", "strength", "before", "after", "alpha", "blend")
    table = Table(*(Column(name, no_wrap=True) for name in names), box=None, pad_edge=False)
    for name, method in tuned.methods.items():
        for label, best in {"all": method.overall, **method.groups}.items():
            table.add_row(name if label == "all" else "", label, *_cells(best, method.unit if label == "all" else ""))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    everything = next(iter(tuned.methods.values())).overall
    console.print(
        f"{tuned.objective}, before and after, and of after + alpha (before - after)\n"
        f"{everything.patients} patients, {everything.slices} slices, split {tuned.split}"
    )


def _cells(best: Best, unit: str) -> list[str]:
    strength = "" if best.smoothing is None else f"{best.smoothing:g}"
    return [
        " ".join(filter(None, (strength, unit, "(end)" if best.at_end else ""))),
        f"{best.rmse_input:.2f}",
        f"{best.rmse:.2f}",
        f"{best.alpha:g}",
        f"{best.rmse_blend:.2f}",
    ]
