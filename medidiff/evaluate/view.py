"""One slice of everything that is known of a case: what every measure is shown, slice after slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.tissue import tissue_masks
from medidiff.physics.ellipses import Ellipse
from medidiff.units import Unit

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
ReferenceNoise = Literal["none", "shared", "independent"]


@dataclass(frozen=True)
class Feature:
    """A known object of a phantom, in mm from the centre of the image (x along columns, y along rows).

    role      "rod" (an edge to measure resolution at), "signal" (to be detected), "background" (uniform),
              "sphere" (NEMA: `value` is the activity ratio)
    slices    indices in which it is there; None: in all of them
    pair      signal present and absent at one place share this number
    """

    ellipse: Ellipse
    role: Literal["rod", "signal", "absent", "background", "sphere"]
    name: str
    slices: tuple[int, ...] | None = None
    pair: int | None = None


@dataclass(frozen=True)
class Context:
    """The facts of a case that a measure may need beside the images.

    presets          intensity ranges to measure in, by name (medidiff.metrics.image.PRESETS)
    reference_noise  "none": the reference is the truth; "shared": the low dose was made from it; or "independent"
    dose             fraction of the full dose, None where unknown
    features         known objects of a phantom
    """

    presets: tuple[str, ...] = ("hu", "abdomen")
    unit: Unit = "HU"
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    slice_mm: float = 1.0
    n_slices: int = 1
    reference_noise: ReferenceNoise = "independent"
    dose: float | None = None
    features: tuple[Feature, ...] = ()
    seed: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """One slice; all arrays are (rows, columns), in the unit of the case.

    measured   True where candidate and reference both hold a measurement (not padding)
    scan       what the candidate was made from, where it is known
    truth      noise-free, where it is known (phantoms)
    deviation  standard deviation that the method claims, where it does
    regions    name -> mask; the whole image is not among them
    """

    index: int
    candidate: Image
    reference: Image
    measured: Mask
    scan: Image | None = None
    truth: Image | None = None
    deviation: Image | None = None
    regions: Mapping[str, Mask] = field(default_factory=dict)

    @cached_property
    def tissues(self) -> dict[str, Mask]:
        """Air, lung, fat, soft tissue and bone by the truth, or else by the smoothed reference (measured pixels)."""
        seen = self.reference if self.truth is None else self.truth
        return {name: mask & self.measured for name, mask in tissue_masks(seen, noisy=self.truth is None).items()}

    @cached_property
    def mask(self) -> Mask | None:
        """`measured`, or None where all pixels are."""
        return None if self.measured.all() else self.measured


Views = Iterator[View]
