"""The training loop: exact resumption after a kill, two processes as one, a falling loss, and a log one can read.

Run as a program (`test_training.py OUTPUT SLABS_PER_STEP DIE_AFTER`) it trains on phantoms, to be killed or doubled.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medidiff import training
from medidiff.data.dataset import PatchDataset, collate, phantom_cases
from medidiff.data.transforms import Augmentation
from medidiff.data.validation import KERNELS, Probe, probes
from medidiff.errors import ModelError
from medidiff.model import Architecture, build, load
from medidiff.scaling import LinearScaling
from medidiff.training import Record, State, TrainSettings, generator_of, processes, train

STEPS = 12
TINY = Architecture(widths=(8, 16), blocks=(1, 1), embedding=8)


def recipe(output: Path, **changes: Any) -> TrainSettings:
    chosen: dict[str, Any] = {
        "manifest": "none.csv",
        "output": output,
        "architecture": TINY,
        "augmentation": Augmentation(window=64, patch=32, patches=2),
        "steps": STEPS,
        "slabs_per_step": 2,
        "warmup": 4,
        "validate_every": 1000,
        "checkpoint_minutes": 1e9,
        "workers": 0,
        "precision": "32-true",
    }
    return TrainSettings(**chosen | changes)


def dataset_of(settings: TrainSettings) -> PatchDataset:
    slab = settings.architecture.slab
    return PatchDataset(phantom_cases(2, 64, 0), [], slab, settings.augmentation, seed=settings.seed)


def run(settings: TrainSettings, questions: list[Probe] | None = None) -> list[Record]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # inside lightning-fabric
        return list(train(settings, dataset_of(settings), questions or []))


def program(output: Path, slabs_per_step: int, die_after: int) -> None:
    """Train with a checkpoint at every step, print each loss exactly, and keep this process's weights."""
    torch.set_num_threads(1)
    started: list[State] = []
    start = training._start

    def keep(settings: TrainSettings, alone: bool) -> State:
        started.append(start(settings, alone))
        return started[0]

    training._start = keep
    settings = recipe(output, checkpoint_minutes=0, slabs_per_step=slabs_per_step)
    for record in train(settings, dataset_of(settings), []):
        print(record.step, record.loss.hex(), flush=True)
        if record.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    rank = os.environ.get("RANK", "0")
    torch.save(started[0].denoiser.state_dict(), output / f"rank{rank}.pt")


