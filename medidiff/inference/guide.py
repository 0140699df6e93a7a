"""The CT beside a PET scan: the second image that a network of three dimensions may be shown.

It is averaged over the voxels of the PET (medidiff.regrid); where it does not reach, there is air. Both series must
name one frame of reference, for that is what says that they lie on each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medidiff.errors import InputError
from medidiff.inference.cases import Case, find_cases
from medidiff.inference.options import CT_OF_STUDY
from medidiff.regrid import OnGrid
from medidiff.volume import Geometry, SliceSource


def guide_for(case: Case, geometry: Geometry, ct: str) -> SliceSource:
    """The CT for a case, on its grid: that of its study, or the one of a path.

    Raises InputError where there is none, or it does not reach the scan.
    """
    source = case.study_ct() if ct == CT_OF_STUDY else find_cases(Path(ct)).cases[0].open()
    if source is None:
        raise InputError(
            "--ct study: the folder holds no CT in the frame of reference of the PET: name one by its path"
        )
    middle = geometry.world(np.array([geometry.n_slices // 2, geometry.matrix[0] // 2, geometry.matrix[1] // 2]))
    reach = source.geometry.positions_mm[[0, -1]]
    at = float(middle @ source.geometry.normal)
    if not reach.min() <= at <= reach.max():
        raise InputError(
            f"--ct: reaches from {reach.min():.0f} to {reach.max():.0f} mm, the middle of the PET lies at {at:.0f} mm: "
            "give the CT of the same examination"
        )
    return OnGrid(source, geometry)
