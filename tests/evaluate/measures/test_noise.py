"""Noise and contrast over a case: known noise in phantoms, and behind anatomy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.noise import MEASURES, SLICES
from medidiff.evaluate.view import Context, Feature, View
from medidiff.physics.ct import KERNELS
from medidiff.physics.ellipses import Ellipse
from medidiff.physics.phantoms import PHANTOMS

PIXEL = 0.9
HANN = KERNELS["hann"]


def phantom(kind: str, **facts: object) -> tuple[np.ndarray, Context]:
    """The noise-free image of a phantom without signals to be switched, and its context."""
    made = PHANTOMS[kind](256, PIXEL)
    features = tuple(Feature(i.ellipse, i.role, i.name) for i in made.inserts)
    return made.image(HANN), Context(pixel_mm=(PIXEL, PIXEL), features=features, **facts)


def judged(name: str, context: Context, slices: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]):
    """Values by (metric, region) and curves by name of (candidate, reference, scan) slices."""
    views = (View(k, *images, np.ones(images[0].shape, bool), scan=scan) for k, (*images, scan) in enumerate(slices))
    values, curves = judge(views, [MEASURES[name](context)])
    return {(v.metric, v.region): v.value for v in values}, {c.name: c for c in curves}


def test_white_noise_in_a_phantom_and_what_a_filter_makes_of_it() -> None:
    """Level, flat spectrum s^2 dx dy, and after a Gaussian the mean frequency that its gain gives; both shifts."""
    clean, context = phantom("uniform", n_slices=12, reference_noise="independent")
    rng = np.random.default_rng(0)
    scans = [clean + rng.normal(0, 10, clean.shape) for _ in range(12)]
    values, curves = judged("nps", context, [(s, s, s) for s in scans])
    assert values["noise", "all"] == pytest.approx(10, rel=0.02)
    np.testing.assert_allclose(curves["NPS"].y[1:], 100 * PIXEL**2, rtol=0.1)
    np.testing.assert_allclose(curves["NPS along rows"].y[1:], 100 * PIXEL**2, rtol=0.2)
    assert values["NPS shift", "all"] == values["NPS shift input", "all"] == 0
    smooth, _ = judged("nps", context, [(gaussian_filter(s, 1.0), s, s) for s in scans])
    f = np.array(curves["NPS"].x)
    power = np.exp(-4 * np.pi**2 * (f * PIXEL) ** 2) * curves["NPS"].y  # the trend took some of the lowest ring
    expected = (f * power).sum() / power.sum()
    assert smooth["NPS mean", "all"] == pytest.approx(expected, rel=0.03)
    assert smooth["NPS shift", "all"] == pytest.approx(expected - values["NPS mean", "all"], rel=0.03)
    assert smooth["noise", "all"] == pytest.approx(10 / np.sqrt(4 * np.pi), rel=0.03)


def test_a_noise_free_reference_has_no_colour() -> None:
    """Against the truth there is no shift, and a candidate without noise has a level only."""
    clean, context = phantom("uniform", reference_noise="none")
    flat = np.zeros_like(clean)
    values, curves = judged("nps", context, [(flat, clean, None)])
    assert set(values) == {("noise", "all")}
    assert values["noise", "all"] == pytest.approx(0, abs=1e-6)
    assert not curves


def plane_level(plane) -> float:
    """The standard deviation that a two-dimensional spectrum stands for: the root of its integral."""
    step = plane.x[1] - plane.x[0]
    return float(np.sqrt(np.sum(plane.y) * step**2))


def test_the_two_dimensional_spectrum_shows_noise_that_has_a_direction() -> None:
    """Noise smoothed along rows only: its integral is the variance, and power falls along f_x alone, by its gain."""
    clean, context = phantom("uniform", n_slices=12, reference_noise="independent")
    rng = np.random.default_rng(4)
    slices = [clean + gaussian_filter(rng.normal(0, 20, clean.shape), (0, 1.0)) for _ in range(12)]
    values, curves = judged("nps", context, [(s, s, None) for s in slices])
    plane = curves["NPS plane"]
    assert plane_level(plane) == pytest.approx(values["noise", "all"], rel=1e-6)
    power = np.reshape(plane.y, (len(plane.x), len(plane.x)))  # rows are f_y, columns f_x
    f, inside = np.array(plane.x), slice(4, -4)
    gain = np.exp(-4 * np.pi**2 * (f * PIXEL) ** 2)
    seen = power[inside].mean(0)
    high = np.abs(f) * PIXEL > 0.1
    np.testing.assert_allclose(seen[high & (gain > 0.02)], (400 * PIXEL**2 * gain)[high & (gain > 0.02)], rtol=0.15)
    column = power[:, np.abs(f) * PIXEL < 0.05].mean(1)[np.abs(f) * PIXEL > 0.1]
    assert column.std() / column.mean() < 0.25


def anatomy() -> np.ndarray:
    """A body with an organ and vessels, (rows, columns)."""
    y, x = np.mgrid[:256, :256] - 127.5
    clean = np.where((x / 115) ** 2 + (y / 95) ** 2 < 1, 40.0, -1000.0)
    for centre in np.random.default_rng(2).uniform(-80, 80, (8, 2)):
        clean += 100 * (np.hypot(x - centre[0], y - centre[1]) < 4)
    return clean


def test_noise_of_a_patient() -> None:
    """Behind anatomy the level is right within 10 %, and a third of white noise shifts nothing."""
    clean, rng = anatomy(), np.random.default_rng(3)
    context = Context(pixel_mm=(PIXEL, PIXEL), n_slices=6, reference_noise="shared")
    noise = rng.normal(0, 30, (6, 256, 256))
    values, curves = judged("nps", context, [(clean + n / 3, clean + n, None) for n in noise])
    assert values["noise", "all"] == pytest.approx(10, rel=0.1)
    assert plane_level(curves["NPS plane"]) == pytest.approx(values["noise", "all"], rel=1e-6)
    assert values["NPS shift", "all"] == pytest.approx(0, abs=0.02 * values["NPS mean", "all"])
    assert set(curves) == {"NPS", "NPS reference", "NPS plane"}
    assert ("NPS shift input", "all") not in values


def test_a_long_scan_is_sampled() -> None:
    """Of 400 slices 16 are looked at: memory and time do not grow with the scan."""
    clean = anatomy() + np.random.default_rng(4).normal(0, 20, (256, 256))
    measure = MEASURES["nps"](Context(pixel_mm=(PIXEL, PIXEL), n_slices=400))
    for k in range(400):
        measure.add(View(k, clean, clean, np.ones(clean.shape, bool)))
    assert len(measure.of["candidate"].found) == SLICES


@pytest.mark.parametrize("name", ["nps", "cnr"])
def test_what_does_not_apply_says_nothing(name: str) -> None:
    """Lung alone, or another unit, gives no values and no error."""
    lung = np.full((96, 96), -850.0) + np.random.default_rng(0).normal(0, 20, (96, 96))
    for context in (Context(), Context(unit="SUV")):
        values, curves = judged(name, context, [(lung, lung, None)])
        assert not values
        assert not curves


def test_contrast_and_its_ratio_to_the_noise() -> None:
    """Rods have the contrast they were given, and CNR is that over the noise; negative ones too."""
    clean, context = phantom("rods")
    rng = np.random.default_rng(1)
    slices = [clean + rng.normal(0, 20, clean.shape) for _ in range(10)]
    values, _ = judged("cnr", context, [(s, clean, None) for s in slices])
    for hu in (-200, -80, 60, 120, 340, 900):
        assert values["contrast", f"rod {hu} HU"] == pytest.approx(hu, abs=2)
        assert values["CNR", f"rod {hu} HU"] == pytest.approx(abs(hu) / 20, rel=0.05)


def test_features_count_only_in_their_slices() -> None:
    """A signal that is there in slice 0 alone is not looked for in slice 1."""
    clean, _ = phantom("uniform")
    disc = Feature(Ellipse(5, 5, 10.0, 20, 20), "signal", "disc", slices=(0,), pair=0)
    y, x = (np.mgrid[:256, :256] - 127.5) * PIXEL
    present = clean + 10 * (np.hypot(x - 20, y - 20) < 5)
    context = Context(pixel_mm=(PIXEL, PIXEL), features=(disc,))
    values, _ = judged("cnr", context, [(present, clean, None), (clean, clean, None)])
    assert values["contrast", "disc"] == pytest.approx(10, abs=0.1)
