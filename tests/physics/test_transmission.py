"""Counts behind an object: their means, their noise, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics.ct import total_variance
from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.physics.projectors import Beam, evenly
from medidiff.physics.transmission import counts, line_integrals_of, spread_of, transmission, weights_of

BEAM = Beam("fan", evenly(12, 360), 120, 5.0, "flat", 595.0, 1085.6)
BODY = [Ellipse(100, 80, 0.0192)]


def test_transmission_is_that_of_the_object() -> None:
    """-ln of it is the analytic line integral, to 0.3 % rms of the maximum, but at the rim, where bins mix rays."""
    mu = image(BODY, (200, 200), 1.2).astype(np.float32)
    theta, s = BEAM.lines()
    truth = integrals(BODY, theta, s).reshape(BEAM.shape)
    seen = -np.log(transmission(mu, 1.2, BEAM))
    inner = truth > 0.3 * truth.max()
    assert np.sqrt(np.mean((seen - truth)[inner] ** 2)) < 3e-3 * truth.max()


@pytest.mark.parametrize(("p", "i0", "electronic"), [(2.0, 1e5, 10.0), (4.0, 2e4, 10.0), (5.0, 2e4, 100.0)])
def test_noise_of_line_integrals(p: float, i0: float, electronic: float) -> None:
    """Its variance is that of the formula (docs, Yu 2012) within 3 %, and one over the weights within 5 %."""
    expected = np.full((1, 200_000), i0 * np.exp(-p), np.float32)
    drawn = counts(expected, electronic, np.random.default_rng(0))
    found = line_integrals_of(drawn, np.float32(i0))
    wanted = float(total_variance(p, 1.0, i0, electronic))
    assert found.var() == pytest.approx(wanted, rel=0.03)
    assert weights_of(drawn, electronic).mean() == pytest.approx(1 / wanted, rel=0.05)
    assert found.mean() == pytest.approx(p + wanted / 2, abs=5 * np.sqrt(wanted / 200_000))  # -ln is convex


def test_chi_square_of_the_truth_is_one_per_ray() -> None:
    """Of counts of 300 and more; within four standard errors and the bias of weights from noisy counts, 3 / counts."""
    expected = 3e5 * transmission(image(BODY, (200, 200), 1.2).astype(np.float32), 1.2, BEAM)
    p = -np.log(expected / 3e5)
    terms = []
    for seed in range(20):
        drawn = counts(expected, 10.0, np.random.default_rng(seed))
        terms.append(weights_of(drawn, 10.0) * (line_integrals_of(drawn, np.float32(3e5)) - p) ** 2)
    assert expected.min() > 300
    chi = np.mean(terms)
    assert abs(chi - 1) < 4 * np.sqrt(2 / np.size(terms)) + 3 / expected.min()


def test_starved_rays_stay_finite_and_hardly_count() -> None:
    """No photons at all: one is taken, with a weight that is far below that of a bright ray."""
    drawn = counts(np.full((4, 50), 0.01, np.float32), 10.0, np.random.default_rng(0))
    assert drawn.min() >= 0
    p = line_integrals_of(np.zeros((1, 3), np.float32), np.float32(1e5))
    np.testing.assert_allclose(p, np.log(1e5), rtol=1e-6)
    assert weights_of(np.zeros(1), 10.0)[0] < 1e-4 * weights_of(np.full(1, 1e4), 10.0)[0]


def test_the_variance_of_line_integrals_is_found_in_them() -> None:
    """Of smooth line integrals with white noise, within 5 %."""
    u = np.linspace(-1, 1, 400)
    smooth = 4 * np.sqrt(np.maximum(1 - u**2, 0)) * np.ones((300, 1))
    noisy = smooth + np.random.default_rng(0).normal(0, 0.05, smooth.shape)
    assert spread_of(noisy) == pytest.approx(0.05**2, rel=0.05)
