"""Denoisers that need one call of a library: Gaussian, non-local means, BM3D; and none at all.

    gaussian   convolution with exp(-|p|^2 / (2 s^2)), s in pixels
    nlm        x_hat(p) = sum_q w(p, q) y(q), w = exp(-max(d^2 - 2 n^2, 0) / h^2) of the mean square difference d^2 of
               the patches around p and q, n the noise level (Buades, Coll and Morel 2005; fast: Darbon et al. 2008)
    bm3d       collaborative filtering of stacked similar blocks (Dabov et al. 2007)

Each takes (rows, columns) float32 in HU, its noise level and a strength, and keeps shape and type.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means

from medidiff.errors import UsageError

PATCH_PX, REACH_PX = 5, 6
BLOCK_STEP_PX = 4  # 3 in the package's normal profile: the same RMSE to 0.1 HU in 0.6 of the time


def identity(image: NDArray[np.float32], noise: float, smoothing: float) -> NDArray[np.float32]:
    """The image itself."""
    return image.copy()


def gaussian(image: NDArray[np.float32], noise: float, smoothing: float) -> NDArray[np.float32]:
    """Standard deviation `smoothing` in pixels, whatever the noise."""
    return np.asarray(gaussian_filter(image, smoothing, mode="reflect"), dtype=np.float32)


def non_local_means(image: NDArray[np.float32], noise: float, smoothing: float) -> NDArray[np.float32]:
    """The filter parameter h is `smoothing` times the noise level."""
    if smoothing * noise == 0:
        return image.copy()
    offset = np.float32(np.median(image))
    filtered = denoise_nl_means(
        image - offset,
        patch_size=PATCH_PX,
        patch_distance=REACH_PX,
        h=smoothing * noise,
        sigma=noise,
        fast_mode=True,
        preserve_range=True,
    )
    return np.asarray(filtered, dtype=np.float32) + offset


def block_matching(image: NDArray[np.float32], noise: float, smoothing: float) -> NDArray[np.float32]:
    """BM3D for white noise whose standard deviation is `smoothing` times the noise level.

    Raises UsageError, naming the licence, where the package is not installed.
    """
    require_bm3d()
    import bm3d

    if smoothing * noise == 0:
        return image.copy()
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1  # more would add in another order each time
    profile.nf = profile.k = 0  # exact variances of coloured noise are not needed for white
    profile.step_ht = profile.step_wiener = BLOCK_STEP_PX
    offset = np.float32(np.median(image))
    filtered = bm3d.bm3d(image - offset, smoothing * noise, profile=profile)
    return np.asarray(filtered, dtype=np.float32) + offset


def require_bm3d() -> None:
    """Raise UsageError, naming the licence, unless the package is installed."""
    if find_spec("bm3d") is None:
        raise UsageError(
            "--method bm3d: the package bm3d is not installed, as it is free for non-commercial use only; "
            "if that fits your use: pip install 'medidiff[bm3d]'"
        )
