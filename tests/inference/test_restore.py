"""Laws of restoring slices: a slice depends on its slab, the seed and its position, and on nothing else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medidiff.inference.calibration import TISSUES
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer, evaluations, restore, slabs
from medidiff.model import Model, load
from medidiff.patches import slab_indices
from medidiff.volume import Geometry, Volume

MODES: dict[str, dict[str, Any]] = {
    "quantitative": {},
    "texture": {"mode": "texture"},
    "sample": {"mode": "sample", "steps": 2},
    "uncertainty": {"mode": "uncertainty", "steps": 2, "draws": 2},
}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load(tiny_model)


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Seven slices of 50 x 46: neither side a multiple of the network's stride."""
    random = np.random.default_rng(3)
    array = random.normal(40, 20, (7, 50, 46)).astype(np.float32)
    array[:, :6, :] = -2000
    geometry = Geometry.from_affine(np.diag([2.0, 0.8, 0.8, 1.0]), array.shape)
    return Volume(array, geometry, "HU", mask=array == -2000)


def restored(model: Model, volume: Any, indices: Any = range(7), case: int = 5, **options: Any) -> dict[int, Any]:
    restorer = Restorer(model, Options(**options).parameters(), case)
    with ThreadPoolExecutor(1) as io:
        return {r.index: r for r in restore(restorer, volume, indices, io, {})}


@pytest.mark.parametrize("mode", MODES)
def test_a_slice_is_the_same_alone_in_a_stream_and_from_its_slab(mode: str, model: Model, volume: Volume) -> None:
    """Streaming equals whole-volume processing to the last bit, whichever slices are asked for."""
    stream = restored(model, volume, **MODES[mode])
    some = restored(model, volume, [1, 5], **MODES[mode])
    restorer = Restorer(model, Options(**MODES[mode]).parameters(), 5)
    for k in (5, 1):
        whole = restorer.slice(k, volume.array[slab_indices(k, 7, model.slab)], volume.padding(k))
        for other in (some[k], whole):
            np.testing.assert_array_equal(stream[k].image, other.image)
            if mode == "uncertainty":
                np.testing.assert_array_equal(stream[k].deviation, other.deviation)
    assert not np.array_equal(stream[3].image, volume.array[3])


@pytest.mark.parametrize("mode", MODES)
def test_slices_side_by_side_are_those_one_after_the_other(mode: str, model: Model, volume: Volume) -> None:
    """Three threads with a slice each: the same bits, in order, and torch's own threads are as many as before."""
    one = restored(model, volume, **MODES[mode])
    restorer = Restorer(model, Options(**MODES[mode]).parameters(), 5, at_once=3)
    threads, seconds = torch.get_num_threads(), dict[str, float]()
    with ThreadPoolExecutor(1) as io:
        three = list(restore(restorer, volume, range(7), io, seconds))
    assert [r.index for r in three] == list(range(7))
    assert torch.get_num_threads() == threads
    assert seconds["network"] > 0
    for r in three:
        np.testing.assert_array_equal(r.image, one[r.index].image)
        np.testing.assert_array_equal(r.deviation, one[r.index].deviation)


def test_a_fault_in_one_of_many_threads_is_raised(model: Model, volume: Volume) -> None:
    """It ends the stream, and leaves no thread behind."""

    class Broken(Restorer):
        def slice(self, index: int, *rest: Any) -> Any:
            if index == 3:
                raise ArithmeticError("slice 3")
            return super().slice(index, *rest)

    before = threading.active_count()
    with ThreadPoolExecutor(1) as io, pytest.raises(ArithmeticError, match="slice 3"):
        list(restore(Broken(model, Options().parameters(), at_once=2), volume, range(7), io, {}))
    assert threading.active_count() == before


@pytest.mark.parametrize("mode", ["sample", "uncertainty"])
def test_noise_belongs_to_the_case_and_the_seed(mode: str, model: Model, volume: Volume) -> None:
    """Another case draws other noise; the same case and seed draw the same."""
    one, same, other = (restored(model, volume, [2], case=case, **MODES[mode])[2] for case in (1, 1, 2))
    read = (lambda r: r.image) if mode == "sample" else (lambda r: r.deviation)
    np.testing.assert_array_equal(read(one), read(same))
    assert not np.array_equal(read(one), read(other))


def test_the_uncertainty_mode_shows_the_mean(model: Model, volume: Volume) -> None:
    """Its image is that of the quantitative mode; its map is positive where something was measured, else 0."""
    mean, uncertain = restored(model, volume, [3])[3], restored(model, volume, [3], **MODES["uncertainty"])[3]
    np.testing.assert_array_equal(mean.image, uncertain.image)
    assert (uncertain.deviation[volume.mask[3]] == 0).all()
    assert (uncertain.deviation[~volume.mask[3]] > 0).all()


def test_the_map_is_the_spread_of_samples_times_the_cards_factor(model: Model, volume: Volume) -> None:
    """Two draws have a standard deviation of |a - b| / sqrt(2); the first draw is the sample mode's image."""
    options = {"mode": "uncertainty", "steps": 2}
    two = restored(model, volume, [3], draws=2, **options)[3].deviation
    first = restored(model, volume, [3], mode="sample", steps=2)[3].image
    restorer = Restorer(model, Options(draws=2, **options).parameters(), 5)
    with torch.inference_mode():
        cond = model.condition(volume.array[2:5])
        second = model.image(restorer._sample(3, cond, model.denoiser.mean(cond), 1), (50, 46))
    measured = ~volume.mask[3]
    np.testing.assert_allclose(two[measured], (np.abs(first - second) / np.sqrt(2))[measured], atol=2e-3)
    card = model.card.model_copy(update={"uncertainty": {"factor": 1.5}})
    calibrated = Model(model.denoiser, model.scaling, model.architecture, card)
    np.testing.assert_allclose(
        restored(calibrated, volume, [3], draws=2, **options)[3].deviation, np.float32(1.5) * two, rtol=1e-6
    )


