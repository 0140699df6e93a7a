"""One reader in one study: which items there are, what has been answered, what comes next.

Nothing is kept here: every answer is in the database before the next one can be given, and is read from there, so that
a reader who comes back, to this server or to another one, goes on where they stopped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dashboard.reading.design import Design
from dashboard.reading.order import Item, items
from medidiff.results import readings
from medidiff.results.readings import Study

SCORE = "score/"  # and the name of the scale
PREFERENCE, MARKS = "preference", "marks"
OPENED, DONE = "opened", "done"
SIDES = ("A", "B")  # left and right

Answers = Mapping[str, Any]  # the last value of each question of an item


@dataclass(frozen=True, eq=False)
class Reading:
    """A reader in a study; `items` in their order."""

    engine: sa.Engine
    study: int
    design: Design
    reader: str
    items: tuple[Item, ...]

    @classmethod
    def begin(cls, engine: sa.Engine, study: Study, reader: str) -> Reading:
        """Go on, or begin with an order of their own. Raises OutputError where the database fails."""
        design = Design(**study.design)
        drawn = [item.kept() for item in items(design, reader)]
        kept = readings.begin(engine, study.id, reader, drawn)
        return cls(engine, study.id, design, reader, tuple(Item.of(item) for item in kept))

    def answers(self) -> dict[int, Answers]:
        """By number of the item, from 0; items that were never opened are not there. Raises InputError."""
        return latest(readings.read_events(self.engine, self.study, self.reader))

    def save(self, item: int, question: str, value: Any) -> None:
        """Keep one answer at once. Raises UsageError for a study that was unblinded, OutputError."""
        readings.save(self.engine, self.study, self.reader, item, question, value)

    def next(self, answers: Mapping[int, Answers]) -> int:
        """The first item that is not finished; their number where all are."""
        return next((k for k in range(len(self.items)) if DONE not in answers.get(k, {})), len(self.items))


def questions(design: Design, item: Item) -> list[str]:
    """What has to be answered before an item is finished; no mark is an answer, too."""
    return [PREFERENCE] if len(item.arms) == 2 else [SCORE + scale.name for scale in design.scales]


def lacking(design: Design, item: Item, answers: Answers) -> list[str]:
    return [question for question in questions(design, item) if question not in answers]


def latest(events: list[readings.Event]) -> dict[int, Answers]:
    """Of one reader's events: the last value of every question, by item."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for event in events:
        found[event.item][event.question] = event.value
    return dict(found)
