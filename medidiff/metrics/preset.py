"""Intensity ranges that image metrics are measured in, declared once and never the maximum of an image.

A preset states [low, high] in its unit; both images are clipped to it and mapped to [0, 1], so the data range is 1 by
declaration. `hu` and `suv` clip nothing: they only declare the range (12-bit CT; SUV 0 to 20).

`ldct-benchmark`: Eulig et al. (2024), Medical Physics 51:8776, as `compute_metric` of their package 0.0.15 has it:

    PSNR, SSIM   in a display window of DICOM (PS3.3 C.11.2.1.2), width - 1 wide: chest -600/1500, abdomen 50/400,
                 neuro 40/80; SSIM with the defaults of scikit-image (flat 7 x 7 window, sample covariance)
    RMSE, VIF    of HU clipped to [-1024, 1900] whatever the window; VIF with one grey level a HU, in single precision
                 and with the images in exchanged roles (the target goes where the library expects the prediction)
    all          means over slices of all pixels, padding included
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import UsageError

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Double = NDArray[np.float64]


@dataclass(frozen=True)
class Conventions:
    """What protocols settle differently, apart from the range.

    ssim_window     "gaussian": 11 x 11, sigma 1.5, as Wang et al. (2004); "flat": 7 x 7 with sample covariance
    limits          RMSE and VIF are measured of values clipped to these; None: in the preset's own range
    slice_rmse      the RMSE of a volume is the mean of its slices', not the root over all voxels
    padding_counts  every pixel of a slice counts
    vif             "sheikh": the information of the reference that the image kept; "ldct-benchmark": their call
    """

    ssim_window: Literal["gaussian", "flat"] = "gaussian"
    limits: tuple[float, float] | None = None
    slice_rmse: bool = False
    padding_counts: bool = False
    vif: Literal["sheikh", "ldct-benchmark"] = "sheikh"


OURS = Conventions()
LDCT_BENCHMARK = Conventions("flat", (-1024.0, 1900.0), slice_rmse=True, padding_counts=True, vif="ldct-benchmark")


@dataclass(frozen=True)
class Preset:
    """An intensity range; values outside it are clipped before comparison when `clip` is set."""

    low: float
    high: float
    clip: bool = True
    unit: str = "HU"
    conventions: Conventions = OURS

    @property
    def range(self) -> float:
        return self.high - self.low

    @property
    def error_range(self) -> Preset:
        """The range that RMSE and VIF are measured in."""
        limits = self.conventions.limits
        return self if limits is None else Preset(*limits, unit=self.unit)

    def map(self, values: Array) -> Double:
        """Values in the preset's unit to the unit of this range: 0 at `low`, 1 at `high`."""
        mapped = np.array(values, np.float64)
        if self.clip:
            np.clip(mapped, self.low, self.high, out=mapped)
        mapped -= self.low
        mapped /= self.range
        return mapped

    def pair(self, image: Array, reference: Array, mask: Mask | None = None) -> tuple[Double, Double]:
        """Both images mapped; pixels outside the mask are 0 in both, so that they influence nothing."""
        pair = self.map(image), self.map(reference)
        if mask is not None:
            for values in pair:
                values[~mask] = 0
        return pair


def window(centre: float, width: float) -> Preset:
    """The preset of a display window."""
    return Preset(centre - width / 2, centre + width / 2)


def dicom_window(centre: float, width: float) -> Preset:
    """The display window as DICOM maps integers (PS3.3 C.11.2.1.2, LINEAR), under the `ldct-benchmark` conventions."""
    return Preset(centre - width / 2, centre + width / 2 - 1, conventions=LDCT_BENCHMARK)


PRESETS = {
    "hu": Preset(-1024, 3071, clip=False),
    "abdomen": Preset(-160, 240),
    "lung": window(-600, 1500),
    "bone": window(400, 1800),
    "ldct-benchmark-chest": dicom_window(-600, 1500),
    "ldct-benchmark-abdomen": dicom_window(50, 400),
    "ldct-benchmark-neuro": dicom_window(40, 80),
    "suv": Preset(0, 20, clip=False, unit="SUV"),
}
WHOLE_RANGE = {"HU": "hu", "SUV": "suv"}  # unit -> the preset that clips nothing


def find_presets(names: Iterable[str], unit: str | None = None) -> dict[str, Preset]:
    """The presets of these names, those of another unit left out; raises UsageError naming every unknown one."""
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise UsageError(f"presets: {', '.join(unknown)} unknown; choose from {', '.join(PRESETS)}")
    return {name: PRESETS[name] for name in names if unit in (None, PRESETS[name].unit)}
