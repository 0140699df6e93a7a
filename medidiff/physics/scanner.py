"""The CT scanner of simulated projections: what `medidiff project` measures with and what networks are trained on.

A third-generation scanner with 736 bins of 1.2858 mm on a detector 1085.6 mm from a source that turns at 595 mm; larger
images get more bins, so that none is truncated. A parallel beam has the pitch that these bins have at the isocentre.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from medidiff.errors import GeometryError
from medidiff.physics.projectors import Array, Beam

I0, ELECTRONIC_VARIANCE = 2e5, 10.0  # photons a ray at full dose without an object; counts
SOURCE_ISOCENTRE_MM, SOURCE_DETECTOR_MM, BIN_MM, BINS = 595.0, 1085.6, 1.2858, 736


def scanner_beam(
    angles: Array,
    radius_mm: float,
    kind: Literal["parallel", "fan"] = "fan",
    detector: Literal["flat", "curved"] = "curved",
) -> Beam:
    """The beam that sees a circle of `radius_mm` from `angles` (views,) in radians.

    Raises GeometryError for a circle too near to the source.
    """
    if kind == "parallel":
        pitch = BIN_MM * SOURCE_ISOCENTRE_MM / SOURCE_DETECTOR_MM
        return Beam(kind, angles, max(BINS, 2 * int(np.ceil(radius_mm / pitch))), pitch)
    if radius_mm > 0.9 * SOURCE_ISOCENTRE_MM / np.sqrt(2):
        raise GeometryError(
            f"the image reaches {radius_mm:.0f} mm from its middle, too near to the source at {SOURCE_ISOCENTRE_MM:g} "
            "mm: crop it, or take a parallel beam"
        )
    gamma = np.arcsin(radius_mm / SOURCE_ISOCENTRE_MM)
    edge = SOURCE_DETECTOR_MM * (gamma if detector == "curved" else np.tan(gamma))
    bins = max(BINS, 2 * int(np.ceil(edge / BIN_MM)))
    return Beam(kind, angles, bins, BIN_MM, detector, SOURCE_ISOCENTRE_MM, SOURCE_DETECTOR_MM)
