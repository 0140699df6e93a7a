"""Resolution and detection over a case, against what the blur and the noise were."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian
from scipy.stats import norm

from medidiff.evaluate.measures.task import MEASURES, TASK_HU, TASK_RADIUS_MM
from medidiff.evaluate.phantoms import PhantomCase
from medidiff.evaluate.view import Context, Feature, View
from medidiff.metrics.detectability import channels, disc_spectrum, eye_filter, npwe
from medidiff.physics.ct import KERNELS
from medidiff.physics.phantoms import PHANTOMS, Phantom

PIXEL = 0.9
HANN = KERNELS["hann"]
SIGMA = 1.0  # pixels, of the Gaussian that is the method to be judged


def blur(image: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(fourier_gaussian(np.fft.rfft2(image), SIGMA, image.shape[1]), image.shape)


def rods() -> tuple[Phantom, Context]:
    made = PHANTOMS["rods"](256, PIXEL)
    features = tuple(Feature(i.ellipse, i.role, i.name) for i in made.inserts)
    return made, Context(pixel_mm=(PIXEL, PIXEL), features=features, reference_noise="none")


def shown(name: str, context: Context, slices, method=lambda image: image):
    """The measure after (truth, scan) slices whose scan went through a method."""
    measure = MEASURES[name](context)
    for k, (truth, scan) in enumerate(slices):
        measure.add(View(k, method(scan), truth, np.ones(scan.shape, bool), scan=scan, truth=truth))
    return measure


def noisy(clean: np.ndarray, sigma: float, n: int = 50):
    rng = np.random.default_rng(0)
    return ((clean, clean + rng.normal(0, sigma, clean.shape)) for _ in range(n))


def test_resolution_before_and_after_a_blur() -> None:
    """f50 of every rod is that of kernel times Gaussian within 5 %, its ratio to the input's too; 0.5 becomes G / 2."""
    made, context = rods()
    measure = shown("ttf", context, noisy(made.image(HANN), 15.0), blur)
    values = {(v.metric, v.region): v.value for v in measure.values()}
    f = np.linspace(0, 0.5, 2001)
    both = HANN.response(f) * np.exp(-2 * np.pi**2 * SIGMA**2 * f**2)
    f50 = np.interp(-0.5, -both, f) / PIXEL
    f10 = np.interp(-0.1, -both, f) / PIXEL
    at_input = both[np.argmin(np.abs(f - 0.25))]
    for name in (f"rod {hu} HU" for hu in (-200, -80, 60, 120, 340, 900)):
        assert values["TTF f50", name] == pytest.approx(f50, rel=0.05)
        assert values["TTF f10", name] == pytest.approx(f10, rel=0.05)
        assert values["TTF f50 ratio", name] == pytest.approx(f50 * PIXEL / 0.25, rel=0.06)
        assert values["TTF at input f50", name] == pytest.approx(at_input, abs=0.03)
    curves = {c.name: c for c in measure.curves()}
    assert set(curves) == {f"TTF {name}" for name in measure.rods}
    assert curves["TTF rod 900 HU"].y[0] == 1


def test_a_rod_in_too_much_noise_is_not_judged() -> None:
    """At 40 HU of noise the rods of 60 and 80 HU are silent; with 49 realisations all are."""
    made, context = rods()
    clean = made.image(HANN)
    found = {v.region for v in shown("ttf", context, noisy(clean, 40.0)).values()}
    assert found == {"rod -200 HU", "rod 120 HU", "rod 340 HU", "rod 900 HU"}
    assert not list(shown("ttf", context, noisy(clean, 15.0, n=49)).values())


def test_npwe_is_that_of_the_known_blur_and_noise() -> None:
    """From images alone: the d' that the true transfer function and the true noise power give, within 5 %."""
    made, context = rods()
    f = np.linspace(0, 0.5 / PIXEL, 2001)
    signal = disc_spectrum(f, TASK_RADIUS_MM, TASK_HU) * HANN.response(f * PIXEL)
    expected = npwe(f, signal, np.full(f.shape, 15.0**2 * PIXEL**2), eye_filter(f))
    values = list(shown("npwe", context, noisy(made.image(HANN), 15.0)).values())
    assert {v.metric for v in values} == {"NPWE d'"}
    assert len(values) == 6
    for value in values:
        assert value.value == pytest.approx(expected, rel=0.05)


def test_detection_is_that_of_the_ideal_observer_of_the_channels() -> None:
    """In white noise each kind of signal has Phi(d' / sqrt 2) within 0.04; a method that wipes it out has a half."""
    n, sigma = 80, 30.0
    case = PhantomCase("signals", realisations=n)
    context = Context(pixel_mm=(PIXEL, PIXEL), n_slices=n, features=case.features)
    rng = np.random.default_rng(0)
    slices = [(case.truth.read(k), case.truth.read(k) + rng.normal(0, sigma, (256, 256))) for k in range(n)]
    measure = shown("cho", context, slices)
    values = {(v.metric, v.region): v.value for v in measure.values()}
    difference = (case.truth.read(0) - case.truth.read(n - 1)).ravel()
    y, x = (np.mgrid[:256, :256].reshape(2, -1) - 127.5) * PIXEL
    for feature in {f.name: f for f in case.features if f.role == "signal"}.values():
        pixels, _ = measure.templates[feature.pair]
        u = channels(x[pixels] - feature.ellipse.x0, y[pixels] - feature.ellipse.y0, PIXEL)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        d2 = (u @ difference[pixels]) @ np.linalg.lstsq(u @ u.T, u @ difference[pixels])[0] / sigma**2
        expected = norm.cdf(np.sqrt(d2 / 2))
        assert 0.6 < expected < 0.95
        assert values["CHO AUC", feature.name] == pytest.approx(expected, abs=0.04)
        assert values["CHO AUC low", feature.name] < values["CHO AUC high", feature.name]
    absent = case.truth.read(n - 1)
    wiped = shown("cho", context, ((absent, absent + rng.normal(0, sigma, (256, 256))) for _ in range(n)))
    assert np.mean([v.value for v in wiped.values() if v.metric == "CHO AUC"]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", MEASURES)
def test_a_patient_has_no_known_objects(name: str) -> None:
    """Without features nothing is said, and nothing is raised."""
    measure = shown(name, Context(), noisy(np.full((64, 64), 40.0), 10.0, n=3))
    assert not list(measure.values())
    assert not list(measure.curves())
