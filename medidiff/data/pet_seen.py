"""What a PET model will have seen: its recipe drawn once more, and measured as inference measures a block.

The training chain itself (`BlockDataset`, before blocks are cut) gives the volumes, with sample numbers far from those
that training uses. Voxel sizes are those of the volumes drawn, too: most bodies are phantoms and have no headers.
"""

from __future__ import annotations

import math

import numpy as np
from monai.transforms import Compose

from medidiff.data.pet_dataset import BlockDataset
from medidiff.data.pet_transforms import RandBlocksd, RandGuided
from medidiff.data.seen import SCATTER, SEED
from medidiff.noise.activity import LEAST
from medidiff.noise.traits import block_traits_of
from medidiff.seen import LOGARITHMS, Range, Seen

DRAWS = 200
LEVEL_SCATTER = 0.25  # octaves: blocks of one scan differ by as much in relative noise
LEAST_RELATIVE = 2 * LEAST  # an octave above the estimator's floor, where nothing was found and nothing is removed
OCTAVES = {"relative": LEVEL_SCATTER, "colour_plane": SCATTER, "colour_axis": SCATTER}


def pet_seen_of(dataset: BlockDataset, draws: int = DRAWS) -> Seen:
    """The range of a recipe for PET, of `draws` parts of bodies as its chain makes them."""
    drawn = [_drawn(dataset, index) for index in range(draws)]
    ranges = {name: _range(name, drawn) for name in (*OCTAVES, "pixel_mm", "spacing_mm")}
    level = ranges["relative"]
    ranges["relative"] = None if level is None else level.at_least(LEAST_RELATIVE)
    return Seen.model_validate({"slices": draws, **ranges})


def _range(name: str, drawn: list[dict[str, float]]) -> Range | None:
    """With the tolerance of what is measured in noise."""
    found = Range.of(one.get(name, math.nan) for one in drawn)
    if found is None or name not in OCTAVES:
        return found
    return found.widened(OCTAVES[name], is_logarithm=name in LOGARITHMS)


def _drawn(dataset: BlockDataset, index: int) -> dict[str, float]:
    """Traits and voxel size of one part of a body, of any number of slices."""
    later = (RandGuided, RandBlocksd)
    chain = Compose([step for step in dataset.transform.transforms if not isinstance(step, later)])
    generator = np.random.default_rng([SEED, index])
    case = dataset.cases[int(generator.choice(len(dataset.cases), p=dataset.weights))]
    chain.set_random_state(seed=int(generator.integers(2**31)))
    item = chain({"case": case})
    spacing_mm, _, pixel_mm = item["spacing_mm"]
    return {**block_traits_of(item["activity"]), "spacing_mm": float(spacing_mm), "pixel_mm": float(pixel_mm)}
