"""Recipe values that cannot be meant are refused by name, with what was found; all that were accepted still are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medidiff.config import load_settings
from medidiff.errors import UsageError
from medidiff.training import BEST, TrainSettings

RECIPES = Path(__file__).resolve().parents[1] / "pipelines"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("architecture.fold=foo", "architecture.fold: Input should be 'unshuffle' or 'haar', found 'foo'"),
        ("architecture={fold: haar, fold_factor: 4}", "architecture: fold: haar works on 2 x 2 blocks"),
        ("architecture.slab=4", "architecture: slab 4 has no middle slice: use 3 or 5"),
        ("architecture.anchor=-1", "architecture.anchor: Input should be greater than or equal to 0, found -1"),
        ("architecture.widths=[32]", "widths and blocks have one number for each level, found 1 and 4"),
        ("network=redcnn", "architecture: redcnn has no spread, anchor or noise map"),
        (
            "augmentation.spectrum.width=[0.7,0.12]",
            "expected [low, high], found [0.7, 0.12]: give the smaller one first",
        ),
        (
            "augmentation.spectrum.steepness=[0,2]",
            "augmentation.spectrum.steepness: expected values above 0, found [0, 2]",
        ),
        (
            "augmentation.spectrum.ripple_length=0",
            "augmentation.spectrum.ripple_length: Input should be greater than 0",
        ),
        ("augmentation.zoom=[0.5,1]", "augmentation.zoom: expected values at least 1, found [0.5, 1]"),
        ("augmentation.dose=[0.1,1]", "augmentation.dose: expected values above 0 and below 1, found [0.1, 1]"),
        ("augmentation.noise_hu=[.nan,1]", "augmentation.noise_hu: expected [low, high], found [nan, 1]"),
        ("augmentation.shrink=0.5", "augmentation.shrink: Input should be greater than or equal to 1, found 0.5"),
        ("augmentation.patch=40", "augmentation.patch 40 is no multiple of 16"),
        ("augmentation.spectrun=1", "augmentation.spectrun: unknown key"),
        ("cleaning=bm4d", "cleaning: Input should be 'nlm', 'tv' or 'none', found 'bm4d'"),
        ("recorrupted_share=0.9", "phantom_share 0.2 and recorrupted_share 0.9 are more than 1 together"),
        ("phantom_share=-0.3", "phantom_share: Input should be greater than or equal to 0, found -0.3"),
        ("validate_every=0", "validate_every: Input should be greater than or equal to 1, found 0"),
        ("factors=[]", "factors: Tuple should have at least 1 item"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(override: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)) as refused:
        load_settings(TrainSettings, RECIPES / "train_ct_stage7.yaml", [override])
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("train_*.yaml")))
def test_every_recipe_is_accepted_and_leads_on_from_another(recipe: str) -> None:
    """No stage begins with its own result, and what it begins with is another recipe's result or an embedded model."""
    settings = load_settings(TrainSettings, RECIPES / recipe)
    results = {
        load_settings(TrainSettings, path).output / BEST for path in RECIPES.glob("train_*.yaml") if path.name != recipe
    }
    assert settings.initial in results | {None, Path("medidiff/weights/ct.safetensors")}
