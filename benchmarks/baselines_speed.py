"""Processor seconds that each classical method takes for a 512 x 512 slice, noise level included.

OMP_NUM_THREADS=1 python benchmarks/baselines_speed.py
"""

from __future__ import annotations

import time

import numpy as np

from medidiff.baselines import BASELINES
from medidiff.errors import UsageError
from medidiff.inference import Options, load_method

SIDE, NOISE_HU, REPEATS = 512, 30.0, 3


def main() -> None:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = np.where(x**2 + y**2 < (0.4 * SIDE) ** 2, 40, -1000) + 30 * ((x // 16 + y // 16) % 2)
    slab = (disc + np.random.default_rng(0).normal(0, NOISE_HU, disc.shape)).astype(np.float32)[None]
    for name in BASELINES:
        try:
            restorer = load_method(Options(method=name)).for_case("")
        except UsageError as absent:
            print(absent)
            continue
        restorer.slice(0, slab, None)  # compiled
        began = time.process_time()
        for index in range(REPEATS):
            restorer.slice(index, slab, None)
        print(f"{name:10} {(time.process_time() - began) / REPEATS:6.2f} s")


if __name__ == "__main__":
    main()
