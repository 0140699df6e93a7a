"""Prepared PET bodies: reproducible, unbiased, whole or not there; and what training makes of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from medidiff.data.pet_cases import PetBodies, PetCase, torso_cases
from medidiff.data.pet_dataset import BlockDataset
from medidiff.data.pet_transforms import FALSE_HU, PetAugmentation
from medidiff.data.pet_validation import judge_blocks, lesion_biases
from medidiff.errors import InputError
from medidiff.model import Architecture, Card, Model, build
from medidiff.noise.activity import BODY_SUV, FACTS
from medidiff.scaling import LinearScaling
from medidiff.training import TrainSettings

BODIES = PetBodies(torsos=1, slices=8, lesions=30, pasted=0, realisations=2, drf=(2, 50))
BLOCKS = PetAugmentation(block=(8, 16, 16), blocks=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bodies")


@pytest.fixture(scope="module")
def case(cache: Path) -> PetCase:
    return torso_cases(BODIES, [], cache)[0]


def test_realisations_are_spread_over_the_range_of_counts(case: PetCase) -> None:
    """One in each equal part of the logarithm: 2 to 10, and 10 to 50; fewer counts are noisier."""
    assert 2 <= case.drf[0] <= 10 <= case.drf[1] <= 50
    body = case.target > BODY_SUV
    noise = [float((low - case.target)[body].std()) for low in case.low]
    assert noise[1] > noise[0] * np.sqrt(case.drf[1] / case.drf[0]) * 0.6


def test_the_low_count_is_the_target_and_noise(case: PetCase) -> None:
    """No bias of the body as a whole: both are one reconstruction, of drawn and of expected counts."""
    body = case.target > BODY_SUV
    for low in case.low:
        assert low[body].mean() == pytest.approx(case.target[body].mean(), rel=0.02)


def test_the_guide_shows_the_body_and_lungs_or_air(case: PetCase) -> None:
    """Soft tissue where there is uptake, air outside of the body."""
    assert case.guide is not None
    hot = case.target > 1.0
    assert -150 < np.median(case.guide[hot]) < 150
    assert np.median(case.guide[:, :3, :3]) == pytest.approx(-1000, abs=1)


def test_preparing_again_gives_the_same_and_mends_what_was_interrupted(cache: Path, case: PetCase) -> None:
    """Without its last file a case counts as not made."""
    before = np.array(case.low)
    (folder,) = cache.iterdir()
    (folder / "case.json").unlink()
    (folder / "low.npy").unlink()  # others still have it mapped
    (folder / "low.npy").write_bytes(b"torn")
    np.testing.assert_array_equal(torso_cases(BODIES, [], cache)[0].low, before)


def test_another_recipe_is_another_case(cache: Path, tmp_path: Path, case: PetCase) -> None:
    """More torsos keep those that are there; another seed does not use them."""
    shutil.copytree(cache, tmp_path / "copy")
    torso_cases(BODIES.model_copy(update={"torsos": 0}), [], tmp_path / "copy")
    assert len(list((tmp_path / "copy").iterdir())) == 1
    torso_cases(BODIES.model_copy(update={"seed": 1, "realisations": 1, "lesions": 0}), [], tmp_path / "copy")
    assert len(list((tmp_path / "copy").iterdir())) == 2


def test_a_sample_is_always_the_same_and_fits_the_network(case: PetCase) -> None:
    """Shapes, finite numbers, and the same again."""
    first, again = (BlockDataset([case], [], BLOCKS, seed=3)[5] for _ in range(2))
    assert first["slab"].shape == first["target"].shape == first["guide"].shape == (3, 1, 8, 16, 16)
    assert first["facts"].shape == (3, FACTS)
    assert first["colour"].shape == (3, 2)
    for key, value in first.items():
        assert value.isfinite().all()
        assert (value == again[key]).all()


def test_whatever_changes_the_low_count_changes_the_target(case: PetCase) -> None:
    """A scan without noise stays one: flips, filters, scaling and units leave slab and target equal."""
    quiet = replace(case, low=np.array(case.target)[None])
    dataset = BlockDataset([quiet], [], BLOCKS, seed=0)
    for index in range(6):
        sample = dataset[index]
        np.testing.assert_allclose(sample["slab"], sample["target"], rtol=1e-5, atol=1e-5)


def test_the_noise_has_one_size_in_units_of_itself(case: PetCase) -> None:
    """About 1 over a hundred blocks of all count levels; a factor of two is grain and place."""
    settings = BLOCKS.model_copy(update={"smoothing_mm": (0.0, 0.0), "lesion_share": 0.0})
    dataset = BlockDataset([case], [], settings, seed=1)
    samples = [dataset[k] for k in range(30)]
    sizes = [float((s["slab"] - s["target"]).std()) for s in samples]
    assert 0.5 < np.median(sizes) < 2
    assert max(sizes) / min(sizes) < 6


def test_training_shows_the_map_that_inference_shows(case: PetCase) -> None:
    """The whole of a body as one block, nothing drawn: slab and map are those of `Model.block`."""
    slices, rows, columns = case.target.shape
    settings = PetAugmentation(
        block=(slices, rows, columns), blocks=1, smoothing_share=0.0, scale=(1.0, 1.0), guide_share=0.0
    )
    one = replace(case, low=case.low[:1])
    architecture = Architecture(dimensions=3, slab=1, widths=(4, 8), blocks=(1, 1), noise="map")
    model = Model(build(architecture), LinearScaling("SUV", 0.0, 1.0), architecture, Card(name="tiny"))
    samples = [BlockDataset([one], [], settings, seed=0)[k] for k in range(40)]
    cond, _ = model.block(np.asarray(one.low[0], np.float32), one.spacing_mm, None)
    assert cond.noise_map is not None
    inside = tuple(slice(n) for n in case.target.shape)
    unturned = [s for s in samples if np.allclose(s["slab"][0, 0], cond.slab[0, 0][inside], rtol=1e-4)]
    assert unturned  # one in 32 is neither flipped nor turned
    np.testing.assert_allclose(unturned[0]["noise_map"][0, 0], cond.noise_map[0, 0][inside], rtol=1e-4, atol=1e-5)


def test_the_guide_is_absent_in_its_share_and_says_so(case: PetCase) -> None:
    """The last fact tells: 1 with a guide, 0 without, and then the guide is nought."""
    dataset = BlockDataset([case], [], BLOCKS, seed=2)
    flags = []
    for k in range(30):
        sample = dataset[k]
        flags.append(float(sample["facts"][0, -1]))
        assert bool(sample["guide"].abs().max() > 0) == bool(flags[-1])
    assert set(flags) == {0.0, 1.0}
    assert 8 <= sum(flags) <= 22


def test_false_structures_are_in_the_guide_alone(case: PetCase) -> None:
    """What a CT shows and the tracer does not: the target does not know of it."""
    plain = BLOCKS.model_copy(update={"guide_share": 1.0, "misplaced": 0.0, "false": 0})
    many = plain.model_copy(update={"false": 30})
    one, other = (BlockDataset([case], [], settings, seed=4)[1] for settings in (plain, many))
    assert float((one["guide"] - other["guide"]).abs().max()) > np.arcsinh(FALSE_HU[0] / 100) / 2


def test_nothing_to_train_on_and_blocks_that_do_not_fit_are_told(case: PetCase) -> None:
    """In one sentence each."""
    with pytest.raises(InputError, match="nothing to train on"):
        BlockDataset([], [], BLOCKS, seed=0)
    with pytest.raises(InputError, match="torso 0"):
        BlockDataset([case], [], BLOCKS.model_copy(update={"block": (16, 16, 16)}), seed=0)


def test_a_perfect_answer_has_no_error_and_no_change_is_one(case: PetCase) -> None:
    """The judge's ends: the truth scores 0 and no bias, the scan itself 1."""
    perfect, _ = judge_blocks(lambda low, spacing, guide: np.asarray(case.target), [case])
    unchanged, pictures = judge_blocks(lambda low, spacing, guide: low, [case])
    assert perfect["all"] == 0
    assert perfect["lesion bias %"] == 0
    assert unchanged["all"] == pytest.approx(1)
    assert len(pictures) == 3


def test_bias_is_that_of_each_lesion(case: PetCase) -> None:
    """Ten per cent too low everywhere is minus ten per cent in every lesion."""
    found = lesion_biases(0.9 * np.asarray(case.target), case)
    assert found
    np.testing.assert_allclose(found, -0.1, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pet": {}}, "dimensions: 3"),
        ({"architecture": {"dimensions": 3, "slab": 1}}, "pet:"),
        ({"architecture": {"dimensions": 3}, "pet": {}}, "slab: 1"),
        ({"architecture": {"dimensions": 3, "slab": 1}, "pet": {}, "bias_weight": 0.1}, "bias_weight"),
        (
            {"architecture": {"dimensions": 3, "slab": 1}, "pet": {"augmentation": {"block": [8, 16, 18]}}},
            "multiple of 16",
        ),
    ],
)
def test_recipes_that_mix_ct_and_pet_are_refused(changes: dict[str, object], told: str) -> None:
    """Each with what to change."""
    with pytest.raises(ValidationError, match=told):
        TrainSettings.model_validate({"manifest": "x.csv", **changes})
