"""Physical units: Hounsfield units, linear attenuation, and standardised uptake values.

    HU = 1000 * (mu - mu_water) / mu_water        mu = mu_water * (1 + HU / 1000)

`mu_water` is about 0.0192 / mm at 70 keV, the effective energy of a 120 kV beam behind a patient
(NIST XCOM: 0.1929 cm^2/g at 70 keV).

SUV = activity concentration / (injected activity / body weight), decay corrected: a ratio that is about 1 on average.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["HU", "SUV"]

MU_WATER_PER_MM = 0.0192


def hu_to_mu(hu: NDArray[np.floating], mu_water: float = MU_WATER_PER_MM) -> NDArray[np.floating]:
    """Linear attenuation in 1/mm of CT numbers in HU; any shape, the dtype is kept."""
    return mu_water * (1 + hu / 1000)


def mu_to_hu(mu: NDArray[np.floating], mu_water: float = MU_WATER_PER_MM) -> NDArray[np.floating]:
    """CT numbers in HU of linear attenuation in 1/mm; any shape, the dtype is kept."""
    return 1000 * (mu / mu_water - 1)
