"""Images of the library that a study could show, gathered into cases: those of one patient's study on one grid.

What was made of a scan stands beside it. The suggested arm of a reconstruction says how it was made, that of its scan
is "scan"; other images, the full dose for one, have none until the owner of the study names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.library import Image, Library
from medidiff.errors import UsageError


@dataclass(frozen=True, eq=False)
class Candidate:
    """An image, the number of its case, and the arm that it is likely to be of; "" where nothing says so."""

    case: int
    image: Image
    arm: str


def candidates(library: Library, modality: str) -> list[Candidate]:
    """All that can be shown, by case; the cases that have most arms first."""
    gathered: dict[object, dict[str, tuple[Image, str]]] = {}
    for case in library.cases():
        shown = [(case.scan, "scan" if case.record else ""), (case.reconstruction, arm_of(case.record))]
        images = [(image, arm) for image, arm in shown if image and image.modality == modality and not image.reason]
        if images:
            first = case.scan or case.main
            place = gathered.setdefault((first.group, first.slices, first.matrix, first.spacing_mm), {})
            place |= {image.key: (image, arm or place.get(image.key, (image, ""))[1]) for image, arm in images}
    groups = sorted(gathered.values(), key=lambda images: -sum(bool(arm) for _, arm in images.values()))
    return [Candidate(k, *found) for k, images in enumerate(groups, 1) for found in images.values()]


def arm_of(record: Mapping[str, Any]) -> str:
    """How a run made a series, in a few words; "" for none."""
    strength = record.get("strength")
    words = [record.get("model") or record.get("method"), record.get("mode")]
    return " ".join([*map(str, filter(None, words)), *([] if strength is None else [f"{strength:g} %"])])


def cases_of(chosen: Iterable[tuple[int, str, Image]], arms: Sequence[str]) -> dict[int, dict[str, Image]]:
    """Images by arm of every case that has all `arms`, by its number; `chosen` is (case, arm, image).

    Raises UsageError for two images of one arm in a case, and for images of a case that lie on different grids.
    """
    cases: dict[int, dict[str, Image]] = {}
    for number, arm, image in chosen:
        if arm in cases.setdefault(number, {}):
            raise UsageError(f"case {number} has two images of '{arm}': name one of them otherwise, or leave it out")
        if arm in arms:
            cases[number][arm] = image
    complete = {number: cases[number] for number in sorted(cases) if len(cases[number]) == len(arms)}
    for number, images in complete.items():
        _require_one_grid(number, images)
    return complete


def _require_one_grid(number: int, images: Mapping[str, Image]) -> None:
    (first, image), *others = images.items()
    geometry = image.open().geometry
    for arm, other in others:
        if told := geometry.difference(other.open().geometry):
            raise UsageError(f"case {number}: '{first}' and '{arm}' do not lie on one grid: {told}; regrid one of them")
