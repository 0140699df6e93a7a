"""What a schedule does to an image: the places of noise levels, and what is recognisable, against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.diffusion import schedule
from medidiff.diffusion.story import (
    WAYS,
    Known,
    correlation,
    detectability,
    disc,
    estimates,
    recognisability,
    share_of_way,
    share_right,
    variance_preserving,
)

SIGMAS = [0.2, 1.0, 4.0]


def white(n: int = 3, side: int = 192) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(40, 20, (n, side, side)).astype(np.float32)


def smooth(n: int = 3, side: int = 192) -> NDArray[np.float32]:
    """A field with far more power at low frequencies, periodic."""
    fields = [gaussian_filter(one, 4, mode="wrap") for one in white(n, side)]
    return np.stack(fields).astype(np.float32)


def whole(columns: int) -> NDArray[np.intp]:
    """Where a real transform, which holds one half, has each frequency of the whole plane."""
    return np.abs(np.rint(np.fft.fftfreq(columns) * columns)).astype(np.intp)


def test_the_ways_are_the_schedules_of_the_literature() -> None:
    """At the steps of their tables; `aggressive` is 8 tan(pi t / 2), karras equation 5 of its paper."""
    n = schedule.FINE_STEPS
    k = np.arange(1, n) / n
    tables = {"linear": schedule.alpha_bar_linear, "cosine": schedule.alpha_bar_cosine}
    for name, table in tables.items():
        expected = schedule.sigma_from_alpha_bar(table(n))[:-1].numpy()
        np.testing.assert_allclose(WAYS[name](k), expected, rtol=1e-9)
    t = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(WAYS["aggressive"](t), 8 * np.tan(np.pi / 2 * t), rtol=1e-9)
    low, high = 0.004 ** (1 / 7), 160 ** (1 / 7)
    np.testing.assert_allclose(WAYS["karras"](k), (low + k * (high - low)) ** 7, rtol=1e-9)


def test_every_way_begins_at_the_image_and_rises() -> None:
    t = np.linspace(0, 1, 501)
    for name, way in WAYS.items():
        sigma = way(t)
        assert sigma[0] == (pytest.approx(0.004) if name == "karras" else 0)
        assert (np.diff(sigma) >= 0).all()
        assert sigma[-1] > 100


def test_the_share_of_the_way_undoes_it() -> None:
    for name, way in WAYS.items():
        assert share_of_way(name, float(way(np.array(0.37)))) == pytest.approx(0.37, abs=1e-3)
    assert share_of_way("cosine", 1.0) == pytest.approx(0.5, abs=0.01)
    assert share_of_way("aggressive", 1.0) == pytest.approx(2 / np.pi * np.arctan(1 / 8), abs=1e-3)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_noise_leaves_the_correlation_that_variances_say(sigma: float) -> None:
    """corr(x, x + sigma n) = 1 / sqrt(1 + sigma^2 / var x), whatever the image."""
    for images in (white(), smooth()):
        known = Known.of(images)
        found = np.mean([correlation(images[k], known.noised(k, sigma, 7)) for k in range(len(images))])
        assert found == pytest.approx(1 / np.sqrt(1 + sigma**2), abs=0.01)


def test_a_white_image_cannot_be_told_from_white_noise() -> None:
    """The Wiener filter of a flat spectrum is a factor: the estimate correlates no better than the noisy image."""
    found = recognisability(white(), SIGMAS).mean(1)
    np.testing.assert_allclose(found, 1 / np.sqrt(1 + np.array(SIGMAS) ** 2), atol=0.01)


def test_structure_is_recognised_as_the_spectrum_says() -> None:
    """rho^2 = sum(P^2 / (P + N)) / sum(P), N the noise power; far better than the noisy image itself."""
    images = smooth()
    known = Known.of(images)
    spectrum = known.spectrum[:, whole(images.shape[2])]
    for sigma, found in zip(SIGMAS, recognisability(images, SIGMAS).mean(1), strict=True):
        noise = (sigma * known.deviation) ** 2
        expected = np.sqrt((spectrum**2 / (spectrum + noise)).sum() / spectrum.sum())
        assert found == pytest.approx(expected, abs=0.01)
        assert found > 1 / np.sqrt(1 + sigma**2) + 0.01


def test_the_spectrum_holds_the_variance() -> None:
    """Parseval: its mean over all frequencies is the variance of the pixels; odd sizes included."""
    for side in (64, 65):
        images = smooth(2, side)
        known = Known.of(images)
        assert known.spectrum[:, whole(side)].mean() == pytest.approx(known.deviation**2, rel=1e-6)


def test_without_noise_everything_is_recognised_and_units_do_not_matter() -> None:
    images = smooth()
    assert recognisability(images, [0.0]).min() == pytest.approx(1.0)
    scaled = recognisability((3 * images - 1000).astype(np.float32), SIGMAS)
    np.testing.assert_allclose(scaled, recognisability(images, SIGMAS), atol=1e-4)


def test_no_level_of_noise_can_be_seen_through_better_than_a_lower_one() -> None:
    found = recognisability(smooth(), np.geomspace(0.05, 50, 12).tolist()).mean(1)
    assert (np.diff(found) < 1e-3).all()


def test_another_likeness_can_be_asked_for() -> None:
    """It is given the estimate and the image, in that order."""
    images = white(2, 32)
    seen = {(i, k): estimate for i, k, estimate in estimates(images, [1.0], 3)}
    errors = recognisability(images, [1.0], 3, alike=lambda a, b: float(np.abs(a - b).mean()))
    assert errors[0, 1] == pytest.approx(float(np.abs(seen[0, 1] - images[1]).mean()))


def test_a_shrunk_picture_keeps_the_spread_of_the_image() -> None:
    """The variance-preserving x_t: standard deviation and mean stay, and x is sqrt(alpha_bar) of it."""
    images = white(1)
    known = Known.of(images)
    for sigma in SIGMAS:
        level = sigma * known.deviation
        noised = known.noised(0, sigma, 1)
        shown = variance_preserving(noised, level, known.mean, known.deviation)
        assert shown.std() == pytest.approx(known.deviation, rel=0.02)
        alpha_bar = 1 / (1 + sigma**2)
        np.testing.assert_allclose(shown - known.mean, np.sqrt(alpha_bar) * (noised - known.mean), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- the lesion


def test_a_disc_has_its_area_and_contrast() -> None:
    """Also where pixels are no squares and the disc is small; its middle is whole."""
    for pixel_mm, diameter in (((0.75, 0.75), 10.0), ((4.0, 2.0), 10.0), ((0.7, 0.7), 3.0)):
        signal = disc(pixel_mm, diameter, 50.0)
        area = signal.sum() / 50 * pixel_mm[0] * pixel_mm[1]
        assert area == pytest.approx(np.pi * diameter**2 / 4, rel=0.02)
        rows, columns = signal.shape
        assert signal.max() == signal[rows // 2, columns // 2] == 50
        np.testing.assert_array_equal(signal, signal[::-1, ::-1])


def test_d_prime_of_a_disc_is_what_an_observer_reaches() -> None:
    """|s| / sigma is the separation of the matched filter's scores, counted over 20,000 draws of white noise."""
    signal, sigma = disc((1.0, 1.0), 6.0, 30.0), 100.0
    noise = np.random.default_rng(2).normal(0, sigma, (20_000, signal.size))
    absent, present = noise @ signal.ravel(), (noise + signal.ravel()) @ signal.ravel()
    d_prime = (present.mean() - absent.mean()) / absent.std()
    assert detectability(signal, sigma) == pytest.approx(d_prime, rel=0.03)
    pairs = present > np.roll(absent, 1)
    assert share_right(detectability(signal, sigma)) == pytest.approx(pairs.mean(), abs=0.01)


def test_d_prime_at_its_ends() -> None:
    signal = disc((1.0, 1.0), 6.0, 30.0)
    assert detectability(signal, 50.0) == pytest.approx(2 * detectability(signal, 100.0))
    assert share_right(detectability(signal, 0.0)) == 1.0
    assert share_right(0.0) == 0.5
