"""Tissue classes by CT number, for everything that is reported per tissue.

A class is a range of HU. In a truth a pixel belongs where its value lies. In a noisy image the *smoothed* value
decides, and only pixels whose whole neighbourhood agrees are taken: by single noisy pixels a class would be chosen
by its noise, and a bias seen where there is none. What is left of that stays below 1 HU up to a noise of 60 HU
(tests/metrics/test_tissue.py), because no common tissue lies near the end of a range: soft tissue begins below the
0 to 10 HU of fluids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.windows import greatest, least, smoothed

TISSUES_HU = {
    "air": (-1100.0, -950.0),
    "lung": (-950.0, -600.0),
    "fat": (-150.0, -50.0),
    "soft": (-20.0, 120.0),
    "bone": (250.0, 2000.0),
}
SMOOTHING = 3.0  # pixels, standard deviation
MARGIN, MARGIN_NOISY = (
    3,
    5,
)  # pixels, the neighbourhood that agrees; the wider one removes the rims that smoothing makes


def tissue_masks(image: NDArray[np.floating], *, noisy: bool = True) -> dict[str, NDArray[np.bool_]]:
    """Class -> (rows, columns) True where it is surely that tissue; `image` (rows, columns) in HU."""
    seen = smoothed(image, (SMOOTHING, SMOOTHING), 3, "symmetric") if noisy else image
    classes = np.zeros(image.shape, np.uint8)
    for number, (low, high) in enumerate(TISSUES_HU.values(), 1):
        classes[(seen >= low) & (seen < high)] = number
    margin = MARGIN_NOISY if noisy else MARGIN
    around = (margin, margin)
    classes[least(classes, around, "constant") != greatest(classes, around, "constant")] = 0
    return {name: classes == number for number, name in enumerate(TISSUES_HU, 1)}
