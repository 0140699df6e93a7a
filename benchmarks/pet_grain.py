"""What a PET model does with noise that it has not seen: of other grain, and more than any scanner's.

    python benchmarks/pet_grain.py --model FILE [--cache runs/cache]

A torso phantom is acquired at one reduction factor (a minute, cached). Its noise is multiplied, filtered with its
target, or replaced by noise of a share of the local activity that is white, finer, or as wide as blotches. Without the
guard of medidiff/seen.py: what is left of the RMSE inside the body, and how much of the activity is gone.
Colours mean nothing where the relative noise is above 2, the most that a network is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.data.pet_cases import PetBodies, PetCase, torso_cases
from medidiff.data.pet_transforms import FWHM
from medidiff.model import load
from medidiff.noise.activity import BODY_SUV, FLOOR_SUV, REACH_MM, activity_of

Image = NDArray[np.float32]

BODY = PetBodies(torsos=1, slices=24, pasted=0, realisations=1, drf=(60.0, 60.001), counts=(6e5, 6.001e5), seed=2**17)
FILTERS_MM = (7.0, 10.0, 15.0, 20.0)
TIMES = (1.0, 2.0, 3.0, 5.0, 8.0)
SHARE = 0.5  # of the local activity


def scans(case: PetCase) -> Iterator[tuple[str, Image, Image]]:
    """(what was done, scan, truth), each (slices, rows, columns) in SUV."""
    low, truth = np.asarray(case.low[0]), np.asarray(case.target)
    for times in TIMES:
        yield f"its noise times {times:g}", truth + np.float32(times) * (low - truth), truth
    for mm in FILTERS_MM:
        sigma = [mm / FWHM / step for step in case.spacing_mm]
        yield f"filtered by {mm:g} mm", gaussian_filter(low, sigma), gaussian_filter(truth, sigma)
    activity = np.maximum(gaussian_filter(truth, [REACH_MM / step for step in case.spacing_mm]), FLOOR_SUV)
    for name, noise in grains(truth.shape).items():
        yield name, truth + np.float32(SHARE) * activity * noise, truth


def grains(shape: tuple[int, ...]) -> dict[str, Image]:
    """Noise of standard deviation 1."""
    white = np.random.default_rng(0).normal(size=shape)
    found = {
        "white": white,
        "finer along z": np.diff(white, axis=0, append=white[:1]),
        "finer in the plane": np.diff(np.diff(white, axis=1, append=white[:, :1]), axis=2, append=white[:, :, :1]),
        "blotches of 2 voxels": gaussian_filter(white, 2.0),
        "blotches of 4 voxels": gaussian_filter(white, 4.0),
    }
    return {name: (noise / noise.std()).astype(np.float32) for name, noise in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or file")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    options = parser.parse_args()
    model, case = load(options.model), torso_cases(BODY, [], options.cache)[0]
    print(f"{'':24} relative  colours        RMSE left  activity")
    for name, scan, truth in scans(case):
        found, answer = activity_of(scan, case.spacing_mm), model.block_mean(scan, case.spacing_mm, None)
        body = truth > BODY_SUV
        left = np.sqrt(np.mean((answer - truth)[body] ** 2) / np.mean((scan - truth)[body] ** 2))
        bias = (answer - truth)[body].mean() / truth[body].mean()
        colours = " ".join(f"{colour:6.2f}" for colour in found.colour)
        print(f"{name:24} {found.found:8.3f}  {colours}  {100 * left:8.0f} %  {100 * bias:+6.1f} %", flush=True)


if __name__ == "__main__":
    main()
