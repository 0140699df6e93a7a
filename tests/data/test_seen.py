"""The range of a recipe: what its transforms draw, and what the headers of its train split say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data.dataset import PatchDataset, phantom_cases
from medidiff.data.manifest import Pair
from medidiff.data.seen import LEAST_NOISE, pixel_factors, seen_of
from medidiff.data.transforms import Augmentation
from medidiff.model import load
from medidiff.seen import Range, Seen
from medidiff.training import TrainSettings

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "model_range.py"

CASES = phantom_cases(3, 96, seed=1)


def recipe(noise_hu: tuple[float, float]) -> PatchDataset:
    settings = Augmentation(window=96, patch=64, patches=1, noise_hu=noise_hu)
    return PatchDataset(CASES[:2], CASES[2:], 3, settings, seed=0)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return seen_of(recipe((10.0, 80.0)), (), (1.0,), slices=40)


def test_the_level_is_what_the_recipe_draws(seen: Seen) -> None:
    """10 to 80 HU over the body, estimated in quiet soft tissue: about as many, at most a quarter less."""
    assert seen.noise_hu is not None
    assert 7.5 < seen.noise_hu.least < 14
    assert 50 < seen.noise_hu.most < 90
    assert seen.noise_hu.least <= seen.noise_hu.low < seen.noise_hu.high <= seen.noise_hu.most


def test_the_same_recipe_gives_the_same_range_and_another_one_another(seen: Seen) -> None:
    again = seen_of(recipe((10.0, 80.0)), (), (1.0,), slices=40)
    assert again == seen
    quiet = seen_of(recipe((0.01, 0.1)), (), (1.0,), slices=10).noise_hu
    assert quiet is not None
    assert quiet.low < 10
    assert quiet.least >= LEAST_NOISE  # an octave above the floor: an image in which nothing is found is not inside


def test_what_was_drawn_is_inside(seen: Seen) -> None:
    """A slice in the middle of every range is changed in full."""
    middle = {
        name: float(np.sqrt(r.low * r.high) if r.low > 0 else (r.low + r.high) / 2)
        for name in ("noise_hu", "colour_half", "colour_quarter", "frequency")
        if (r := seen.range_of(name))
    }
    assert len(middle) == 4
    assert seen.weight(middle) == 1.0


def test_pixels_grow_by_shrinking_and_shrink_by_zoom() -> None:
    assert pixel_factors((2.0, 1.25), Augmentation(zoom=(1.0, 2.0))) == (2.0, 1.0, 1.25, 0.625)


def test_the_script_stores_the_range_in_the_card_and_beside_it(
    tmp_path: Path, write_series: Callable[..., Path], tiny_model: Path
) -> None:
    """Weights stay as they are; the Markdown names the new hash, and a second time changes nothing."""
    spec = importlib.util.spec_from_file_location("model_range", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    write_series(tmp_path / "scan", n=1, size=96)
    (tmp_path / "list.csv").write_text("patient,split,full\np,train,scan\n")
    augmentation = Augmentation(window=64, patch=32, patches=1)
    settings = TrainSettings(
        manifest=tmp_path / "list.csv",
        data_root=tmp_path,
        cache=tmp_path / "cache",
        augmentation=augmentation,
        factors=(1.0,),
        phantoms=1,
    )
    found = script.range_of(settings, 3)
    assert (found.slices, found.kernels, found.pixel_mm.least) == (3, ("B40f",), 0.8)
    model, page = tmp_path / "m.safetensors", tmp_path / "m.md"
    model.write_bytes(tiny_model.read_bytes())
    before = load(model)
    page.write_text(f"# Model\n\nSHA-256 {before.sha256}\n\n## Limits\n\n- some\n")
    digest = script.store(model, found)
    after, text = load(model), page.read_text()
    assert (after.sha256, after.card.seen, before.card.seen) == (digest, found, None)
    assert all(
        torch.equal(a, b) for a, b in zip(before.denoiser.parameters(), after.denoiser.parameters(), strict=True)
    )
    assert text.index(digest) < text.index("- kernels: B40f") < text.index("## Limits")
    assert (script.store(model, found), page.read_text()) == (digest, text)


def test_headers_are_those_of_the_train_split_shrunk(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    """Pixels of a simulated pair grow by the factors, those of a measured pair do not; other splits do not count."""
    folders = [
        write_series(tmp_path / name, n=3, kernel=kernel, Manufacturer=maker, PixelSpacing=[mm, mm], SliceThickness=mm)
        for name, kernel, maker, mm in (
            ("a", "B40f", "Siemens", 0.5),
            ("b", "FC13", "TOSHIBA", 1.2),
            ("c", "L", "x", 9),
        )
    ]
    pairs = (
        Pair("1", "train", folders[0], None),
        Pair("2", "train", folders[0], folders[1]),
        Pair("3", "tune", folders[2], None),
    )
    found = seen_of(recipe((10.0, 80.0)), pairs, (1.0, 2.0), slices=1)
    assert found.kernels == ("B40f", "FC13")
    assert found.manufacturers == ("SIEMENS", "TOSHIBA")
    assert found.pixel_mm == Range(low=0.51, high=1.196, least=0.5, most=1.2)  # of 0.5, 1.0 and 1.2
    assert (found.thickness_mm.least, found.thickness_mm.most) == (0.5, 1.2)
    assert (found.spacing_mm.least, found.spacing_mm.most) == (2.0, 2.0)
