"""Pixels without a measurement take the value of the nearest measured one, so that a filter does not smear them in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


def filled(image: NDArray[np.float32], padding: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A copy of (rows, columns) with each pixel of `padding` replaced; unchanged where nothing was measured."""
    if padding.all() or not padding.any():
        return image.copy()
    nearest = distance_transform_edt(padding, return_distances=False, return_indices=True)
    return image[tuple(nearest)]