def test_the_map_of_a_model_with_a_spread_is_its_own(spread_model: Path, volume: Volume) -> None:
    """One evaluation; the image is that of the quantitative mode, the map exactly what the network claims, in HU."""
    model = load(spread_model)
    restorer = Restorer(model, Options(mode="uncertainty").parameters(has_spread=True), 5)
    assert evaluations(restorer.parameters) == 1
    slab = volume.array[2:5]
    done = restorer.slice(3, slab, volume.padding(3))
    np.testing.assert_array_equal(done.image, restored(model, volume, [3])[3].image)
    with torch.inference_mode():
        _, spread = model.denoiser.mean_and_spread(model.condition(slab))
    claimed = spread[0, 0, :50, :46].numpy() * model.scaling.factor
    np.testing.assert_allclose(done.deviation, np.where(volume.mask[3], 0, claimed), rtol=1e-6)


def test_a_calibration_belongs_to_its_source(spread_model: Path, volume: Volume) -> None:
    """A table for the network's own spread changes that map and leaves a map from samples as it is."""
    plain = load(spread_model)
    table = {"nodes": [0.0], "factors": {t: [1.5] for t in TISSUES}, "colours": [0.0], "colour_factors": [2.0]}
    card = plain.card.model_copy(update={"uncertainty": {"source": "spread", "table": table}})
    calibrated = replace(plain, card=card)
    for draws, expected in ((0, 3.0), (2, 1.0)):
        chosen = Options(mode="uncertainty", draws=draws, steps=1 if draws else None).parameters(has_spread=True)
        before, after = (
            Restorer(model, chosen, 5).slice(3, volume.array[2:5]).deviation for model in (plain, calibrated)
        )
        np.testing.assert_allclose(after, expected * before, rtol=1e-5)


def test_strength_blends_linearly(model: Model, volume: Volume) -> None:
    """0 gives the scan back exactly, 50 lies half way to 100."""
    none, half, full = (restored(model, volume, [3], strength=s)[3].image for s in (0, 50, 100))
    np.testing.assert_array_equal(none, volume.array[3])
    np.testing.assert_allclose(half, (none + full) / 2, atol=1e-3)


def test_texture_keeps_the_root_of_the_dose_of_what_is_removed(model: Model, volume: Volume) -> None:
    """x_hat + sqrt(a) (y - x_hat), and at a = 1 the scan itself."""
    y, x_hat = volume.array[3], restored(model, volume, [3])[3].image
    for a in (0.1, 0.25):
        expected = x_hat + np.sqrt(a) * (y - x_hat)
        np.testing.assert_allclose(restored(model, volume, [3], mode="texture", dose=a)[3].image, expected, atol=1e-3)
    np.testing.assert_array_equal(restored(model, volume, [3], mode="texture", dose=1)[3].image, y)


def test_padding_comes_back_untouched(model: Model, volume: Volume) -> None:
    for mode in MODES.values():
        image = restored(model, volume, [0], **mode)[0].image
        assert (image[volume.mask[0]] == -2000).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"mode": "texture"}, 1),
        ({"mode": "sample"}, 1 + 6),
        ({"mode": "sample", "sampler": "heun", "steps": 3}, 1 + 5),
        ({"mode": "sample", "sampler": "plms", "steps": 3}, 1 + 4),
        ({"mode": "sample", "sampler": "ddpm", "steps": 3, "cfg_scale": 1.5}, 1 + 2 * 3),
        ({"mode": "uncertainty", "draws": 3, "steps": 2}, 1 + 3 * 2),
        ({"mode": "sample", "steps": 1}, 1 + 1),
    ],
)
def test_evaluations_are_those_the_network_sees(
    options: dict[str, Any], expected: int, model: Model, volume: Volume
) -> None:
    """The NFE that is reported equals the number of calls of the network for one slice."""
    calls: list[int] = []
    handle = model.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        restored(model, volume, [3], **options)
    finally:
        handle.remove()
    assert len(calls) == evaluations(Options(**options).parameters()) == expected


class Counting:
    """A source that counts how often each slice is read."""

    def __init__(self, volume: Volume) -> None:
        self.volume, self.geometry, self.unit = volume, volume.geometry, volume.unit
        self.reads: list[int] = []

    def read(self, index: int) -> Any:
        self.reads.append(index)
        return self.volume.read(index)

    def padding(self, index: int) -> Any:
        return self.volume.padding(index)


@pytest.mark.parametrize(("indices", "expected"), [(range(7), list(range(7))), ([4, 5], [3, 4, 5, 6]), ([0], [0, 1])])
def test_each_slice_is_read_once_and_in_order(indices: Any, expected: list[int], volume: Volume) -> None:
    """A scan is decoded once, and a resumed one only where something is missing."""
    source = Counting(volume)
    with ThreadPoolExecutor(1) as io:
        for index, slab, _ in slabs(source, indices, 3, io, {}):
            np.testing.assert_array_equal(slab, volume.array[slab_indices(index, 7, 3)])
    assert source.reads == expected


def test_threads_change_at_most_one_hu_in_half_a_percent(model: Model) -> None:
    """The sum of a convolution may be ordered differently by another number of threads, no more."""
    random = np.random.default_rng(0)
    slab = random.normal(40, 20, (3, 256, 256)).astype(np.float32)
    before, images = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(Restorer(model, Options(mode="sample").parameters(), 1).slice(0, slab).image)
    finally:
        torch.set_num_threads(before)
    off = np.abs(np.rint(images[0]) - np.rint(images[1]))
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.005
