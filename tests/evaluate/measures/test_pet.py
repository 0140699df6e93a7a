"""PET measures over slices equal the whole-volume figures; NEMA phantoms; silence where there is no SUV."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.pet import MEASURES
from medidiff.evaluate.view import Context, Feature, View
from medidiff.metrics.pet import disc_weights, lesion
from medidiff.physics.ellipses import Ellipse

SPACING = (3.3, 2.0, 2.0)
SUV = Context(unit="SUV", pixel_mm=(2.0, 2.0), slice_mm=3.3, n_slices=12, presets=("suv",))
SHAPE = (12, 60, 60)
RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.gamma(9, 0.2, SHAPE).astype(np.float32)
LESION = np.zeros(SHAPE, bool)
LESION[4:8, 20:30, 25:40] = LESION[0, 50:, 50:] = True
REFERENCE[LESION] += 5
CANDIDATE = (0.8 * REFERENCE + 0.1).astype(np.float32)


def figures(name: str, context: Context, views: list[View]) -> dict[tuple[str, str], float]:
    values, _ = judge(views, [MEASURES[name](context)])
    return {(value.metric, value.region): value.value for value in values}


def volume_views() -> list[View]:
    measured = np.ones(SHAPE[1:], bool)
    return [
        View(k, CANDIDATE[k], REFERENCE[k], measured, regions={"tumour": LESION[k]} if LESION[k].any() else {})
        for k in range(SHAPE[0])
    ]


def test_streamed_uptake_equals_the_volume_at_once() -> None:
    """Slice by slice, with spheres across slices and at the first one: all five figures, and their bias."""
    found = figures("suv", SUV, volume_views())
    candidate, reference = lesion(CANDIDATE, LESION, SPACING), lesion(REFERENCE, LESION, SPACING)
    for metric, key in (("SUVmean", "mean"), ("SUVmax", "max"), ("SUVpeak", "peak"), ("MTV", "mtv_ml"), ("TLG", "tlg")):
        value, was = getattr(candidate, key), getattr(reference, key)
        assert found[metric, "tumour"] == pytest.approx(value, rel=1e-12)
        assert found[f"{metric} bias", "tumour"] == pytest.approx(100 * (value / was - 1), rel=1e-9)


def test_total_activity_and_variation() -> None:
    """COV and activity are numpy's own of the volume."""
    found = figures("cov", SUV, volume_views())
    inside = CANDIDATE[LESION].astype(float)
    assert found["COV", "tumour"] == pytest.approx(100 * inside.std(ddof=1) / inside.mean(), rel=1e-6)
    assert found["total activity", "all"] == pytest.approx(CANDIDATE.sum(dtype=float) * np.prod(SPACING) / 1000)
    bias = 100 * (CANDIDATE.sum(dtype=float) / REFERENCE.sum(dtype=float) - 1)
    assert found["total activity bias", "all"] == pytest.approx(bias)


def nema_features() -> tuple[Feature, ...]:
    """Six spheres at 57 mm from the centre, two of them cold, and 12 background places on 5 slices."""
    features = []
    for k, diameter in enumerate((37, 28, 22, 17, 13, 10)):
        x, y = 57.2 * np.cos(k * np.pi / 3), 57.2 * np.sin(k * np.pi / 3)
        ratio = 0.0 if k < 2 else 4.0
        ellipse = Ellipse(diameter / 2, diameter / 2, ratio, x, y)
        features.append(Feature(ellipse, "sphere", f"{diameter} mm", slices=(5,)))
    for k in range(12):
        x, y = 105 * np.cos(k * np.pi / 6), 105 * np.sin(k * np.pi / 6)
        place = Ellipse(18.5, 18.5, 1.0, x, y)
        features.append(Feature(place, "background", f"background {k}", slices=(3, 4, 5, 6, 7)))
    return tuple(features)


def test_a_perfect_nema_phantom() -> None:
    """Exact contrast recovers 100 % in all spheres, hot and cold, and a uniform background varies by nothing."""
    features = nema_features()
    slice_ = np.full((128, 128), 2.0, np.float32)
    for feature in features[:6]:
        e = feature.ellipse
        wide = disc_weights(slice_.shape, (2.0, 2.0), (e.x0, e.y0), 2 * e.a + 6) > 0
        slice_[wide] = 2 * e.value
    context = Context(unit="SUV", pixel_mm=(2.0, 2.0), features=features)
    views = [View(k, slice_, slice_, np.ones(slice_.shape, bool)) for k in range(10)]
    found = figures("nema", context, views)
    assert len(found) == 12
    for diameter in (37, 28, 22, 17, 13, 10):
        assert found["contrast recovery", f"{diameter} mm"] == pytest.approx(100, rel=1e-6)
        assert found["background variability", f"{diameter} mm"] == pytest.approx(0, abs=1e-5)


def test_background_variability_of_white_noise_falls_with_the_area() -> None:
    """Discs of n pixels of white noise vary by sigma / sqrt(n)."""
    random = np.random.default_rng(2)
    context = Context(unit="SUV", pixel_mm=(2.0, 2.0), features=nema_features())
    views = []
    for k in range(3, 8):
        noisy = (10 + random.normal(size=(128, 128))).astype(np.float32)
        views.append(View(k, noisy, noisy, np.ones(noisy.shape, bool)))
    found = figures("nema", context, views)
    for diameter in (37, 17):
        expected = 100 * 0.1 / np.sqrt(np.pi * (diameter / 4) ** 2)
        assert found["background variability", f"{diameter} mm"] == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("name", list(MEASURES))
def test_without_suv_nothing_is_said(name: str) -> None:
    """CT has no uptake."""
    assert figures(name, Context(unit="HU", features=nema_features()), volume_views()) == {}
