"""Training as a generator of records: an explicit loop over Lightning Fabric.

    for record in train(settings, ...):   # one record a step; validation and checkpoints happen on schedule
        ...

Exactness: sample numbers, noise levels and noise are functions of (seed, step, rank), and a checkpoint holds
weights, EMA, optimiser and step, so a run that was killed continues the same loss curve to the last bit (same
machine, thread count and process count). The saved model is the EMA (decay ramped as in EDM2, Karras et al. 2024).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from medidiff import __version__
from medidiff.config import Settings
from medidiff.data.dataset import Batch, Numbers, PatchDataset, collate, phantom_cases
from medidiff.data.pet_cases import PetBodies, PetCase
from medidiff.data.pet_dataset import BlockDataset
from medidiff.data.pet_transforms import PetAugmentation
from medidiff.data.pet_validation import judge_blocks
from medidiff.data.prepare import Case, Cleaning
from medidiff.data.projected import ProjectionRecipe
from medidiff.data.transforms import Augmentation
from medidiff.data.validation import Probe, validate
from medidiff.diffusion.denoiser import Condition, Denoiser
from medidiff.diffusion.regression import Regression
from medidiff.diffusion.views import column
from medidiff.errors import ModelError
from medidiff.metrics.tissue import TISSUES_HU
from medidiff.model import Architecture, Card, Model, build, load, save
from medidiff.noise.activity import FACTS
from medidiff.scaling import LinearScaling

SIGMA_BINS = (0.05, 0.15, 0.5, 1.5)  # edges of sigma / r for the logged losses; "mean" is its own bin
BIAS_HU = 5.0
CHECKPOINT = "checkpoint.pt"
BEST = "best.safetensors"


class PetRecipe(Settings):
    """What a model for PET is trained on; what a recipe for CT says of augmentation and phantoms is not used then."""

    bodies: PetBodies = PetBodies()
    augmentation: PetAugmentation = PetAugmentation()
    scan_share: float = Field(default=0.25, ge=0, le=1)
    questions: int = Field(default=2, ge=0)  # torsos that validation asks about, never trained on


class TrainSettings(Settings):
    """A training recipe; paths are relative to where the command runs."""

    manifest: Path
    data_root: Path = Path()
    output: Path = Path("runs/train")
    cache: Path = Path("runs/cache")
    name: str = "ct"
    summary: str = ""
    architecture: Architecture = Architecture()
    augmentation: Augmentation = Augmentation()
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(2.0, 1.25), min_length=1)
    cleaning: Cleaning = "nlm"
    phantoms: int = Field(default=48, ge=0)
    phantom_share: float = Field(default=0.15, ge=0, le=1)
    recorrupted_share: float = Field(default=0.0, ge=0, le=1)  # scans with their own noise; see medidiff.recorrupt
    steps: int = Field(default=6000, ge=1)
    slabs_per_step: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=6e-4, gt=0)
    warmup: int = Field(default=200, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    mean_share: float = Field(default=0.6, ge=0, le=1)
    null_share: float = Field(default=0.06, ge=0, le=1)
    log_sigma: tuple[float, float] = (-1.0, 1.1)
    spread_weight: float = Field(default=0.02, ge=0)
    bias_weight: float = Field(default=0.0, ge=0)  # see `tissue_bias`
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=0)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    devices: int | Literal["auto"] = "auto"
    checkpoint_minutes: float = Field(default=4.0, ge=0)
    validate_every: int = Field(default=500, ge=1)
    keep: Literal["best", "last"] = "best"  # last: where the questions of validation are not what matters
    pet: PetRecipe | None = None
    projections: ProjectionRecipe | None = None  # learn from backprojections in place of noisy scans (CT)
    initial: Path | None = None
    stop: int | None = Field(default=None, ge=1)  # leave the schedule of `steps` here: a first stage

    @property
    def scaling(self) -> LinearScaling:
        """Of the numbers that the samples hold; those of PET are in units of their own noise already."""
        return LinearScaling("SUV", 0.0, 1.0) if self.pet else LinearScaling()

    @property
    def last_step(self) -> int:
        return min(self.steps, self.stop or self.steps)

    @model_validator(mode="after")
    def _shares_fit(self) -> TrainSettings:
        if self.phantom_share + self.recorrupted_share > 1:
            raise ValueError(
                f"phantom_share {self.phantom_share} and recorrupted_share {self.recorrupted_share} are more than 1 "
                "together: lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _pet_is_in_blocks(self) -> TrainSettings:
        if (self.pet is not None) != (self.architecture.dimensions == 3):
            raise ValueError("a recipe for PET has `pet:` and `architecture: {dimensions: 3}`: add what is missing")
        if self.pet and self.projections:
            raise ValueError("projections: are those of CT: leave out `pet:` or `projections:`")
        if self.pet and self.bias_weight:
            raise ValueError(f"bias_weight {self.bias_weight:g} is for tissues of CT: leave it out")
        return self

    @model_validator(mode="after")
    def _patch_folds(self) -> TrainSettings:
        if self.pet:
            block, by = self.pet.augmentation.block, self.architecture.stride
            if any(n % by for n in block):
                raise ValueError(f"pet.augmentation.block {block} has a side that is no multiple of {by}")
            return self
        name, patch = "augmentation", self.augmentation.patch
        if self.projections:
            name, patch = "projections", self.projections.patch
        if patch % self.architecture.stride:
            raise ValueError(
                f"{name}.patch {patch} is no multiple of {self.architecture.stride}, which this architecture folds by"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _network_by_name(cls, values: Any) -> Any:
        """`network: redcnn` is short for `architecture: {network: redcnn}`; a regression always has its condition."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        name = values.pop("network", None)
        if name is not None:
            values["architecture"] = {**dict(values.get("architecture", {})), "network": name}
        if dict(values.get("architecture", {})).get("network", "unet") != "unet":
            values |= {"null_share": 0.0, "mean_share": 1.0}
        return values


