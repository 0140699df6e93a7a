"""What a model has seen: the weight is exactly 1 inside, falls smoothly outside, and is never anything but 0 to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medidiff.seen import MARGIN, Range, Seen

SEEN = Seen(
    noise_hu=Range(low=4, high=100, least=3, most=120),
    colour_half=Range(low=-1, high=2, least=-1.5, most=2.5),
    colour_quarter=Range(low=-1.8, high=4, least=-2, most=5),
    frequency=Range(low=0.125, high=0.25, least=0.12, most=0.3),
)
INSIDE = {"noise_hu": 20.0, "colour_half": 0.0, "colour_quarter": 0.0, "frequency": 0.2}


@pytest.mark.parametrize(
    "values", [INSIDE, INSIDE | {"noise_hu": 4.0}, INSIDE | {"noise_hu": 100.0, "colour_half": -1}]
)
def test_inside_and_on_the_edge_the_weight_is_exactly_one(values: dict[str, float]) -> None:
    assert SEEN.weight(values) == 1.0


@pytest.mark.parametrize(
    ("name", "edge", "far"),
    [
        ("noise_hu", 4.0, 2.0),
        ("noise_hu", 100.0, 200.0),
        ("colour_half", 2.0, 3.0),
        ("colour_half", -1.0, -2.0),
        ("frequency", 0.25, 0.25 * 2 ** (1 / 3)),
        ("frequency", 0.125, 0.125 / 2 ** (1 / 3)),
    ],
)
def test_the_weight_falls_from_one_at_the_edge_to_zero_a_margin_beyond(name: str, edge: float, far: float) -> None:
    """Linear in the logarithm (colours are one): half way it is one half, and it stays zero further out."""
    path = np.linspace(edge, far, 9) if name.startswith("colour") else np.geomspace(edge, far, 9)
    weights = [SEEN.weight(INSIDE | {name: value}) for value in path]
    assert np.allclose(weights, np.linspace(1, 0, 9), atol=1e-6)
    assert SEEN.weight(INSIDE | {name: edge + 5 * (far - edge) if far > edge else far / 9 if far > 0 else -9.0}) == 0


def test_the_colour_at_four_pixels_decides_nothing() -> None:
    """It is stored for the card; anatomy moves it further than noise does."""
    assert SEEN.weight(INSIDE | {"colour_quarter": -9.0}) == 1.0


PET = Seen(
    relative=Range(low=0.125, high=2.0, least=0.1, most=2.5),
    colour_plane=Range(low=-1.1, high=-0.1, least=-1.1, most=-0.1),
    colour_axis=Range(low=-0.55, high=0.03, least=-0.6, most=0.03),
)
BLOCK = {"relative": 0.5, "colour_plane": -0.6, "colour_axis": -0.3}


@pytest.mark.parametrize(
    ("relative", "weight"),
    [(0.125, 1.0), (2.0, 1.0), (2 * 2**0.5, 0.5), (4.0, 0.0), (40.0, 0.0), (0.0625, 0.0), (math.nan, 0.0)],
)
def test_of_pet_the_relative_noise_decides(relative: float, weight: float) -> None:
    """An octave beyond the range nothing is left of the change; linear in the logarithm until there."""
    assert PET.weight(BLOCK | {"relative": relative}) == pytest.approx(weight, abs=1e-9)


def test_colours_of_pet_decide_nothing_and_tell_how_far_off_they_are() -> None:
    odd = {"colour_plane": -2.1, "colour_axis": 1.03}
    assert PET.weight(BLOCK | odd) == 1.0
    assert [PET.octaves_beyond(name, value) for name, value in odd.items()] == pytest.approx([-1, 1])


def test_what_was_not_measured_is_not_judged() -> None:
    """A single slice has no colour along z; a model for CT has no range for PET, and the other way round."""
    assert PET.weight({"relative": 0.5}) == 1.0
    assert SEEN.weight(BLOCK | {"relative": 40.0}) == 1.0
    assert PET.weight(INSIDE | {"noise_hu": 4000.0}) == 1.0


def test_cards_say_what_pet_has_seen() -> None:
    """In the words of PET, and nothing of CT."""
    seen = PET.model_copy(update={"pixel_mm": Range(low=3, high=6, least=2.98, most=6.52)})
    assert seen.lines() == [
        "noise relative to the activity 0.125 to 2",
        "noise colour, log2 of the level after averaging 2 x 2 voxels of a slice, -1.1 to -0.1",
        "noise colour, log2 of the level after averaging 2 slices, -0.55 to 0.03",
        "pixel size 2.98 to 6.52 mm",
    ]


def test_a_range_of_before_pet_is_read() -> None:
    """Cards that were stored then lack the fields of PET."""
    stored = SEEN.model_dump(exclude={"relative", "colour_plane", "colour_axis"})
    assert Seen.model_validate(stored) == SEEN


def test_the_furthest_measure_decides() -> None:
    one, other = {"noise_hu": 150.0}, {"colour_half": 2.9}
    assert SEEN.weight(INSIDE | one | other) == min(SEEN.weight(INSIDE | one), SEEN.weight(INSIDE | other))


@pytest.mark.parametrize("name", MARGIN)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_trusted(name: str, value: float) -> None:
    """Where a range is known; a measure without one is not judged."""
    weight = SEEN.weight(INSIDE | {name: value})
    assert weight == (0.0 if SEEN.range_of(name) else 1.0)
    assert Seen().weight(INSIDE | {name: value}) == 1.0


def test_a_range_is_percentiles_and_extremes() -> None:
    """The 1st and 99th percentile of 0, 1 ... 1000 are 10 and 990."""
    assert Range.of([*range(1001), math.nan]) == Range(low=10, high=990, least=0, most=1000)
    assert Range.of([]) is None


def test_sizes_of_headers_have_a_tenth_of_tolerance() -> None:
    sizes = Range(low=0.8, high=1.9, least=0.7, most=2.0)
    assert [sizes.holds(value) for value in (0.62, 0.64, 1.0, 2.19, 2.21)] == [False, True, True, True, False]


def test_a_seen_survives_its_file() -> None:
    assert Seen.model_validate_json(SEEN.model_dump_json()) == SEEN


def test_a_tolerance_widens_both_ends_by_octaves() -> None:
    """A factor for sizes, a difference for what is a logarithm already; extremes are never inside of the ends."""
    size = Range(low=1.0, high=4.0, least=0.9, most=4.1).widened(1.0, is_logarithm=False)
    assert (size.low, size.high, size.least, size.most) == (0.5, 8.0, 0.5, 8.0)
    colour = Range(low=-1.0, high=2.0, least=-3.0, most=2.0).widened(0.5, is_logarithm=True)
    assert (colour.low, colour.high, colour.least, colour.most) == (-1.5, 2.5, -3.0, 2.5)
