"""The range of a recipe for PET: of what its chain draws, the same every time, and bodies as acquired lie inside."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.pet_cases import PetBodies, PetCase, torso_cases
from medidiff.data.pet_dataset import BlockDataset
from medidiff.data.pet_seen import LEAST_RELATIVE, pet_seen_of
from medidiff.data.pet_transforms import PetAugmentation
from medidiff.noise.activity import activity_of
from medidiff.noise.traits import block_traits_of
from medidiff.seen import Seen
from medidiff.training import TrainSettings

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "model_range.py"
BODIES = PetBodies(torsos=1, slices=8, lesions=4, pasted=0, realisations=3, drf=(2, 50))
BLOCKS = PetAugmentation(block=(8, 16, 16), blocks=1, voxels=(0.7, 1.4))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bodies")


@pytest.fixture(scope="module")
def case(cache: Path) -> PetCase:
    return torso_cases(BODIES, [], cache)[0]


@pytest.fixture(scope="module")
def seen(case: PetCase) -> Seen:
    return pet_seen_of(BlockDataset([case], [], BLOCKS, seed=0), 24)


def test_bodies_as_they_were_acquired_get_all_of_the_change(case: PetCase, seen: Seen) -> None:
    """At every count level; at a quarter of the noise, or four times the highest, none."""
    for low in case.low:
        assert seen.weight(block_traits_of(activity_of(np.asarray(low), case.spacing_mm))) == 1.0
    assert seen.relative is not None
    assert seen.weight({"relative": seen.relative.low / 4}) == 0
    assert seen.weight({"relative": seen.relative.high * 4}) == 0


def test_voxels_are_those_drawn(case: PetCase, seen: Seen) -> None:
    """4 mm times 0.7 to 1.4, and the spacing of the body."""
    assert seen.pixel_mm is not None
    assert 0.69 * 4 <= seen.pixel_mm.least < 4 < seen.pixel_mm.most <= 1.42 * 4
    assert seen.spacing_mm is not None
    assert seen.spacing_mm.least == seen.spacing_mm.most == pytest.approx(case.spacing_mm[0], rel=1e-3)


def test_the_same_recipe_gives_the_same_range(case: PetCase, seen: Seen) -> None:
    """Whatever its blocks are, as they are cut later."""
    other = BLOCKS.model_copy(update={"blocks": 3, "guide_share": 1.0})
    assert pet_seen_of(BlockDataset([case], [], other, seed=0), 24) == seen


def test_where_nothing_is_found_nothing_is_seen(case: PetCase) -> None:
    """Bodies without noise or edges end an octave above the floor of the estimator."""
    flat = replace(case, low=np.full_like(case.target, 2.0)[None])
    found = pet_seen_of(BlockDataset([flat], [], BLOCKS, seed=0), 2).relative
    assert found is not None
    assert found.low == LEAST_RELATIVE
    assert Seen(relative=found).weight({"relative": LEAST_RELATIVE / 2}) == 0


def test_the_script_measures_a_recipe_for_pet(cache: Path, case: PetCase, tmp_path: Path) -> None:
    """Through the cache of the training run, and a manifest of nobody's scans."""
    spec = importlib.util.spec_from_file_location("model_range", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("patient,split,full\nt,test,empty\n")
    recipe = {"manifest": tmp_path / "list.csv", "data_root": tmp_path, "cache": cache}
    recipe |= {"architecture": {"dimensions": 3, "slab": 1, "widths": [4, 8], "blocks": [1, 1]}}
    recipe |= {"pet": {"bodies": BODIES, "augmentation": BLOCKS}}
    found = script.pet_range_of(TrainSettings.model_validate(recipe), 3)
    assert found == pet_seen_of(BlockDataset([case], [], BLOCKS, seed=0), 3)
