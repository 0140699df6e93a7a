"""Fast windows have the numbers of scipy.ndimage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.metrics.windows import gaussian_weights, greatest, least, smoothed, weighted

IMAGE = np.random.default_rng(0).normal(0, 300, (37, 52)).astype(np.float32)
EDGES = [("edge", "nearest"), ("symmetric", "reflect"), ("constant", "constant")]


@pytest.mark.parametrize(("edge", "mode"), EDGES)
@pytest.mark.parametrize("window", [(1, 1), (3, 5), (11, 7), (35, 19), (63, 9)])
def test_least_and_greatest_are_exact(edge: str, mode: str, window: tuple[int, int]) -> None:
    """Any odd window, also one larger than the image, and any of the three edges."""
    np.testing.assert_array_equal(least(IMAGE, window, edge), ndimage.minimum_filter(IMAGE, window, mode=mode))
    np.testing.assert_array_equal(greatest(IMAGE, window, edge), ndimage.maximum_filter(IMAGE, window, mode=mode))


@pytest.mark.parametrize(("edge", "mode"), EDGES)
@pytest.mark.parametrize("step", [(1, 1), (2, 3)])
def test_a_gaussian_equals_that_of_scipy(edge: str, mode: str, step: tuple[int, int]) -> None:
    """To single precision, at every pixel or at some."""
    expected = ndimage.gaussian_filter(IMAGE.astype(float), (2.3, 1.1), mode=mode, truncate=3.5)
    seen = smoothed(IMAGE, (2.3, 1.1), 3.5, edge, step)
    np.testing.assert_allclose(seen, expected[:: step[0], :: step[1]], rtol=1e-6, atol=1e-4)


def test_weighted_sums_are_correlations_where_the_window_fits() -> None:
    """At every second pixel; also with a window of one row."""
    down, across = np.array([1.0, 2.0, 1.0]), np.array([3.0, -1.0, 0.5, -1.0, 3.0])
    whole = ndimage.correlate(IMAGE.astype(float), np.outer(down, across))[1:-1, 2:-2]
    np.testing.assert_allclose(weighted(IMAGE.astype(float), down, across, (2, 2)), whole[::2, ::2], atol=1e-9)
    line = ndimage.correlate1d(IMAGE.astype(float), across)[:, 2:-2]
    np.testing.assert_allclose(weighted(IMAGE.astype(float), np.ones(1), across), line, atol=1e-9)
    assert gaussian_weights(1.5, 3).sum() == pytest.approx(1)
