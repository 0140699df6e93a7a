"""Does a network that is pulled back to the counts lose less of lesions than one that filters the image?

    python benchmarks/projections_pet.py [--split tune|test] [--drf 4 20] [--torsos 3] [--realisations 5] [--out FILE]

Torsos of benchmarks/petbars with spheres of 10 to 37 mm and known uptake, never trained on; strengths were chosen on
`tune`, what is reported is `test`. Each is scanned several times at each reduction factor, from the same means:

    osem     3 x 21, its Gaussian in mm          map-rdp   its beta
    network  on the OSEM of 5 mm, blended with it: the share of OSEM in % (post-processing)
    shaped   the same, but each voxel blended by the doubt that `guided` uses: what it gains without the counts
    guided   medidiff.inference.guided_pet, its trust

Noise: standard deviation over the scans, root of its mean square over voxels, in % of their mean: in the body off the
lesions, and in the liver. Bias: of a sphere's SUVmean, mean over the scans, in % of the *known uptake* in the same
voxels (partial volume included), or of the noise-free reconstruction, OSEM of 5 mm of the expected counts. "At equal
noise" takes mean |bias| of post-processing at the body noise of `guided`, between its strengths. Research use only,
not for diagnosis.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from petbars.judge import BANDS
from petbars.trials import SPLITS, Case, torso_case
from scipy.ndimage import binary_dilation

from medidiff import DISCLAIMER
from medidiff.inference.guided_pet import FILTER_MM, doubt, guided_osem, smoothed
from medidiff.metrics.pet import bias_percent, lesion
from medidiff.model import load
from medidiff.noise.activity import BODY_SUV
from medidiff.physics.osem import map_rdp, osem
from medidiff.physics.pet import Means, ParallelBeam, Sinograms, beam, without_noise

FIGURES = ("mean", "max", "peak")
MAP_ITERATIONS = 4
NEAR = 2  # voxels around a lesion that are not background

Image = NDArray[np.float32]
Key = tuple[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is tried."""

    model: str
    filters_mm: tuple[float, ...]
    betas: tuple[float, ...]
    blends: tuple[float, ...]
    trusts: tuple[float, ...]


def drawn(means: Means, drf: float, seed: Sequence[int]) -> Sinograms:
    """A scan of 1 / `drf` of the time."""
    p = np.float32(1 / drf)
    additive = (means.scatter + means.randoms) * p
    counts = np.random.default_rng(seed).poisson(means.trues * p + additive)
    return Sinograms(counts.astype(np.float32), means.factors * p, additive)


def answers(data: Sinograms, projector: ParallelBeam, case: Case, tried: Settings) -> Iterator[tuple[Key, Image]]:
    """Every method at every strength on one scan."""
    spacing, model = case.spacing_mm, load(tried.model)
    raw = osem(data, projector)
    for mm in tried.filters_mm:
        yield ("osem", mm), smoothed(raw, spacing, mm)
    for beta in tried.betas:
        yield ("map-rdp", beta), map_rdp(data, projector, beta, slice_mm=spacing[0], iterations=MAP_ITERATIONS)
    for trust in tried.trusts:
        found = guided_osem(data, projector, model, spacing, trust=trust)
        yield ("guided", trust), found.images
    x0, y = found.network, found.filtered
    for percent in tried.blends:
        yield ("network", percent), x0 + np.float32(percent / 100) * (y - x0)
