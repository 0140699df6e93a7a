"""The range of a recipe: what its transforms draw, and what the headers of its train split say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.dataset import PatchDataset, phantom_cases
from medidiff.data.manifest import Pair
from medidiff.data.seen import LEAST_NOISE, seen_of
from medidiff.data.transforms import Augmentation
from medidiff.seen import Range, Seen

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
