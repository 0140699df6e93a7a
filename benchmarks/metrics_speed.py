"""Milliseconds of one thread that each image measure takes for a slice of 512 x 512.

    OMP_NUM_THREADS=1 python benchmarks/metrics_speed.py [--slices 7]

Median over slices of the thread's own time (so that a busy machine does not count), in the presets `hu` and `abdomen`;
`tissues` are the masks that bias and RMSE share, `default` all of rmse, nrmse, psnr, ssim and bias together, which
share their arithmetic.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from medidiff.evaluate.measures.image import MEASURES
from medidiff.evaluate.view import Context, View

DEFAULT = ("rmse", "nrmse", "psnr", "ssim", "bias")


def view(seed: int, size: int = 512) -> View:
    """A body with two lungs, and a smoothed noisier image of it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    body = np.where((x / 0.45) ** 2 + (y / 0.38) ** 2 < 1, 40.0, -1000.0)
    for centre in (-0.2, 0.2):
        body[((x - centre) / 0.12) ** 2 + (y / 0.2) ** 2 < 1] = -850
    reference = body + random.normal(0, 20, body.shape)
    candidate = body + gaussian_filter(random.normal(0, 40, body.shape), 1)
    return View(seed, candidate.astype(np.float32), reference.astype(np.float32), np.ones(body.shape, bool))


def milliseconds(names: tuple[str, ...], slices: int) -> float:
    """Median time a slice of these measures, each on views that nothing has looked at yet."""
    chosen = [MEASURES[name](Context()) for name in names]
    seconds = []
    for index in range(slices):
        shown = view(index)
        shown.tissues  # noqa: B018 - timed on its own line
        start = time.thread_time()
        for measure in chosen:
            measure.add(shown)
        seconds.append(time.thread_time() - start)
    return 1000 * float(np.median(seconds))


def tissue_milliseconds(slices: int) -> float:
    seconds = []
    for index in range(slices):
        shown = view(index)
        start = time.thread_time()
        shown.tissues  # noqa: B018
        seconds.append(time.thread_time() - start)
    return 1000 * float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=7)
    slices = parser.parse_args().slices
    tissues = tissue_milliseconds(slices)
    print(f"{'tissues':10} {tissues:7.1f} ms")
    for name in MEASURES:
        print(f"{name:10} {milliseconds((name,), slices):7.1f} ms")
    print(f"{'default':10} {tissues + milliseconds(DEFAULT, slices):7.1f} ms")
    print(f"{'all':10} {tissues + milliseconds(tuple(MEASURES), slices):7.1f} ms")


if __name__ == "__main__":
    main()
