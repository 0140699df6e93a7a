"""Outside of what the model has seen a result goes over into the scan, and the case is told why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medidiff.errors import UsageError
from medidiff.inference import Options, Restorer, reconstruct
from medidiff.inference.guard import Watch, header_warnings
from medidiff.io.dicom import load_volume
from medidiff.model import DEFAULT, Model, load, save
from medidiff.noise.activity import activity_of
from medidiff.noise.traits import block_traits_of
from medidiff.seen import Facts, Range, Seen

SAMPLE = Path(__file__).resolve().parents[2] / "data_samples" / "ct" / "noise_free"
SEEN = Seen(  # as measured for the first embedded model
    noise_hu=Range(low=4.5, high=102, least=3.3, most=120),
    colour_half=Range(low=-1.1, high=1.8, least=-1.3, most=2.2),
    colour_quarter=Range(low=-1.9, high=3.6, least=-2.2, most=4.7),
    frequency=Range(low=0.12, high=0.27, least=0.115, most=0.3),
    dense_hu=Range(low=140, high=1400, least=80, most=2000),
    pixel_mm=Range(low=0.68, high=1.9, least=0.68, most=2.0),
    thickness_mm=Range(low=1, high=8, least=1, most=10),
    spacing_mm=Range(low=1, high=5, least=1, most=5),
    kernels=("B40f", "STANDARD"),
)
INSIDE = {"noise_hu": 20.0, "colour_half": 0.0, "colour_quarter": 0.0, "frequency": 0.2, "dense_hu": 900.0}
Slab = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> Model:
    """The embedded model."""
    model = load(DEFAULT)
    return replace(model, card=model.card.model_copy(update={"seen": model.card.seen or SEEN}))


@pytest.fixture(scope="module")
def clean() -> Slab:
    """Three slices of the bundled phantom without noise, their middle."""
    return load_volume(SAMPLE).array[4:7, 176:336, 176:336]


@pytest.fixture(scope="module")
def white(clean: Slab) -> Slab:
    return np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)


def blurred(white: Slab, pixels: float) -> Slab:
    """Noise of standard deviation 1 whose grain is `pixels` wide."""
    noise = gaussian_filter(white, (0, pixels, pixels), mode="wrap")
    return (noise / noise.std()).astype(np.float32)


def sharpened(white: Slab, power: float) -> Slab:
    """Noise of standard deviation 1 whose amplitude grows with a power of the frequency."""
    rows, columns = white.shape[1:]
    f = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    noise = np.fft.irfft2(np.fft.rfft2(white) * f**power, s=(rows, columns))
    return (noise / noise.std()).astype(np.float32)


def change(model: Model, slab: Slab, **options: Any) -> float:
    """RMS of output minus input, in HU; the output is always a number."""
    image = Restorer(model, Options(**options).parameters()).slice(0, slab).image
    assert np.isfinite(image).all()
    return float(np.sqrt(np.mean((image - slab[len(slab) // 2]) ** 2)))


# -- off range, towards the input ------------------------------------------------------------------------


def edge(model: Model, name: str) -> Range:
    found = model.card.seen.range_of(name) if model.card.seen else None
    assert found is not None
    return found


def test_ever_stronger_noise_is_ever_less_changed(model: Model, clean: Slab, white: Slab) -> None:
    """White noise from the upper edge of the range: at four times it, the scan comes back as it was."""
    high = edge(model, "noise_hu").high
    found = [change(model, clean + factor * high * white) for factor in (1.2, 1.5, 1.8, 2.1, 4)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 20
    assert found[-1] == 0


def test_ever_finer_grain_is_ever_less_changed(model: Model, clean: Slab, white: Slab) -> None:
    """From finer than white, where the range ends, to what no scanner makes: there a tenth is left at most."""
    found = [change(model, clean + 30 * sharpened(white, power)) for power in (1, 2, 4, 12)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10
    assert found[-1] < 0.1 * found[0]


def test_ever_coarser_grain_is_ever_less_changed(model: Model, clean: Slab, white: Slab) -> None:
    """Blotches of 30 HU: where they are as wide as organs, no filter of a slice can tell them from organs."""
    found = [change(model, 40 + 30 * blurred(white, pixels)) for pixels in (1, 2, 4, 8, 16)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10
    assert found[-1] < 0.1


def test_an_image_without_noise_changes_by_less_than_one_hu(model: Model) -> None:
    """The phantom as it is, smoothed so that nothing fine is left, and a constant; over the whole slice."""
    whole = load_volume(SAMPLE).array[4:7]
    for slab in (whole, gaussian_filter(whole, (0, 1.5, 1.5)), np.full_like(whole, 40)):
        assert change(model, slab) <= 1.0


def test_where_no_noise_is_found_nothing_changes_whatever_the_network_says(model: Model, clean: Slab) -> None:
    """At the floor of the estimator the weight is 0, and a network that answers NaN does no harm."""
    broken = replace(model, scaling=replace(model.scaling, factor=np.nan))
    slab = np.full_like(clean, 40)
    assert change(model, slab) == 0
    assert not np.isfinite(broken.scaling.inverse(1.0))
    assert change(broken, slab) == 0


def test_inside_of_the_range_the_guard_changes_nothing(model: Model, clean: Slab, white: Slab) -> None:
    """Bit for bit, in every mode of one evaluation and at any strength."""
    slab = clean + 20 * white
    for options in ({}, {"strength": 40}, {"mode": "texture"}):
        on, off = (Restorer(model, Options(guard=g, **options).parameters()).slice(0, slab) for g in (True, False))
        assert on.weight == 1.0
        np.testing.assert_array_equal(on.image, off.image)


def test_the_guard_can_be_left_out(model: Model, clean: Slab, white: Slab) -> None:
    slab = clean + 4 * edge(model, "noise_hu").high * white
    assert change(model, slab, guard=False) > 100
    bare = replace(model, card=model.card.model_copy(update={"seen": None}))
    assert change(bare, slab) == change(model, slab, guard=False)


def test_the_map_grows_by_the_noise_that_was_left_in(tiny_model: Path, clean: Slab, white: Slab) -> None:
    """Independent errors add in squares: where nothing was changed, the error is the noise of the scan."""
    tiny = load(tiny_model)
    tiny = replace(tiny, card=tiny.card.model_copy(update={"seen": SEEN}))
    for factor in (20, 140, 800):
        on, off = (
            Restorer(tiny, Options(mode="uncertainty", draws=2, steps=1, guard=g).parameters()).slice(
                0, clean + factor * white
            )
            for g in (True, False)
        )
        assert on.traits is not None
        left = (1 - on.weight) * on.traits["noise_hu"]
        np.testing.assert_allclose(on.deviation, np.hypot(on.weight * off.deviation, left), rtol=1e-5)
    assert on.weight == 0


# -- what is said ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(0.8, 2.0, 3.0, "B40f"), ""),
        (Facts(0.8, 0.0, None, ""), ""),
        (Facts(0.8, 2.0, 3.0, "b40F"), ""),
        (Facts(0.8, 2.0, 3.0, "B40s"), ""),
        (Facts(0.25, 2.0, 3.0, "B40f"), "pixels of 0.25 mm, outside of the 0.68 to 2 mm that the model has seen"),
        (Facts(0.8, 2.0, 0.5, "B40f"), "slice thickness of 0.5 mm, outside of the 1 to 10 mm"),
        (Facts(0.8, 12.0, 3.0, "B40f"), "slice spacing of 12 mm, outside of the 1 to 5 mm"),
        (Facts(0.8, 2.0, 3.0, "FC51"), "kernel FC51, none of the 2 kernels that the model has seen"),
    ],
)
def test_headers_outside_are_told_one_by_one(facts: Facts, words: str) -> None:
    found = header_warnings(SEEN, facts)
    assert len(found) == bool(words)
    assert all(sentence.startswith(words) for sentence in found)
    assert header_warnings(None, facts) == ()


@pytest.mark.parametrize(
    ("trait", "words"),
    [
        (
            {"noise_hu": 3.0},
            "noise of 3 HU, below the 4.5 to 102 HU that the model has seen, in 3 of 4 slices: allows 42 %",
        ),
        ({"noise_hu": 144.3}, "noise of 144 HU, above the 4.5 to 102 HU that the model has seen, in 3 of 4 slices"),
        ({"frequency": 0.34}, "noise of finer grain (frequency 0.34) than the 0.12 to 0.27 that the model has seen"),
        ({"colour_half": -2.0}, "noise of finer grain (colour at 2 x 2 pixels -2) than the -1.1 to 1.8"),
        ({"colour_half": 2.9}, "noise of coarser grain (colour at 2 x 2 pixels 2.9) than the"),
        ({"dense_hu": 3071.0}, "3071 HU, above the 2000 HU that the model has seen, in 3 of 4 slices (metal"),
    ],
)
def test_slices_outside_are_told_once_with_their_number(trait: dict[str, float], words: str) -> None:
    watch = Watch(SEEN)
    for traits in (INSIDE, INSIDE | trait, INSIDE | trait, INSIDE | trait):
        watch.add(traits, SEEN.weight(traits))
    (sentence,) = watch.warnings()
    assert sentence.startswith(words)
    if "dense_hu" not in trait:
        assert "of the change (median)" in sentence


PET = Seen(
    relative=Range(low=0.03, high=0.8, least=0.03, most=0.8),
    colour_plane=Range(low=-1.1, high=-0.1, least=-1.1, most=-0.1),
    colour_axis=Range(low=-0.55, high=0.03, least=-0.55, most=0.03),
    pixel_mm=Range(low=3, high=6, least=3, most=6.5),
    spacing_mm=Range(low=2.5, high=4.1, least=2.5, most=4.2),
)
BLOCK = {"relative": 0.3, "colour_plane": -0.6, "colour_axis": -0.3}


@pytest.mark.parametrize(
    ("trait", "words", "end"),
    [
        (
            {"relative": 0.9},
            "relative noise of 0.9, above the 0.03 to 0.8 that the model has seen, in 40 of 80 slices: allows 83 %",
            "of the change (median)",
        ),
        ({"relative": 0.02}, "relative noise of 0.02, below the 0.03 to 0.8 that the model has seen", "(median)"),
        (
            {"colour_plane": -1.6},
            "noise of finer grain (colour at 2 x 2 voxels -1.6) than the -1.1 to -0.1 that the model has seen, in 40",
            "how well it works there was not measured",
        ),
        (
            {"colour_axis": 0.2},
            "noise of coarser grain (colour over 2 slices 0.2) than the -0.55 to 0.03 that the model has seen",
            "was not measured",
        ),
    ],
)
def test_blocks_of_pet_outside_are_told_in_words_of_pet(trait: dict[str, float], words: str, end: str) -> None:
    """By slices, as they are what a reader sees; a colour only warns."""
    watch = Watch(PET)
    for traits in [BLOCK] * 40 + [BLOCK | trait] * 40:
        watch.add(traits, PET.weight(traits))
    (sentence,) = watch.warnings()
    assert sentence.startswith(words)
    assert sentence.endswith(end)
    assert watch.record() == {
        "slices": 80,
        "min": round(PET.weight(BLOCK | trait), 4),
        "median": round((1 + PET.weight(BLOCK | trait)) / 2, 4),
    }


def test_a_scan_noisier_than_can_be_told_has_no_colour() -> None:
    """The level it relates to is cut off there; a single slice has none along z."""
    volume = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    spacing = (3.0, 4.0, 4.0)
    assert set(block_traits_of(activity_of(2 + 0.5 * volume, spacing))) == set(BLOCK)
    assert set(block_traits_of(activity_of(2 + 0.5 * volume[:1], spacing))) == {"relative", "colour_plane"}
    wild = block_traits_of(activity_of(2 + 20 * volume, spacing))
    assert set(wild) == {"relative"}
    assert PET.weight(wild) == 0


def test_voxels_of_pet_outside_are_told() -> None:
    found = header_warnings(PET, Facts(2.0, 6.0, 3.0, "FC51"))
    assert [sentence.split(",")[0] for sentence in found] == ["pixels of 2 mm", "slice spacing of 6 mm"]
    assert header_warnings(PET, Facts(4.0, 3.27, None, "")) == ()


def test_each_sentence_has_the_share_of_its_own_measure_and_trifles_have_none() -> None:
    """A thousandth beyond the edge is no news; two measures outside are two sentences with two shares."""
    traits = INSIDE | {"noise_hu": 144.25, "colour_half": -1.9, "frequency": 0.2701}
    watch = Watch(SEEN)
    watch.add(traits, SEEN.weight(traits))
    level, grain = watch.warnings()
    assert "50 % of the change" in level
    assert "colour at 2 x 2 pixels" in grain
    assert "20 % of the change" in grain
    assert watch.record() == {"slices": 1, "min": 0.2, "median": 0.2}
    watch = Watch(SEEN)
    watch.add(INSIDE | {"frequency": 0.2701}, SEEN.weight(INSIDE | {"frequency": 0.2701}))
    assert watch.warnings() == []


def test_inside_nothing_is_said_and_the_record_says_one() -> None:
    watch = Watch(SEEN)
    watch.add(INSIDE, SEEN.weight(INSIDE))
    assert watch.warnings() == []
    assert watch.record() == {"slices": 1, "min": 1.0, "median": 1.0}
    assert Watch(None).warnings() == []
    assert Watch(None).record() is None


def test_no_guard_is_a_parameter_of_models_only() -> None:
    """It decides voxels, so it is recorded; a classical method knows no range."""
    assert "guard" not in Options().parameters()
    assert Options(guard=False).parameters()["guard"] is False
    with pytest.raises(UsageError, match="--no-guard is not used by --method tv, only by a model"):
        Options.of(method="tv", guard=False)


def test_a_run_tells_and_records(tmp_path: Path, tiny_model: Path, write_series: Callable[..., Path]) -> None:
    """The kernel is known before, the noise while running; switched off, the change is made and that is said."""
    tiny, path = load(tiny_model), tmp_path / "seen.safetensors"
    seen = SEEN.model_copy(update={"noise_hu": Range(low=40, high=100, least=40, most=100)})
    save(path, tiny.denoiser, tiny.architecture, tiny.scaling, tiny.card.model_copy(update={"seen": seen}))
    scan = write_series(tmp_path / "scan", n=3, size=96, kernel="FC51")
    for name, guard in (("on", True), ("off", False)):
        (series,) = reconstruct(scan, tmp_path / name, Options(model=str(path), guard=guard)).series
        told = "; ".join(series.warnings)
        assert "kernel FC51" in told
        assert "HU, below the 40 to 100 HU that the model has seen, in 3 of 3 slices" in told
        assert ("changed all the same" in told) is not guard
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert record["series"][0]["change"] == series.change
        assert (record["parameters"].get("guard", True)) is guard
        if guard:
            assert series.change is not None
            assert series.change["slices"] == 3
            assert 0 <= series.change["min"] <= series.change["median"] < 0.5
