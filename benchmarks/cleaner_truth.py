"""How does a model compare where the truth of a trial holds less noise of its own?

    python benchmarks/cleaner_truth.py --data SCANS [--model ct ...] [--split tune] [--shrink 2] [--cleaning nlm]

The trials of benchmarks/ct_bars.py call a cleaned scan noise-free. At strong edges non-local means leaves most of a
scan's noise, and what is left counts as anatomy: it is in every method's error, and a method that takes it out is
charged for it. Averaging pixels before cleaning (--shrink) takes noise out that no cleaning finds. Everything else is
as there: kernels, doses, noise of a fan-beam scan. RMSE inside the body in HU, mean over slices, and per cent below
BM3D at the best of a few strengths, chosen on these very slices, which flatters it. Research use only, not for
diagnosis.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bars.methods import Network
from numpy.typing import NDArray

from medidiff.baselines import BASELINES
from medidiff.data.clean import average_along_z, piecewise_clean, pseudo_clean
from medidiff.data.manifest import Pair, load, read_manifest
from medidiff.data.prepare import AIR_HU
from medidiff.data.trials import both_doses, spread
from medidiff.noise.level import noise_level
from medidiff.patches import slab_indices

CLEANINGS = {"nlm": pseudo_clean, "tv": piecewise_clean}
STRENGTHS = (1.4, 1.7, 2.0, 2.5, 3.0)
DOSES = (0.5, 0.25, 0.1)
SLAB = 3
BODY_HU = -950.0


def clean_slabs(pair: Pair, cleaning: str, shrink: float) -> Iterator[tuple[NDArray[np.float32], float]]:
    """A clean slab (SLAB, rows, columns) of the middle of a scan, and its pixel size in mm."""
    volume = load(pair.full)
    n, pixel_mm = len(volume.array), volume.geometry.pixel_spacing_mm[0]
    smooth = average_along_z(np.maximum(volume.array, AIR_HU), volume.geometry.slice_spacing_mm)
    for index in spread(n, 1):
        slab = np.stack([CLEANINGS[cleaning](smooth[k], shrink) for k in slab_indices(index, n, SLAB)])
        yield slab, pixel_mm * volume.array.shape[1] / slab.shape[1]


def rmse(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    body = truth > BODY_HU
    return float(np.sqrt(np.mean((image - truth)[body] ** 2, dtype=np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", nargs="+", default=["ct"])
    parser.add_argument("--split", default="tune")
    parser.add_argument("--shrink", type=float, default=2.0)
    parser.add_argument("--cleaning", choices=list(CLEANINGS), default="nlm")
    options = parser.parse_args()
    networks = [Network.of(name, Path(name).parent.name or name, "cpu") for name in options.model]
    pairs = [p for p in read_manifest(options.manifest, options.data) if p.split == options.split]
    found: dict[tuple[str, float], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, pair in enumerate(pairs):
        for slab, pixel_mm in clean_slabs(pair, options.cleaning, options.shrink):
            for kernel in ("smooth", "sharp"):
                for dose in DOSES:
                    generator = np.random.default_rng([number, round(1000 * dose)])
                    low, _, truth = both_doses(slab, pixel_mm, dose, kernel, generator)
                    y, row = low[SLAB // 2], found[kernel, dose]
                    row["input"].append(rmse(y, truth))
                    for strength in STRENGTHS:
                        answer = BASELINES["bm3d"].function(y, noise_level(y), strength)
                        row[f"bm3d {strength:g}"].append(rmse(answer, truth))
                    for network in networks:
                        row[network.name].append(rmse(network.run(low), truth))
    for (kernel, dose), row in found.items():
        means = {name: float(np.mean(values)) for name, values in row.items()}
        best = min(value for name, value in means.items() if name.startswith("bm3d"))
        gains = [f"{n.name} {means[n.name]:.2f} ({100 * (1 - means[n.name] / best):+.1f} %)" for n in networks]
        print(f"{kernel} {dose:g}: input {means['input']:.2f}  bm3d {best:.2f}  {'  '.join(gains)}")


if __name__ == "__main__":
    main()
