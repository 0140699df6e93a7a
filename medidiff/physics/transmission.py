"""What a CT detector counts behind an object, and what line integrals and weights follow from it.

    y ~ Poisson(I0 mean exp(-p)) + N(0, N_e),   the mean over the width of a bin; never below 0
    P = -ln(max(y, 1) / I0),    var P = (y + N_e) / y^2,   y at least 1

`p` are line integrals of a finer image by several rays a bin, so that no reconstruction meets the projector that
made its data. A ray that counts nothing is taken to have counted one photon, and its weight says how little that is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from medidiff.physics.ct import MIN_COUNTS, line_integrals
from medidiff.physics.projectors import Beam

Array = NDArray[np.float32]

FINER = 2  # pixels of the simulation along one of the image
RAYS_PER_BIN = 3


def transmission(mu: Array, pixel_mm: float, beam: Beam) -> Array:
    """(views, bins) share of the photons that come through an attenuation image (rows, columns) in 1/mm."""
    fine = zoom(mu, FINER, order=1, mode="nearest", grid_mode=True)
    theta, s_mm = beam.split(RAYS_PER_BIN).lines()
    p = line_integrals(np.ascontiguousarray(fine, np.float32), pixel_mm / FINER, theta, s_mm)
    return np.exp(-p).reshape(*beam.shape, RAYS_PER_BIN).mean(-1)


def counts(expected: Array, electronic_variance: float, generator: np.random.Generator) -> Array:
    """Counts of a scan, from those expected without noise."""
    noise = np.sqrt(electronic_variance) * generator.standard_normal(expected.shape, np.float32)
    return np.maximum(generator.poisson(expected) + noise, 0).astype(np.float32)


def line_integrals_of(counted: NDArray[np.floating], air: NDArray[np.floating]) -> Array:
    """`P` of counts, `air` being what is counted without an object."""
    return -np.log(np.maximum(counted, MIN_COUNTS) / air).astype(np.float32)


def weights_of(counted: NDArray[np.floating], electronic_variance: float) -> Array:
    """One over the variance of `P`."""
    y = np.maximum(counted, MIN_COUNTS)
    return np.asarray(y**2 / (y + electronic_variance), np.float32)


def spread_of(line: NDArray[np.floating]) -> float:
    """Variance of line integrals (views, bins) that come without counts, from second differences along the bins."""
    second = line[:, 2:] - 2 * line[:, 1:-1] + line[:, :-2]
    return max(float(np.median(np.abs(second)) / 0.6745) ** 2 / 6, 1e-10)