@dataclass(frozen=True)
class Record:
    """What one step reports: mean loss, mean per sigma bin, validation figures when there were any."""

    step: int
    steps: int
    loss: float
    bins: dict[str, float]
    learning_rate: float
    seconds: float
    validation: dict[str, float] | None = None


@dataclass(eq=False)
class State:
    """Everything a checkpoint holds."""

    denoiser: Denoiser | Regression
    ema: Denoiser | Regression
    optimiser: torch.optim.Optimizer
    precision: str
    step: int = 0
    best: float = math.inf


Questions = Sequence[Probe] | Sequence[PetCase]
"""What validation asks: slabs of CT, or bodies of PET."""


def train(settings: TrainSettings, dataset: Dataset[Batch], questions: Questions) -> Generator[Record]:
    """Yield a record a step until `settings.last_step`; continues from `output/checkpoint.pt` when there is one.

    Closing the generator writes a checkpoint first. Started by `torchrun` or `srun`, every process calls it.
    """
    devices, nodes = processes(settings, os.environ)
    state = _start(settings, alone=devices in (1, "auto") and nodes == 1)
    # Single precision for Fabric: it would round the images to bfloat16 in several processes, and do nothing in one
    # (Fabric 2.6 calls marked methods of a module that is not wrapped as they are). See `_step`.
    fabric = Fabric(accelerator="auto", devices=devices, num_nodes=nodes, precision="32-true")
    fabric.launch()
    scaling = settings.scaling
    model, optimiser = fabric.setup(state.denoiser, state.optimiser)
    model.mark_forward_method("errors")
    state.ema.to(fabric.device)
    log = SummaryWriter(settings.output / "tensorboard", purge_step=state.step) if fabric.is_global_zero else None
    last_save = time.monotonic()
    for batch in _batches(settings, dataset, fabric, state.step):
        began = time.monotonic()
        rate = learning_rate(state.step, settings)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, bins = _step(model, optimiser, fabric, fabric.to_device(batch), settings, state)
        state.step += 1
        _average(state, settings)
        figures, is_last = None, state.step == settings.last_step
        if state.step % settings.validate_every == 0 or is_last:
            figures = _validate(state, questions, scaling, settings, log, fabric)
        record = Record(state.step, settings.last_step, loss, bins, rate, time.monotonic() - began, figures)
        due = time.monotonic() - last_save > settings.checkpoint_minutes * 60
        if fabric.is_global_zero and (due or is_last or figures is not None):
            save_checkpoint(state, settings)
            last_save = time.monotonic()
        if log:
            _log(log, record)
        try:
            yield record
        except GeneratorExit:
            if fabric.is_global_zero:
                save_checkpoint(state, settings)
            raise
    if log:
        log.close()


