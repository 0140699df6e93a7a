"""How well can a lesion be seen in a low count at all, and what does a model leave of it?

    python benchmarks/pet_visible.py --data SCANS [--model pet ...] [--split tune|test] [--drf 4 10 20 50]

For every drawn sphere of the torsos of benchmarks/pet_bars.py: the signal-to-noise ratio of a matched filter, and the
bias of SUVmean, each against the noise-free reconstruction of the same scanner. The filter is the best of some
Gaussians, in units of the local noise; the signal is the sphere in the noise-free image less what lies around it, and
the noise what the low count adds, over the body. No observer that looks at the image alone, and has to find the sphere
among thousands of places, can do much at a ratio below 4: chance alone makes dozens of foci that are as bright (they
are counted as well). A mean over what is likely fades there, whoever computes it. Research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from bars.trials import Store
from numpy.typing import NDArray
from petbars.methods import Network
from petbars.trials import SPLITS, Target, Trial, shares, torso_case, trials
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter

from medidiff import DISCLAIMER
from medidiff.data.manifest import read_manifest
from medidiff.data.pet_cases import masks_of, pasted
from medidiff.metrics.pet import FWHM, bias_percent, lesion
from medidiff.noise.activity import activity_of

FILTERS_MM = (6.0, 8.0, 10.0, 13.0, 17.0, 22.0)
BANDS = (0.0, 3.0, 5.0, 8.0, np.inf)
SEEN = (3.0, 4.0, 5.0, 6.0)
NEAR, AROUND = 2, 5  # voxels: what belongs to a sphere, and where what lies around it is measured

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """A sphere in a trial: its diameter, its signal-to-noise ratio, and the bias in % of each image by name."""

    diameter_mm: float
    ratio: float
    bias: dict[str, float]


def filtered(image: Image, spacing: tuple[float, float, float], fwhm_mm: float) -> Image:
    return np.asarray(gaussian_filter(image, [fwhm_mm / FWHM / step for step in spacing]))


def noise_of(trial: Trial) -> tuple[Image, Image]:
    """(noise in units of its local level, that level)."""
    level = activity_of(trial.low, trial.case.spacing_mm).level
    return (trial.low - trial.ideal) / level, level


def ratio(trial: Trial, target: Target, noise: Image, level: Image) -> float:
    """Signal-to-noise ratio of the best of the filters at the middle of a sphere."""
    labels = trial.case.labels
    assert labels is not None
    mask = labels == target.number
    near = binary_dilation(mask, iterations=NEAR + 1)
    ring = binary_dilation(mask, iterations=AROUND) & ~binary_dilation(labels > 0, iterations=NEAR)
    signal = np.where(near, (trial.ideal - np.median(trial.ideal[ring])) / level, 0.0)
    middle = tuple(np.argwhere(mask).mean(0).round().astype(int))
    spacing = trial.case.spacing_mm
    return max(
        float(filtered(signal, spacing, mm)[middle] / filtered(noise, spacing, mm)[trial.body].std())
        for mm in FILTERS_MM
    )


def chance(trial: Trial, noise: Image) -> list[int]:
    """Peaks of the noise alone in the body above SEEN, through the filter of 10 mm."""
    smooth = filtered(noise, trial.case.spacing_mm, 10.0)
    peaks = (maximum_filter(smooth, 3) == smooth) & trial.body
    return [int((smooth[peaks] > k * smooth[trial.body].std()).sum()) for k in SEEN]


def spheres(trial: Trial, images: dict[str, Image]) -> Iterator[Seen]:
    noise, level = noise_of(trial)
    for target in trial.case.targets:
        if not target.is_pasted:
            mask, truth = trial.case.labels == target.number, trial.reference("ideal", target.number).mean
            bias = {
                name: bias_percent(lesion(image, mask, trial.case.spacing_mm).mean, truth)
                for name, image in images.items()
            }
            yield Seen(target.diameter_mm, ratio(trial, target, noise, level), bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_pet.csv")
    parser.add_argument("--model", nargs="*", default=["pet"], help="embedded models or files; none: the ratios alone")
    parser.add_argument("--split", default="tune", choices=SPLITS)
    parser.add_argument("--torsos", type=int, default=4)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--drf", type=float, nargs="+", default=[4.0, 10.0, 20.0, 50.0])
    parser.add_argument("--cache", type=Path, default=Path("runs") / "petbars")
    options = parser.parse_args()
    networks = {Path(file).stem: Network.of(file, file, "cpu")[0] for file in options.model}
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == options.split]
    cuts = shares([pasted(pair.full) for pair in pairs if masks_of(pair.full)], options.torsos)
    cases = [torso_case(options.split, k, options.slices, cut) for k, cut in enumerate(cuts)]
    print(f"split {options.split}. {DISCLAIMER.capitalize()}.")
    for drf in options.drf:
        found, peaks = [], []
        for case in cases:
            (trial,) = trials(case, [drf], Store(options.cache / "images"))
            images = {"low count": trial.low, **{name: one.answer(trial) for name, one in networks.items()}}
            found += spheres(trial, images)
            peaks.append(chance(trial, noise_of(trial)[0]))
        show(drf, found, np.mean(peaks, axis=0))


def show(drf: float, found: list[Seen], peaks: NDArray[np.floating]) -> None:
    """Ratios by diameter, and bias by ratio."""
    told = ", ".join(f"{n:.1f} above {k:g}" for k, n in zip(SEEN, peaks, strict=True))
    print(f"\nDRF {drf:g}: foci of chance in a torso: {told}")
    for size in sorted({round(one.diameter_mm) for one in found}):
        ratios = np.sort([one.ratio for one in found if round(one.diameter_mm) == size])
        spread = f"ratio median {np.median(ratios):5.1f}, {ratios[0]:.1f} to {ratios[-1]:.1f}"
        print(f"  {size:3d} mm, {len(ratios):2d}: {spread}")
    names = list(found[0].bias)
    print("  spheres up to 17 mm by ratio: mean bias of SUVmean, %".ljust(60) + "".join(n.rjust(14) for n in names))
    for low, high in pairwise(BANDS):
        here = [one for one in found if low <= one.ratio < high and one.diameter_mm < 18]
        if here:
            cells = "".join(f"{np.mean([one.bias[name] for one in here]):14.0f}" for name in names)
            print(f"    {low:g} to {high:g}, {len(here)} spheres".ljust(60) + cells)


if __name__ == "__main__":
    main()
