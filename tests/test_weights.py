"""The embedded models: what comes with the package keeps what its card promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.io.dicom import load_volume
from medidiff.model import DEFAULT, Model, embedded, load
from medidiff.patches import slab_indices

STUDY = Path(__file__).resolve().parents[1] / "data_samples" / "ct"
SLICE = 5
Slices = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(DEFAULT)


@pytest.fixture(scope="module")
def answers(model: Model) -> Slices:
    """The bundled study's slice, by series, through the quantitative mode."""
    restorer = Restorer(model, Options().parameters())
    return {
        name: restorer.slice(SLICE, stack[slab_indices(SLICE, len(stack), model.slab)]).image
        for name, stack in study().items()
    }


def study() -> Slices:
    return {name: load_volume(STUDY / name).array for name in ("low_dose", "full_dose", "noise_free")}


def rmse(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_weights_are_small_half_precision_and_described() -> None:
    """At most 12 MB, float16, with a readable card beside the file that names the very file."""
    for name, path in embedded().items():
        assert path.stat().st_size <= 12e6
        with safe_open(path, framework="pt") as file:
            assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float16"}  # noqa: SIM118
        loaded = load(name)
        assert loaded.sha256 in path.with_suffix(".md").read_text()
        assert loaded.card.name == name
        assert all([loaded.card.data, loaded.card.simulated, loaded.card.metrics, loaded.card.limits])
        assert loaded.card.uncertainty["interval_percent"] == 90


def test_card_shows_the_promised_gain(model: Model) -> None:
    """Quarter dose, every kernel: at least 40 % less RMSE; and no patient gets worse at any kernel or dose."""
    rows = [row for row in model.card.metrics if row["dose"] == 0.25]
    assert {row["kernel"] for row in rows} >= {"smooth", "sharp"}
    assert min(row["gain_percent"] for row in rows) >= 40
    assert min(row["worst_percent"] for row in model.card.metrics) > 0


def test_error_against_the_truth_falls_on_the_bundled_study(answers: Slices) -> None:
    """A phantom that the model never saw: quarter and full dose both come nearer to the noise-free truth."""
    stacks = study()
    truth = stacks["noise_free"][SLICE]
    gains = {n: 1 - rmse(answers[n], truth) / rmse(stacks[n][SLICE], truth) for n in ("low_dose", "full_dose")}
    assert gains["low_dose"] >= 0.4
    assert gains["full_dose"] > 0.2


def test_soft_tissue_keeps_its_hu(answers: Slices) -> None:
    """Mean error of soft tissue within 1 HU, at a quarter of the dose."""
    truth = study()["noise_free"][SLICE]
    soft = (truth > 20) & (truth < 150)
    assert abs(float(np.mean(answers["low_dose"][soft] - truth[soft]))) < 1


def test_an_image_without_noise_comes_back(answers: Slices) -> None:
    """What is already clean changes by less than 1 HU RMS."""
    assert rmse(answers["noise_free"], study()["noise_free"][SLICE]) < 1