def samples(settings: TrainSettings, cases: Sequence[Case], recorrupted: Sequence[Case] = ()) -> PatchDataset:
    """The training samples of a recipe: prepared `train` cases, scans with their own noise, phantoms (drawn here)."""
    return PatchDataset(
        cases,
        phantom_cases(settings.phantoms, settings.augmentation.window, settings.seed),
        settings.architecture.slab,
        settings.augmentation,
        seed=settings.seed,
        phantom_share=settings.phantom_share,
        with_map=settings.architecture.noise == "map",
        recorrupted=recorrupted,
        recorrupted_share=settings.recorrupted_share,
    )


def pet_samples(settings: TrainSettings, torsos: Sequence[PetCase], scans: Sequence[PetCase]) -> BlockDataset:
    """The training samples of a recipe for PET."""
    assert settings.pet is not None
    recipe = settings.pet
    return BlockDataset(torsos, scans, recipe.augmentation, seed=settings.seed, scan_share=recipe.scan_share)


def _small(pet: PetRecipe | None) -> PetRecipe | None:
    """A body of a few slices."""
    if pet is None:
        return None
    bodies = pet.bodies.model_copy(update={"torsos": 1, "slices": 8, "realisations": 1})
    augmentation = pet.augmentation.model_copy(update={"block": (8, 16, 16), "blocks": 1})
    return pet.model_copy(update={"bodies": bodies, "augmentation": augmentation, "questions": 1})


def smoke(settings: TrainSettings) -> TrainSettings:
    """The same recipe, cut to a few steps of a tiny network: does every part work on these data?"""
    return settings.model_copy(
        update={
            "pet": _small(settings.pet),
            "projections": settings.projections
            and settings.projections.model_copy(update={"slices": 2, "lone": 2, "patch": 32, "views": (24.0, 48.0)}),
            "architecture": settings.architecture.model_copy(update={"widths": (8, 16), "blocks": (1, 1)}),
            "augmentation": settings.augmentation.model_copy(update={"window": 128, "patch": 32}),
            "output": settings.output.with_name(settings.output.name + "_smoke"),
            "factors": (2.0,),
            "phantoms": 2,
            "steps": 20,
            "warmup": 5,
            "workers": 0,
            "precision": "32-true",
            "stop": None,
            "initial": None,  # another architecture's weights do not fit
        }
    )


