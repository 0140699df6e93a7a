"""Tissue classes by CT number, for everything that is reported per tissue.

A class is a range of HU. In a truth a pixel belongs where its value lies. In a noisy image the *smoothed* value
decides, and only pixels whose whole neighbourhood agrees are taken: by single noisy pixels a class would be chosen
by its noise, and a bias seen where there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

TISSUES_HU = {
    "air": (-1100.0, -950.0),
    "lung": (-950.0, -600.0),
    "fat": (-150.0, -50.0),
    "soft": (0.0, 120.0),
    "bone": (250.0, 2000.0),
}
SMOOTHING = 2.0  # pixels, standard deviation
MARGIN = np.ones((3, 3), bool)


def tissue_masks(image: NDArray[np.floating], *, noisy: bool = True) -> dict[str, NDArray[np.bool_]]:
    """Class -> (rows, columns) True where it is surely that tissue; `image` (rows, columns) in HU."""
    seen = gaussian_filter(image.astype(np.float32), SMOOTHING) if noisy else image
    masks = {name: (seen >= low) & (seen < high) for name, (low, high) in TISSUES_HU.items()}
    return {name: binary_erosion(mask, MARGIN) for name, mask in masks.items()}
