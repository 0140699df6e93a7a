"""Filtered backprojection of discs whose attenuation is known, for every beam and arc."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics.backprojection import fbp, redundancy, view_widths
from medidiff.physics.ct import KERNELS
from medidiff.physics.ellipses import Ellipse, integrals
from medidiff.physics.projectors import Beam, evenly

DISC = Ellipse(60, 60, 0.02, x0=12, y0=-20)
MATRIX, PIXEL_MM = (128, 128), 1.5


def _fan(detector: str, n_views: int, arc: float, near: float = 595.0) -> Beam:
    return Beam("fan", evenly(n_views, arc), 300 if near > 400 else 900, 1.6, detector, near, 1085.6)


BEAMS = {
    "parallel": Beam("parallel", evenly(240, 180), 200, 1.0),
    "parallel, full turn": Beam("parallel", evenly(480, 360), 200, 1.0),
    "curved": _fan("curved", 480, 360),
    "flat": _fan("flat", 480, 360),
    "curved, near": _fan("curved", 480, 360, near=200.0),
    "flat, near": _fan("flat", 480, 360, near=200.0),
    "curved, short scan": _fan("curved", 320, 230),
    "flat, short scan": _fan("flat", 320, 230),
    "curved, 300 degrees": _fan("curved", 400, 300),
}


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS.keys())
@pytest.mark.parametrize("kernel", ["ram-lak", "hann"])
def test_a_disc_has_its_attenuation(beam: Beam, kernel: str) -> None:
    """To 0.5 % inside, every pixel within 2 % where the kernel does not ring; nothing outside, to 1 % on average."""
    theta, s = beam.lines()
    data = integrals([DISC], theta, s).reshape(1, *beam.shape)
    image = fbp(data, beam, MATRIX, PIXEL_MM, KERNELS[kernel])[0]
    y, x = (np.mgrid[:128, :128] - 63.5) * PIXEL_MM
    radius = np.hypot(x - DISC.x0, y - DISC.y0)
    inside, outside = image[radius < 48] / DISC.value, image[(radius > 70) & (np.hypot(x, y) < 90)] / DISC.value
    assert inside.mean() == pytest.approx(1, abs=5e-3)
    assert kernel == "ram-lak" or np.abs(inside - 1).max() < 0.02
    assert abs(outside.mean()) < 0.01


def test_slices_do_not_know_each_other() -> None:
    """The image of a sinogram is the same alone and among others, and linear in it."""
    data = np.random.default_rng(0).random((3, *BEAMS["curved"].shape))
    together = fbp(data, BEAMS["curved"], (40, 40), 4.0, KERNELS["hann"])
    alone = fbp(data[1:2], BEAMS["curved"], (40, 40), 4.0, KERNELS["hann"])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6 * np.abs(alone).max())
    twice = fbp(2 * data[1:2], BEAMS["curved"], (40, 40), 4.0, KERNELS["hann"])
    np.testing.assert_allclose(twice, 2 * alone, atol=1e-6 * np.abs(alone).max())


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS.keys())
def test_shares_of_a_line_add_up_to_one(beam: Beam) -> None:
    """A line seen from both sides counts once: weights of views that stand opposite, interpolated, sum to 1."""
    weights = redundancy(beam)
    assert weights.min() >= 0
    assert weights.max() <= 1 + 1e-12
    other = beam.angles[:, None] + np.pi - 2 * beam.gammas
    arc = 2 * np.pi
    for bin_ in range(0, beam.n_bins, 37):
        mirrored = weights[:, beam.n_bins - 1 - bin_]
        at = np.mod(other[:, bin_] - beam.angles[0], arc) + beam.angles[0]
        seen = (at > beam.angles[1]) & (at < beam.angles[-2])
        total = weights[seen, bin_] + np.interp(at[seen], beam.angles, mirrored)
        np.testing.assert_allclose(total, 1, atol=0.02)


def test_views_stand_for_the_whole_arc() -> None:
    """Widths add up to the arc, also where views are not evenly spread over a turn."""
    assert view_widths(BEAMS["curved"]).sum() == pytest.approx(2 * np.pi)
    assert view_widths(BEAMS["parallel"]).sum() == pytest.approx(np.pi)
    assert view_widths(BEAMS["curved, short scan"]).sum() == pytest.approx(np.radians(230))
    uneven = np.sort(evenly(100, 360) + np.random.default_rng(0).uniform(-0.02, 0.02, 100))
    assert view_widths(Beam("fan", uneven, 10, 1.0, "flat", 500.0, 900.0)).sum() == pytest.approx(2 * np.pi, rel=0.01)
