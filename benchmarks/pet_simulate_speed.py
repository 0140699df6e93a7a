"""Seconds that PET simulation takes: projector, counts, OSEM 3 x 21, and a whole `Acquired.image`.

    python benchmarks/pet_simulate_speed.py [--slices 48] [--workers 2]

The object is a uniform cylinder in 128 x 128 pixels of 4 mm. Target: OSEM 3 x 21 of 48 slices in at most 5 s on
2 cores. CPU seconds are those of all threads of this process; wall time means little on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from medidiff.physics.osem import map_rdp
from medidiff.physics.pet import ParallelGeometry, beam
from medidiff.physics.pet_phantoms import geometry, render, uniform
from medidiff.simulate_pet import Acquired, LowCount
from medidiff.volume import Volume

SPACING_MM = (4.0, 4.0, 4.0)


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:42s} {time.perf_counter() - wall:7.2f} s, {time.process_time() - cpu:6.2f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    shape = (asked.slices, 128, 128)
    volume = Volume(render(uniform(), shape, SPACING_MM).suv, geometry(shape, SPACING_MM), "SUV")
    acquired = Acquired(volume, LowCount(20), "benchmark", workers=asked.workers)
    with timed("projector, 4 mm"):
        matrix = beam((128, 128), 4.0, ParallelGeometry()).matrix
    with timed("projector, 2 mm"):
        beam((256, 256), 2.0, ParallelGeometry())
    with timed("attenuation and projections"):
        acquired.calibration  # noqa: B018
    with timed("Poisson and thinning"):
        data = acquired.counts(0, asked.slices)
    acquired.coarse.subsets(21)
    with timed("OSEM 3 x 21, one thread"):
        acquired.reconstruct(data)
    with timed(f"all of it once more, {asked.workers} workers"):
        acquired.image()
    few = acquired.counts(0, 8)
    with timed("MAP-RDP 8 x 21, 8 slices, one thread"):
        map_rdp(few, acquired.coarse, 0.1, slice_mm=4.0)
    print(f"{matrix.nnz / 1e6:.1f} M non-zeros; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
