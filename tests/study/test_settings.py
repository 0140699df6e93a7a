"""What a study file may say, and what is said about one that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medidiff.study.settings import Labels, MethodEntry, read_study


def test_every_faulty_key_is_named_and_the_rest_is_kept(study_file: Callable[..., Path]) -> None:
    """An unknown key, a method with an option it has not, a negative seed: three faults, and what is left."""
    methods = [{"name": "identity", "method": "identity"}, {"name": "nlm", "method": "nlm", "steps": 4}]
    study, faults = read_study(study_file(methods=methods, seed=-1, colour="red"))
    assert len(faults) == 3
    told = " ".join(faults)
    assert "colour: unknown key" in told
    assert "methods.1: --steps" in told
    assert "seed:" in told
    assert study is not None
    assert [method.name for method in study.methods] == ["identity"]


def test_one_method_may_have_several_faults(study_file: Callable[..., Path]) -> None:
    """A misspelt method does not hide behind a misspelt option."""
    _, faults = read_study(study_file(methods=[{"name": "g", "method": "gaussain", "sigma": 3}]))
    assert [word in faults[0] for word in ("unknown: sigma", "gaussain")] == [True, True]


def test_a_blend_is_a_strength() -> None:
    """x_hat + alpha (y - x_hat) = y + (1 - alpha) (x_hat - y): blend 0.3 is strength 70; not both."""
    assert MethodEntry.model_validate({"name": "m", "method": "nlm", "blend": 0.3}).options(0).strength == 70
    with pytest.raises(ValueError, match="one thing"):
        MethodEntry.model_validate({"name": "m", "method": "nlm", "blend": 0.3, "strength": 50})


def test_the_seed_of_the_study_reaches_methods_that_draw() -> None:
    """Sample mode takes it, unless the method has its own; texture and quantitative mode have none."""
    sample = {"name": "m", "mode": "sample"}
    assert MethodEntry.model_validate(sample).options(5).seed == 5
    assert MethodEntry.model_validate(sample | {"seed": 1}).options(5).seed == 1
    assert MethodEntry.model_validate({"name": "m", "mode": "texture", "dose": 0.5}).options(5).seed is None
    assert MethodEntry.model_validate({"name": "m"}).options(5).seed is None


@pytest.mark.parametrize("name", ["a/b", "a--b", "", "a ", "../x"])
def test_names_become_file_names(name: str) -> None:
    """What cannot be part of a file name on every system is refused."""
    with pytest.raises(ValueError, match="cannot name files"):
        Labels(name=name)


def test_an_entry_is_one_kind_of_case(study_file: Callable[..., Path]) -> None:
    """Neither none nor two of paired, simulate, phantom, manifest."""
    two = {"simulate": {"full": "a_full.nii", "doses": [0.5]}, "phantom": {"kind": "uniform", "doses": [0.5]}}
    study, faults = read_study(study_file(cases=[two, {}]))
    assert study is not None
    assert study.cases == ()
    assert "found simulate, phantom" in faults[0]
    assert "found none" in faults[1]