def generator_of(seed: int, step: int, rank: int) -> torch.Generator:
    """The random numbers of one step of one process."""
    words = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def draw(
    batch: Batch, scaling: LinearScaling, settings: TrainSettings, generator: torch.Generator
) -> tuple[Tensor, Condition, Tensor, Tensor]:
    """(x, cond, sigma, noise) of a batch in HU; a share of sigma is infinite (trains `mean`), a share has no condition.

    Half of the unconditional draws take sigma around r, where guidance will evaluate them, half around the
    spread of the data.
    """
    device = batch["target"].device

    def uniform(n: int) -> Tensor:
        return torch.rand(n, generator=generator).to(device)

    x, slab = scaling.forward(batch["target"]), scaling.forward(batch["slab"])
    r, n = batch["level"] / scaling.factor, len(batch["level"])
    mean_only = batch.get("mean_only", torch.zeros(n, dtype=torch.bool, device=device))
    null = (uniform(n) < settings.null_share) & ~mean_only
    centre, width = settings.log_sigma
    log_sigma = (torch.randn(n, generator=generator) * width + centre).to(device)
    wide = null & (uniform(n) < 0.5)
    scale = torch.where(wide, torch.full_like(r, settings.architecture.data_std), r)
    infinite = ~null & ((uniform(n) < settings.mean_share) | mean_only)
    sigma = torch.where(infinite, torch.full_like(r, math.inf), scale * torch.exp(log_sigma))
    noise = torch.randn(x.shape, generator=generator).to(device)
    told = {key: batch[key] for key in ("noise_map", "guide", "facts") if key in batch}
    return x, Condition(slab, r, batch["colour"], null, **told), sigma, noise


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def _batches(settings: TrainSettings, dataset: Dataset[Batch], fabric: Fabric, first: int) -> DataLoader[Batch]:
    numbers = Numbers(first, settings.last_step, settings.slabs_per_step, fabric.global_rank, fabric.world_size)
    return DataLoader(
        dataset,
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        prefetch_factor=4 if settings.workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends it in order


def _step(
    model: Any,
    optimiser: Any,
    fabric: Fabric,
    batch: Batch,
    settings: TrainSettings,
    state: State,
) -> tuple[float, dict[str, float]]:
    """One update; in "bf16-mixed" products are in bfloat16; images, weights, loss and update in single precision."""
    scaling, generator = settings.scaling, generator_of(settings.seed, state.step, fabric.global_rank)
    x, cond, sigma, noise = draw(batch, scaling, settings, generator)
    with torch.autocast(fabric.device.type, torch.bfloat16, enabled=state.precision == "bf16-mixed"):
        error, log_spread = model.errors(x, cond, sigma, noise)
    weight = batch.get("weight", torch.ones_like(error))
    losses, is_mean = (weight * error.square()).flatten(1).mean(1), torch.isinf(sigma)
    loss = losses.mean()
    has_truth = is_mean & ~batch.get("mean_only", torch.zeros_like(is_mean))  # and no second noise in its place
    if log_spread is not None and settings.spread_weight and bool(has_truth.any()):
        loss = loss + settings.spread_weight * spread_loss(error[has_truth], log_spread[has_truth])
    if settings.bias_weight:
        error_hu = error * column(cond.r * scaling.factor, error)
        loss = loss + settings.bias_weight * tissue_bias(error_hu[has_truth], batch["target"][has_truth]) / len(error)
    optimiser.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(model, optimiser, max_norm=1.0)
    optimiser.step()
    return float(loss.detach()), per_bin(losses.detach(), (sigma / cond.r).detach(), cond.null)


def spread_loss(error: Tensor, log_spread: Tensor) -> Tensor:
    """Negative log-likelihood of the errors under a Gaussian of that spread, a mean (Nix & Weigend 1994).

    The error is taken as given, so the mean is not bent towards where it is easily explained.
    """
    return (log_spread + 0.5 * error.detach().square() * torch.exp(-2 * log_spread)).mean()


def tissue_bias(error_hu: Tensor, target_hu: Tensor) -> Tensor:
    """Sum over samples and tissue classes of (mean error / BIAS_HU)^2, each class by its share of the patch.

    The mean square error alone lets an answer lean towards the commonest tissue; a mean error of a few HU costs it
    nothing where the noise is high, and is what a physicist sees first.
    """
    total = error_hu.new_zeros(())
    for low, high in TISSUES_HU.values():
        inside = ((target_hu >= low) & (target_hu < high)).to(error_hu.dtype)
        share = inside.flatten(1).mean(1)
        bias = (error_hu * inside).flatten(1).mean(1) / share.clamp(min=1e-3)
        total = total + (share * (bias / BIAS_HU).square()).sum()
    return total


def per_bin(losses: Tensor, ratio: Tensor, null: Tensor) -> dict[str, float]:
    """Mean loss of `mean` draws, of each range of sigma / r, and of draws without condition."""
    which = torch.bucketize(ratio, torch.tensor(SIGMA_BINS, device=ratio.device))
    masks = {"mean": torch.isinf(ratio), "null": null}
    masks |= {f"sigma_{k}": (which == k) & ~null & ~torch.isinf(ratio) for k in range(len(SIGMA_BINS) + 1)}
    return {name: float(losses[mask].mean()) for name, mask in masks.items() if bool(mask.any())}


@torch.no_grad()
def _average(state: State, settings: TrainSettings) -> None:
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    for averaged, current in zip(state.ema.parameters(), state.denoiser.parameters(), strict=True):
        averaged.lerp_(current, 1 - decay)


def processes(settings: TrainSettings, environ: Mapping[str, str]) -> tuple[int | str, int]:
    """(devices per node, nodes) as `torchrun` or Slurm's `srun` started them, else as the recipe says.

    Fabric takes a rank from them but not the number of nodes, nor on a CPU the number of processes.
    """
    if "LOCAL_WORLD_SIZE" in environ:
        local = int(environ["LOCAL_WORLD_SIZE"])
        return local, int(environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(environ.get("SLURM_NNODES", 1))
        return int(environ.get("SLURM_NTASKS_PER_NODE", int(environ["SLURM_NTASKS"]) // nodes)), nodes
    return settings.devices, 1


def _start(settings: TrainSettings, alone: bool) -> State:
    settings.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    denoiser = build(settings.architecture)
    if settings.initial:
        model = load(settings.initial)
        if not _grows(model.architecture, settings.architecture):
            raise ModelError(f"{settings.initial}: has another architecture than the recipe; make the two agree")
        denoiser.load_state_dict(_enlarged(model.denoiser.state_dict(), denoiser.state_dict()))
    optimiser = torch.optim.AdamW(
        denoiser.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    state = State(denoiser, deepcopy(denoiser).requires_grad_(False), optimiser, settings.precision)
    path = settings.output / CHECKPOINT
    if path.exists():
        load_checkpoint(state, settings, path)
    if state.precision == "auto":
        state.precision = fastest_precision(settings.architecture) if alone else _common_precision()
    return state


def _grows(old: Architecture, new: Architecture) -> bool:
    """Whether the old weights fit, but for what a recipe may add to the network that it starts from."""
    added = {"noise": new.noise, "spread": new.spread, "anchor": new.anchor, "blocks": new.blocks}
    deeper = len(old.blocks) == len(new.blocks) and all(a <= b for a, b in zip(old.blocks, new.blocks, strict=True))
    return deeper and old.model_copy(update=added) == new


def _enlarged(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The old weights at the sizes of the new network, which answers as before: new inputs and outputs come last and
    start at 0, new blocks keep their first weights, with which a block changes nothing."""
    weights = dict(new)
    for name, value in old.items():
        weights[name] = torch.zeros_like(new[name])
        weights[name][tuple(slice(n) for n in value.shape)] = value
    return weights


def save_checkpoint(state: State, settings: TrainSettings) -> None:
    """Write weights, EMA, optimiser and step; the old checkpoint stays until the new one is whole."""
    path = settings.output / CHECKPOINT
    temporary = path.with_name(f".{path.name}.partial")
    content = {
        "denoiser": state.denoiser.state_dict(),
        "ema": state.ema.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "precision": state.precision,
        "step": state.step,
        "best": state.best,
        "recipe": _recipe(settings),
    }
    torch.save(content, temporary)
    os.replace(temporary, path)


def load_checkpoint(state: State, settings: TrainSettings, path: Path) -> None:
    """Continue `state` from a checkpoint of the same recipe; raises ModelError for another one."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        recipe = content["recipe"]
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path}: not a readable checkpoint ({reason}); delete it to start anew") from None
    if _completed(recipe) != _recipe(settings):
        raise ModelError(f"{path}: belongs to a run with other settings; choose another output folder or delete it")
    state.denoiser.load_state_dict(content["denoiser"])
    state.ema.load_state_dict(content["ema"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.step, state.best = content["step"], content["best"]
    if settings.precision == "auto":  # measured once: another answer would be another loss curve
        state.precision = content.get("precision", "auto")


def _completed(recipe: Any) -> Any:
    """The recipe of a checkpoint with the defaults of younger settings, which stand for what was done before."""
    try:
        return _recipe(TrainSettings.model_validate({"manifest": "", **json.loads(recipe)}))
    except (TypeError, ValueError):  # no recipe, or one with settings that are no more
        return recipe


def _recipe(settings: TrainSettings) -> str:
    """What must not change between a checkpoint and its continuation: all that alters a number."""
    free = {
        "keep",
        "data_root",
        "output",
        "cache",
        "workers",
        "devices",
        "checkpoint_minutes",
        "validate_every",
        "summary",
    }
    return settings.model_dump_json(exclude=free | {"manifest", "initial", "precision", "stop"})


def _validate(
    state: State,
    questions: Questions,
    scaling: LinearScaling,
    settings: TrainSettings,
    log: SummaryWriter | None,
    fabric: Fabric,
) -> dict[str, float] | None:
    if not fabric.is_global_zero:
        return None
    figures: dict[str, float] | None = None
    if questions:
        figures, pictures = _judged(
            Model(state.ema, scaling, settings.architecture, Card(name=settings.name)), questions
        )
        if log:
            shown = window(np.concatenate(pictures, axis=1), *((0, 8) if settings.pet else (-160, 240)))
            log.add_image("validation/low_answer_truth", shown, state.step)
    if figures is None or settings.keep == "last" or figures["all"] < state.best:
        state.best = figures["all"] if figures else state.best
        card = Card(
            name=settings.name,
            modality="PT" if settings.pet else "CT",
            input="projections" if settings.projections else "image",
            summary=settings.summary,
            training=training_facts(settings, state.step),
        )
        save(settings.output / BEST, state.ema, settings.architecture, scaling, card)
    return figures


def _judged(model: Model, questions: Questions) -> tuple[dict[str, float], list[NDArray[np.float32]]]:
    probes = [one for one in questions if isinstance(one, Probe)]
    if probes:
        return validate(model.mean, probes)
    return judge_blocks(model.block_mean, [one for one in questions if isinstance(one, PetCase)])


def training_facts(settings: TrainSettings, step: int) -> dict[str, Any]:
    """What a card says of the training: the recipe and how far it went."""
    recipe = settings.model_dump(mode="json", exclude={"data_root", "output", "cache", "workers", "devices"})
    return {"medidiff": __version__, "torch": torch.__version__, "step": step, "recipe": recipe}


def window(image: NDArray[np.float32], low: float = -160, high: float = 240) -> NDArray[np.float32]:
    """(1, rows, columns) in [0, 1] through a window in HU or SUV, for a picture in the log."""
    return np.clip((image - low) / (high - low), 0, 1)[None]


def _log(log: SummaryWriter, record: Record) -> None:
    log.add_scalar("loss/all", record.loss, record.step)
    for name, value in record.bins.items():
        log.add_scalar(f"loss/{name}", value, record.step)
    log.add_scalar("learning_rate", record.learning_rate, record.step)
    for name, value in (record.validation or {}).items():
        log.add_scalar(f"validation/rmse_ratio_{name}", value, record.step)


def _common_precision() -> str:
    """What several processes agree on without asking each other: measuring could tell them different things."""
    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def fastest_precision(architecture: Architecture, repeats: int = 2) -> str:
    """ "bf16-mixed" where a forward and backward pass is at least 10 % faster in it on this machine, else "32-true"."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    denoiser = build(architecture).to(device)
    size = max(4 * architecture.stride, 48) if architecture.dimensions == 2 else 2 * architecture.stride
    cond = Condition(
        torch.zeros(4, architecture.slab, *[size] * architecture.dimensions, device=device),
        torch.ones(4, device=device),
        torch.zeros(4, 2, device=device),
        torch.zeros(4, dtype=torch.bool, device=device),
        facts=torch.zeros(4, FACTS, device=device) if architecture.dimensions == 3 else None,
    )

    def seconds(enabled: bool) -> float:
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                loss = denoiser.mean(cond).square().mean()
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[1:])

    return "bf16-mixed" if seconds(True) < 0.9 * seconds(False) else "32-true"
