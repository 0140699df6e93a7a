"""Classical reconstructions of a container: fbp, sirt, cgls, pwls and tv of CT, osem and map-rdp of PET.

Slices of CT are done BLOCK at a time; what a slice becomes does not depend on the block that it is done in. `smoothing`
of pwls and tv is the slope of the penalty in noise levels of the gradient of the data term (physics/iterative.py), so
one value serves every dose and number of views; of osem it is the FWHM of the filter in mm, of map-rdp its beta. Of
line integrals that come without counts or variance it is estimated, one for all rays of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.inference.projection_options import ProjectionOptions
from medidiff.io.projections import Header, Projections
from medidiff.physics.astra_projector import AstraProjector
from medidiff.physics.backprojection import fbp
from medidiff.physics.ct import KERNELS
from medidiff.physics.iterative import (
    Steps,
    cgls,
    chi_square,
    converged,
    noise_of_gradient,
    pwls,
    sirt,
    total_variation,
)
from medidiff.physics.operators import Counted, LinearOperator
from medidiff.physics.osem import SUBSETS, map_rdp, osem
from medidiff.physics.pet import ParallelGeometry, Sinograms
from medidiff.physics.pet import beam as pet_beam
from medidiff.physics.projectors import Beam, Projector
from medidiff.physics.transmission import line_integrals_of, spread_of, weights_of
from medidiff.units import MU_WATER_PER_MM, mu_to_hu

Array = NDArray[np.float32]

BLOCK = 8  # slices that share a projection
DELTA_HU = 10.0  # steps above it are edges to pwls
TOLERANCE = 1e-4  # relative change of an image in one iteration that ends pwls and tv
TV_START = 16  # iterations of pwls before those of tv
MODEL_ERROR = 0.01  # of a line integral: what a grid of pixels cannot give
FWHM = 2 * np.sqrt(2 * np.log(2))
ESTIMATED = "the projections have no counts and no variance: it was estimated from them, one for all rays of a slice"


@dataclass(frozen=True, eq=False)
class Done:
    """Some finished slices: their images in the output's unit, the residual of each, and their deviations if asked."""

    indices: list[int]
    images: Array
    residuals: NDArray[np.floating]
    deviations: Array | None = None


class Reconstructor(Protocol):
    """Reconstructs the slices of one container; `calls` says how often each slice met the projector and its adjoint."""

    warnings: list[str]
    parameters: dict[str, Any]

    @property
    def nfe(self) -> int | None: ...

    @property
    def calls(self) -> dict[str, int]: ...

    def slices(self, missing: list[int]) -> Iterator[Done]: ...


