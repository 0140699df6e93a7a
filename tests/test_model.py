"""A model file: half-precision weights that rebuild the same denoiser, a reproducible hash, and nothing unpickled."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from medidiff import model as models
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import ModelError
from medidiff.io.files import file_hash
from medidiff.model import Architecture, Card, build, embedded, load, save
from medidiff.noise.level import noise_estimate
from medidiff.scaling import LinearScaling

ARCHITECTURE = Architecture(widths=(4, 8), blocks=(1, 1), embedding=8)
CARD = Card(name="tiny", summary="a test", data=("none",), training={"steps": 3}, limits=("all",))


def random_denoiser(seed: int = 0) -> Denoiser:
    denoiser = build(ARCHITECTURE)
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return denoiser.requires_grad_(False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save(path, random_denoiser(), ARCHITECTURE, LinearScaling(offset=-3.0), CARD)
    return path


def test_what_is_saved_comes_back_rounded_to_half_precision(saved: Path) -> None:
    """Weights equal the float16 rounding exactly and are float32; card, scaling and architecture are equal."""
    model = load(saved)
    for name, weight in random_denoiser().state_dict().items():
        restored = model.denoiser.state_dict()[name]
        assert restored.dtype == torch.float32
        assert torch.equal(restored, weight.half().float()), name
    assert (model.architecture, model.card, model.scaling) == (ARCHITECTURE, CARD, LinearScaling(offset=-3.0))
    assert (model.slab, model.stride, model.device.type) == (3, 4, "cpu")
    assert not model.denoiser.training


def test_saving_again_changes_nothing(saved: Path, tmp_path: Path) -> None:
    """float16 -> float32 -> float16 is exact, so a loaded model saves to the same bytes, every time."""
    model = load(saved)
    copies = [tmp_path / f"copy{k}.safetensors" for k in range(5)]
    hashes = {save(path, model.denoiser, model.architecture, model.scaling, model.card) for path in copies}
    assert hashes == {model.sha256} == {file_hash(saved)}
    assert not list(tmp_path.glob(".*"))


def test_another_card_or_weight_has_another_hash(saved: Path, tmp_path: Path) -> None:
    """The hash names the model in every result."""
    other = tmp_path / "other.safetensors"
    assert save(other, random_denoiser(1), ARCHITECTURE, LinearScaling(offset=-3.0), CARD) != file_hash(saved)
    renamed = CARD.model_copy(update={"name": "tiny2"})
    assert save(other, random_denoiser(), ARCHITECTURE, LinearScaling(offset=-3.0), renamed) != file_hash(saved)


def test_other_programs_can_read_the_file(saved: Path) -> None:
    """It is plain safetensors with JSON metadata."""
    with safe_open(saved, framework="np") as file:
        assert json.loads(file.metadata()["card"])["name"] == "tiny"
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}  # noqa: SIM118


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def rewritten(path: Path, **changes: str) -> None:
    """The same weights under changed metadata."""
    with safe_open(path, framework="pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(weights, path, metadata=metadata | changes)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "header cut":
            path.write_bytes(content[:20])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("these are not weights\n" * 50)
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb()))
        case "torch pickle":
            torch.save({"w": torch.zeros(3), "x": Bomb()}, path)
        case "foreign":
            save_file({"w": torch.zeros(3)}, path)
        case "newer":
            rewritten(path, format="medidiff-model-9")
        case "other architecture":
            rewritten(path, architecture=Architecture(widths=(4, 16), blocks=(1, 1)).model_dump_json())
        case "no architecture":
            rewritten(path, architecture="{")
        case "NaN":
            save_nan(path)


def save_nan(path: Path) -> None:
    denoiser = random_denoiser()
    next(denoiser.parameters()).view(-1)[0] = torch.nan
    save(path, denoiser, ARCHITECTURE, LinearScaling(), CARD)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "not a readable safetensors file"),
        ("header cut", "not a readable safetensors file"),
        ("empty", "not a readable safetensors file"),
        ("text", "not a readable safetensors file"),
        ("pickle", "not a readable safetensors file"),
        ("torch pickle", "not a readable safetensors file"),
        ("foreign", "not a medidiff model"),
        ("newer", "medidiff-model-9"),
        ("other architecture", "do not fit their own description"),
        ("no architecture", "do not fit their own description"),
        ("NaN", "NaN or infinity"),
    ],
)
def test_damaged_and_foreign_files_are_refused_in_one_sentence(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    """The file is named, nothing in it runs, no traceback and no second line."""
    monkeypatch.chdir(tmp_path)
    damage(saved, how)
    with pytest.raises(ModelError) as refused:
        load(saved)
    assert reason in str(refused.value)
    assert "tiny.safetensors" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "exploded").exists()


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    """Neither a file nor an embedded model; a folder is not a model either."""
    for name in ("no-such-model", tmp_path):
        with pytest.raises(ModelError, match=r"neither a file nor an embedded model"):
            load(name)


def test_embedded_models_are_found_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the file's without its ending."""
    monkeypatch.setattr(models.resources, "files", lambda package: saved.parent)
    assert embedded() == {"tiny": saved}
    assert load("tiny").sha256 == file_hash(saved)


