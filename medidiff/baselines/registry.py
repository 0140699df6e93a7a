"""The classical denoisers by name, each with one strength: its unit, the range it is searched in, and its default.

Defaults are the strengths that `medidiff tune` found on the tune split (pipelines/tuned_ct.yaml).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.baselines.bilateral import bilateral
from medidiff.baselines.filters import block_matching, gaussian, identity, non_local_means, require_bm3d
from medidiff.baselines.tv import total_variation
from medidiff.units import Unit

Filter = Callable[[NDArray[np.float32], float, float], NDArray[np.float32]]
"""(image (rows, columns) in HU, noise level in HU, smoothing) -> image."""

NOISE_LEVELS = "noise levels"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Baseline:
    """One classical denoiser.

    smoothing   default strength, in `unit`; None for a method that has none
    low, high   range that is searched; users may ask for 0 (no change) to `high`
    units       that images may have; what rests on the noise of CT is for HU alone
    require     raises UsageError where a package that the method needs is absent
    """

    function: Filter
    title: str
    source: str
    smoothing: float | None
    low: float
    high: float
    unit: str
    units: tuple[Unit, ...] = ("HU",)
    require: Callable[[], None] = _nothing


BASELINES: dict[str, Baseline] = {
    "identity": Baseline(identity, "no change", "the scan itself", None, 0.0, 0.0, "", ("HU", "SUV")),
    "gaussian": Baseline(gaussian, "Gaussian filter", "convolution", 0.7324, 0.2, 5.0, "pixels", ("HU", "SUV")),
    "bilateral": Baseline(bilateral, "bilateral filter", "Tomasi and Manduchi 1998", 6.302, 0.5, 20.0, NOISE_LEVELS),
    "nlm": Baseline(non_local_means, "non-local means", "Buades et al. 2005", 1.352, 0.1, 5.0, NOISE_LEVELS),
    "tv": Baseline(total_variation, "total variation", "Rudin et al. 1992", 1.031, 0.1, 10.0, NOISE_LEVELS),
    "bm3d": Baseline(block_matching, "BM3D", "Dabov et al. 2007", 2.278, 0.2, 5.0, NOISE_LEVELS, require=require_bm3d),
}
