"""Which item a reader sees when: random, and balanced.

Ratings. With a arms and m cases the reading has a blocks, and every block shows each case once. Case i sees the arms in
the order of a row of a Williams square (Williams 1949, Aust. J. Sci. Res. A 2:149), in which every arm comes once in
every block and follows every other arm equally often; rows are dealt to shuffled cases in turn, so that every block has
each arm equally often, to within one. Inside of a block arms are dealt in rounds of one each, so that the same holds of
every part of it.

Preferences come after all ratings, in blocks of the same kind, with pairs of arms in the place of arms. Every pair has
each of its arms on the left equally often, to within one, and so has every arm, over all of its pairs.

Cases that are shown twice take part as one more case each, in a row with another arm in every block where there are two
arms or more, and with left and right exchanged. Of many random orders of a block the one is taken in which a case comes
back latest: two items of one case are neighbours only where there are too few cases to avoid it.

Items are drawn from the seed of the study and the reader's name; the database keeps them as they were drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dashboard.reading.design import Design

TRIES = 200


@dataclass(frozen=True)
class Item:
    """Case and arms, as numbers from 0: one arm to be rated, two (left, right) to choose from; whether seen before."""

    case: int
    arms: tuple[int, ...]
    is_repeat: bool = False

    @classmethod
    def of(cls, kept: Any) -> Item:
        """As the database keeps it."""
        return cls(int(kept[0]), tuple(int(arm) for arm in kept[1]), bool(kept[2]))

    def kept(self) -> list[Any]:
        return [self.case, list(self.arms), self.is_repeat]


@dataclass(frozen=True)
class _Part:
    """One case in one pass: shown once with every choice, an arm or a pair; `again`: the second time."""

    case: int
    again: bool
    row: int


def items(design: Design, reader: str) -> list[Item]:
    """What one reader sees, in order."""
    name = int.from_bytes(hashlib.sha256(reader.encode()).digest()[:8])
    random = np.random.default_rng([design.seed, name])
    shown: list[Item] = []
    if design.rates:
        shown = _passes(design, [(arm,) for arm in range(len(design.arms))], random, shown)
    if design.preference:
        shown = _passes(design, list(combinations(range(len(design.arms)), 2)), random, shown)
    return shown


def williams(n: int) -> list[list[int]]:
    """Rows of a square of n choices, n of them for even n and 2 n for odd n, balanced for what follows what."""
    first = [0]
    for k in range(1, n):
        first.append((n - k // 2) % n if k % 2 == 0 else (k + 1) // 2)
    rows = [[(value + shift) % n for value in first] for shift in range(n)]
    return rows if n % 2 == 0 else [*rows, *(row[::-1] for row in rows)]


def _passes(
    design: Design, choices: Sequence[tuple[int, ...]], random: np.random.Generator, before: list[Item]
) -> list[Item]:
    """`before`, and after it every case once with each choice."""
    square = williams(len(choices))
    relabelled = random.permutation(len(choices))
    parts = _parts(design, square, random)
    turned = [_turned(parts, choices[k], len(design.arms), random) for k in range(len(choices))]
    shown = list(before)
    for block in range(len(choices)):
        dealt = [(part, int(relabelled[square[part.row][block]])) for part in parts]
        orders = [_dealt(dealt, random) for _ in range(TRIES)]
        best = max(orders, key=lambda order: _returns(order, shown, len(design.cases)))
        for part, choice in best:
            arms = choices[choice]
            arms = arms[::-1] if turned[choice][part.case, part.again] else arms
            shown.append(Item(part.case, arms, part.again))
    return shown


def _parts(design: Design, square: Sequence[Sequence[int]], random: np.random.Generator) -> list[_Part]:
    """Shuffled cases, then those that come twice, each with its row."""
    first = [_Part(int(case), False, k % len(square)) for k, case in enumerate(random.permutation(len(design.cases)))]
    left, parts = [first[k] for k in random.permutation(len(first))], list(first)
    for k in range(len(first), len(first) + round(design.repeats * len(first))):
        row = k % len(square)
        clear = [part for part in left if all(a != b for a, b in zip(square[part.row], square[row], strict=True))]
        chosen = (clear or left)[0]
        left.remove(chosen)
        parts.append(_Part(chosen.case, True, row))
    return parts


def _turned(
    parts: Sequence[_Part], arms: tuple[int, ...], n_arms: int, random: np.random.Generator
) -> dict[tuple[int, bool], bool]:
    """By case and whether again: whether a pair is shown with its second arm on the left.

    A case that comes twice has it once so, once so; the others have it in turn. Where their number is odd the arm with
    one left more goes round the arms, so that no arm has many: the second where the two are an odd number apart.
    """
    if len(arms) < 2:
        return {(part.case, part.again): False for part in parts}
    twice = {part.case for part in parts if part.again}
    once = [part.case for part in parts if part.case not in twice]
    surplus = (arms[1] - arms[0]) % 2 == 1
    sides = [surplus if k % 2 == 0 else not surplus for k in range(len(once))]
    found = {(once[k], False): sides[place] for place, k in enumerate(random.permutation(len(once)))}
    for case in sorted(twice):
        found[case, False] = bool(random.integers(2))
        found[case, True] = not found[case, False]
    return found


def _dealt(block: Sequence[tuple[_Part, int]], random: np.random.Generator) -> list[tuple[_Part, int]]:
    """A block in random order: rounds of one case of each choice, as long as there are; short ones anywhere."""
    heaps: dict[int, list[tuple[_Part, int]]] = {}
    for k in random.permutation(len(block)):
        heaps.setdefault(block[k][1], []).append(block[k])
    rounds = []
    while any(heaps.values()):
        taken = [heap.pop() for heap in heaps.values() if heap]
        rounds.append([taken[k] for k in random.permutation(len(taken))])
    return [dealt for k in random.permutation(len(rounds)) for dealt in rounds[k]]


def _returns(order: Sequence[tuple[_Part, int]], shown: Sequence[Item], cases: int) -> int:
    """Least distance of two items of one case, in a block and to what was shown before; no more than half of the cases.

    Distances of a case that comes twice in the block count, too.
    """
    last = {item.case: k - len(shown) for k, item in enumerate(shown)}
    least = max(cases // 2, 2)
    for k, (part, _) in enumerate(order):
        least = min(least, k - last.get(part.case, -len(shown) - cases))
        last[part.case] = k
    return least
