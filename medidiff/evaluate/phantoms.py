"""A phantom scan as a case like any other: the truth is known, and every slice is another noise realisation.

    truth      the band-limited noise-free image (physics.phantoms)
    scan       the truth with all the noise of a scan at `dose`
    reference  the truth; or a full-dose scan, of which the scan then has the noise ("shared") or not ("independent")

Slice `k` depends on the seed and `k` alone, and is computed when it is read: no volume is ever in memory. The object
is the same in all slices, but for the signals of `signals`, which are there in the first half and absent in the
second: a method that looks at neighbouring slices sees what it would see in a thick object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import UsageError
from medidiff.evaluate.view import Feature, ReferenceNoise
from medidiff.physics.ct import KERNELS, noise_image
from medidiff.physics.phantoms import PHANTOMS, Phantom
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

SLICE_MM = 3.0
I0 = 1e5  # photons a ray at full dose: some 9 HU of noise in the water cylinder with a hann kernel
ELECTRONIC_VARIANCE = 10.0
FULL, LOW = 0, 1  # streams of random numbers of a slice


@dataclass(frozen=True, eq=False)
class _Slices:
    """A `SliceSource` whose slices are made when they are read."""

    geometry: Geometry
    make: Callable[[int], NDArray[np.float32]]
    unit: Unit = "HU"

    def read(self, index: int) -> NDArray[np.float32]:
        return self.make(index)

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return None


@dataclass(frozen=True)
class PhantomCase:
    """What decides every voxel of a phantom scan.

    kind, kernel     a name in physics.phantoms.PHANTOMS and in physics.ct.KERNELS
    dose             fraction of the full dose, which is `i0` photons a ray
    realisations     slices, each with its own noise
    reference_noise  what the reference is: "none" (the truth), "shared" or "independent" (a full-dose scan)

    Raises UsageError for a name or number that cannot be.
    """

    kind: str = "uniform"
    dose: float = 0.25
    kernel: str = "hann"
    realisations: int = 50
    seed: int = 0
    matrix: int = 256
    pixel_mm: float = 0.9
    i0: float = I0
    reference_noise: ReferenceNoise = "none"

    def __post_init__(self) -> None:
        for what, name, known in (("phantom", self.kind, PHANTOMS), ("kernel", self.kernel, KERNELS)):
            if name not in known:
                raise UsageError(f"the {what} '{name}' is not known: choose one of {', '.join(known)}")
        if not 0 < self.dose <= 1:
            raise UsageError(f"the dose of a phantom must be a fraction above 0 and at most 1, found {self.dose:g}")
        if self.realisations < 1:
            raise UsageError(f"a phantom needs at least 1 realisation, found {self.realisations}")
        if self.seed < 0 or not self.i0 > 0:
            found = f"{self.seed} and {self.i0:g}"
            raise UsageError(f"a phantom needs a seed of 0 or more and I0 above 0 photons, found {found}")
        body = 2 * self.phantom.body.a
        if self.matrix * self.pixel_mm <= 1.05 * body:
            found = f"{self.matrix} pixels of {self.pixel_mm:g} mm"
            raise UsageError(f"the phantom of {body:g} mm needs a field of view of {1.05 * body:g} mm, found {found}")

    @property
    def phantom(self) -> Phantom:
        return PHANTOMS[self.kind](self.matrix, self.pixel_mm)

    @property
    def geometry(self) -> Geometry:
        """The stack's middle is the origin of the patient's coordinates."""
        spacing = np.array([SLICE_MM, self.pixel_mm, self.pixel_mm])
        shape = (self.realisations, self.matrix, self.matrix)
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = spacing
        affine[[2, 1, 0], 3] = -spacing * (np.array(shape) - 1) / 2
        affine[3, 3] = 1
        return Geometry.from_affine(affine, shape)

    @property
    def truth(self) -> SliceSource:
        return _Slices(self.geometry, self._clean)

    @property
    def full(self) -> SliceSource:
        """The scan at full dose."""
        return _Slices(self.geometry, self._full)

    @property
    def scan(self) -> SliceSource:
        return _Slices(self.geometry, self._low)

    @property
    def reference(self) -> SliceSource:
        return self.truth if self.reference_noise == "none" else self.full

    @property
    def n_present(self) -> int:
        """Signals are there in so many of the first slices."""
        return (self.realisations + 1) // 2

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Every known object and when it is there; water only in slices without signals."""
        present, absent = tuple(range(self.n_present)), tuple(range(self.n_present, self.realisations))
        found: list[Feature] = []
        for pair, insert in enumerate(self.phantom.inserts):
            if insert.role == "signal":
                feature = Feature(insert.ellipse, "signal", insert.name, present, pair)
                found += [feature, replace(feature, role="absent", slices=absent)]
            else:
                slices = absent if self.kind == "signals" else None
                found.append(Feature(insert.ellipse, insert.role, insert.name, slices))
        return tuple(found)

    @cached_property
    def _images(self) -> dict[bool, NDArray[np.float32]]:
        """Noise-free slices with and without signals."""
        phantom, kernel = self.phantom, KERNELS[self.kernel]
        shown = phantom.image(kernel)
        hidden = phantom.image(kernel, signals=False) if self.kind == "signals" else shown
        for image in (shown, hidden):
            image.flags.writeable = False
        return {True: shown, False: hidden}

    def _clean(self, index: int) -> NDArray[np.float32]:
        return self._images[index < self.n_present]

    def _full(self, index: int) -> NDArray[np.float32]:
        return self._clean(index) + self._noise(index, FULL, 1.0, everything=True)

    def _low(self, index: int) -> NDArray[np.float32]:
        if self.reference_noise == "shared":
            return self._full(index) + self._noise(index, LOW, self.dose, everything=False)
        return self._clean(index) + self._noise(index, LOW, self.dose, everything=True)

    def _noise(self, index: int, stream: int, dose: float, *, everything: bool) -> NDArray[np.float32]:
        """All the noise of a scan at `dose`, or what a full-dose scan lacks of it."""
        return noise_image(
            self._clean(index),
            self.pixel_mm,
            dose_fraction=dose,
            i0=self.i0,
            electronic_variance=ELECTRONIC_VARIANCE,
            kernel=KERNELS[self.kernel],
            generator=np.random.default_rng([self.seed, index, stream]),
            full_dose=everything,
        )