def finished(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, __file__, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_a_run_killed_with_sigkill_continues_the_same_loss_curve(tmp_path: Path) -> None:
    """Every loss before and after kill -9 equals the uninterrupted run's to the last bit, and so do the weights."""
    whole = [record.loss.hex() for record in run(recipe(tmp_path / "whole", checkpoint_minutes=0))]
    killed = finished(tmp_path / "killed", 2, 5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = [line.split()[1] for line in killed.stdout.splitlines() if "0x" in line]
    after = [record.loss.hex() for record in run(recipe(tmp_path / "killed", checkpoint_minutes=0))]
    assert (len(before), len(after)) == (5, STEPS - 5)
    assert before + after == whole
    contents = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed")]
    for part in ("denoiser", "ema"):
        assert all(torch.equal(contents[0][part][name], contents[1][part][name]) for name in contents[0][part])


def by_hand(settings: TrainSettings, world: int) -> dict[str, torch.Tensor]:
    """What `world` processes must compute together: the mean of their gradients, one optimiser step."""
    torch.manual_seed(settings.seed)
    model, dataset, scaling = build(settings.architecture), dataset_of(settings), LinearScaling()
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(settings.steps):
        optimiser.param_groups[0]["lr"] = training.learning_rate(step, settings)
        optimiser.zero_grad()
        for rank in range(world):
            first = (step * world + rank) * settings.slabs_per_step
            batch = collate([dataset[i] for i in range(first, first + settings.slabs_per_step)])
            draws = training.draw(batch, scaling, settings, generator_of(settings.seed, step, rank))
            (model.loss(*draws).mean() / world).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.state_dict()


def test_two_processes_of_torchrun_train_one_model(tmp_path: Path) -> None:
    """Gloo on a CPU, no setting changed: equal weights on both ranks, and those of one process on all their samples."""
    (tmp_path / "two").mkdir()
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    both = finished(tmp_path / "two", 1, 0, launcher=launcher)
    assert both.returncode == 0, both.stderr
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = by_hand(recipe(tmp_path, slabs_per_step=1), 2)
    for name, weight in expected.items():
        torch.testing.assert_close(first[name], weight, rtol=1e-3, atol=2e-5)


def test_the_loop_is_the_textbook_one(tmp_path: Path) -> None:
    """One process: AdamW on clipped gradients of the loss, and the EMA w += (1 - d)(new - w)."""
    settings = recipe(tmp_path / "run", steps=3, checkpoint_minutes=0)
    records = training.train(settings, dataset_of(settings), [])
    torch.manual_seed(settings.seed)
    averaged = build(TINY).state_dict()
    for step, _ in enumerate(records, start=1):
        state = torch.load(settings.output / "checkpoint.pt", weights_only=True)
        decay = min(settings.ema, (1 + step) / (10 + step))
        for name, weight in averaged.items():
            weight.lerp_(state["denoiser"][name], 1 - decay)
            torch.testing.assert_close(state["ema"][name], weight)
    for name, weight in by_hand(settings, 1).items():
        torch.testing.assert_close(state["denoiser"][name], weight, rtol=1e-5, atol=1e-7)


def test_learning_lowers_the_loss_and_the_error(tmp_path: Path) -> None:
    """40 steps of a tiny network: less loss on samples it did not see, less error on a phantom it did not see."""
    augmentation = Augmentation(window=64, patch=32, patches=4)
    settings = recipe(
        tmp_path / "run",
        steps=40,
        augmentation=augmentation,
        learning_rate=1e-2,
        mean_share=1.0,
        null_share=0.0,
        ema=0.9,
        validate_every=20,
    )
    records = run(settings, probes(phantom_cases(1, 64, 5), 3))
    figures = [record.validation for record in records if record.validation]
    assert len(figures) == 2
    assert min(f["all"] for f in figures) < 0.98
    model = load(settings.output / training.BEST)
    unseen = collate([dataset_of(settings)[i] for i in range(1000, 1008)])
    question = training.draw(unseen, LinearScaling(), settings, generator_of(1, 0, 0))
    with torch.inference_mode():
        assert float(model.denoiser.loss(*question).mean()) < 0.97 * float(build(TINY).loss(*question).mean())
    assert model.card.training["step"] in (20, 40)
    assert model.card.training["recipe"]["steps"] == 40


def test_the_log_holds_losses_per_sigma_and_pictures(tmp_path: Path) -> None:
    """TensorBoard reads: loss over all, of `mean` draws, per bin of sigma / r, validation figures and an image."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = recipe(tmp_path / "run", steps=6, slabs_per_step=4, validate_every=3, null_share=0.3)
    run(settings, probes(phantom_cases(1, 64, 5), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard on new numpy
        events = EventAccumulator(str(settings.output / "tensorboard"))
        events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/all", "loss/mean", "loss/null", "loss/sigma_1", "learning_rate"} <= tags
    assert {f"validation/rmse_ratio_{name}" for name in (*KERNELS, "all")} <= tags
    assert [event.step for event in events.Scalars("loss/all")] == list(range(1, 7))
    assert [event.step for event in events.Images("validation/low_answer_truth")] == [3, 6]
    assert events.Images("validation/low_answer_truth")[0].width == 3 * 64


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """A setting that alters a number stops the run; where files lie, and how often it saves, may change."""
    run(recipe(tmp_path, steps=2, checkpoint_minutes=0))
    with pytest.raises(ModelError, match="belongs to a run with other settings"):
        run(recipe(tmp_path, steps=2, learning_rate=1e-3))
    assert run(recipe(tmp_path, steps=2, cache=Path("elsewhere"), validate_every=7, keep="last")) == []


@pytest.mark.parametrize("younger", ["recorrupted_share", "bias_weight"])
def test_a_run_goes_on_with_settings_that_came_after_it(younger: str, tmp_path: Path) -> None:
    """What a checkpoint of an earlier version does not name is at its default; anything else is another recipe."""
    run(recipe(tmp_path, steps=3, stop=1, checkpoint_minutes=0))
    path = tmp_path / training.CHECKPOINT
    content = torch.load(path, weights_only=True)
    old = json.loads(content["recipe"])
    del old[younger], old["architecture"]["anchor"], old["augmentation"]["zoom"]
    torch.save(content | {"recipe": json.dumps(old)}, path)
    with pytest.raises(ModelError, match="belongs to a run with other settings"):
        run(recipe(tmp_path, steps=3, **{younger: 0.5}))
    assert [record.step for record in run(recipe(tmp_path, steps=3))] == [2, 3]


def test_the_samples_of_a_recipe_have_its_shares_and_its_map(tmp_path: Path) -> None:
    """Cleaned scans, phantoms and scans with their own noise, in this order; the first take what is left."""
    mapped = TINY.model_copy(update={"noise": "map"})
    settings = recipe(tmp_path, architecture=mapped, phantoms=2, phantom_share=0.2, recorrupted_share=0.5)
    cases = phantom_cases(1, 64, 1)
    dataset = training.samples(settings, cases, [replace(cases[0], has_own_noise=True)])
    assert dataset.weights.tolist() == pytest.approx([0.3, 0.1, 0.1, 0.5])
    assert "noise_map" in dataset[0]
    assert training.samples(settings, cases).weights.tolist() == pytest.approx([0.8, 0.1, 0.1])


def test_shares_of_phantoms_and_of_noisy_scans_leave_nothing_negative(tmp_path: Path) -> None:
    """Together they are at most 1: the rest is for cleaned scans."""
    with pytest.raises(ValueError, match="phantom_share"):
        recipe(tmp_path, phantom_share=0.6, recorrupted_share=0.5)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut", None])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    """Empty, text, a cut archive, or a torch file of something else."""
    path = tmp_path / training.CHECKPOINT
    torch.save([1, 2], path) if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable checkpoint") as refused:
        run(recipe(tmp_path))
    assert "\n" not in str(refused.value)


def test_closing_the_loop_keeps_the_last_step(tmp_path: Path) -> None:
    """What Ctrl-C does: a checkpoint is written although none was due, and the run continues after that step."""
    settings = recipe(tmp_path / "run")
    whole = [record.loss for record in run(recipe(tmp_path / "whole"))]
    records = train(settings, dataset_of(settings), [])
    seen = [next(records).loss for _ in range(4)]
    records.close()
    assert seen + [record.loss for record in run(settings)] == whole


def test_a_first_stage_stops_early_and_could_go_on(tmp_path: Path) -> None:
    """`stop` leaves the schedule of `steps` where it is: the losses are those of the whole run, then of its rest."""
    whole = [record.loss for record in run(recipe(tmp_path / "whole"))]
    stage = run(recipe(tmp_path / "stage", stop=3))
    assert [record.loss for record in stage] == whole[:3]
    assert (tmp_path / "stage" / "best.safetensors").exists()
    rest = run(recipe(tmp_path / "stage"))
    assert [record.loss for record in rest] == whole[3:]


def test_without_anything_to_judge_by_the_last_model_is_kept(tmp_path: Path) -> None:
    """A manifest with no `tune` scans still gives a model."""
    run(recipe(tmp_path, steps=2))
    assert load(tmp_path / training.BEST).card.training["step"] == 2


def test_the_last_model_is_kept_where_the_recipe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keep: last` saves at every validation, `keep: best` only where the figure fell."""
    questions = probes(phantom_cases(1, 64, 1), 3)[:1]
    for keep, expected in (("best", 1), ("last", 3)):
        answers = iter([({"all": figure}, [questions[0].target] * 3) for figure in (0.5, 0.7, 0.6)])
        monkeypatch.setattr(training, "validate", lambda *_, found=answers: next(found))
        run(recipe(tmp_path / keep, steps=3, validate_every=1, keep=keep), questions)
        assert load(tmp_path / keep / training.BEST).card.training["step"] == expected


def test_draws_follow_the_shares(tmp_path: Path) -> None:
    """Half or so infinite, few without condition, the rest log-normal around the noise level; the same each time."""
    n = 4000
    batch = {
        "target": torch.zeros(n, 1, 2, 2),
        "slab": torch.zeros(n, 3, 2, 2),
        "level": torch.full((n,), 20.48),
        "colour": torch.zeros(n, 2),
    }
    settings = recipe(tmp_path)
    x, cond, sigma, noise = training.draw(batch, LinearScaling(), settings, generator_of(0, 7, 0))
    again = training.draw(deepcopy(batch), LinearScaling(), settings, generator_of(0, 7, 0))
    assert torch.equal(sigma, again[2])
    assert torch.equal(noise, again[3])
    assert not torch.equal(sigma, training.draw(batch, LinearScaling(), settings, generator_of(0, 7, 1))[2])
    infinite = torch.isinf(sigma)
    assert float(cond.null.float().mean()) == pytest.approx(settings.null_share, abs=0.015)
    assert float(infinite.float().mean()) == pytest.approx(settings.mean_share * (1 - settings.null_share), abs=0.03)
    assert not (infinite & cond.null).any()
    log_ratio = torch.log(sigma / cond.r)[~infinite & ~cond.null]
    assert float(log_ratio.mean()) == pytest.approx(settings.log_sigma[0], abs=0.1)
    assert float(log_ratio.std()) == pytest.approx(settings.log_sigma[1], abs=0.1)
    wide = sigma[cond.null] > 5 * 0.02
    assert 0.3 < float(wide.float().mean()) < 0.6  # half of the unconditional draws are as wide as the data
    assert x.shape == noise.shape


def test_bins_divide_the_losses() -> None:
    """Every sample is in exactly one bin of sigma / r, `mean`, or `null`."""
    ratio = torch.tensor([0.01, 0.1, 0.3, 1.0, 9.0, math.inf, 0.3])
    null = torch.tensor([False] * 6 + [True])
    bins = training.per_bin(torch.arange(7.0), ratio, null)
    assert bins == {"mean": 5.0, "null": 6.0} | {f"sigma_{k}": float(k) for k in range(5)}


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth(tmp_path: Path) -> None:
    """Linear, then a cosine."""
    settings = recipe(tmp_path, steps=1000, warmup=100)
    rates = [training.learning_rate(step, settings) for step in range(1001)]
    assert rates[0] == pytest.approx(settings.learning_rate / 100)
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates[550] == pytest.approx(settings.learning_rate * (0.01 + 0.99 / 2))
    assert rates[-1] == pytest.approx(settings.learning_rate / 100)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("auto", 1)),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "1"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}, (4, 2)),
        ({"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, (1, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "bash"}, ("auto", 1)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, (2, 1)),
    ],
)
def test_processes_are_counted_as_the_launcher_says(
    tmp_path: Path, environ: dict[str, str], expected: tuple[int | str, int]
) -> None:
    """torchrun before Slurm, as Fabric has it; an interactive Slurm shell is a shell."""
    assert processes(recipe(tmp_path), environ) == expected


