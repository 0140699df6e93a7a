"""PET from counts by a network that is pulled back to what was counted.

    y      OSEM, filtered, what the network was trained on
    x0     E[x | y] of the network, block by block (see blocks.py)
    x      the maximum of    L(x) - sum (x - x0)^2 / (2 trust v)    L: Poisson log-likelihood of the counts

The answer is x0 + G5 (x - x0), never below 0: what the counts add has the filter of y too, for single voxels of x are
noisy where counts are believed. More `steps` begin again from the answer in place of y (plug-and-play; Venkatakrishnan
et al. 2013): less bias of small lesions and a SUVmax that is far too high. All this is measured, not derived
(benchmarks/projections_pet.py).

A network shrinks what stands out towards what surrounds it, a small lesion by a third or more at a twentieth of the
counts: truth - x0 is about a share of x0 - G x0, `G` a Gaussian of WIDE_MM. So the estimate is believed where it is
even, where all it does is take out noise, and the counts are where it shows structure:

    v = (x0 - G x0)^2 + (SHARE r)^2        r: local noise level of y (medidiff.noise.activity)

`trust` 1 is a loss of half of the contrast. With 0 x is x0, with a large value OSEM that starts from x0.
EM's surrogate for L and the penalty, `t = trust v`, have their common maximum at the root of a quadratic
(De Pierro 1995, IEEE TMI 14:132), which is never negative and leaves no step to be chosen:

    x <- (h + sqrt(h^2 + 4 t c)) / 2        c = x P^T f (y / ybar),  h = x0 - t P^T f

Each of the ordered subsets takes its part of the penalty, `t` times their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.inference.blocks import CORE, HALO
from medidiff.inference.guard import judged_block
from medidiff.inference.restore import exact_convolutions
from medidiff.model import Model
from medidiff.noise.activity import activity_of
from medidiff.physics.osem import ITERATIONS, LEAST, SUBSETS, TINY, Subsets, columns_of, images_of, osem
from medidiff.physics.pet import ParallelBeam, Sinograms
from medidiff.progress import Progress, silent

Array = NDArray[np.float32]
Spacing = tuple[float, float, float]

TRUST = 0.3
STEPS = 1
PULLS = 2  # iterations over all subsets; two more change lesions by about 1 %
FILTER_MM, AGAIN_MM = 5.0, 3.0  # before the network, at first and later: training smoothed by 3 mm at least
WIDE_MM = 25.0  # FWHM of what surrounds a voxel
SHARE = 0.1  # of the noise level: what the network may be off where it shows nothing
FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, eq=False)
class GuidedPet:
    """(slices, rows, columns) in SUV: the answer, the network's of the first step, and the filtered OSEM that it saw.

    calls   how often each slice met the whole projector ("apply") and its adjoint; nfe: network evaluations of a slice
    weight  share of the network's change that each slice was allowed in the first step (see guard.py)
    """

    images: Array
    network: Array
    filtered: Array
    calls: dict[str, int]
    nfe: int
    weight: Array


def guided_osem(
    data: Sinograms,
    beam: ParallelBeam,
    model: Model,
    spacing_mm: Spacing,
    *,
    trust: float = TRUST,
    steps: int = STEPS,
    pulls: int = PULLS,
    iterations: int = ITERATIONS,
    subsets: int = SUBSETS,
    filter_mm: float = FILTER_MM,
    guide: Array | None = None,
    progress: Progress = silent,
) -> GuidedPet:
    """All slices of a scan at once; `data.factors` hold the calibration, so that images are in SUV.

    spacing_mm   of slices (0 for a single one), rows and columns
    iterations   of the OSEM that the network sees, `pulls` those that follow; `subsets` divides the number of angles
    guide        a CT on the same grid in HU, for models that take one
    progress     counts steps
    """
    filtered = smoothed(osem(data, beam, iterations, subsets), spacing_mm, filter_mm)
    images, (network, level, weight) = filtered, network_mean(model, filtered, spacing_mm, guide)
    progress(1, steps)
    x0 = network
    for k in range(steps):
        if k:
            x0, level, _ = network_mean(model, smoothed(images, spacing_mm, AGAIN_MM), spacing_mm, guide)
            progress(k + 1, steps)
        x = pulled(data, beam, x0, np.float32(trust) * doubt(x0, level, spacing_mm), pulls, subsets)
        images = np.maximum(x0 + smoothed(x - x0, spacing_mm, filter_mm), 0)
    passes = iterations + steps * pulls
    calls = {"apply": passes, "adjoint": passes + 1 + steps}  # beside them the sensitivities
    return GuidedPet(images, network, filtered, calls, steps, weight)


def smoothed(images: Array, spacing_mm: Spacing, fwhm_mm: float) -> Array:
    """A Gaussian of `fwhm_mm` in three dimensions."""
    return np.asarray(gaussian_filter(images, [fwhm_mm / FWHM / mm if mm else 0.0 for mm in spacing_mm]), np.float32)


def network_mean(
    model: Model, images: Array, spacing_mm: Spacing, guide: Array | None = None
) -> tuple[Array, Array, Array]:
    """(E[x | y] in SUV, not below 0, noise level of `images`, (slices,) share of the change that was allowed).

    A slice's answer depends on its block alone.
    """
    mean, level, weight = np.empty_like(images), np.empty_like(images), np.empty(len(images), np.float32)
    for core, block in _blocks(len(images)):
        values, inner = images[block], slice(core.start - block.start, core.stop - block.start)
        activity = activity_of(values, spacing_mm)
        with torch.inference_mode(), exact_convolutions(model.device):
            cond = model.told(values, activity, spacing_mm, None if guide is None else guide[block])
            z = model.denoiser.mean(cond)[0, 0].float().cpu().numpy()
        answer = z[tuple(slice(n) for n in values.shape)] * activity.level
        _, allowed = judged_block(model, activity)
        mean[core] = (values + np.float32(allowed) * (answer - values))[inner]
        level[core], weight[core] = activity.level[inner], allowed
    return np.maximum(mean, 0), level, weight


def _blocks(n: int) -> Iterator[tuple[slice, slice]]:
    """Slices to be answered, and what the network is shown for them."""
    for start in range(0, n, CORE):
        stop = min(start + CORE, n)
        yield slice(start, stop), slice(max(start - HALO, 0), min(stop + HALO, n))


def doubt(x0: Array, level: Array, spacing_mm: Spacing) -> Array:
    """`v`: how far the network's answer may be off, SUV^2."""
    contrast = x0 - smoothed(x0, spacing_mm, WIDE_MM)
    return np.asarray(contrast**2 + (np.float32(SHARE) * level) ** 2, np.float32)


def pulled(data: Sinograms, beam: ParallelBeam, x0: Array, variance: Array, iterations: int, subsets: int) -> Array:
    """(slices, rows, columns) that fits the counts and is off `x0` by `variance`: EM with a quadratic penalty.

    `x0` is not below 0; what the scanner does not see is 0.
    """
    steps = Subsets(data, beam, subsets)
    target, seen = columns_of(x0), steps.total > 0
    share = np.float32(subsets) * columns_of(variance)
    x = np.maximum(target, LEAST * target.mean(0), dtype=np.float32) * seen
    for m in steps.order * iterations:
        h, product = target - share * steps.sensitivity[m], share * x * steps.ratio(m, x)
        root = np.sqrt(h * h + 4 * product)
        x = np.where(h > 0, (h + root) / 2, 2 * product / np.maximum(root - h, TINY)) * seen  # without cancellation
    return images_of(x, beam)
