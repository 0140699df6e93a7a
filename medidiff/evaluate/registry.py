"""Every measure by the name it has in a study file; one explicit dictionary."""

from __future__ import annotations

from collections.abc import Sequence

from medidiff.errors import UsageError
from medidiff.evaluate.measure import Factory, Measure
from medidiff.evaluate.measures import companions, hallucination, image, noise, pet, task, uncertainty
from medidiff.evaluate.view import Context

MEASURES: dict[str, Factory] = {
    **image.MEASURES,
    **noise.MEASURES,
    **task.MEASURES,
    **uncertainty.MEASURES,
    **hallucination.MEASURES,
    **companions.MEASURES,
    **pet.MEASURES,
}


def measures(names: Sequence[str], context: Context) -> list[Measure]:
    """One fresh measure a name; raises UsageError naming every unknown one."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise UsageError(f"metrics: {', '.join(unknown)} unknown; choose from {', '.join(MEASURES)}")
    return [MEASURES[name](context) for name in names]
