"""Laws of restoring by blocks: a slice depends on its block, the seed and its position, and on nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medidiff.inference import blocks
from medidiff.inference.blocks import BlockNoise, BlockRestorer
from medidiff.inference.options import Options
from medidiff.inference.restore import restore
from medidiff.model import Architecture, Card, Model, build
from medidiff.noise.activity import activity_of
from medidiff.scaling import LinearScaling
from medidiff.seen import Range, Seen
from medidiff.volume import Geometry, Volume

SMALL = Architecture(dimensions=3, slab=1, widths=(4, 8), blocks=(1, 1), embedding=8, spread=True, guide=True)
MODES: dict[str, dict[str, Any]] = {
    "quantitative": {},
    "texture": {"mode": "texture"},
    "sample": {"mode": "sample", "steps": 2},
    "uncertainty": {"mode": "uncertainty"},
    "samples": {"mode": "uncertainty", "steps": 2, "draws": 2},
}


def model_of(last: float) -> Model:
    """A network whose answer is not its input: its last layer is random instead of zero."""
    torch.manual_seed(0)
    denoiser = build(SMALL)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=last)
    return Model(denoiser.eval().requires_grad_(False), LinearScaling("SUV", 0.0, 1.0), SMALL, Card(name="tiny"))


def scan(n: int = 11, side: tuple[int, int] = (26, 22)) -> Volume:
    """Sides that are no multiple of the stride."""
    array = np.random.default_rng(0).gamma(4, 0.25, (n, *side)).astype(np.float32)
    geometry = Geometry.from_affine(np.diag([3.0, 4.0, 4.0, 1.0]), array.shape)
    return Volume(array, geometry, "SUV", mask=np.arange(side[1])[None, None] + np.zeros_like(array) < 2)


def seeing(model: Model, low: float, high: float) -> Model:
    """The model with a range of relative noise."""
    seen = Seen(relative=Range(low=low, high=high, least=low, most=high))
    return replace(model, card=model.card.model_copy(update={"seen": seen}))


def answers(model: Model, volume: Volume, indices: Any, guide: Volume | None = None, **options: Any) -> dict[int, Any]:
    parameters = Options(**options).parameters(has_spread=True)
    restorer = BlockRestorer(model, parameters, 5, guide)
    with ThreadPoolExecutor(1) as io:
        return {r.index: r for r in restore(restorer, volume, indices, io, {})}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four slices, so that a small scan has several."""
    monkeypatch.setattr(blocks, "CORE", 4)
    monkeypatch.setattr(blocks, "HALO", 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_slice_is_the_same_whichever_are_asked_for(mode: str) -> None:
    """As when a run goes on; padding comes back as it was, with no deviation."""
    model, volume = model_of(0.2), scan()
    whole, some = answers(model, volume, range(11), **MODES[mode]), answers(model, volume, [2, 3, 9], **MODES[mode])
    assert list(whole) == list(range(11))
    assert list(some) == [2, 3, 9]
    for k, one in some.items():
        np.testing.assert_array_equal(one.image, whole[k].image)
        np.testing.assert_array_equal(one.image[:, :2], volume.array[k][:, :2])
        assert not np.array_equal(one.image[:, 2:], volume.array[k][:, 2:])
        if one.deviation is not None:
            np.testing.assert_array_equal(one.deviation, whole[k].deviation)
            assert (one.deviation[:, 2:] > 0).all()
            assert not one.deviation[:, :2].any()


def test_an_untrained_network_changes_nothing() -> None:
    """Its last layer is zero: E[x | y] = y, through units of the local noise and back."""
    model = Model(build(SMALL).eval().requires_grad_(False), LinearScaling("SUV", 0.0, 1.0), SMALL, Card(name="t"))
    volume = scan()
    for k, one in answers(model, volume, range(11)).items():
        np.testing.assert_allclose(one.image, volume.array[k], rtol=1e-5, atol=1e-6)


def test_strength_is_the_blend_with_the_scan() -> None:
    """Half the strength, half the change."""
    model, volume = model_of(0.2), scan()
    whole, half = answers(model, volume, [5])[5].image, answers(model, volume, [5], strength=50)[5].image
    np.testing.assert_allclose(half, (whole + volume.array[5]) / 2, rtol=1e-5, atol=1e-6)


def test_the_answer_scales_with_the_activity() -> None:
    """A scan of twice the SUV, above the floor of the noise level, gives twice the answer: no clip, no offset."""
    model, volume = model_of(0.2), scan()
    hot = volume.with_array(volume.array + 1)
    once, twice = answers(model, hot, [5])[5].image, answers(model, hot.with_array(2 * hot.array), [5])[5].image
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-4)


