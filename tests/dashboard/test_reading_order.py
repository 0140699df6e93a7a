"""The laws that the order of a reader study must keep, over many readers and designs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from dashboard.reading.design import Design, designed, reader_name
from dashboard.reading.order import Item, items, williams
from medidiff.errors import InputError, UsageError

READERS = [f"r{k}" for k in range(30)]
SCALE = {"name": "noise", "anchors": ("bad", "good")}


def design(arms: int = 3, cases: int = 12, **settings: Any) -> Design:
    names = tuple(f"arm {k}" for k in range(arms))
    images = tuple(
        {"number": k + 1, "images": {name: f"{k:08d}{name[-1]:>08}" for name in names}} for k in range(cases)
    )
    asked = {"scales": (SCALE,), "preference": "Which?"} | settings
    return designed(name="s", modality="CT", window=(-160, 240), arms=names, cases=images, **asked)


def spread(counted: Counter[Any], of: int) -> int:
    """Most less least, over `of` things that may be counted."""
    return max(counted.values()) - (min(counted.values()) if len(counted) == of else 0)


@pytest.mark.parametrize("n", range(2, 8))
def test_a_williams_square_is_balanced(n: int) -> None:
    """Every choice once a row, equally often in a column, and equally often behind every other."""
    rows = williams(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    assert all(spread(Counter(column), n) == 0 for column in zip(*rows, strict=True))
    follows = Counter(pair for row in rows for pair in pairwise(row))
    assert len(follows) == n * (n - 1)
    assert len(set(follows.values())) == 1


@pytest.mark.parametrize("reader", READERS[:3])
@pytest.mark.parametrize(("arms", "cases", "repeats"), [(2, 5, 0.0), (3, 12, 0.25), (4, 7, 1.0), (1, 6, 0.5)])
def test_everything_is_shown_once_and_repeats_twice(arms: int, cases: int, repeats: float, reader: str) -> None:
    """Every arm and every pair of every case, in the share of repeated cases again."""
    shown = items(design(arms, cases, repeats=repeats, preference="Which?" if arms > 1 else ""), reader)
    for size in (1, 2):
        part = [item for item in shown if len(item.arms) == size]
        once = [(item.case, frozenset(item.arms)) for item in part if not item.is_repeat]
        again = [(item.case, frozenset(item.arms)) for item in part if item.is_repeat]
        choices = arms if size == 1 else arms * (arms - 1) // 2
        assert len(once) == len(set(once)) == cases * choices
        assert len(again) == len(set(again)) == round(repeats * cases) * choices
        assert set(again) <= set(once)
    assert [len(item.arms) for item in shown] == sorted(len(item.arms) for item in shown)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("arms", "cases", "repeats"), [(2, 12, 0.0), (3, 12, 0.25), (3, 10, 0.0), (4, 9, 0.33)])
def test_arms_are_balanced_over_the_reading(arms: int, cases: int, repeats: float, reader: str) -> None:
    """In each third and each half of the ratings every arm comes equally often, to within the ends of two rounds."""
    shown = [item.arms[0] for item in items(design(arms, cases, repeats=repeats, preference=""), reader)]
    n = len(shown)
    assert spread(Counter(shown), arms) == 0
    for parts in (2, 3):
        for k in range(parts):
            assert spread(Counter(shown[k * n // parts : (k + 1) * n // parts]), arms) <= 2


def test_arms_are_balanced_exactly_where_the_numbers_allow_it() -> None:
    """Twelve cases, three arms: four of each arm in each third, for everybody."""
    for reader in READERS:
        shown = [item.arms[0] for item in items(design(3, 12, preference=""), reader)]
        assert all(set(Counter(shown[k : k + 12]).values()) == {4} for k in (0, 12, 24))


def test_no_arm_comes_before_the_others_in_the_long_run() -> None:
    """Which arm of a case is seen first: over 30 readers and 12 cases each in a third, to within chance."""
    first: Counter[int] = Counter()
    for reader in READERS:
        shown = items(design(3, 12, preference=""), reader)
        first.update({item.case: item.arms[0] for item in reversed(shown)}.values())
    assert all(count == pytest.approx(120, abs=1) for count in first.values())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("arms", "cases", "repeats"), [(2, 4, 0.0), (2, 6, 0.5), (3, 8, 0.25), (4, 12, 1.0)])
def test_two_items_of_a_case_are_never_neighbours(arms: int, cases: int, repeats: float, reader: str) -> None:
    """From four cases on, repeats, pairs and the step from ratings to preferences included."""
    shown = items(design(arms, cases, repeats=repeats), reader)
    assert all(first.case != second.case for first, second in pairwise(shown))


def test_with_many_cases_a_case_comes_back_late() -> None:
    """Twenty cases: at least a quarter of them are seen between two items of one."""
    for reader in READERS[:10]:
        last: dict[int, int] = {}
        for k, item in enumerate(items(design(2, 20), reader)):
            assert k - last.get(item.case, -100) > 5
            last[item.case] = k


@pytest.mark.parametrize("reader", READERS[:10])
@pytest.mark.parametrize(("arms", "cases", "repeats"), [(2, 12, 0.0), (2, 7, 0.5), (3, 9, 0.3), (4, 11, 0.0)])
def test_left_and_right_are_balanced(arms: int, cases: int, repeats: float, reader: str) -> None:
    """Each arm of a pair is on the left as often as on the right, to within one; so is every arm, over all pairs."""
    shown = [item for item in items(design(arms, cases, repeats=repeats), reader) if len(item.arms) == 2]
    turned = Counter(item.arms for item in shown)
    for a in range(arms):
        for b in range(a):
            assert abs(turned[a, b] - turned[b, a]) <= 1
    left, right = (Counter(item.arms[side] for item in shown) for side in (0, 1))
    assert all(abs(left[arm] - right[arm]) <= 1 for arm in range(arms))


def test_a_repeated_pair_has_its_sides_exchanged() -> None:
    shown = [item for item in items(design(2, 8, repeats=0.5), "r1") if len(item.arms) == 2]
    first = {item.case: item.arms for item in shown if not item.is_repeat}
    again = [item for item in shown if item.is_repeat]
    assert len(again) == 4
    assert all(item.arms == first[item.case][::-1] for item in again)


def test_the_same_image_comes_back_in_another_block() -> None:
    """The second reading of an image is not right behind the first: more than a quarter of the cases later."""
    for reader in READERS[:10]:
        shown = items(design(2, 12, repeats=0.5, preference=""), reader)
        first = {(item.case, item.arms): k for k, item in enumerate(shown) if not item.is_repeat}
        gaps = [abs(k - first[item.case, item.arms]) for k, item in enumerate(shown) if item.is_repeat]
        assert min(gaps) > 3


def test_seed_and_reader_decide_the_order() -> None:
    """The same for the same, another for another reader and for another seed."""
    assert items(design(), "r1") == items(design(), "r1")
    assert items(design(), "r1") != items(design(), "r2")
    assert items(design(seed=1), "r1") != items(design(seed=2), "r1")


def test_an_item_comes_back_from_the_database_as_it_was() -> None:
    for item in (Item(3, (1,)), Item(0, (2, 1), True)):
        assert Item.of(item.kept()) == item


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scales": (), "preference": ""}, "nothing is asked"),
        ({"scales": (SCALE, {**SCALE, "name": "Noise"})}, "two questions are called"),
        ({"arms": 1}, "a preference needs two arms"),
        ({"scales": ({"name": "noise", "anchors": ("one",)},)}, "anchors"),
        ({"repeats": 2.0}, "repeats"),
    ],
)
def test_designs_that_make_no_sense_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        design(**settings)
    assert "\n" not in str(caught.value)


def test_a_case_without_an_arm_is_told() -> None:
    cases = ({"number": 1, "images": {"a": "1", "b": "2"}}, {"number": 2, "images": {"a": "3"}})
    with pytest.raises(UsageError, match="case 2 has no image of 'b'"):
        designed(name="s", modality="CT", window=(0, 1), arms=("a", "b"), cases=cases, scales=(SCALE,))


@pytest.mark.parametrize("name", ["Jane Doe", "jane@hospital.org", "", "é", "a" * 33, "-r1"])
def test_names_of_people_are_no_code_names(name: str) -> None:
    with pytest.raises(InputError, match="code name"):
        reader_name(name)


def test_a_code_name_is_one_however_it_is_written() -> None:
    assert reader_name(" R1 ") == reader_name("r1") == "r1"
