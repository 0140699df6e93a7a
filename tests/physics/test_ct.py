"""Fan-beam projection, reconstruction and inserted noise against theory and against thinned photon counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medidiff.noise.spectrum import noise_spectrum
from medidiff.physics import ct
from medidiff.physics.ct import KERNELS, FanGeometry, Kernel, fbp, noise_image, project
from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.units import MU_WATER_PER_MM, mu_to_hu

GEOMETRY = FanGeometry(n_views=480, n_bins=184, bin_mm=4 * 1.2858)
PIXEL, MATRIX = 2.8, (128, 128)  # the canonical scanner at a quarter of its resolution
WATER = [Ellipse(150, 105, MU_WATER_PER_MM)]
REGIONS = [np.s_[46:82, 46:82], np.s_[48:80, 16:40], np.s_[32:46, 48:80]]  # middle, left, top
I0 = 2e5
HANN = Kernel("hann")


@pytest.fixture(scope="module")
def water() -> np.ndarray:
    return mu_to_hu(image(WATER, MATRIX, PIXEL)).astype(np.float32)


@pytest.fixture(scope="module")
def line_integrals() -> np.ndarray:
    theta, s = ct.fan_lines(GEOMETRY)
    return integrals(WATER, theta, s).reshape(GEOMETRY.n_views, GEOMETRY.n_bins)


def _hu(p: np.ndarray, kernel: Kernel = HANN) -> np.ndarray:
    return fbp(p, GEOMETRY, MATRIX, PIXEL, kernel) * (1000 / MU_WATER_PER_MM)


def _levels(images: list[np.ndarray]) -> np.ndarray:
    """Root mean square in each region over all images, which have no mean."""
    return np.array([np.sqrt(np.mean([np.var(i[region]) for i in images])) for region in REGIONS])


def test_fbp_inverts_projection(water: np.ndarray) -> None:
    """The reconstruction of projected ellipses has their values within 1 HU away from edges."""
    inserts = [*WATER, Ellipse(25, 15, 0.05 * MU_WATER_PER_MM, x0=60, y0=20)]
    mu = image(inserts, MATRIX, PIXEL)
    back = mu_to_hu(fbp(project(mu, PIXEL, GEOMETRY), GEOMETRY, MATRIX, PIXEL, HANN))
    assert abs(back[55:73, 45:65].mean()) < 1
    assert abs(back[69:73, 82:89].mean() - 50) < 1
    assert abs(back[2:7, 60:68].mean() + 1000) < 1


def test_kernels_order_the_noise(line_integrals: np.ndarray) -> None:
    """ram-lak is noisiest, then shepp-logan, cosine, hamming, hann; the first more than twice the last."""
    p = np.random.default_rng(0).standard_normal(line_integrals.shape)
    levels = [_levels([_hu(p, KERNELS[name])])[0] for name in ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 2 * levels[-1]


@pytest.mark.parametrize("counts", [100.0, 1000.0])
def test_variance_of_a_line_integral(counts: float) -> None:
    """Variance of -ln((Poisson(N) + electronic noise) / N0) is 1/N (1 + N_e / N); its mean is P + (1/N + ...) / 2."""
    rng = np.random.default_rng(1)
    p, i0, electronic = 3.0, counts * np.exp(3.0), 10.0
    y = rng.poisson(counts, 400_000) + rng.normal(0, np.sqrt(electronic), 400_000)
    measured = -np.log(np.maximum(y, 1) / i0)
    variance = ct.total_variance(np.array(p), 1.0, i0, electronic)
    assert measured.var() == pytest.approx(variance, rel=4 / counts + 0.01)
    assert measured.mean() == pytest.approx(p + variance / 2, abs=2e-4 + variance**2)


@pytest.mark.parametrize("a", [0.05, 0.25, 0.5, 0.9])
def test_inserted_variance_is_what_full_dose_lacks(a: float) -> None:
    """Yu et al. (2012): (1-a)/a e^P/I0 (1 + (1+a)/a N_e e^P/I0), and 0 at full dose."""
    p, i0, electronic = np.linspace(0, 7, 30), 1e5, 9.0
    x = np.exp(p) / i0
    expected = (1 - a) / a * x * (1 + (1 + a) / a * electronic * x)
    np.testing.assert_allclose(ct.inserted_variance(p, a, i0, electronic), expected, rtol=1e-9)
    assert not ct.inserted_variance(p, 1.0, i0, electronic).any()


@pytest.mark.parametrize("kernel", [Kernel("cosine"), HANN], ids=["sharp", "smooth"])
def test_level_at_the_centre_of_a_disc(kernel: Kernel) -> None:
    """sigma^2 = pi v / rho * integral of |f|^2 A(f)^2, with rho rays of variance v per unit of theta and s."""
    radius, pixel, n = 120.0, 2.8, 128
    disc = mu_to_hu(image([Ellipse(radius, radius, MU_WATER_PER_MM)], (n, n), pixel)).astype(np.float32)
    rng = np.random.default_rng(2)
    options = {"dose_fraction": 0.25, "i0": I0, "electronic_variance": 10.0, "kernel": kernel, "full_dose": True}
    draws = np.stack([noise_image(disc, pixel, **options, generator=rng)[56:72, 56:72] for _ in range(40)])
    f = np.linspace(0, 0.75, 4001) / pixel
    power = 2 * np.trapezoid((f * kernel.response(f * pixel)) ** 2, f)
    v = ct.total_variance(2 * radius * MU_WATER_PER_MM, 0.25, I0, 10.0)
    rho = ct.DEFAULT_GEOMETRY.rays_per_cell(np.array(0.0), 1.0, 1.0)
    expected = np.sqrt(np.pi * v / rho * power) * 1000 / MU_WATER_PER_MM
    assert draws.std() == pytest.approx(expected, rel=0.02)
    assert abs(draws.mean()) < 0.02 * expected


@pytest.fixture(scope="module")
def thinned(line_integrals: np.ndarray) -> list[tuple[np.ndarray, dict[float, np.ndarray]]]:
    """Reconstructed noise of full-dose scans and of their binomially thinned counts, by dose fraction."""
    rng = np.random.default_rng(3)
    scans = []
    for _ in range(24):
        counts = rng.poisson(I0 * np.exp(-line_integrals))
        full = _hu(-np.log(counts / I0) - line_integrals)
        low = {a: _hu(-np.log(rng.binomial(counts, a) / (a * I0)) - line_integrals) for a in (0.5, 0.25, 0.1)}
        scans.append((full, low))
    return scans


@pytest.mark.parametrize("a", [0.5, 0.25, 0.1])
def test_inserted_noise_against_binomial_thinning(water: np.ndarray, thinned: list, a: float) -> None:
    """On a water ellipse the level of the inserted noise is that of thinned counts less their full dose, within 5 %."""
    rng = np.random.default_rng(4)
    options = {"dose_fraction": a, "i0": I0, "electronic_variance": 0.0, "kernel": HANN, "geometry": GEOMETRY}
    inserted = [noise_image(water, PIXEL, **options, generator=rng) for _ in range(24)]
    truth = [low[a] - full for full, low in thinned]
    np.testing.assert_allclose(_levels(inserted), _levels(truth), rtol=0.05)
    sums = [full + noise for (full, _), noise in zip(thinned, inserted, strict=False)]
    np.testing.assert_allclose(_levels(sums), _levels([low[a] for _, low in thinned]), rtol=0.05)


def test_spectrum_against_binomial_thinning(water: np.ndarray, thinned: list) -> None:
    """Noise drawn on the rebinned grid has the mean frequency of noise drawn ray by ray in the fan, within 3 %."""
    rng = np.random.default_rng(5)
    options = {"dose_fraction": 0.25, "i0": I0, "electronic_variance": 0.0, "kernel": HANN, "geometry": GEOMETRY}
    inserted = np.stack([noise_image(water, PIXEL, **options, generator=rng)[48:80, 48:80] for _ in range(24)])
    truth = np.stack([(low[0.25] - full)[48:80, 48:80] for full, low in thinned])
    f_fast, f_fan = (noise_spectrum(rois, PIXEL).mean_frequency for rois in (inserted, truth))
    assert f_fast == pytest.approx(f_fan, rel=0.03)


def test_electronic_noise_counts_at_low_dose(water: np.ndarray, line_integrals: np.ndarray) -> None:
    """The level follows the variance formula through the whole chain where electronic noise matters."""
    i0, a, electronic = 2e5, 0.1, 40.0
    rng = np.random.default_rng(6)
    scans = []
    for _ in range(16):
        y = rng.poisson(a * i0 * np.exp(-line_integrals)) + rng.normal(0, np.sqrt(electronic), line_integrals.shape)
        scans.append(_hu(-np.log(np.maximum(y, 1) / (a * i0)) - line_integrals))
    options = {"dose_fraction": a, "i0": i0, "electronic_variance": electronic, "kernel": HANN, "geometry": GEOMETRY}
    drawn = [noise_image(water, PIXEL, **options, generator=rng, full_dose=True) for _ in range(16)]
    np.testing.assert_allclose(_levels(drawn), _levels(scans), rtol=0.05)


def test_coarse_line_integrals_give_the_right_level(line_integrals: np.ndarray, water: np.ndarray) -> None:
    """Line integrals from the coarse image give the variance of the exact ones within 1 %, rays at the rim aside."""
    n_bins = ct._n_bins(*MATRIX)
    s = ct.bin_centres(n_bins, PIXEL)
    theta = (np.arange(360) * np.pi / 360)[:, None]
    exact = integrals(WATER, theta, s)
    seen = ct.smooth_line_integrals(water, PIXEL, 360, n_bins)
    inside = exact > 1
    assert np.mean(np.exp(seen[inside])) == pytest.approx(np.mean(np.exp(exact[inside])), rel=0.01)
    assert np.percentile(np.abs(seen - exact)[inside], 95) < 0.02


def test_bowtie_makes_the_rim_noisier(water: np.ndarray) -> None:
    """Fewer photons off-centre: with a bowtie the noise falls less from the middle to the rim."""
    options = {"dose_fraction": 0.25, "i0": I0, "kernel": HANN}
    plain, bowtie = (
        _levels([noise_image(water, PIXEL, **options, geometry=g, generator=np.random.default_rng(7))])
        for g in (GEOMETRY, replace(GEOMETRY, bowtie_radius_mm=150.0))
    )
    assert bowtie[1] / bowtie[0] > 1.03 * plain[1] / plain[0]


def test_noise_is_reproducible(water: np.ndarray) -> None:
    """One seed, one noise, bit for bit; another seed, another noise."""
    options = {"dose_fraction": 0.25, "i0": I0, "kernel": HANN}
    a, b, c = (noise_image(water, PIXEL, **options, generator=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.06
