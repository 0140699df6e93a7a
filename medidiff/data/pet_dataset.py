"""PET training blocks by number, like `medidiff.data.dataset`: sample `i` is always the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from medidiff.data.dataset import Batch
from medidiff.data.pet_cases import PetCase
from medidiff.data.pet_transforms import PetAugmentation, pet_transforms
from medidiff.errors import InputError


class BlockDataset(Dataset[Batch]):
    """Sample i -> blocks of one realisation: target, slab, guide (N, 1, slices, rows, columns), the first two in units
    of the local noise, so level (N,) is 1; colour (N, 2), facts (N, F).

    `scan_share` of the draws go to `scans`, the rest to `torsos`. Raises InputError when there is nothing, or a case is
    smaller than a block.
    """

    def __init__(
        self,
        torsos: Sequence[PetCase],
        scans: Sequence[PetCase],
        settings: PetAugmentation,
        *,
        seed: int,
        scan_share: float = 0.25,
    ) -> None:
        self.cases = [*torsos, *scans]
        if not self.cases:
            raise InputError("there is nothing to train on: no torsos are asked for, and no line has the split 'train'")
        small = [c.name for c in self.cases if any(n < b for n, b in zip(c.target.shape, settings.block, strict=True))]
        if small:
            raise InputError(
                f"blocks of {settings.block} voxels do not fit into {', '.join(small)}: ask for smaller ones"
            )
        share = scan_share if torsos and scans else float(not torsos)
        weights = [(1 - share) / max(len(torsos), 1)] * len(torsos) + [share / max(len(scans), 1)] * len(scans)
        self.weights = np.array(weights) / sum(weights)
        self.seed = seed
        self.transform = pet_transforms(settings)

    def __getitem__(self, index: int) -> Batch:
        generator = np.random.default_rng([self.seed, index])
        case = self.cases[int(generator.choice(len(self.cases), p=self.weights))]
        self.transform.set_random_state(seed=int(generator.integers(2**31)))
        item = self.transform({"case": case})
        made = {key: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for key, value in item.items()}
        return made | {"level": torch.ones(len(made["slab"]))}
