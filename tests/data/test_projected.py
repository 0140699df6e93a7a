"""Backprojections to learn from: always the same, told as inference tells them, of scans that can be projected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data.manifest import Pair
from medidiff.data.projected import (
    ProjectedDataset,
    ProjectionRecipe,
    prepare_projected,
    projected_probes,
)
from medidiff.data.seen import projected_seen
from medidiff.errors import InputError
from medidiff.io.dicom import load_volume
from medidiff.noise.level import noise_estimate

RECIPE = ProjectionRecipe(views=(24, 48), slices=2, lone=3, patch=32, patches=2)


@pytest.fixture
def pair(tmp_path: Path, write_series: Callable[..., Path]) -> Pair:
    return Pair("p", "train", write_series(tmp_path / "scan", n=3), None)


def test_prepared_once_and_the_same_again(tmp_path: Path, pair: Pair) -> None:
    """From the cache, and from another one: equal to the last bit; targets are the slices."""
    (first,) = prepare_projected([pair], RECIPE, 3, tmp_path / "cache")
    written = sorted((tmp_path / "cache").rglob("*.npy"))
    times = [file.stat().st_mtime_ns for file in written]
    (again,) = prepare_projected([pair], RECIPE, 3, tmp_path / "cache")
    assert [file.stat().st_mtime_ns for file in written] == times
    (anew,) = prepare_projected([pair], RECIPE, 3, tmp_path / "other")
    for one in (again, anew):
        for name in ("target", "slab", "facts"):
            np.testing.assert_array_equal(getattr(one, name), getattr(first, name))
    assert first.slab.shape == (2, 3, 48, 48)
    scan = np.maximum(load_volume(pair.full).array, -1000)
    np.testing.assert_array_equal(first.target, scan[[0, 2]])


def test_what_is_told_is_what_is_measured(tmp_path: Path, pair: Pair) -> None:
    """Level and colours are those that a model finds in the middle slice of the slab."""
    (scan,) = prepare_projected([pair], RECIPE, 3, tmp_path)
    for slab, facts in zip(scan.slab, scan.facts, strict=True):
        estimate = noise_estimate(np.asarray(slab[1]))
        np.testing.assert_allclose(facts, (estimate.level, *estimate.colour), rtol=1e-6)
    seen = projected_seen([scan], [pair])
    assert seen.noise_hu is not None
    assert seen.noise_hu.least == pytest.approx(scan.facts[:, 0].min(), rel=1e-3)


def test_sample_i_is_the_same_whatever_was_asked_before(tmp_path: Path, pair: Pair) -> None:
    scans = prepare_projected([pair], RECIPE, 3, tmp_path)
    one, other = ProjectedDataset(scans, RECIPE, seed=4), ProjectedDataset(scans, RECIPE, seed=4)
    forwards, backwards = [one[i] for i in range(3)], [other[i] for i in reversed(range(3))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(forwards[0]["slab"], forwards[1]["slab"])
    assert {key: tuple(value.shape) for key, value in forwards[0].items()} == {
        "target": (2, 1, 32, 32), "slab": (2, 3, 32, 32), "level": (2,), "colour": (2, 2)
    }  # fmt: skip


def test_patches_of_both_images_lie_on_each_other(tmp_path: Path, pair: Pair) -> None:
    """Of one slice and turned the same way: target and backprojection go together, and a turned one does not."""
    scans = prepare_projected([pair], RECIPE, 3, tmp_path)
    sample = ProjectedDataset(scans, RECIPE.model_copy(update={"patches": 8}), seed=0)[0]
    target, middle = sample["target"][:, 0], sample["slab"][:, 1]

    def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    assert agreement(target, middle) > 0.9
    assert agreement(target, torch.rot90(middle, 1, (1, 2))) < agreement(target, middle) - 0.2


def test_fewer_views_are_a_harder_question(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    pair = Pair("t", "tune", write_series(tmp_path / "scan", n=1), None)
    error = {probe.colour: float(np.std(probe.slab[1] - probe.target)) for probe in projected_probes([pair], 3)}
    assert error["views_30"] > error["views_60"] > error["views_120"]
    assert error["arc_120"] > error["views_120"]


def test_what_cannot_be_projected_is_refused(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    flat = Pair("p", "train", write_series(tmp_path / "flat", n=1, PixelSpacing=[0.8, 0.9]), None)
    with pytest.raises(InputError, match="not square: resample the scan"):
        prepare_projected([flat], RECIPE, 3, tmp_path / "cache")
    small = Pair("p", "train", write_series(tmp_path / "small", n=1), None)
    with pytest.raises(InputError, match="smaller than a patch of 64"):
        prepare_projected([small], RECIPE.model_copy(update={"patch": 64}), 3, tmp_path / "cache")
    with pytest.raises(InputError, match="nothing to train on"):
        prepare_projected([], RECIPE, 3, tmp_path / "cache")
