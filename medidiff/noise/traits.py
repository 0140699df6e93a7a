"""What is measured in a slice of CT, or a block of PET, to tell whether a model has seen its like.

Of PET noise relative to the activity, and its colours (medidiff.noise.activity); of CT level, colour, frequency, HU.

The frequency comes from neighbours: for noise of power spectrum S, along one axis,

    <(u(x + 1) - u(x))^2> = 4 sigma^2 <sin^2(pi f)>,     f = arcsin(sqrt(<du^2>) / (2 sigma)) / pi

as the median over the quieter windows of soft tissue, a plane removed. Unlike the colours, which average over windows
of up to 36 pixels, it hardly sees anatomy: over training data the colours vary by four octaves, and it by one.
White noise has 0.25; nothing lies below about 0.11, as what is smoother than a window is gone with the plane.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from medidiff.noise.activity import MOST, Activity
from medidiff.noise.level import BODY_HU, SOFT_TISSUE_HU, STRIDE, WINDOW, NoiseEstimate, local_deviation

MIDDLE = 192  # pixels; the frequency is that of the middle of a slice, which is enough and quick
QUIET = 40.0  # percent of the windows, the quietest
WHITE = 0.25
DENSE = 99.9  # percentile of the HU of a slice
SPARSE = 4  # every fourth pixel of every fourth row tells it


def traits_of(image: NDArray[np.floating], estimate: NoiseEstimate) -> dict[str, float]:
    """Measures of a slice (rows, columns) in HU, by the names that `medidiff.seen.Seen` has for them."""
    return {
        "noise_hu": estimate.level,
        "colour_half": estimate.colour[0],
        "colour_quarter": estimate.colour[1],
        "frequency": noise_frequency(image),
        "dense_hu": float(np.percentile(image[::SPARSE, ::SPARSE], DENSE)),
    }


def block_traits_of(activity: Activity) -> dict[str, float]:
    """Measures of a block of PET, by the names that `medidiff.seen.Seen` has for them.

    No colour where the level that it relates to is cut off at MOST, and none along z in a single slice.
    """
    colours = dict(zip(("colour_plane", "colour_axis"), activity.colour, strict=True))
    measured = {} if activity.found > MOST else colours
    if len(activity.level) == 1:
        measured.pop("colour_axis", None)
    return {"relative": activity.found, **measured}


def noise_frequency(image: NDArray[np.floating]) -> float:
    """Root mean square frequency of the noise along an axis, cycles a pixel; WHITE where nothing can be measured."""
    middle = _middle(image)
    if min(middle.shape) <= 3 * WINDOW:
        return WHITE
    deviation, mean = local_deviation(middle)
    step = np.zeros_like(middle)
    step[:-1] += np.diff(middle, axis=0) ** 2
    step[:, :-1] += np.diff(middle, axis=1) ** 2
    edge = WINDOW // (2 * STRIDE) + 1
    step = uniform_filter(step / 2, WINDOW, mode="nearest")[::STRIDE, ::STRIDE][edge:-edge, edge:-edge]
    for low, high in (SOFT_TISSUE_HU, BODY_HU, (-np.inf, np.inf)):
        inside = (mean > low) & (mean < high) & (deviation > 0)
        if inside.sum() >= max(0.01 * deviation.size, 30):
            quiet = inside & (deviation <= np.percentile(deviation[inside], QUIET))
            ratio = float(np.median(step[quiet] / deviation[quiet] ** 2))
            return float(np.arcsin(min(np.sqrt(ratio) / 2, 1.0)) / np.pi)
    return WHITE


def _middle(image: NDArray[np.floating]) -> NDArray[np.float32]:
    first = [max((n - MIDDLE) // 2, 0) for n in image.shape]
    return image[first[0] : first[0] + MIDDLE, first[1] : first[1] + MIDDLE].astype(np.float32)
