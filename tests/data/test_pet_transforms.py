"""Training blocks of PET: what each random step may change, and what it must leave."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.pet_cases import PetCase
from medidiff.data.pet_transforms import PetAugmentation, RandRealisationd, RandVoxelsd, pet_transforms

SHAPE = (24, 32, 32)
BLOCK = (8, 16, 16)


@pytest.fixture
def case() -> PetCase:
    """A cylinder of SUV 2 with a hot cube, twice scanned."""
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE, np.float32)
    target = 0.05 + 2.0 * (np.hypot(grid[1] - 15.5, grid[2] - 15.5) < 12).astype(np.float32)
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[9:14, 13:18, 13:18] = 1
    target[lesions > 0] = 9
    low = (target * (1 + rng.normal(0, 0.3, (2, *SHAPE)))).astype(np.float32)
    return PetCase("cylinder", target, low, None, (4.0, 4.0, 4.0), (10.0, 20.0), lesions)


def test_a_part_of_a_body_is_a_run_of_its_slices(case: PetCase) -> None:
    """`slices` cuts all images alike."""
    step = RandRealisationd(PetAugmentation(block=BLOCK, slices=10)).set_random_state(seed=3)
    item = step({"case": case})
    assert item["target"].shape == (1, 10, *SHAPE[1:])
    first = next(k for k in range(15) if np.array_equal(item["lesions"][0], case.lesions[k : k + 10]))
    assert np.array_equal(item["target"][0], case.target[first : first + 10])
    assert any(np.array_equal(item["low"][0], low[first : first + 10]) for low in case.low)


def test_other_voxels_show_the_same_body(case: PetCase) -> None:
    """The width in mm stays, within the rounding of the matrix; a number of lesions stays a number, activity a mean."""
    step = RandVoxelsd(PetAugmentation(block=BLOCK, voxels=(1.3, 1.31)))
    start = RandRealisationd(PetAugmentation(block=BLOCK)).set_random_state(seed=0)({"case": case})
    drawn = [step.set_random_state(seed=seed)(start) for seed in range(8)]
    changed = [item for item in drawn if item["spacing_mm"] != case.spacing_mm]
    assert 0 < len(changed) < len(drawn)
    for item in changed:
        rows = item["target"].shape[2]
        assert rows == 25 or rows == 24
        assert item["spacing_mm"][1] * rows == pytest.approx(4.0 * SHAPE[1])
        assert item["spacing_mm"][0] == 4.0
        assert set(np.unique(item["lesions"])) == {0, 1}
        assert item["target"].mean() == pytest.approx(case.target.mean(), rel=0.02)


def test_voxels_never_grow_until_a_block_no_longer_fits(case: PetCase) -> None:
    step = RandVoxelsd(PetAugmentation(block=BLOCK, voxels=(5.0, 6.0)))
    start = RandRealisationd(PetAugmentation(block=BLOCK)).set_random_state(seed=0)({"case": case})
    shapes = {step.set_random_state(seed=seed)(start)["low"].shape[2:] for seed in range(8)}
    assert shapes == {SHAPE[1:], BLOCK[1:]}


def test_voxels_of_a_lesion_weigh_more_and_only_they(case: PetCase) -> None:
    """Weight 1 + k in the lesion, which is the hot cube, and 1 elsewhere; none at all without k."""
    settings = PetAugmentation(block=BLOCK, blocks=6, lesion_share=1.0, lesion_weight=5, smoothing_mm=(0, 0))
    blocks = pet_transforms(settings).set_random_state(seed=1)({"case": case})
    assert set(np.unique(blocks["weight"])) == {1, 6}
    inside = blocks["target"][blocks["weight"] == 6]
    assert inside.min() > np.percentile(blocks["target"][blocks["weight"] == 1], 50)
    assert "weight" not in pet_transforms(PetAugmentation(block=BLOCK)).set_random_state(seed=1)({"case": case})


def test_a_large_lesion_counts_less_a_voxel(case: PetCase) -> None:
    """125 voxels of 0.064 ml are 8 ml: with lesion_ml = 8 each counts 1 + k / 2."""
    settings = PetAugmentation(block=BLOCK, lesion_share=1.0, lesion_weight=10, lesion_ml=8.0)
    blocks = pet_transforms(settings).set_random_state(seed=1)({"case": case})
    assert set(np.unique(blocks["weight"])) == {1, 6}


def test_activity_weighs_by_its_power(case: PetCase) -> None:
    """Weight times units of the noise is SUV: w e^2 of power 2 is the squared error in SUV, to one factor."""
    settings = PetAugmentation(block=SHAPE, blocks=1, activity_power=2.0, smoothing_share=0, scale=(1, 1.0001))
    blocks = pet_transforms(settings).set_random_state(seed=1)({"case": case})
    suv = np.sort(case.target.ravel())
    seen = np.sort((blocks["target"] * np.sqrt(blocks["weight"])).ravel())
    np.testing.assert_allclose(seen / seen[-1], suv / suv[-1], rtol=1e-3)
