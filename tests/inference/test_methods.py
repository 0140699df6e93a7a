"""Every method, learned or classical, restores slices by the same rules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.baselines import BASELINES, filters
from medidiff.errors import ModelError, UnitError, UsageError
from medidiff.inference import Options, Restored, load_method, restore
from medidiff.model import Architecture, Card, build, save
from medidiff.noise.level import noise_level
from medidiff.scaling import LinearScaling
from medidiff.volume import Geometry, Volume

QUICK = [name for name in BASELINES if name != "bm3d"]


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Five slices of a noisy disc whose first rows were not measured."""
    y, x = np.mgrid[:50, :46] - 24.0
    array = np.where(x**2 + y**2 < 20**2, 40, -1000) + np.random.default_rng(3).normal(0, 20, (5, 50, 46))
    array[:, :6, :] = -2000
    geometry = Geometry.from_affine(np.diag([2.0, 0.8, 0.8, 1.0]), array.shape)
    return Volume(array.astype(np.float32), geometry, "HU", mask=array == -2000)


@pytest.fixture(params=[*QUICK, "model"])
def chosen(request: pytest.FixtureRequest, tiny_model: Path) -> dict[str, Any]:
    """Options of each method."""
    return {"model": str(tiny_model)} if request.param == "model" else {"method": request.param}


def restored(options: dict[str, Any], volume: Volume, indices: Any = range(5)) -> dict[int, Restored]:
    restorer = load_method(Options.of(**options)).for_case("case")
    with ThreadPoolExecutor(1) as io:
        return {r.index: r for r in restore(restorer, volume, indices, io, {})}


def test_a_slice_does_not_depend_on_those_done_with_it(chosen: dict[str, Any], volume: Volume) -> None:
    stream, some = restored(chosen, volume), restored(chosen, volume, [1, 4])
    for k in (1, 4):
        np.testing.assert_array_equal(stream[k].image, some[k].image)
    assert all(r.image.dtype == np.float32 and r.deviation is None for r in stream.values())


def test_strength_blends_every_method_with_the_scan(chosen: dict[str, Any], volume: Volume) -> None:
    """0 gives the scan back to the last bit, 50 lies half way to 100."""
    none, half, full = (restored({**chosen, "strength": s}, volume, [2])[2].image for s in (0, 50, 100))
    np.testing.assert_array_equal(none, volume.array[2])
    np.testing.assert_allclose(half, (none + full) / 2, atol=1e-3)


def test_padding_comes_back_untouched(chosen: dict[str, Any], volume: Volume) -> None:
    image = restored(chosen, volume, [0])[0].image
    assert (image[:6] == -2000).all()
    assert (image[6:] > -1500).all()


@pytest.mark.parametrize("name", QUICK)
def test_padding_does_not_leak_into_the_image(name: str, volume: Volume) -> None:
    """What stands in pixels without a measurement makes no difference to the others."""
    other = Volume(np.where(volume.mask, np.float32(3000), volume.array), volume.geometry, "HU", mask=volume.mask)
    one, two = (restored({"method": name}, v, [0])[0].image[6:] for v in (volume, other))
    np.testing.assert_allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("name", QUICK[1:])
def test_the_strength_is_in_units_of_the_slices_noise(name: str, volume: Volume) -> None:
    """The filter gets the noise level that is measured in the slice, and the smoothing that was asked for."""
    plain = Volume(volume.array[:, 6:], Geometry.from_affine(np.eye(4), (5, 44, 46)), "HU")
    y = plain.array[3]
    expected = BASELINES[name].function(y, noise_level(y), 0.7)
    image = restored({"method": name, "smoothing": 0.7}, plain, [3])[3].image
    np.testing.assert_allclose(image, expected, atol=1e-3)


