"""`medidiff train` as a user starts it: a trial in seconds, Ctrl-C without loss, faults in one sentence."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff import DISCLAIMER
from medidiff.data.phantoms import dead_leaves
from medidiff.model import load

ROOT = Path(__file__).resolve().parents[2]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def recipe(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> Path:
    """A full-dose scan and a measured pair to train on, one to judge by; a tiny network."""
    rng = np.random.default_rng(0)
    clean = [dead_leaves(96, 2, rng, n_leaves=30) for _ in range(3)]
    for name, image, noise in (("a", 0, 10), ("b", 1, 10), ("b_low", 1, 40), ("c", 2, 10)):
        write_nifti_scan(tmp_path / f"{name}.nii", clean[image] + rng.normal(0, noise, (2, 96, 96)))
    (tmp_path / "pairs.csv").write_text(
        "patient,split,full,low\n1,train,a.nii,\n2,train,b.nii,b_low.nii\n3,tune,c.nii,\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "manifest: pairs.csv\noutput: out\ncache: cache\nname: tiny\nphantoms: 1\nsteps: 100000\nworkers: 1\n"
        "slabs_per_step: 1\ncheckpoint_minutes: 0\nfactors: [2.0]\nprecision: 32-true\n"
        "architecture: {widths: [8, 16], blocks: [1, 1]}\naugmentation: {window: 64, patch: 32, patches: 1}\n"
    )
    return path


def processor_seconds() -> float:
    """Of the children that ended: what a trial takes on a machine that does nothing else."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_trial_run_makes_a_model_in_under_a_minute(recipe: Path, start: Start) -> None:
    """`--smoke`: rc 0, a loadable model and a log, plain lines when not on a terminal; counted in processor time."""
    began = processor_seconds()
    trial = start("train", recipe, "--smoke", cwd=recipe.parent)
    out, err = trial.communicate(timeout=300)
    assert trial.returncode == 0, err
    assert processor_seconds() - began < 60
    assert err == ""
    assert "\x1b" not in out
    assert "step 20: error left" in out
    assert DISCLAIMER in out.lower()
    card = load(recipe.parent / "out_smoke" / "best.safetensors").card
    assert card.name == "tiny"
    assert card.seen is not None
    assert card.seen.slices == 8
    assert card.seen.pixel_mm is not None
    assert list((recipe.parent / "out_smoke" / "tensorboard").glob("events*"))


def test_ctrl_c_ends_in_one_sentence_and_keeps_every_step(recipe: Path, start: Start) -> None:
    """SIGINT to the whole group, worker included, as a terminal sends it: exit 130, a checkpoint, no traceback."""
    training = start("train", recipe, cwd=recipe.parent)
    checkpoint = recipe.parent / "out" / "checkpoint.pt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and training.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGINT)
    _, err = training.communicate(timeout=300)
    assert training.returncode == 130, err
    assert err.startswith("medidiff: stopped; nothing is half-written")
    assert err.count("\n") == 1
    assert torch.load(checkpoint, weights_only=True)["step"] >= 1


def test_a_faulty_manifest_is_told_in_one_line(recipe: Path, start: Start) -> None:
    """Exit 2, every fault, nothing written."""
    (recipe.parent / "pairs.csv").write_text("patient,split,full\n1,train,nowhere.nii\n1,tune,a.nii\n2,best,b.nii\n")
    training = start("train", recipe, cwd=recipe.parent)
    out, err = training.communicate(timeout=300)
    assert (training.returncode, out) == (2, "")
    assert len(err.splitlines()) == 1
    for fault in ("'nowhere.nii' does not exist", "several splits", "'best'"):
        assert fault in err
    assert not (recipe.parent / "out").exists()


def test_the_shipped_recipe_passes_a_trial_on_real_scans(shared_data: Path, tmp_path: Path, start: Start) -> None:
    """pipelines/train_ct.yaml with nothing prepared: under a minute of processor time."""
    began = processor_seconds()
    recipe = ROOT / "pipelines" / "train_ct.yaml"
    settings = (f"data_root={shared_data}", f"cache={tmp_path / 'cache'}", f"output={tmp_path / 'run'}")
    trial = start("train", recipe, "--smoke", *settings, cwd=ROOT)
    out, err = trial.communicate(timeout=300)
    assert trial.returncode == 0, err
    assert processor_seconds() - began < 60
    assert "error left" in out
    assert load(tmp_path / "run_smoke" / "best.safetensors").card.name == "ct"


def test_noise_of_scans_needs_a_scan_to_take_it_from(recipe: Path, start: Start) -> None:
    """`recorrupted_share` without a DICOM series that shows its noise: told, not trained without."""
    training = start("train", recipe, "recorrupted_share=0.5", cwd=recipe.parent)
    out, err = training.communicate(timeout=300)
    assert (training.returncode, out) == (2, "")
    assert "recorrupted_share 0.5: none of the full-dose DICOM folders" in err
    assert not (recipe.parent / "out").exists()


def test_a_pet_recipe_passes_a_trial(tmp_path: Path, write_nifti_scan: Callable[..., Path], start: Start) -> None:
    """Bodies are made, lesions pasted, a model of three dimensions saved that says it is for PET."""
    lesion = np.zeros((9, 12, 12))
    lesion[2:7, 3:9, 3:9] = 1
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_nifti_scan(tmp_path / name / "uptake.nii", 1 + 5 * lesion)
        write_nifti_scan(tmp_path / name / "mask.nii", lesion)
    (tmp_path / "pairs.csv").write_text("patient,split,full,low\n1,train,one,\n2,tune,two,\n")
    (tmp_path / "recipe.yaml").write_text(
        "manifest: pairs.csv\noutput: out\ncache: cache\nname: tiny\nworkers: 0\nprecision: 32-true\nnull_share: 0\n"
        "architecture: {dimensions: 3, slab: 1, widths: [8, 16], blocks: [1, 1], guide: true, spread: true}\n"
        "pet: {bodies: {lesions: 2, pasted: 1}}\n"
    )
    trial = start("train", tmp_path / "recipe.yaml", "--smoke", cwd=tmp_path)
    out, err = trial.communicate(timeout=600)
    assert trial.returncode == 0, err
    assert "lesion bias %" in out
    model = load(tmp_path / "out_smoke" / "best.safetensors")
    assert model.card.modality == "PT"
    assert model.scaling.unit == "SUV"
    assert model.architecture.dimensions == 3
    seen = model.card.seen
    assert seen is not None
    assert seen.relative is not None
    assert f"relative noise of {seen.relative.low:.3g} to {seen.relative.high:.3g}" in out
    assert (seen.slices, seen.noise_hu) == (8, None)
