"""The one loop of every evaluation: each slice is read once, shown to all measures, and let go.

    values, functions = judge(look(candidate, reference, scan=scan), measures(names, context))

Memory is that of a few slices, whatever the size of the volume: sources are read slice by slice, and what measures
keep are a few numbers a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from medidiff.errors import GeometryError, UnitError
from medidiff.evaluate.measure import Function, Measure, Value
from medidiff.evaluate.view import Context, Mask, ReferenceNoise, View
from medidiff.progress import Progress, silent
from medidiff.results.rows import Curve, Row
from medidiff.volume import SliceSource

Regions = Callable[[int], Mapping[str, Mask]]


def require_comparable(candidate: SliceSource, reference: SliceSource) -> None:
    """Raise UnitError or GeometryError unless both volumes lie voxel on voxel and have one unit."""
    if candidate.unit != reference.unit:
        raise UnitError(f"cannot compare {candidate.unit} with {reference.unit}: convert one of the volumes first")
    fault = candidate.geometry.difference(reference.geometry)
    if fault is not None:
        raise GeometryError(f"cannot compare two volumes of different geometry: {fault}; resample one of them first")


def look(
    candidate: SliceSource,
    reference: SliceSource,
    *,
    scan: SliceSource | None = None,
    truth: SliceSource | None = None,
    deviation: SliceSource | None = None,
    regions: Regions | None = None,
) -> Iterator[View]:
    """Views of all slices that hold a measurement in both volumes, in order.

    `deviation` is the standard deviation that the method claims; `regions` gives the masks of a slice by its index.
    Raises UnitError or GeometryError where the volumes do not belong together, or no voxel counts.
    """
    others = {"scan": scan, "truth": truth, "deviation": deviation}
    given = {name: source for name, source in others.items() if source is not None}
    for source in (candidate, *given.values()):
        require_comparable(source, reference)
    seen = False
    for index in range(reference.geometry.n_slices):
        measured = _measured(candidate, reference, index)
        if not measured.any():
            continue
        seen = True
        yield View(
            index,
            candidate.read(index),
            reference.read(index),
            measured,
            regions={} if regions is None else regions(index),
            **{name: source.read(index) for name, source in given.items()},
        )
    if not seen:
        raise GeometryError("cannot compare two volumes without one voxel that holds a measurement in both")


def judge(
    views: Iterable[View], measures: Sequence[Measure], progress: Progress = silent, n_slices: int = 0
) -> tuple[list[Value], list[Function]]:
    """Show all views to all measures, and ask for their numbers."""
    show(views, measures, progress, n_slices)
    values = [value for measure in measures for value in measure.values()]
    return values, [function for measure in measures for function in measure.curves()]


def show(views: Iterable[View], measures: Sequence[Measure], progress: Progress = silent, n_slices: int = 0) -> None:
    """Show every view to every measure; `progress` is told how many of `n_slices` are done."""
    for view in views:
        for measure in measures:
            measure.add(view)
        progress(view.index + 1, n_slices or view.index + 1)


def context_of(
    reference: SliceSource,
    presets: Sequence[str],
    *,
    dose: float | None = None,
    reference_noise: ReferenceNoise = "independent",
    seed: int = 0,
) -> Context:
    """What measures must know of a case, as far as its reference tells."""
    place = reference.geometry
    return Context(
        presets=tuple(presets),
        unit=reference.unit,
        pixel_mm=place.pixel_spacing_mm,
        slice_mm=place.slice_spacing_mm,
        n_slices=place.n_slices,
        reference_noise=reference_noise,
        dose=dose,
        seed=seed,
    )


def as_rows(case: str, method: str, values: Iterable[Value]) -> list[Row]:
    """The values of a method on a case as lines of results.csv."""
    return [Row(case, method, v.region, v.metric, v.preset, v.value, v.unit) for v in values]


def as_curves(case: str, method: str, functions: Iterable[Function]) -> list[Curve]:
    """The functions of a method on a case as entries of curves.json."""
    return [Curve(case, method, f.region, f.name, f.x, f.y, f.x_unit, f.y_unit) for f in functions]


def _measured(a: SliceSource, b: SliceSource, index: int) -> Mask:
    """(rows, columns) True where both volumes hold a measurement."""
    measured = np.ones(b.geometry.matrix, bool)
    for padding in (a.padding(index), b.padding(index)):
        if padding is not None:
            measured &= ~padding
    return measured