class Ct:
    """What all methods for CT share: the projector, the data, filtered backprojection."""

    nfe: int | None = None

    def __init__(self, projections: Projections, options: ProjectionOptions, device: torch.device) -> None:
        header = projections.header
        self.projections, self.beam = projections, beam_of(header)
        self.parameters, self.method = options.parameters(views=header.shape[1]), options.method
        self.operator = Counted(_projector(header, self.beam, options.projector, device))
        self.warnings: list[str] = []
        self.calls: dict[str, int] = {}

    def slices(self, missing: list[int]) -> Iterator[Done]:
        for start in range(0, len(missing), BLOCK):
            yield self.block(missing[start : start + BLOCK])

    def block(self, indices: list[int]) -> Done:
        line, weights = self.data(indices)
        self.operator.applied = self.operator.adjoined = 0
        x = self._image(line, weights)
        residuals = chi_square(self.operator, line, weights, x).cpu().numpy()
        self.count()
        return Done(indices, np.asarray(mu_to_hu(x.cpu().numpy()), np.float32), residuals)

    def count(self) -> None:
        """Remember the calls of a block; of several the most."""
        here = {"apply": self.operator.applied, "adjoint": self.operator.adjoined}
        self.calls = {name: max(n, self.calls.get(name, 0)) for name, n in here.items()}

    def data(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Line integrals and their weights (slices, views, bins), on the operator's device."""
        read, names = self.projections.read, self.projections.names
        chosen = list(indices)
        if names[0] == "counts":
            counts = read("counts", chosen)
            line = line_integrals_of(counts, read("air", chosen))
            weights = weights_of(counts, self.projections.header.electronic_variance)
        else:
            line = read("line_integrals", chosen)
            weights = np.asarray(1 / read("variance", chosen)) if "variance" in names else self._estimated(line)
        device = self.operator.device
        return torch.from_numpy(line).to(device), torch.from_numpy(weights).to(device)

    def fbp(self, line: Tensor, kernel: str) -> Tensor:
        """(slices, rows, columns) in 1/mm."""
        header = self.projections.header
        images = fbp(line.cpu().numpy(), self.beam, header.geometry.matrix, header.pixel_mm, KERNELS[kernel])
        return torch.from_numpy(images).to(line.device)

    def _estimated(self, line: Array) -> Array:
        self.warnings = [ESTIMATED]
        return np.stack([np.full(one.shape, 1 / spread_of(one), np.float32) for one in line])

    def _image(self, line: Tensor, weights: Tensor) -> Tensor:
        """(slices, rows, columns) attenuation in 1/mm."""
        if self.method == "fbp":
            return self.fbp(line, self.parameters["kernel"])
        iterations = self.parameters["iterations"]
        plain: dict[str, Callable[[], Steps]] = {
            "sirt": lambda: sirt(self.operator, line),
            "cgls": lambda: cgls(self.operator, line),
        }
        if self.method in plain:
            return converged(plain[self.method](), iterations)[0]
        weights = trusted(weights)
        start = self.fbp(line, "hann")
        body = start > MU_WATER_PER_MM / 2
        noise = noise_of_gradient(self.operator, weights, self.projections.header.pixel_mm, body)
        lam, delta = self.parameters["smoothing"] * noise, DELTA_HU * MU_WATER_PER_MM / 1000
        steps = pwls(self.operator, line, weights, lam, delta, start)
        if self.method == "pwls":
            return converged(steps, iterations, TOLERANCE)[0]
        start = converged(steps, TV_START)[0]
        return converged(total_variation(self.operator, line, weights, lam, start), iterations, TOLERANCE)[0]


def trusted(weights: Tensor) -> Tensor:
    """Weights of rays that are wrong by MODEL_ERROR as well as by their noise.

    Rays through air, known to 0.2 %, would else outvote all others, and iterations would take long to please them.
    """
    return weights / (1 + MODEL_ERROR**2 * weights)


def beam_of(header: Header) -> Beam:
    """How the scanner of a container sees a slice."""
    scanner = header.scanner
    return Beam(
        scanner.beam,
        scanner.angles_rad,
        scanner.n_bins,
        scanner.bin_mm,
        scanner.detector,
        scanner.source_isocentre_mm,
        scanner.source_detector_mm,
    )


def _projector(header: Header, beam: Beam, name: str, device: torch.device) -> LinearOperator:
    if name == "astra":
        return AstraProjector(header.geometry.matrix, header.pixel_mm, beam)
    return Projector(header.geometry.matrix, header.pixel_mm, beam, device)


class Pet:
    """All slices in one go: they are quick, and the prior and the filter reach from slice to slice."""

    nfe: int | None = None

    def __init__(self, projections: Projections, options: ProjectionOptions) -> None:
        header = projections.header
        scanner = header.scanner
        geometry = ParallelGeometry(len(scanner.angles_rad), scanner.n_bins, scanner.bin_mm)
        if not np.allclose(scanner.angles_rad, geometry.angles, atol=1e-4):
            raise GeometryError(
                f"{projections.path}: /geometry/angles_rad of PET are expected evenly over half a turn, from 0"
            )
        self.projections, self.parameters, self.method = projections, options.parameters("PET"), options.method
        self.beam = pet_beam(header.geometry.matrix, header.pixel_mm, geometry)
        self.subsets = max(n for n in range(1, SUBSETS + 1) if geometry.n_angles % n == 0)
        self.warnings: list[str] = []

    @property
    def calls(self) -> dict[str, int]:
        """Whole passes over the angles; map-rdp starts from one of osem."""
        passes = self.parameters["iterations"] + (self.method == "map-rdp")
        return {"apply": passes + 1, "adjoint": passes + 1}

    def slices(self, missing: list[int]) -> Iterator[Done]:
        if not missing:
            return
        everything = list(range(self.projections.header.shape[0]))
        images, residuals = self._image(self._data(everything))
        for k in missing:
            yield Done([k], images[k : k + 1], residuals[k : k + 1])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of slices (0 for a single one), rows and columns."""
        pixel_mm = self.projections.header.pixel_mm
        return self.projections.header.geometry.slice_spacing_mm, pixel_mm, pixel_mm

    def _image(self, data: Sinograms) -> tuple[Array, NDArray[np.floating]]:
        """All slices in SUV, and the residual of each; of osem before its filter."""
        iterations, smoothing = self.parameters["iterations"], self.parameters["smoothing"]
        if self.method == "osem":
            images = osem(data, self.beam, iterations, self.subsets)
            residuals = self._residuals(data, images)
            widths = [smoothing / FWHM / mm if mm else 0 for mm in self.spacing_mm]
            return np.asarray(gaussian_filter(images, widths)), residuals
        step = self.spacing_mm[0] or None
        images = map_rdp(data, self.beam, smoothing, slice_mm=step, iterations=iterations, subsets=self.subsets)
        return images, self._residuals(data, images)

    def _data(self, indices: list[int]) -> Sinograms:
        read = self.projections.read
        factors = read("attenuation", indices) * np.float32(self.projections.header.calibration)
        return Sinograms(read("counts", indices), factors, read("scatter", indices) + read("randoms", indices))

    def _residuals(self, data: Sinograms, images: Array) -> NDArray[np.floating]:
        """(slices,) mean over the bins of (counts - mean)^2 / mean."""
        projected = self.beam.apply(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        means = data.factors * projected + data.additive
        seen = means > 0
        terms = np.where(seen, (data.counts - means) ** 2 / np.where(seen, means, 1), 0)
        return np.asarray(terms.sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1))
