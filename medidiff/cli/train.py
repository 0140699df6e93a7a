"""`medidiff train`: a recipe in YAML becomes a model."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medidiff import DISCLAIMER
from medidiff.config import load_settings
from medidiff.errors import InputError

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from medidiff.data.dataset import Batch, PatchDataset
    from medidiff.data.pet_cases import PetCase
    from medidiff.data.pet_dataset import BlockDataset
    from medidiff.data.projected import ProjectedDataset, ProjectionRecipe
    from medidiff.data.validation import Probe
    from medidiff.progress import Progress as ProgressReport
    from medidiff.seen import Seen
    from medidiff.training import Questions, TrainSettings

SMOKE_SLICES = 8  # that the range of a trial's model is measured in; of PET parts of bodies


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

    Stop it at any time with Ctrl-C; the same command continues where it stopped.
    """
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from medidiff import training
    from medidiff.data.pet_seen import DRAWS, pet_seen_of
    from medidiff.data.seen import SLICES

    settings = load_settings(training.TrainSettings, recipe, overrides or [])
    if smoke:
        settings = training.smoke(settings)
        (settings.output / training.CHECKPOINT).unlink(missing_ok=True)  # a trial always runs from the start
    console = Console(
        highlight=False, soft_wrap=True, quiet=bool(rank_zero_only.rank)
    )  # one of several processes speaks
    if settings.pet:
        blocks, bodies = _pet_data(settings, smoke, console)
        _run(settings, blocks, bodies, console)
        measure: Callable[[], Seen] = partial(pet_seen_of, blocks, SMOKE_SLICES if smoke else DRAWS)
    elif settings.projections:
        patches, asked, measure = _projected(settings, settings.projections, smoke, console)
        _run(settings, patches, asked, console)
    else:
        dataset, probes = _data(settings, smoke, console)
        _run(settings, dataset, probes, console)
        measure = partial(_range_of, settings, dataset, SMOKE_SLICES if smoke else SLICES)
    if not rank_zero_only.rank:
        _store_range(settings, measure(), console)
    console.print(f"best model: {settings.output / training.BEST}   log: {settings.output / 'tensorboard'}")
    console.print(f"{DISCLAIMER[0].upper()}{DISCLAIMER[1:]}.")


def _data(settings: TrainSettings, smoke: bool, console: Console) -> tuple[PatchDataset, list[Probe]]:
    from medidiff.data.dataset import prepare_splits
    from medidiff.data.manifest import one_of_each, read_manifest
    from medidiff.data.validation import probes
    from medidiff.recorrupt import LEAST_SLICES, recorrupted_cases
    from medidiff.training import samples

    pairs = tuple(p for p in read_manifest(settings.manifest, settings.data_root) if p.split in ("train", "tune"))
    if smoke:
        pairs = one_of_each(pairs)
    with _bar(console) as bar:
        task = bar.add_task("preparing scans")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        cases = prepare_splits(pairs, settings.factors, settings.cache, report, cleaning=settings.cleaning)
        noisy = recorrupted_cases(pairs, settings.cache, report) if settings.recorrupted_share else []
    if settings.recorrupted_share and not noisy and not smoke:  # a trial takes the smallest scan, often one slice
        raise InputError(
            f"recorrupted_share {settings.recorrupted_share:g}: none of the full-dose DICOM folders of the split "
            f"'train' has {LEAST_SLICES} slices and even tissue to measure noise in: add such a scan, or set it to 0"
        )
    if settings.recorrupted_share:
        folders = sum(p.split == "train" and p.low is None and p.full.is_dir() for p in pairs)
        console.print(f"scans with their own noise: {len(noisy)} of {folders} series have enough even tissue")
    return samples(settings, cases.get("train", []), noisy), probes(cases.get("tune", []), settings.architecture.slab)


def _projected(
    settings: TrainSettings, recipe: ProjectionRecipe, smoke: bool, console: Console
) -> tuple[ProjectedDataset, list[Probe], Callable[[], Seen]]:
    from medidiff.data.manifest import one_of_each, read_manifest
    from medidiff.data.projected import ProjectedDataset, prepare_projected, projected_probes
    from medidiff.data.seen import projected_seen

    pairs = tuple(p for p in read_manifest(settings.manifest, settings.data_root) if p.split in ("train", "tune"))
    if smoke:
        pairs = one_of_each(pairs)
    slab = settings.architecture.slab
    with _bar(console) as bar:
        task = bar.add_task("projecting scans")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        scans = prepare_projected(pairs, recipe, slab, settings.cache, report)
        asked = projected_probes(pairs, slab)
    return ProjectedDataset(scans, recipe, seed=settings.seed), asked, partial(projected_seen, scans, pairs)


def _pet_data(settings: TrainSettings, smoke: bool, console: Console) -> tuple[BlockDataset, list[PetCase]]:
    from medidiff.data.manifest import read_manifest
    from medidiff.data.pet_cases import lesions_and_scans, scan_cases, torso_cases
    from medidiff.training import pet_samples

    assert settings.pet is not None
    pairs = read_manifest(settings.manifest, settings.data_root)
    lesions, scans = lesions_and_scans(pairs, "train")
    unseen, _ = lesions_and_scans(pairs, "tune")
    bodies = settings.pet.bodies
    asked = bodies.model_copy(update={"torsos": settings.pet.questions, "seed": bodies.seed + 2**16})
    with _bar(console) as bar:

        def report(what: str) -> ProgressReport:
            task = bar.add_task(what)
            return lambda done, total: bar.update(task, completed=done, total=total)

        questions = torso_cases(asked, unseen, settings.cache, report("bodies to judge by"))
        torsos = torso_cases(bodies, lesions, settings.cache, report("bodies"))
        found = [] if smoke else scan_cases(bodies, scans, settings.cache, report("scans"))
    return pet_samples(settings, torsos, found), questions


def _run(settings: TrainSettings, dataset: Dataset[Batch], questions: Questions, console: Console) -> None:
    from medidiff import training

    records = training.train(settings, dataset, questions)
    with _interruptible() as interrupted, _bar(console) as bar:
        task = bar.add_task("training", total=settings.last_step)
        for record in records:
            bar.update(task, completed=record.step, description=f"loss {record.loss:.4f}")
            if record.validation:
                figures = "  ".join(f"{name} {value:.3f}" for name, value in record.validation.items())
                console.print(f"step {record.step}: error left, as a share of the input's: {figures}")
            if interrupted:
                records.close()  # writes a checkpoint
                raise KeyboardInterrupt


def _range_of(settings: TrainSettings, dataset: PatchDataset, slices: int) -> Seen:
    """What a model for CT has seen."""
    from medidiff.data.manifest import read_manifest
    from medidiff.data.seen import pixel_factors, seen_of

    pairs = tuple(p for p in read_manifest(settings.manifest, settings.data_root) if p.split == "train")
    return seen_of(dataset, pairs, pixel_factors(settings.factors, settings.augmentation), slices)


def _store_range(settings: TrainSettings, seen: Seen, console: Console) -> None:
    """Into the model's card, so that `medidiff reconstruct` can tell what lies outside."""
    from medidiff import training
    from medidiff.model import rewrite_card

    rewrite_card(settings.output / training.BEST, seen=seen)
    level = seen.relative if settings.pet else seen.noise_hu
    if level:
        what = "relative noise of {:.3g} to {:.3g}" if settings.pet else "noise of {:.3g} to {:.3g} HU"
        console.print(f"range seen stored in the model: {what.format(level.low, level.high)}")


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, so that the step under way is finished; a second Ctrl-C stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(train)
