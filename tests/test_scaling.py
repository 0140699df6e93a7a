"""The map into model space: an exact inverse, bound to one unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.errors import UnitError
from medidiff.scaling import LinearScaling


def test_a_power_of_two_is_undone_to_the_last_bit() -> None:
    """Metal, bone, air and fractions of a HU come back as they went in; nothing is clipped."""
    scaling = LinearScaling()
    hu = np.random.default_rng(0).uniform(-3000, 30000, 10000).astype(np.float32)
    assert np.array_equal(scaling.inverse(scaling.forward(hu)), hu)
    model = torch.randn(10000)
    assert torch.equal(scaling.forward(scaling.inverse(model)), model)
    assert scaling.forward(hu).dtype == np.float32


def test_other_maps_are_undone_within_rounding() -> None:
    """`(v - offset) / factor` with any numbers."""
    scaling = LinearScaling(offset=-1000.0, factor=1234.5)
    values = np.array([-1000.0, 234.5, 3071.0])
    np.testing.assert_allclose(scaling.forward(values)[:2], [0, 1])
    np.testing.assert_allclose(scaling.inverse(scaling.forward(values)), values)


def test_it_travels_as_a_dictionary() -> None:
    """What is saved with the model rebuilds the same map."""
    scaling = LinearScaling(offset=3.0, factor=7.0)
    assert LinearScaling(**scaling.to_dict()) == scaling


def test_another_unit_is_refused_by_name() -> None:
    """Both units are named."""
    LinearScaling().require("HU")
    with pytest.raises(UnitError, match=r"works on HU, the data are in BQML"):
        LinearScaling().require("BQML")
