"""What a reader study asks, of which images: all that is decided before the first reader begins.

An arm is a way in which the same cases were imaged or processed, a case one image of each arm on the same grid. The
first arm is the reference that the others are compared with. The name says nothing of a patient, nor of an arm.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from medidiff.config import Settings
from medidiff.errors import InputError, UsageError

Text = Annotated[str, Field(min_length=1, max_length=200)]

PREFERENCE = "Which image is better for the diagnosis?"
LEVELS = ("unlikely", "possible", "probable", "definite")
READER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Scale(Settings):
    """One question on a Likert scale: what each score means, that of 1 first. More is better."""

    name: Text
    anchors: tuple[Text, ...] = Field(min_length=2, max_length=10)


class Lesion(Settings):
    """Where a lesion lies (LPS mm), and how near to it a mark has to be."""

    position_mm: tuple[float, float, float]
    radius_mm: float = Field(gt=0)


class Images(Settings):
    """One case: its number, the key of its image of each arm, and its lesions: none if normal, None if unknown."""

    number: int
    images: dict[str, str]
    lesions: tuple[Lesion, ...] | None = None


class Design(Settings):
    """scales      questions about every image on its own
    preference  the question about two images of a case side by side, "" where it is not asked
    levels      what a mark's confidence can be, lowest first; none where lesions are not marked
    repeats     share of the cases that every reader sees twice
    window      (low, high), with which every image opens
    """

    name: Text
    modality: str
    window: tuple[float, float]
    arms: tuple[Text, ...] = Field(min_length=1, max_length=8)
    cases: tuple[Images, ...] = Field(min_length=1)
    scales: tuple[Scale, ...] = ()
    preference: str = ""
    levels: tuple[Text, ...] = Field((), max_length=9)
    repeats: float = Field(0.0, ge=0, le=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Design:
        names = [scale.name for scale in self.scales]
        for what, words in (("arm", self.arms), ("question", names), ("confidence", self.levels)):
            if twice := _twice(words):
                raise ValueError(f"two {what}s are called '{twice}': give each its own name")
        if len({case.number for case in self.cases}) < len(self.cases):
            raise ValueError("two cases have one number: give each its own")
        for case in self.cases:
            if lacking := [arm for arm in self.arms if arm not in case.images]:
                raise ValueError(
                    f"case {case.number} has no image of '{lacking[0]}': give it one, or leave the case out"
                )
        if not (self.scales or self.preference or self.levels):
            raise ValueError("nothing is asked: keep a question, the preference or the marks")
        if self.preference and len(self.arms) < 2:
            raise ValueError("a preference needs two arms: name a second one, or do not ask for it")
        return self

    @property
    def rates(self) -> bool:
        """Whether images are shown on their own."""
        return bool(self.scales or self.levels)


DEFAULT_SCALES = (
    Scale(name="noise", anchors=("unacceptable", "disturbing", "moderate", "low", "hardly any")),
    Scale(name="sharpness", anchors=("unacceptable", "blurred", "moderate", "sharp", "very sharp")),
    Scale(name="artefacts", anchors=("unacceptable", "disturbing", "some", "few", "none")),
    Scale(name="diagnostic confidence", anchors=("none", "low", "moderate", "high", "full")),
)


def designed(**settings: Any) -> Design:
    """A design; raises UsageError with everything that is wrong with it in a sentence."""
    try:
        return Design(**settings)
    except ValidationError as error:
        faults = [str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors()]
        places = [".".join(map(str, fault["loc"])) for fault in error.errors()]
        told = [f"{place}: {fault}" if place else fault for place, fault in zip(places, faults, strict=True)]
        raise UsageError("; ".join(told)) from None


def reader_name(text: str) -> str:
    """A reader's code name, in small letters. Raises InputError for what may be a name or an address of a person."""
    name = text.strip().lower()
    if not READER.fullmatch(name):
        raise InputError(
            "a code name has 1 to 32 letters, digits, - or _, no spaces and no @; take a made-up one, such as r1, "
            "not your own name"
        )
    return name


def _twice(words: Sequence[str]) -> str:
    counted = Counter(word.casefold() for word in words)
    return next((word for word in words if counted[word.casefold()] > 1), "")