def test_half_precision_is_of_products_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16-mixed the network computes in bfloat16; images, weights and loss stay in single precision."""
    exact = [record.loss for record in run(recipe(tmp_path / "32"))]
    seen: list[tuple[torch.dtype, torch.dtype, torch.dtype]] = []

    def watched(architecture: Architecture) -> nn.Module:
        made = build(architecture)
        stem = made.network.stem
        stem.register_forward_hook(
            lambda layer, inputs, output: seen.append((inputs[0].dtype, layer.weight.dtype, output.dtype))
        )
        return made

    monkeypatch.setattr(training, "build", watched)
    losses = [record.loss for record in run(recipe(tmp_path / "16", precision="bf16-mixed"))]
    assert set(seen) == {(torch.float32, torch.float32, torch.bfloat16)}
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)


def test_precision_is_measured_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A continued run keeps the precision it began with, whatever the machine would say now."""
    assert training.fastest_precision(TINY) in ("bf16-mixed", "32-true")
    monkeypatch.setattr(training, "fastest_precision", lambda architecture: "bf16-mixed")
    settings = recipe(tmp_path, precision="auto", checkpoint_minutes=0)
    records = train(settings, dataset_of(settings), [])
    assert math.isfinite(next(records).loss)
    records.close()
    monkeypatch.setattr(training, "fastest_precision", lambda architecture: "32-true")
    assert training._start(settings, alone=True).precision == "bf16-mixed"
    assert training._start(recipe(tmp_path / "new", precision="auto"), alone=True).precision == "32-true"