def test_a_saved_file_has_the_permissions_of_any_new_file(saved: Path, tmp_path: Path) -> None:
    """Weights made on a server can be read by colleagues as the umask says."""
    plain = tmp_path / "plain"
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("matrix", [(64, 64), (50, 61)])
def test_a_slice_goes_through_a_model_and_keeps_its_size(saved: Path, matrix: tuple[int, int]) -> None:
    """The condition holds the noise level of the middle slice in model units; an untrained model answers the slice."""
    slab = np.random.default_rng(0).normal(40, 15, (3, *matrix)).astype(np.float32)
    slab[0] *= 5
    model = load(saved)
    cond = model.condition(slab)
    assert cond.r.item() == pytest.approx(noise_estimate(slab[1]).level / 1024)
    assert all(n % model.stride == 0 for n in cond.slab.shape[2:])
    untrained = models.Model(build(ARCHITECTURE), model.scaling, ARCHITECTURE, CARD)
    with torch.inference_mode():
        answer = untrained.image(untrained.denoiser.mean(cond), matrix)
        trained = model.image(model.denoiser.mean(cond), matrix)
    np.testing.assert_allclose(answer, slab[1], atol=1e-3)
    assert trained.shape == matrix
    assert np.abs(trained - slab[1]).max() > 0.1


def test_anchor_and_spread_come_back_with_the_weights(tmp_path: Path) -> None:
    """They are no weights, and decide what the weights mean: another anchor is another answer."""
    torch.manual_seed(0)
    architecture = Architecture(widths=(4, 8), blocks=(1, 1), embedding=8, spread=True, anchor=2.5)
    denoiser = build(architecture)
    for parameter in denoiser.parameters():
        parameter.data = (parameter + 0.1 * torch.randn_like(parameter)).half().float()
    save(tmp_path / "m.safetensors", denoiser, architecture, LinearScaling(), Card(name="anchored"))
    model = load(tmp_path / "m.safetensors")
    assert isinstance(model.denoiser, Denoiser)
    assert (model.denoiser.anchor, model.denoiser.gives_spread, model.has_spread) == (2.5, True, True)
    slab = np.random.default_rng(0).normal(40, 20, (3, 41, 50)).astype(np.float32)
    cond = model.condition(slab)
    assert isinstance(denoiser, Denoiser)
    torch.testing.assert_close(model.denoiser.mean_and_spread(cond), denoiser.mean_and_spread(cond))
    np.testing.assert_allclose(model.mean(slab), model.image(denoiser.mean(cond).detach(), (41, 50)), atol=1e-3)
    free = build(architecture.model_copy(update={"anchor": 0.0}))
    free.load_state_dict(denoiser.state_dict())
    assert float((free.mean(cond) - denoiser.mean(cond)).detach().abs().max()) > 1e-4