def test_a_guide_is_used_and_may_be_absent() -> None:
    """It changes the answer where there is one; without it there still is an answer."""
    model, volume = model_of(0.2), scan()
    ct = Volume(np.where(volume.array > 1, 50, -100).astype(np.float32), volume.geometry, "HU")
    with_it, without = answers(model, volume, [5], ct)[5].image, answers(model, volume, [5])[5].image
    assert np.isfinite(without).all()
    assert not np.allclose(with_it, without)


def test_blocks_that_overlap_share_the_noise_of_their_slices() -> None:
    """Slice 5 has one noise, whether it is the third of a block or the first; the next draw has another."""
    one, other = BlockNoise(7, 3), BlockNoise(7, 5)
    x = torch.zeros(1, 1, 6, 8, 8)
    first = one(x)
    torch.testing.assert_close(first[0, 0, 2], other(x)[0, 0, 0])
    assert not torch.equal(one(x), first)


# -- outside of what the model has seen ------------------------------------------------------------------


def relative_noise(volume: Volume, first: int, stop: int) -> float:
    return activity_of(volume.array[first:stop], (3.0, 4.0, 4.0)).found


@pytest.mark.parametrize("mode", MODES)
def test_inside_of_the_range_the_guard_changes_nothing(mode: str) -> None:
    """Bit for bit: as without a range, and as with --no-guard."""
    model, volume = model_of(0.2), scan()
    guarded = seeing(model, 0.01, 2.0)
    on, off = (answers(guarded, volume, [5], guard=g, **MODES[mode])[5] for g in (True, False))
    bare = answers(model, volume, [5], **MODES[mode])[5]
    assert (on.weight, bare.weight, bare.traits) == (1.0, 1.0, None)
    for other in (off, bare):
        np.testing.assert_array_equal(on.image, other.image)
        np.testing.assert_array_equal(on.deviation, other.deviation)


def test_the_further_outside_the_nearer_to_the_scan() -> None:
    """w = 1 - octaves beyond the upper end, and y + w (x_hat - y) of it; at one octave the scan itself."""
    model, volume = model_of(0.2), scan()
    whole, c = answers(model, volume, [5])[5].image, relative_noise(volume, 1, 11)  # slice 5 is of the block 4 to 7
    for octaves in (0.0, 0.25, 0.5, 0.75, 1.0, 3.0):
        one = answers(seeing(model, 0.001, c / 2**octaves), volume, [5])[5]
        assert one.weight == pytest.approx(max(1 - octaves, 0), abs=2e-3)  # four digits are stored
        expected = volume.array[5] + one.weight * (whole - volume.array[5])
        np.testing.assert_allclose(one.image, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one.image, volume.array[5])


def test_each_block_is_judged_by_its_own_noise() -> None:
    """Quiet slices first, loud ones last: the nearer a block to the end the less it gets, all of its slices alike."""
    volume = scan(12)
    rng = np.random.default_rng(1)
    array = 2 + np.repeat([0.05, 0.05, 0.13], 4)[:, None, None] * rng.normal(size=volume.array.shape)
    volume = volume.with_array(array.astype(np.float32))
    found = answers(seeing(model_of(0.2), 0.001, relative_noise(volume, 0, 7)), volume, range(12))
    weights = [found[k].weight for k in range(12)]
    assert weights == np.repeat(weights[::4], 4).tolist()
    assert weights[0] == pytest.approx(1, abs=1e-3)
    assert weights[0] > weights[4] + 0.1 > weights[8] + 0.2


def test_the_map_grows_by_the_noise_that_was_left_in() -> None:
    """Errors add in squares, voxel by voxel; where nothing was changed, it is the noise of the scan."""
    model, volume = model_of(0.2), scan()
    c, level = relative_noise(volume, 1, 11), activity_of(volume.array[1:11], (3.0, 4.0, 4.0)).level[4]
    bare = answers(model, volume, [5], mode="uncertainty")[5].deviation
    for octaves in (0.5, 2.0):
        one = answers(seeing(model, 0.001, c / 2**octaves), volume, [5], mode="uncertainty")[5]
        expected = np.hypot(one.weight * bare, (1 - one.weight) * level)
        np.testing.assert_allclose(one.deviation[:, 2:], expected[:, 2:], rtol=1e-4)
        assert not one.deviation[:, :2].any()


def test_a_scan_without_noise_comes_back_whatever_the_network_says() -> None:
    """At the floor of the estimator the weight is 0, even if the answer is not a number."""
    model, volume = seeing(model_of(np.inf), 0.01, 2.0), scan()
    flat = volume.with_array(np.full_like(volume.array, 2.0))
    for k, one in answers(model, flat, range(11)).items():
        np.testing.assert_array_equal(one.image, flat.array[k])
        assert one.weight == 0
