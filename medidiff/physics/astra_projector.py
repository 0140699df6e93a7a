"""The line integrals of `projectors`, computed by the ASTRA Toolbox: an optional package (GPL-3), for comparison.

Parallel beams by its "linear" projector, which is Joseph's too; fans by "line_fanflat", lengths of rays in pixels, as
ASTRA has no other on the CPU. It knows flat detectors only; its y axis points up (van Aarle et al. 2016, Opt Express
24:25129). Its backprojectors are the transposes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medidiff.errors import UsageError
from medidiff.physics.operators import LinearOperator
from medidiff.physics.projectors import Beam

INSTALL = "pip install 'medidiff[astra]'"


def require_astra() -> Any:
    """The package; raises UsageError where it is absent."""
    try:
        import astra
    except ImportError:
        raise UsageError(f"the projector astra needs a package that is not installed: {INSTALL}") from None
    return astra


class AstraProjector(LinearOperator):
    """`projectors.Projector` by ASTRA, slice by slice on the CPU, in single precision.

    Raises UsageError without the package and for a curved detector.
    """

    def __init__(self, matrix: tuple[int, int], pixel_mm: float, beam: Beam) -> None:
        self._astra = require_astra()
        if beam.kind == "fan" and beam.detector == "curved":
            raise UsageError("the projector astra knows flat detectors only, found a curved one: use torch")
        self.in_shape, self.out_shape, self.device = matrix, beam.shape, torch.device("cpu")
        self.pixel_mm = pixel_mm
        self._volume = self._astra.create_vol_geom(*matrix)
        self._rays = self._geometry(beam)
        kind = "linear" if beam.kind == "parallel" else "line_fanflat"
        self._projector: int = self._astra.create_projector(kind, self._rays, self._volume)

    def __del__(self) -> None:
        if hasattr(self, "_projector"):
            self._astra.projector.delete(self._projector)

    def _geometry(self, beam: Beam) -> Any:
        """In pixels."""
        c, s = np.cos(beam.angles), np.sin(beam.angles)
        pitch = beam.bin_mm / self.pixel_mm
        right = np.stack([c * pitch, -s * pitch], 1)
        if beam.kind == "parallel":
            rays = np.hstack([np.stack([-s, -c], 1), np.zeros_like(right), right])
            return self._astra.create_proj_geom("parallel_vec", beam.n_bins, rays)
        source = np.stack([s, c], 1)
        near, far = beam.source_isocentre_mm / self.pixel_mm, beam.source_detector_mm / self.pixel_mm
        rays = np.hstack([near * source, (near - far) * source, right])
        return self._astra.create_proj_geom("fanflat_vec", beam.n_bins, rays)

    def _forward(self, x: Tensor) -> Tensor:
        return self._each(x, self._project)

    def _backward(self, y: Tensor) -> Tensor:
        return self._each(y, self._spread)

    def _each(self, batch: Tensor, work: Any) -> Tensor:
        done = [work(np.ascontiguousarray(one, np.float32)) for one in batch.detach().numpy()]
        return (torch.from_numpy(np.stack(done)) * self.pixel_mm).to(batch.dtype)

    def _project(self, image: Any) -> Any:
        number, sinogram = self._astra.create_sino(image, self._projector)
        self._astra.data2d.delete(number)
        return sinogram

    def _spread(self, sinogram: Any) -> Any:
        number, image = self._astra.create_backprojection(sinogram, self._projector)
        self._astra.data2d.delete(number)
        return image
