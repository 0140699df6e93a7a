"""Seconds and agreement of projectors in one run: medidiff, the ASTRA Toolbox, scikit-image; forward and back.

    python benchmarks/projectors.py [--slices 8] [--views 360] [--matrix 512]

A flat fan of a full turn for medidiff and ASTRA (`pip install 'medidiff[astra]'`, left out where absent), parallel
beams over half a turn for all three. Best of three; building the matrix is told apart. Target: 8 slices of 512 x 512
at 360 fan views forward in at most 1 s on 2 cores, below 2 GiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage.transform import radon

from medidiff.errors import UsageError
from medidiff.physics.astra_projector import AstraProjector
from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.physics.projectors import Beam, Projector, evenly

FIELD_MM = 360.0
BODY = [Ellipse(150, 105, 0.0192), Ellipse(40, 30, 0.002, x0=-60, y0=20), Ellipse(16, 16, 0.01, y0=60)]
REPEATS = 3


def best(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of REPEATS, and what it gave."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return min(times), result


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(name: str, forward: float, back: float | None, error: float, note: str) -> None:
    backward = "-" if back is None else f"{back:.2f}"
    print(f"{name:28s} forward {forward:6.2f} s  back {backward:>6s} s  off the analytic {100 * error:.2f} %  {note}")


def measure(beam: Beam, x: torch.Tensor, pixel_mm: float) -> None:
    theta, s = beam.lines()
    truth = torch.from_numpy(integrals(BODY, theta, s).reshape(beam.shape)).float()
    matrix = (x.shape[1], x.shape[2])

    def off(y: torch.Tensor) -> float:
        return float((y[0] - truth).norm() / truth.norm())

    started = time.perf_counter()
    ours = Projector(matrix, pixel_mm, beam)
    ours.adjoint(ours.apply(x[:1]))
    built = time.perf_counter() - started
    forward, y = best(lambda: ours.apply(x))
    back, _ = best(lambda: ours.adjoint(y))
    megabytes = (ours.rows.n_bytes + ours.columns.n_bytes) / 1e6
    note = f"matrix {megabytes:.0f} MB, built in {built:.1f} s; peak {peak_gib():.2f} GiB"
    row(f"medidiff, {beam.kind}", forward, back, off(y), note)
    try:
        theirs = AstraProjector(matrix, pixel_mm, beam)
    except UsageError as error:
        print(f"ASTRA left out: {error}")
        return
    forward, w = best(lambda: theirs.apply(x))
    back, _ = best(lambda: theirs.adjoint(y))
    row(
        f"ASTRA, {beam.kind}",
        forward,
        back,
        off(w),
        f"medidiff differs by {100 * float((y - w).norm() / w.norm()):.3f} %",
    )


def measure_skimage(x: torch.Tensor, pixel_mm: float, n_views: int) -> None:
    """Its own geometry: angles turn the other way, bins are pixels."""
    degrees = np.arange(n_views) * 180 / n_views
    images = x.numpy()
    started = time.perf_counter()
    sinograms = [radon(one, degrees, circle=False) for one in images]
    seconds = time.perf_counter() - started
    n_bins = sinograms[0].shape[0]
    s = (np.arange(n_bins) - n_bins // 2) * pixel_mm
    truth = integrals(BODY, -np.radians(degrees), s[:, None])
    error = float(np.linalg.norm(sinograms[0] * pixel_mm - truth) / np.linalg.norm(truth))
    row("scikit-image, parallel", seconds, None, error, "radon, once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--views", type=int, default=360)
    parser.add_argument("--matrix", type=int, default=512)
    given = parser.parse_args()
    pixel_mm = FIELD_MM / given.matrix
    one = image(BODY, (given.matrix, given.matrix), pixel_mm).astype(np.float32)
    x = torch.from_numpy(np.stack([one] * given.slices))
    print(f"{given.slices} slices of {given.matrix} x {given.matrix}, {given.views} views, 736 bins; "
          f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    measure(Beam("fan", evenly(given.views, 360), 736, 1.2858, "flat", 595.0, 1085.6), x, pixel_mm)
    measure(Beam("parallel", evenly(given.views, 180), 736, 0.705), x, pixel_mm)
    measure_skimage(x, pixel_mm, given.views)


if __name__ == "__main__":
    main()
