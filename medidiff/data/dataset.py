"""Training samples by number: sample `i` is always the same, whatever was drawn before it.

That makes the order of workers, the number of processes and a restart irrelevant: a resumed run asks for the
numbers that come next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from medidiff.data import prepare as preparation
from medidiff.data.manifest import Pair, Split
from medidiff.data.phantoms import dead_leaves
from medidiff.data.prepare import Case, Cleaning, prepare
from medidiff.data.transforms import MARGIN, Augmentation, training_transforms
from medidiff.errors import InputError, MedidiffError
from medidiff.physics.ct import noise_image
from medidiff.progress import Progress, silent

Batch = dict[str, Tensor]


def prepare_all(
    pairs: Sequence[Pair], factors: Sequence[float], cache: Path, progress: Progress = silent
) -> list[Case]:
    """Every pair at every shrinking factor (measured pairs only as they are).

    Raises InputError naming all pairs that cannot be used, not only the first.
    """
    return [case for cases in prepare_splits(pairs, factors, cache, progress).values() for case in cases]


def prepare_splits(
    pairs: Sequence[Pair],
    factors: Sequence[float],
    cache: Path,
    progress: Progress = silent,
    *,
    cleaning: Cleaning = "nlm",
) -> dict[Split, list[Case]]:
    """`prepare_all`, by split: the faults of all splits are named together.

    The `cleaning` is that of `train`; other splits are always cleaned in the one way that questions need.
    """
    wanted = [(pair, factor) for pair in pairs for factor in (factors if pair.low is None else (1.0,))]
    cases: dict[Split, list[Case]] = {}
    faults = []
    for done, (pair, factor) in enumerate(wanted, start=1):
        try:
            cases.setdefault(pair.split, []).append(
                prepare(pair, factor, cache, cleaning if pair.split == "train" else "nlm")
            )
        except MedidiffError as error:
            faults.append(str(error))
        progress(done, len(wanted))
    if faults:
        unique = list(dict.fromkeys(faults))
        raise InputError(f"{len(unique)} of {len(pairs)} pairs cannot be used: " + "; ".join(unique))
    return cases


def phantom_cases(n: int, size: int, seed: int) -> list[Case]:
    """`n` dead-leaves phantoms of three slices with their noise, in memory."""
    cases = []
    for index in range(n):
        generator = np.random.default_rng([seed, index])
        clean = dead_leaves(size, 3, generator)
        pixel_mm = 400 / size
        noise = [
            noise_image(
                image,
                pixel_mm,
                dose_fraction=0.25,
                i0=preparation.I0_FULL,
                kernel=preparation.SHARPEST,
                generator=generator,
                full_dose=True,
            )
            for image in clean
        ]
        cases.append(Case(f"phantom-{index}", clean, np.stack(noise), None, is_exact=True))
    return cases


class PatchDataset(Dataset[Batch]):
    """Sample i -> patches of one slab: target (N, 1, p, p), slab (N, K, p, p) in HU, level (N,), colour (N, 2).

    `with_map` adds noise_map (N, 1, p, p), `edge_hu` of the augmentation weight (N, 1, p, p).

    Cases are drawn with probability ~ sqrt(slices); `phantom_share` of the draws go to phantoms, `recorrupted_share` to
    scans with their own noise. mean_only (N,) says that a target is noisy: good for the mean, not for its spread.
    Raises InputError when there are no cases, or any is smaller than a patch.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        phantoms: Sequence[Case],
        slab: int,
        settings: Augmentation,
        *,
        seed: int,
        phantom_share: float = 0.15,
        with_map: bool = False,
        recorrupted: Sequence[Case] = (),
        recorrupted_share: float = 0.0,
    ) -> None:
        _require_large([*cases, *recorrupted], settings.patch + 2 * MARGIN)
        self.cases = [*cases, *phantoms, *recorrupted]
        share, again = phantom_share if phantoms else 0.0, recorrupted_share if recorrupted else 0.0
        self.weights = np.concatenate(
            [_weights(cases, 1 - share - again), _weights(phantoms, share), _weights(recorrupted, again)]
        )
        self.seed = seed
        self.transform = training_transforms(slab, settings, with_map)

    def __getitem__(self, index: int) -> Batch:
        generator = np.random.default_rng([self.seed, index])
        case = self.cases[int(generator.choice(len(self.cases), p=self.weights))]
        self.transform.set_random_state(seed=int(generator.integers(2**31)))
        item = self.transform({"case": case})
        n = len(item["target"])
        images = (key for key in ("target", "slab", "noise_map", "weight") if key in item)
        return {key: torch.from_numpy(np.ascontiguousarray(item[key], np.float32)) for key in images} | {
            "mean_only": torch.full((n,), case.has_own_noise),
            "level": torch.full((n,), float(item["level"])),
            "colour": torch.from_numpy(np.tile(item["colour"], (n, 1))),
        }


def _weights(cases: Sequence[Case], share: float) -> NDArray[np.float64]:
    """Probability of each case ~ sqrt(slices), `share` in all."""
    weights = np.sqrt([len(case.clean) for case in cases])
    return weights / max(weights.sum(), 1e-9) * share


def _require_large(cases: Sequence[Case], smallest: int) -> None:
    if not cases:
        raise InputError("there is nothing to train on: no line of the manifest has the split 'train'")
    small = [f"{c.name} ({c.clean.shape[1]} x {c.clean.shape[2]})" for c in cases if min(c.clean.shape[1:]) < smallest]
    if small:
        raise InputError(
            f"patches need slices of at least {smallest} x {smallest} pixels after shrinking, smaller are: "
            f"{', '.join(small)}; lower augmentation.patch or factors, or leave these scans out"
        )


class Numbers(Sampler[list[int]]):
    """Batches of sample numbers from `first_step` to `last_step` for one of `world` processes."""

    def __init__(self, first_step: int, last_step: int, size: int, rank: int = 0, world: int = 1) -> None:
        self.steps, self.size, self.rank, self.world = range(first_step, last_step), size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            start = (step * self.world + self.rank) * self.size
            yield list(range(start, start + self.size))

    def __len__(self) -> int:
        return len(self.steps)


def collate(items: list[Batch]) -> Batch:
    """Patches of several slabs in one batch."""
    return {key: torch.cat([item[key] for item in items]) for key in items[0]}