def test_training_can_start_from_a_model(tmp_path: Path) -> None:
    """`initial`: the weights of a saved model, its half precision included; of another architecture it is refused."""
    run(recipe(tmp_path / "first", steps=2))
    best = tmp_path / "first" / training.BEST
    state = training._start(recipe(tmp_path / "second", initial=best), alone=True)
    expected = load(best).denoiser.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in state.denoiser.state_dict().items())
    other = TINY.model_copy(update={"embedding": 16})
    with pytest.raises(ModelError, match="another architecture"):
        training._start(recipe(tmp_path / "third", initial=best, architecture=other), alone=True)


if __name__ == "__main__":
    program(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))


@pytest.mark.parametrize("name", ["cnn10", "redcnn"])
def test_a_baseline_network_is_trained_by_the_same_recipe(name: str, tmp_path: Path) -> None:
    """`network: redcnn` is all it takes: one slice, always a condition, a model that answers and does not sample."""
    changes = {"network": name, "architecture": {}, "steps": 20, "slabs_per_step": 1}
    settings = recipe(tmp_path, **changes, learning_rate=1e-3)
    assert (settings.architecture.network, settings.architecture.slab, settings.null_share) == (name, 1, 0.0)
    records = run(settings)
    assert set(records[0].bins) == {"mean"}
    assert sum(r.loss for r in records[-5:]) < 0.6 * sum(r.loss for r in records[:5])
    model = load(tmp_path / training.BEST)
    assert not model.can_sample
    assert model.architecture == settings.architecture


