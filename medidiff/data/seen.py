"""What a model will have seen: its recipe drawn once more, and measured as inference measures a scan.

The measures of slices come from the training chain itself (`PatchDataset`, before patches are cut), those of headers
from the scans of the train split. Sample numbers are far from those that training uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from monai.transforms import Compose

from medidiff.data.dataset import PatchDataset
from medidiff.data.manifest import Pair
from medidiff.data.projected import Measured
from medidiff.data.transforms import Augmentation, RandPatchesd
from medidiff.io.dicom import open_series, scan
from medidiff.io.headers import text
from medidiff.io.nifti import is_nifti_name, open_nifti
from medidiff.noise.level import FLOOR_HU, NoiseEstimate
from medidiff.noise.traits import traits_of
from medidiff.seen import LOGARITHMS, Facts, Range, Seen

SLICES = 400
SEED = 2**32 - 1  # of the generator of cases and windows; recipes count from 0
SCATTER = 0.1  # octaves: slices of one series differ by as much in frequency and colour
LEAST_NOISE = 2 * FLOOR_HU  # an octave above the estimator's floor, where nothing was found and nothing is removed


def seen_of(dataset: PatchDataset, pairs: Sequence[Pair], factors: Sequence[float], slices: int = SLICES) -> Seen:
    """The range of a recipe: `slices` draws of its dataset, and headers of the train split.

    Pixels of simulated pairs are enlarged by `factors`, see `pixel_factors`.
    """
    drawn = [_drawn(dataset, index) for index in range(slices)]
    ranges = {name: Range.of(one[name] for one in drawn) for name in drawn[0]}
    for name in ("frequency", "colour_half", "colour_quarter"):
        found = ranges[name]
        ranges[name] = None if found is None else found.widened(SCATTER, is_logarithm=name in LOGARITHMS)
    level = ranges["noise_hu"]
    ranges["noise_hu"] = None if level is None else level.at_least(LEAST_NOISE)
    return _of_headers(pairs, factors).model_copy(update={"slices": slices, **ranges})


def projected_seen(scans: Sequence[Measured], pairs: Sequence[Pair]) -> Seen:
    """The range of a recipe of projections: the levels and colours of its backprojections, and headers of the train
    split."""
    levels, half, quarter = np.concatenate([scan.facts for scan in scans]).T
    ranges = {"noise_hu": levels, "colour_half": half, "colour_quarter": quarter}
    found = {name: Range.of(float(value) for value in values) for name, values in ranges.items()}
    return _of_headers(pairs, (1.0,)).model_copy(update={"slices": len(levels), **found})


def pixel_factors(factors: Sequence[float], settings: Augmentation) -> tuple[float, ...]:
    """The extremes of what shrinking by `factors` and the random zoom of a recipe make of a pixel's size."""
    return tuple(factor / zoom for factor in factors for zoom in settings.zoom)


def _drawn(dataset: PatchDataset, index: int) -> dict[str, float]:
    """Traits of one slice of the recipe."""
    chain = Compose([step for step in dataset.transform.transforms if not isinstance(step, RandPatchesd)])
    generator = np.random.default_rng([SEED, index])
    case = dataset.cases[int(generator.choice(len(dataset.cases), p=dataset.weights))]
    chain.set_random_state(seed=int(generator.integers(2**31)))
    item = chain({"case": case})
    estimate = NoiseEstimate(float(item["level"]), (float(item["colour"][0]), float(item["colour"][1])))
    return traits_of(item["slab"][len(item["slab"]) // 2], estimate)


def _of_headers(pairs: Sequence[Pair], factors: Sequence[float]) -> Seen:
    train = [pair for pair in pairs if pair.split == "train"]
    found = [(facts, factors if pair.low is None else (1.0,)) for pair in train for facts in _facts(pair)]
    scans = [facts for facts, _ in found]
    return Seen(
        pixel_mm=Range.of(facts.pixel_mm * factor for facts, shrunk in found for factor in shrunk),
        spacing_mm=Range.of(facts.spacing_mm for facts in scans if facts.spacing_mm),
        thickness_mm=Range.of(facts.thickness_mm for facts in scans if facts.thickness_mm),
        kernels=_names(facts.kernel for facts in scans),
        manufacturers=_names(facts.manufacturer.upper() for facts in scans),
    )


def _names(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found) - {""}))


def _facts(pair: Pair) -> list[Facts]:
    """What the headers of a pair's input say."""
    path = pair.low or pair.full
    if is_nifti_name(path):
        geometry = open_nifti(path).geometry
        return [Facts(geometry.pixel_spacing_mm[1], geometry.slice_spacing_mm)]
    usable = [(series, text(open_series(series).header(0), "Manufacturer")) for series in scan(path).usable]
    return [Facts(s.spacing[2], s.spacing[0], s.thickness_mm, s.kernel, maker) for s, maker in usable]
