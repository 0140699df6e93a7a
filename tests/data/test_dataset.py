"""Sample i is always sample i, and what cannot be trained on is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medidiff.data.dataset import Batch, Numbers, PatchDataset, collate, phantom_cases
from medidiff.data.prepare import Case
from medidiff.data.transforms import Augmentation
from medidiff.errors import InputError

SETTINGS = Augmentation(window=64, patch=32, patches=2)
CASES = phantom_cases(3, 64, seed=1)


def dataset(seed: int = 0) -> PatchDataset:
    return PatchDataset(CASES[:2], CASES[2:], 3, SETTINGS, seed=seed, phantom_share=0.3)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_sample_i_is_the_same_whatever_was_asked_before() -> None:
    """Forwards, backwards, twice, from a new dataset; another number or seed is another sample."""
    first, second = dataset(), dataset()
    forwards = [first[i] for i in range(5)]
    backwards = [second[i] for i in reversed(range(5))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert same(first[3], forwards[3])
    assert not same(forwards[3], forwards[4])
    assert not same(dataset(seed=1)[3], forwards[3])


def test_worker_processes_change_nothing() -> None:
    """The same batches in the same order from this process and from another."""
    batches = [
        list(DataLoader(dataset(), batch_sampler=Numbers(2, 5, 2), collate_fn=collate, num_workers=workers))
        for workers in (0, 1)
    ]
    assert len(batches[0]) == 3
    assert all(same(a, b) for a, b in zip(*batches, strict=True))
    assert same(batches[0][0], collate([dataset()[4], dataset()[5]]))


def test_shapes_and_units() -> None:
    """Patches of a slab with the level and colour of that slab, in HU, float32."""
    sample = dataset()[0]
    assert {key: tuple(value.shape) for key, value in sample.items()} == {
        "target": (2, 1, 32, 32),
        "slab": (2, 3, 32, 32),
        "mean_only": (2,),
        "level": (2,),
        "colour": (2, 2),
    }
    assert {value.dtype for key, value in sample.items() if key != "mean_only"} == {torch.float32}
    assert not sample["mean_only"].any()
    assert sample["level"][0] == sample["level"][1] > 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_samples_of_a_step(world: int) -> None:
    """Step by step the ranks together ask for what one process with larger steps asks for, each number once."""
    steps = zip(*(Numbers(3, 7, 2, rank, world) for rank in range(world)), strict=True)
    together = [[i for part in step for i in part] for step in steps]
    assert together == list(Numbers(3, 7, 2 * world))
    assert len(Numbers(3, 7, 2, 0, world)) == 4


def test_a_resumed_run_asks_for_what_comes_next() -> None:
    """The numbers from step 3 are those of the whole run without its first three."""
    assert list(Numbers(0, 6, 4))[3:] == list(Numbers(3, 6, 4))


def test_cases_are_drawn_by_the_square_root_of_their_slices() -> None:
    """A scan of 900 slices is drawn ten times as often as one of 9; phantoms have their share."""
    sizes = (9, 900)
    cases = [Case(str(n), np.zeros((n, 1, 1), np.float32).repeat(64, 1).repeat(64, 2), None, None) for n in sizes]
    weights = PatchDataset(cases, CASES[:2], 3, SETTINGS, seed=0, phantom_share=0.2).weights
    np.testing.assert_allclose(weights, [0.8 / 11, 8 / 11, 0.1, 0.1])
    np.testing.assert_allclose(PatchDataset(cases, [], 3, SETTINGS, seed=0).weights.sum(), 1)


def test_scans_smaller_than_a_patch_are_named() -> None:
    """All of them at once, with their sizes; nor can one train on nothing."""
    cases = [Case(f"{n}.nii", np.zeros((2, n, 64), np.float32), None, None) for n in (40, 64, 47)]
    with pytest.raises(InputError, match=r"at least 48 x 48 .* 40\.nii \(40 x 64\), 47\.nii \(47 x 64\)"):
        PatchDataset(cases, [], 3, SETTINGS, seed=0)
    with pytest.raises(InputError, match="nothing to train on"):
        PatchDataset([], CASES, 3, SETTINGS, seed=0)
