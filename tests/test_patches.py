"""Slabs, padding and random windows: what goes out comes back, and borders are handled exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.patches import body_corner, crop, pad_to_multiple, random_corner, slab_indices


@pytest.mark.parametrize(
    ("index", "n", "slab", "expected"),
    [
        (0, 5, 3, [0, 0, 1]),
        (2, 5, 3, [1, 2, 3]),
        (4, 5, 3, [3, 4, 4]),
        (0, 1, 3, [0, 0, 0]),
        (1, 3, 5, [0, 0, 1, 2, 2]),
        (3, 9, 1, [3]),
    ],
)
def test_beyond_the_ends_the_nearest_slice_is_repeated(index: int, n: int, slab: int, expected: list[int]) -> None:
    """The slice itself is always in the middle."""
    assert slab_indices(index, n, slab) == expected
    assert slab_indices(index, n, slab)[slab // 2] == index


@pytest.mark.parametrize("shape", [(512, 512), (17, 33), (16, 31), (5, 3), (1, 1), (2, 40)])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_padding_is_undone_exactly(shape: tuple[int, int], lead: tuple[int, ...]) -> None:
    """Sizes become the next multiples of the stride; the image inside is untouched, also when tiny."""
    image = torch.randn(*lead, *shape)
    padded = pad_to_multiple(image, 16)
    assert padded.shape == (*lead, *(-(-n // 16) * 16 for n in shape))
    assert torch.equal(crop(padded, shape), image)


def test_padding_reflects_without_repeating_the_edge() -> None:
    """The rows below the image are those above its last row, mirrored; a tiny image repeats its edge instead."""
    image = torch.arange(20 * 16.0).reshape(20, 16)
    assert torch.equal(pad_to_multiple(image, 16)[20:], image.flip(0)[1:13])
    tiny = pad_to_multiple(torch.tensor([[1.0, 2.0]]), 4)
    assert torch.equal(tiny, torch.tensor([[1.0, 2.0, 2.0, 2.0]]).expand(4, 4))


def test_random_windows_reach_every_place_and_never_leave() -> None:
    """Corners are uniform over all that fit, ends included."""
    generator = np.random.default_rng(0)
    corners = [random_corner((5, 4), 3, generator) for _ in range(400)]
    assert {(r.start, c.start) for r, c in corners} == {(r, c) for r in range(3) for c in range(2)}
    assert all(r.stop - r.start == c.stop - c.start == 3 for r, c in corners)


def test_windows_look_for_the_patient() -> None:
    """With the body in one corner, windows are mostly patient far more often than by chance; air alone still works."""
    image = np.full((128, 128), -1000.0)
    image[:64, :64] = 40
    generator = np.random.default_rng(0)
    hits = [(image[body_corner(image, 32, generator)] > -900).mean() > 0.4 for _ in range(200)]
    assert np.mean(hits) > 0.8
    rows, columns = body_corner(np.full((40, 40), -1000.0), 32, generator)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (32, 32)
