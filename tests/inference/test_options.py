"""Options: what a mode does not use is refused by name, and every fault is told at once."""

from __future__ import annotations

from typing import Any

import pytest

from medidiff.errors import UsageError
from medidiff.inference.options import Options


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 5}, "--steps is not used by --mode quantitative, only by uncertainty and sample: leave it out"),
        ({"seed": 1}, "--seed is not used by --mode quantitative"),
        ({"sampler": "heun"}, "--sampler is not used by --mode quantitative"),
        ({"cfg_scale": 1.0}, "--cfg-scale is not used by --mode quantitative"),
        ({"mode": "sample", "draws": 4}, "--draws is not used by --mode sample, only by uncertainty"),
        ({"mode": "texture", "steps": 4}, "--steps is not used by --mode texture, only by uncertainty and sample"),
        ({"dose": 0.25}, "--dose is not used by --mode quantitative, only by texture: leave it out"),
        ({"mode": "texture", "dose": 0}, "--dose: 0 was given, but input should be greater than 0"),
        ({"mode": "texture", "dose": 25}, "--dose: 25 was given, but input should be less than or equal to 1"),
        ({"mode": "texture", "strength": 50}, "--strength is not used by --mode texture, where --dose sets the blend"),
        ({"mode": "sharp"}, "--mode: 'sharp' is not a mode: choose one of quantitative, texture, uncertainty, sample"),
        ({"mode": "sample", "sampler": "foo"}, "--sampler: 'foo' is not a sampler: choose one of ddpm, ddim, plms"),
        ({"strength": 101}, "--strength: 101 was given, but input should be less than or equal to 100"),
        ({"mode": "sample", "steps": 0}, "--steps: 0 was given"),
        ({"mode": "uncertainty", "draws": 1}, "--draws: 1 was given, but one sample has no spread: use at least 2"),
        (
            {"method": "median"},
            "--method: 'median' is not a method: choose one of model, identity, gaussian, bilateral",
        ),
        ({"smoothing": 1.0}, "--smoothing is the strength of a classical method, a model has none: leave it out"),
        ({"method": "nlm", "smoothing": -1}, "--smoothing: -1 was given, but input should be greater than or equal"),
        ({"method": "nlm", "smoothing": 60}, "--smoothing: 60 was given, but --method nlm takes 0 to 5 noise levels"),
        ({"method": "identity", "smoothing": 1}, "--smoothing: --method identity has no strength: leave it out"),
        ({"method": "nlm", "mode": "texture"}, "--mode is not used by --method nlm, only by a model: leave it out"),
        ({"method": "tv", "model": "ct"}, "--model is not used by --method tv, only by a model: leave it out"),
        ({"method": "tv", "device": "cuda"}, "--device is not used by --method tv"),
        ({"engine": "tensorrt"}, "--engine: tensorrt was given, but input should be 'torch' or 'openvino'"),
        ({"precision": "fp16"}, "--precision: fp16 was given, but input should be '32', 'bf16' or 'auto'"),
        ({"method": "tv", "engine": "openvino"}, "--engine is not used by --method tv, only by a model: leave it out"),
        ({"method": "tv", "seed": 3}, "--seed is not used by --method tv"),
        ({"transfer_syntax": "jpeg"}, "--transfer-syntax: 'jpeg' is not offered: choose one of explicit, jpegls, j2k"),
    ],
)
def test_a_wrong_option_is_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options.of(**values)
    assert sentence in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"--strength.*--device"):
        Options.of(strength=-1, device=3)


def test_parameters_hold_defaults_and_only_what_is_used() -> None:
    """What is recorded, and decides whether a run continues another, are the values in effect."""
    assert Options().parameters() == {"mode": "quantitative", "strength": 100.0}
    sample = {"mode": "sample", "strength": 50.0, "steps": 6, "sampler": "dpmpp_2m", "cfg_scale": 1.0, "seed": 0}
    assert Options(mode="sample", strength=50).parameters() == sample
    assert Options(mode="sample", strength=50, steps=6, seed=0).parameters() == sample


def test_a_model_with_a_spread_draws_nothing_unless_asked() -> None:
    """Its uncertainty takes one evaluation and no options of samplers; `draws` asks for them all the same."""
    own = {"mode": "uncertainty", "strength": 100.0, "draws": 0}
    for draws in (None, 0):
        assert Options(mode="uncertainty", draws=draws).parameters(has_spread=True) == own
    asked = Options(mode="uncertainty", draws=4)
    assert asked.parameters(has_spread=True) == asked.parameters()
    assert Options(mode="uncertainty").parameters()["draws"] == 8


@pytest.mark.parametrize(("dose", "strength"), [(None, 50.0), (0.25, 50.0), (0.01, 90.0), (1.0, 0.0)])
def test_texture_is_the_strength_that_leaves_the_noise_of_the_whole_dose(dose: float | None, strength: float) -> None:
    """Noise falls with the root of the dose: at a quarter of it, half of the noise is kept."""
    parameters = Options(mode="texture", dose=dose).parameters()
    assert parameters == {"mode": "texture", "dose": dose or 0.25, "strength": pytest.approx(strength)}
