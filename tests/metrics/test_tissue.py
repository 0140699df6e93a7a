"""Tissue masks: the classes of known anatomy, and that choosing by a noisy reference makes no bias."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.metrics.tissue import TISSUES_HU, tissue_masks


def anatomy(size: int = 400) -> np.ndarray:
    """Skin fat, soft tissue with a pool of water, lungs and bone, blurred as by a scanner."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = np.full((size, size), -1000.0)
    image[(x / 0.46) ** 2 + (y / 0.4) ** 2 < 1] = -100
    image[(x / 0.42) ** 2 + (y / 0.36) ** 2 < 1] = 50
    for centre in (-0.2, 0.2):
        image[((x - centre) / 0.12) ** 2 + ((y + 0.02) / 0.2) ** 2 < 1] = -860
    image[x**2 + (y - 0.22) ** 2 < 0.006] = 500
    image[x**2 + (y + 0.15) ** 2 < 0.003] = 0
    return gaussian_filter(image, 0.8)


def noise(shape: tuple[int, ...], sigma: float, blur: float, random: np.random.Generator) -> np.ndarray:
    values = gaussian_filter(random.standard_normal(shape), blur)
    return sigma * values / values.std()


def test_a_truth_is_classified_by_its_values():
    """Every pixel lies in the range of its class, and every class is found."""
    truth = anatomy()
    for name, mask in tissue_masks(truth, noisy=False).items():
        low, high = TISSUES_HU[name]
        assert mask.sum() > 500
        assert low <= truth[mask].min() <= truth[mask].max() < high


def test_tissues_of_a_noisy_image_are_those_of_the_truth():
    """At 30 HU of noise at most one pixel in a hundred is given to a tissue that it does not belong to."""
    truth = anatomy()
    noisy = truth + noise(truth.shape, 30, 0.8, np.random.default_rng(0))
    for name, mask in tissue_masks(noisy).items():
        low, high = TISSUES_HU[name]
        assert np.mean((truth[mask] < low) | (truth[mask] >= high)) < 0.01


@pytest.mark.parametrize(("sigma", "bar"), [(15, 0.5), (30, 0.5), (60, 1.0)])
def test_choosing_by_the_noisy_reference_makes_no_bias(sigma, bar):
    """An unbiased candidate with noise of its own: the bias per tissue is within the bar of CT physicists, 1 HU.

    Water at 0 HU is there on purpose: a class that began at 0 would be chosen by the reference's noise.
    """
    random, truth = np.random.default_rng(1), anatomy()
    totals = {name: np.zeros(2) for name in TISSUES_HU}
    for _ in range(8):
        reference = truth + noise(truth.shape, sigma, 0.8, random)
        difference = truth + noise(truth.shape, sigma / 3, 1.5, random) - reference
        for name, mask in tissue_masks(reference).items():
            totals[name] += difference[mask].sum(), mask.sum()
    for name, (total, pixels) in totals.items():
        standard_error = 5 * sigma / np.sqrt(pixels)  # a noise grain covers some 4 pi 0.8^2 = 8 pixels
        assert abs(total / pixels) < bar + 2 * standard_error, name
