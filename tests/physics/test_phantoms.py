"""Noise-free phantoms against their closed forms and against an actual reconstruction."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics.ct import KERNELS, FanGeometry, fan_lines, fbp
from medidiff.physics.ellipses import Ellipse, integrals
from medidiff.physics.phantoms import AIR_HU, PHANTOMS, band_limited, rods, signals
from medidiff.units import MU_WATER_PER_MM, mu_to_hu


def test_gaussian_transfer_gives_the_blurred_disc() -> None:
    """Through exp(-2 pi^2 s^2 f^2) a disc's centre is 1 - exp(-R^2 / 2 s^2), wherever the disc lies."""
    sigma, radius, pixel = 2.0, 5.0, 1.0

    def gaussian(cycles_a_pixel: np.ndarray) -> np.ndarray:
        return np.exp(-2 * np.pi**2 * sigma**2 * (cycles_a_pixel / pixel) ** 2)

    disc = band_limited([Ellipse(radius, radius, 10.0, x0=4.5, y0=-3.5)], (64, 64), pixel, gaussian)
    assert disc[32 - 4, 32 + 4] == pytest.approx(10 * (1 - np.exp(-(radius**2) / (2 * sigma**2))), rel=1e-9)
    assert disc.sum() == pytest.approx(10 * np.pi * radius**2, rel=1e-9)


def test_turned_ellipses_are_turned() -> None:
    """A slender ellipse turned by 30 degrees has the second moments a^2/4 and b^2/4 along its own axes."""
    phi = np.pi / 6
    seen = band_limited([Ellipse(20.0, 5.0, 1.0, phi=phi)], (128, 128), 0.7, lambda f: np.exp(-2 * np.pi**2 * f**2))
    y, x = (np.mgrid[:128, :128] - 63.5) * 0.7
    along, across = x * np.cos(phi) + y * np.sin(phi), y * np.cos(phi) - x * np.sin(phi)
    blur = 0.7**2  # sigma is one pixel
    assert (seen * along**2).sum() / seen.sum() == pytest.approx(100 + blur, rel=1e-3)
    assert (seen * across**2).sum() / seen.sum() == pytest.approx(25 / 4 + blur, rel=1e-3)


def test_truth_is_what_filtered_backprojection_shows() -> None:
    """The image equals the reconstruction of the exact line integrals, edges and all: within 1 % of the contrast."""
    phantom, kernel, geometry = rods(), KERNELS["hann"], FanGeometry()
    ellipses = [phantom.body, *(i.ellipse for i in phantom.inserts)]
    theta, s = fan_lines(geometry)
    sinogram = integrals(ellipses, theta, s).reshape(geometry.n_views, geometry.n_bins)
    seen = mu_to_hu(fbp(sinogram * MU_WATER_PER_MM / 1000, geometry, (256, 256), phantom.pixel_mm, kernel))
    y, x = (np.mgrid[:256, :256] - 127.5) * phantom.pixel_mm
    error = (seen - phantom.image(kernel))[np.hypot(x, y) < 90]
    assert np.sqrt((error**2).mean()) < 2.0
    assert np.abs(error).max() < 0.02 * 900


@pytest.mark.parametrize("kind", PHANTOMS)
def test_inserts_have_their_contrast(kind: str) -> None:
    """In the middle of an insert wide enough for the kernel the HU are water's plus its contrast."""
    phantom = PHANTOMS[kind](256, 0.9)
    image = phantom.image(KERNELS["cosine"])
    y, x = (np.mgrid[:256, :256] - 127.5) * 0.9
    for e in (i.ellipse for i in phantom.inserts if i.ellipse.a >= 5 and i.role != "background"):
        assert image[np.hypot(x - e.x0, y - e.y0) < 0.4 * e.a].mean() == pytest.approx(e.value, abs=2.5)
    assert image[:8].mean() == pytest.approx(AIR_HU, abs=1)


def test_signals_can_be_hidden() -> None:
    """Without its signals the phantom is the water cylinder, and each pair of places has one noise: one distance."""
    phantom = signals()
    hidden = phantom.image(KERNELS["hann"], signals=False)
    np.testing.assert_array_equal(hidden, PHANTOMS["uniform"](256, 0.9).image(KERNELS["hann"]))
    for name in {i.name for i in phantom.inserts if i.role == "signal"}:
        distances = [np.hypot(i.ellipse.x0, i.ellipse.y0) for i in phantom.inserts if i.name == name]
        assert len(distances) == 4
        assert np.ptp(distances) < 1e-9
