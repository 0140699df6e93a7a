"""What was read, item by item, as it stands in the database: the table that analysis and export start from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dashboard.reading.design import Design
from dashboard.reading.order import Item
from dashboard.reading.session import DONE, MARKS, OPENED, PREFERENCE, Answers, latest
from medidiff.results import readings
from medidiff.results.readings import Event, Study


@dataclass(frozen=True, eq=False)
class Read:
    """An item of a reader.

    case      its number in the design
    arms      one, or those on the left and on the right
    answers   the last of every question
    seconds   spent until it was finished first, or until now: of every visit, from its opening to its last answer
    """

    reader: str
    position: int
    case: int
    arms: tuple[str, ...]
    is_repeat: bool
    answers: Answers
    seconds: float

    @property
    def is_done(self) -> bool:
        return DONE in self.answers

    @property
    def chosen(self) -> str:
        """The arm that was preferred, "" where none was."""
        side = self.answers.get(PREFERENCE)
        return "" if side is None else self.arms["AB".index(side)]

    @property
    def marks(self) -> list[tuple[tuple[float, float, float], int]]:
        """Position (LPS mm) and confidence, from 1, of every mark."""
        return [(tuple(mark["position_mm"]), int(mark["confidence"])) for mark in self.answers.get(MARKS, [])]


def read(engine: sa.Engine, study: Study) -> list[Read]:
    """Every item of every reader who has begun, also those that they have not come to. Raises InputError."""
    design = Design(**study.design)
    by_reader: dict[str, list[Event]] = defaultdict(list)
    for event in readings.read_events(engine, study.id):
        by_reader[event.reader].append(event)
    return [
        item
        for reader, kept in readings.read_orders(engine, study.id).items()
        for item in _items(design, reader, [Item.of(item) for item in kept], by_reader[reader])
    ]


def _items(design: Design, reader: str, items: Sequence[Item], events: list[Event]) -> list[Read]:
    answers = latest(events)
    of_item: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        of_item[event.item].append(event)
    return [
        Read(
            reader,
            position,
            design.cases[item.case].number,
            tuple(design.arms[arm] for arm in item.arms),
            item.is_repeat,
            answers.get(position, {}),
            seconds(of_item[position]),
        )
        for position, item in enumerate(items)
    ]


def seconds(events: Sequence[Event]) -> float:
    """Spent on one item until it was finished first, from its events in order."""
    total, opened, last = 0.0, None, None  # type: float, datetime | None, datetime | None
    for event in events:
        if event.question == OPENED:
            total += _between(opened, last)
            opened = event.at
        last = event.at
        if event.question == DONE:
            break
    return total + _between(opened, last)


def _between(opened: datetime | None, last: datetime | None) -> float:
    return 0.0 if opened is None or last is None else max((last - opened).total_seconds(), 0.0)


def finished(items: Sequence[Read]) -> list[str]:
    """Readers who have finished every item."""
    unfinished = {item.reader for item in items if not item.is_done}
    return sorted({item.reader for item in items} - unfinished)