def test_what_decides_the_voxels_is_told(tiny_model: Path) -> None:
    """A model by name and hash, a classical method by name and strength, its default filled in."""
    nlm = load_method(Options(method="nlm", strength=80))
    assert nlm.parameters == {
        "method": "nlm", "mode": "quantitative", "strength": 80.0, "smoothing": BASELINES["nlm"].smoothing
    }  # fmt: skip
    assert (nlm.slab, nlm.nfe, nlm.has_deviation, nlm.sha256) == (1, 0, False, None)
    assert "smoothing" not in load_method(Options(method="identity")).parameters
    model = load_method(Options(model=str(tiny_model)))
    assert model.parameters == {
        "mode": "quantitative", "strength": 100.0, "engine": "torch fused, 32", "model": "tiny",
        "model_sha256": model.sha256,
    }  # fmt: skip


def test_headers_say_whose_noise_a_texture_has(tiny_model: Path) -> None:
    """The noise that is left, the blend and its one evaluation; nothing of samplers or seeds."""
    text = load_method(Options(model=str(tiny_model), mode="texture", dose=0.1)).derivation.description
    assert "mode texture (blend with the scan: noise of 10 times its dose), strength 68.3772 %, 1 network" in text
    assert "seed" not in text


def test_another_unit_or_modality_is_refused(chosen: dict[str, Any]) -> None:
    method = load_method(Options.of(**chosen))
    method.require("HU")
    method.require_modality("CT")
    with pytest.raises(UnitError, match=r"works on HU( and SUV)?, the data are in BQML"):
        method.require("BQML")
    with pytest.raises(ModelError, match=r"for (PT and )?CT, the series is MR"):
        method.require_modality("MR")


@pytest.mark.parametrize("mode", ["sample", "uncertainty"])
def test_a_regression_draws_no_samples(mode: str, tmp_path: Path) -> None:
    """CNN10 has a best estimate, to blend too, and nothing to sample from: one sentence, before anything is read."""
    architecture = Architecture(network="cnn10", slab=1)
    path = tmp_path / "cnn10.safetensors"
    save(path, build(architecture), architecture, LinearScaling(), Card(name="small"))
    assert [load_method(Options(model=str(path), mode=one)).nfe for one in ("quantitative", "texture")] == [1, 1]
    with pytest.raises(UsageError, match=rf"--mode {mode}: model 'small' \(cnn10\) gives one best estimate"):
        load_method(Options(model=str(path), mode=mode))


def test_a_spread_of_its_own_needs_no_samples(spread_model: Path, tiny_model: Path) -> None:
    """Options of samplers are refused unless draws are asked for; the headers and the warning say what the map is."""
    path, asked = str(spread_model), {"mode": "uncertainty"}
    method = load_method(Options(model=path, **asked))
    assert (method.nfe, method.parameters["draws"]) == (1, 0)
    assert "raw spread of the network" in method.warnings[0]
    assert "sampler" not in method.derivation.description
    assert load_method(Options(model=path, draws=2, steps=3, **asked)).nfe == 1 + 2 * 3
    load_method(Options(model=path, seed=4, **asked))
    with pytest.raises(UsageError, match="--steps: model 'spread' gives its uncertainty without samples"):
        load_method(Options(model=path, steps=3, **asked))
    with pytest.raises(UsageError, match="--draws 0: model 'tiny' has no spread of its own"):
        load_method(Options(model=str(tiny_model), draws=0, **asked))


def test_an_absent_package_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="free for non-commercial use only"):
        load_method(Options(method="bm3d"))


def test_guidance_that_a_model_ignores_is_refused() -> None:
    """The PET model was never shown nothing; a scale of 1 is no guidance, and CT has it."""
    with pytest.raises(UsageError, match="--cfg-scale: model 'pet'"):
        load_method(Options(mode="sample", cfg_scale=2.0), unit="SUV")
    load_method(Options(mode="sample", cfg_scale=1.0), unit="SUV")
    load_method(Options(mode="sample", cfg_scale=2.0), unit="HU")


def test_a_model_of_projections_is_not_for_images() -> None:
    with pytest.raises(ModelError, match=r"is for projections .* these are images"):
        load_method(Options(model="ct-projections"))
