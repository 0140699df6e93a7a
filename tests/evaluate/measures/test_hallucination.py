"""The measure of invention over slices: a single planted lesion shows, and padding and missing scans do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.evaluate.engine import judge
from medidiff.evaluate.measures.hallucination import MEASURES
from medidiff.evaluate.view import Context, View

SHAPE = (160, 160)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]] * 0.8
LESION = (40.0 * ((X - 60) ** 2 + (Y - 70) ** 2 <= 4**2)).astype(np.float32)
PIXELS = Context(pixel_mm=(0.8, 0.8), reference_noise="none")


def views(added: np.ndarray | float = 0.0, removed: np.ndarray | float = 0.0, scan: bool = True) -> list[View]:
    """Three slices of tissue; the lesion is planted or lost in the second."""
    random = np.random.default_rng(4)
    shown = []
    for index in range(3):
        there = index == 1
        truth = np.full(SHAPE, 50, np.float32) + there * np.float32(removed)
        noise = gaussian_filter(random.normal(size=SHAPE), 0.8)
        low = (truth + 15 * noise / noise.std()).astype(np.float32)
        candidate = gaussian_filter(low - there * np.float32(removed), 1.2) + there * np.float32(added)
        measured = np.ones(SHAPE, bool)
        regions = {"lesion": LESION > 0} if there else {}
        shown.append(View(index, candidate, truth, measured, scan=low if scan else None, regions=regions))
    return shown


def figures(shown: list[View]) -> dict[tuple[str, str], float]:
    values, _ = judge(shown, [MEASURES["hallucination"](PIXELS)])
    return {(value.metric, value.region): value.value for value in values}


def test_a_planted_lesion_raises_the_figures_of_the_clean_candidate() -> None:
    """In per cent of the volume it is little, in its own region much, and in sigma plain."""
    clean, planted = figures(views()), figures(views(added=LESION))
    assert clean["added structure", "all"] == clean["strongest added", "all"] == 0
    assert planted["strongest added", "all"] > 4
    assert 0 < planted["added structure", "all"] < 0.2
    assert planted["added structure", "lesion"] > 20
    assert planted["removed structure", "all"] == 0


def test_a_lost_lesion_raises_the_other_figures() -> None:
    """Removed structure is told apart from added."""
    lost = figures(views(removed=LESION))
    assert lost["strongest removed", "all"] > 4
    assert lost["removed structure", "lesion"] > 20
    assert lost["added structure", "all"] == 0


def test_fresh_texture_is_unsupported() -> None:
    """Noise that the scan does not have raises the share of unsupported frequencies from 0."""
    fresh = 10 * gaussian_filter(np.random.default_rng(9).normal(size=SHAPE), 0.8) / 0.35
    assert figures(views())["unsupported frequencies", "all"] == 0
    assert figures(views(added=fresh))["unsupported frequencies", "all"] > 10


def test_padding_counts_for_nothing() -> None:
    """A planted lesion in padding is not seen, and padding of -2000 makes no edge."""
    (view, *_), (planted, *_) = views()[1:], views(added=LESION)[1:]
    measured = np.ones(SHAPE, bool)
    measured[:, 64:112] = False
    images = [np.where(measured, image, -2000) for image in (planted.candidate, view.reference, view.scan)]
    found = figures([View(0, images[0], images[1], measured, scan=images[2])])
    assert found["strongest added", "all"] == found["added structure", "all"] == 0


def test_without_a_scan_nothing_is_said() -> None:
    """Whether the input supports a structure cannot be known without it."""
    assert judge(views(scan=False), [MEASURES["hallucination"](PIXELS)]) == ([], [])


def test_correlation_curves_have_units() -> None:
    """Fourier ring correlation over cycles per mm, up to Nyquist."""
    _, curves = judge(views(), [MEASURES["hallucination"](PIXELS)])
    curve = {curve.name: curve for curve in curves}["FRC with input"]
    assert (curve.x_unit, curve.y_unit) == ("1/mm", "1")
    assert curve.x[-1] == pytest.approx(0.5 / 0.8)
    assert min(curve.y[:4]) > 0.9
