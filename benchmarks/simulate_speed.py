"""Seconds that `medidiff simulate` takes for 100 slices of 512 x 512, reading, fitting and writing included.

    python benchmarks/simulate_speed.py [--slices 100]

The series is a noisy elliptical body, made on the spot. Target: at most 90 s on 2 cores. The compiled kernels are
cached by the first run on a machine, so that run takes some seconds more.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medidiff.cli.simulate import simulate
from medidiff.io.blank import BlankSource
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.physics.ellipses import Ellipse, image
from medidiff.volume import Geometry, Volume

BODY = [Ellipse(160, 115, 1040.0), Ellipse(40, 30, 40.0, x0=-60, y0=20), Ellipse(16, 16, 400.0, y0=80)]
PIXEL_MM, MATRIX = 0.75, (512, 512)


def make_series(folder: Path, n_slices: int) -> None:
    """Write a body with noise of 15 HU as DICOM."""
    clean = image(BODY, MATRIX, PIXEL_MM) - 1000
    rng = np.random.default_rng(0)
    noise = [15 * 3.5 * gaussian_filter(rng.standard_normal(MATRIX), 1.0) for _ in range(n_slices)]
    array = np.stack([clean + one for one in noise]).astype(np.float32)
    affine = np.diag([2.0, PIXEL_MM, PIXEL_MM, 1.0])
    volume = Volume(array, Geometry.from_affine(affine, (n_slices, *MATRIX)), "HU")
    writer = DerivedWriter(BlankSource(volume), folder, Derivation("benchmark phantom", is_ai=False))
    for index in range(n_slices):
        writer.write(index, volume.read(index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=100)
    n_slices = parser.parse_args().slices
    with tempfile.TemporaryDirectory() as folder:
        make_series(Path(folder) / "full", n_slices)
        wall, cpu = time.perf_counter(), time.process_time()
        simulate(Path(folder) / "full", 0.25, out=Path(folder) / "low")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    load = os.getloadavg()[0]
    print(f"{n_slices} slices of 512 x 512: {wall:.1f} s, {cpu:.1f} s of CPU; {os.cpu_count()} cores, load {load:.1f}")


if __name__ == "__main__":
    main()
