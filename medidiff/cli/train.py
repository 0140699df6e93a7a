"""`medidiff train`: a recipe in YAML becomes a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medidiff.config import load_settings

console = Console(highlight=False)


def train(
    recipe: Annotated[Path, typer.Argument(help="Training recipe, for example pipelines/train_ct.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe: key=value, for example steps=1000.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of a tiny network: is everything in place? Under a minute.")
    ] = False,
) -> None:
    """Train a model from pairs of low-dose and full-dose scans, or from full-dose scans alone.

    Stop it at any time with Ctrl-C; the same command continues from the last checkpoint.
    """
    from medidiff import training
    from medidiff.data.dataset import PatchDataset, phantom_cases, prepare_all
    from medidiff.data.manifest import one_of_each, read_manifest
    from medidiff.data.validation import probes

    settings = load_settings(training.TrainSettings, recipe, overrides or [])
    if smoke:
        settings = training.smoke(settings)
    pairs = read_manifest(settings.manifest, settings.data_root)
    used = tuple(pair for pair in pairs if pair.split in ("train", "tune"))
    if smoke:
        used = one_of_each(used)
    with _bar() as bar:
        task = bar.add_task("preparing scans")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        groups = {
            split: prepare_all([p for p in used if p.split == split], settings.factors, settings.cache, report)
            for split in ("train", "tune")
        }
    phantoms = phantom_cases(settings.phantoms, settings.augmentation.window, settings.seed)
    dataset = PatchDataset(
        groups["train"],
        phantoms,
        settings.architecture.slab,
        settings.augmentation,
        seed=settings.seed,
        phantom_share=settings.phantom_share,
    )
    questions = probes(groups["tune"], settings.architecture.slab)
    with _bar() as bar:
        task = bar.add_task("training", total=settings.steps)
        for record in training.train(settings, dataset, questions):
            bar.update(task, completed=record.step, description=f"loss {record.loss:.4f}")
            if record.validation:
                figures = "  ".join(f"{name} {value:.3f}" for name, value in record.validation.items())
                console.print(f"step {record.step}: error left, as a share of the input's: {figures}")
    console.print(f"best model: {settings.output / training.BEST}   log: {settings.output / 'tensorboard'}")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=False)


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(train)
