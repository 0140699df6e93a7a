"""How a volume is cut for the network and put together again: one plan for training and inference.

A slab is a slice between its neighbours; beyond the first and last slice the nearest one is repeated.
A slice is padded by reflection to the network's stride at its bottom and right edge, and cropped back.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def slab_indices(index: int, n_slices: int, slab: int) -> list[int]:
    """The `slab` (odd) slice indices around `index`, the ends repeated."""
    half = slab // 2
    return [min(max(k, 0), n_slices - 1) for k in range(index - half, index + half + 1)]


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """(..., rows, columns) padded at the end of both axes to multiples of `stride`.

    Reflected where the image is large enough, else the edge is repeated.
    """
    rows, columns = image.shape[-2:]
    down, right = -rows % stride, -columns % stride
    if not (down or right):
        return image
    mode = "reflect" if down < rows and right < columns else "replicate"
    flat = image.reshape(1, -1, rows, columns)
    padded = torch.nn.functional.pad(flat, (0, right, 0, down), mode=mode)
    return padded.reshape(*image.shape[:-2], rows + down, columns + right)


def pad_block(block: Tensor, stride: int) -> Tensor:
    """(1, C, slices, rows, columns) padded at the end of its three axes to multiples of `stride`; see above."""
    for axis in (-3, -2, -1):
        n, missing = block.shape[axis], -block.shape[axis] % stride
        order = torch.arange(n + missing, device=block.device)
        mirrored = 2 * (n - 1) - order if missing < n else torch.full_like(order, n - 1)
        block = block.index_select(axis, torch.where(order < n, order, mirrored))
    return block


def crop(image: Tensor, matrix: tuple[int, int]) -> Tensor:
    """Undo `pad_to_multiple`."""
    return image[..., : matrix[0], : matrix[1]]


def random_corner(matrix: tuple[int, int], size: int, generator: np.random.Generator) -> tuple[slice, slice]:
    """A uniformly drawn size x size window of a slice, as (row slice, column slice)."""
    row, column = (int(generator.integers(0, n - size + 1)) for n in matrix)
    return slice(row, row + size), slice(column, column + size)


def body_corner(
    image: NDArray[np.floating], size: int, generator: np.random.Generator, *, air_hu: float = -900.0, tries: int = 8
) -> tuple[slice, slice]:
    """A random window that is mostly patient: air around the table teaches nothing."""
    for _ in range(tries):
        corner = random_corner((image.shape[0], image.shape[1]), size, generator)
        if (image[corner][::4, ::4] > air_hu).mean() > 0.5:
            break
    return corner
