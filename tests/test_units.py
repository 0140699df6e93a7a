"""Hounsfield units and attenuation."""

from __future__ import annotations

import numpy as np

from medidiff.units import MU_WATER_PER_MM, hu_to_mu, mu_to_hu


def test_water_is_zero_and_vacuum_is_minus_thousand() -> None:
    """The definition of the Hounsfield scale (PS3.3 C.11.1.1.2)."""
    np.testing.assert_allclose(hu_to_mu(np.array([0.0, -1000.0, 1000.0])), [MU_WATER_PER_MM, 0, 2 * MU_WATER_PER_MM])
    np.testing.assert_allclose(mu_to_hu(np.array([MU_WATER_PER_MM, 0.0])), [0, -1000])


def test_water_attenuates_as_at_70_kev() -> None:
    """NIST XCOM: 0.1929 cm^2/g at 70 keV, density 1 g/cm^3."""
    assert abs(MU_WATER_PER_MM - 0.01929) < 1e-4


def test_the_two_maps_undo_each_other_and_keep_the_dtype() -> None:
    """Any shape, also with another mu of water."""
    hu = np.random.default_rng(0).uniform(-1024, 3071, (4, 5)).astype(np.float32)
    for mu_water in (MU_WATER_PER_MM, 0.0206):
        back = mu_to_hu(hu_to_mu(hu, mu_water), mu_water)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, hu, atol=2e-3)
