"""Pairs from noisy scans: what is to be predicted has noise that the input does not share, so nothing can be copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff import training
from medidiff.data.dataset import PatchDataset, phantom_cases
from medidiff.data.manifest import Pair
from medidiff.data.prepare import Case
from medidiff.data.transforms import Augmentation, RandDosed, RandSlabd
from medidiff.noise.spectrum import homogeneous_regions, region_spectrum
from medidiff.recorrupt import recorrupted_cases

SAMPLES = Path(__file__).parents[1] / "data_samples" / "ct"


def scan_with_own_noise(ratio: float = 1.0, size: int = 160) -> tuple[Case, np.ndarray]:
    """A flat scan in white noise, a second noise `ratio` times as strong, and the first noise."""
    generator = np.random.default_rng(0)
    noise, again = generator.normal(0, 20, (2, 3, size, size)).astype(np.float32)
    return Case("scan", 40 + noise, ratio * again, None, is_exact=True, has_own_noise=True), noise


@pytest.mark.parametrize(("dose", "ratio", "left"), [(0.25, 1.0, 0.0), (0.1, 1.0, 0.0), (0.25, 0.9**0.5, 0.027)])
def test_the_noise_of_the_target_is_uncorrelated_with_that_of_the_input(dose: float, ratio: float, left: float) -> None:
    """Regression of one on the other: 0 for equal noises, (1 - v) / (1 + v (1 - a) / a) for a variance ratio v."""
    case, _ = scan_with_own_noise(ratio)
    item = {"clean": np.asarray(case.clean), "noise": np.asarray(case.noise), "has_own_noise": True}
    made = RandDosed(Augmentation(dose=(dose, dose), smoothed=0.0)).set_random_state(seed=0)(item)  # type: ignore[misc]
    low, target = made["slab"][1] - 40, made["target"][0] - 40
    assert low.std() == pytest.approx(20 * np.sqrt(1 + ratio**2 * (1 - dose) / dose), rel=0.02)
    assert float((low * target).mean() / (low * low).mean()) == pytest.approx(left, abs=0.012)


def test_a_scan_and_its_second_noise_go_through_the_same_window_and_the_same_pixels() -> None:
    """A noise that equals the scan's still does after cutting and averaging."""
    case, _ = scan_with_own_noise(size=200)
    same = Case("same", case.clean, np.asarray(case.clean), None, is_exact=True, has_own_noise=True)
    slab = RandSlabd(3, Augmentation(window=64, patch=32, lone_share=0.0)).set_random_state(seed=1)
    assert isinstance(slab, RandSlabd)
    for _ in range(4):
        item = slab({"case": same})
        assert item["clean"].shape == (3, 64, 64)
        np.testing.assert_array_equal(item["clean"], item["noise"])


def test_noisy_targets_train_the_mean_alone() -> None:
    """They are no samples of the clean image: no finite sigma, no missing condition; others keep their draws."""
    case, _ = scan_with_own_noise()
    settings = Augmentation(window=128, patch=32, edge_hu=60)
    dataset = PatchDataset(phantom_cases(1, 128, 0), [], 3, settings, seed=0, recorrupted=[case], recorrupted_share=0.5)
    kinds = [bool(dataset[k]["mean_only"][0]) for k in range(20)]
    assert 4 < sum(kinds) < 16
    batch = dataset[kinds.index(True)]
    recipe = training.TrainSettings(manifest=Path("none.csv"), mean_share=0.0, null_share=1.0)
    _, cond, sigma, _ = training.draw(batch, training.LinearScaling(), recipe, torch.Generator().manual_seed(0))
    assert torch.isinf(sigma).all()
    assert not cond.null.any()
    _, cond, _, _ = training.draw(
        dataset[kinds.index(False)], training.LinearScaling(), recipe, torch.Generator().manual_seed(0)
    )
    assert cond.null.all()


def test_the_second_noise_of_a_series_has_its_level_and_colour(tmp_path: Path) -> None:
    """Fitted to the bundled full-dose series: level within 15 %, mean frequency within 10 %; kept on disk."""
    pair = Pair("p", "train", SAMPLES / "full_dose", None)
    (case,) = recorrupted_cases([pair], tmp_path)
    assert case.noise is not None
    slices, noise = np.asarray(case.clean[::3]), np.asarray(case.noise[::3])
    corners = homogeneous_regions(slices)
    own, again = (region_spectrum(stack, corners, 1.0) for stack in (slices, noise))
    assert again.level == pytest.approx(own.level, rel=0.15)
    assert again.mean_frequency == pytest.approx(own.mean_frequency, rel=0.1)
    (cached,) = recorrupted_cases([pair], tmp_path)
    np.testing.assert_array_equal(cached.clean, case.clean)
    assert not recorrupted_cases([Pair("p", "tune", SAMPLES / "full_dose", None)], tmp_path)
