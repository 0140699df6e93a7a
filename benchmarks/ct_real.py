"""What is gained on real noise: a series' own noise level and spectrum, inserted by `medidiff simulate`'s functions.

    python benchmarks/ct_real.py --data SCANS [--model ct] [--dose 0.25]

The reference is the real full-dose series with its own noise, which the low dose shares. So at a quarter of the dose
the noise-free truth itself would gain only 4.77 dB on the low dose, and the best conceivable answer, a blend of truth
and low dose, 6.02 dB (docs/concepts.md). Printed: gain in RMSE inside the patient of the answer, and of its best blend
with the low dose, over three slices of every series that is in `test` or `tune`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.data.manifest import read_manifest
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.io.dicom import open_series, scan
from medidiff.model import load
from medidiff.patches import slab_indices
from medidiff.simulate import Acquisition, LowDoseSource, low_dose

BLENDS = np.linspace(0, 0.5, 11)


def gains(restorer: Restorer, folder: Path, dose: float) -> tuple[float, float]:
    """(gain of the answer, gain of the best blend) in dB, mean over three slices of the one series of a folder."""
    series = scan(folder).usable[0]
    source, acquisition = open_series(series), Acquisition.of(series)
    low = LowDoseSource(source, acquisition, low_dose(source, acquisition, dose))
    n, found = source.geometry.n_slices, []
    for index in (n // 4, n // 2, 3 * n // 4):
        slab = np.stack([low.read(k) for k in slab_indices(index, n, restorer.model.slab)])
        full, y, answer = source.read(index), slab[len(slab) // 2], restorer.slice(index, slab).image
        body = full > -500

        def decibel(image: NDArray[np.float32], full=full, y=y, body=body) -> float:
            return float(10 * np.log10(np.mean((y - full)[body] ** 2) / np.mean((image - full)[body] ** 2)))

        found.append((decibel(answer), max(decibel(answer + np.float32(a) * (y - answer)) for a in BLENDS)))
    means = np.mean(found, axis=0)
    return float(means[0]), float(means[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", default="ct")
    parser.add_argument("--dose", type=float, default=0.25)
    options = parser.parse_args()
    restorer = Restorer(load(options.model), Options().parameters())
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split in ("test", "tune")]
    for pair in pairs:
        if pair.full.is_dir():
            answer, blend = gains(restorer, pair.full, options.dose)
            print(f"{pair.full.name:32} answer {answer:5.2f} dB   best blend {blend:5.2f} dB", flush=True)


if __name__ == "__main__":
    main()