def test_a_baseline_network_continues_bit_by_bit(tmp_path: Path) -> None:
    """Stopped after three of six steps and started again, CNN10 ends with the weights of an unbroken run."""
    changes = {"network": "cnn10", "architecture": {}, "steps": 6}
    whole = run(recipe(tmp_path / "whole", **changes))
    run(recipe(tmp_path / "parts", **changes, stop=3))
    parts = run(recipe(tmp_path / "parts", **changes))
    assert [r.loss for r in parts] == [r.loss for r in whole[3:]]


def test_the_bias_term_is_the_squared_mean_error_of_each_tissue_by_its_share() -> None:
    """Half soft tissue 5 HU too high, a quarter bone 10 HU too low, a quarter outside every class: 0.5 + 0.25 x 4."""
    target = torch.tensor([50.0, 50.0, 400.0, 200.0]).reshape(1, 1, 2, 2)
    error = torch.tensor([9.0, 1.0, -10.0, 99.0]).reshape(1, 1, 2, 2)
    assert float(training.tissue_bias(error, target)) == pytest.approx(0.5 * 1 + 0.25 * 4)


def test_the_spread_loss_is_least_at_the_standard_deviation_of_the_errors() -> None:
    """Maximum likelihood of a Gaussian; the gradient leaves the mean alone."""
    error = (0.3 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))).requires_grad_()
    levels = torch.linspace(-3, 1, 401)
    losses = torch.stack([training.spread_loss(error, level) for level in levels])
    assert float(levels[losses.argmin()]) == pytest.approx(float(error.detach().std().log()), abs=0.02)
    assert not losses.requires_grad


def test_a_network_may_grow_a_noise_map_a_spread_and_blocks_and_answers_as_before(tmp_path: Path) -> None:
    """New inputs and outputs start at zero, new blocks change nothing; another width and fewer blocks are refused."""
    run(recipe(tmp_path / "small", steps=2))
    small = load(tmp_path / "small" / training.BEST)
    grown = recipe(
        tmp_path / "grown",
        architecture=TINY.model_copy(update={"noise": "map", "spread": True, "blocks": (1, 3)}),
        initial=tmp_path / "small" / training.BEST,
    )
    slab = 40 + 20 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    cond = small.condition(slab)
    state = training._start(grown, alone=True)
    mean, spread = state.denoiser.mean_and_spread(cond)  # type: ignore[union-attr]
    torch.testing.assert_close(mean, small.denoiser.mean(cond))
    torch.testing.assert_close(spread, torch.full_like(spread, float(cond.r)))
    for other in (Architecture(widths=(16, 32), blocks=(1, 1)), TINY.model_copy(update={"blocks": (0, 2)})):
        with pytest.raises(ModelError, match="another architecture"):
            training._start(recipe(tmp_path / "no", architecture=other, initial=grown.initial), alone=True)
