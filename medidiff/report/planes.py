"""Noise power spectra in two dimensions: does the noise that a method leaves have a direction?

A panel a stratum and method: the mean over patients of the planes of their cases, each over its own highest value, so
that panels show colour and not level; the level is in the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medidiff.report.folder import Results
from medidiff.report.plots import COLUMNS, LONE, MOST_PANELS
from medidiff.report.styles import Plot, finished, grid, plain
from medidiff.report.words import many
from medidiff.results.rows import Curve

NAME = "NPS plane"
Panel = tuple[str, NDArray[np.float64], float]


def planes(results: Results) -> Iterator[Plot]:
    """One figure, or none where no case has a plane."""
    found = list(_panels(results))
    shown = found[:MOST_PANELS]
    if not shown:
        return
    figure, axes = grid(len(shown), COLUMNS, (3.4 if len(shown) > 1 else LONE, 3.1))
    for axis, (label, plane, reach) in zip(axes, shown, strict=True):
        drawn = axis.imshow(plane, extent=(-reach, reach, reach, -reach), cmap="viridis", vmin=0, vmax=1)
        axis.set_title(plain(label, 44))
        axis.set_xlabel("f along rows / 1/mm")
        axis.set_ylabel("f along columns / 1/mm")
        axis.grid(visible=False)
    figure.colorbar(drawn, ax=axes, label="power over its maximum", shrink=0.6)
    told = (
        "Two-dimensional noise power spectra, zero frequency in the middle, each over its own maximum. A ring is noise "
        "without a direction; anything else runs one way."
    )
    omitted = len(found) - len(shown)
    more = f" {many(omitted, 'further panel is', 'further panels are')} left out; curves.json has them." * (omitted > 0)
    labels = "; ".join(label for label, *_ in shown)
    yield finished("Noise in two dimensions", figure, f"{told} Panels: {labels}.",
                   f"{told}{more}")  # fmt: skip


def _panels(results: Results) -> Iterator[Panel]:
    patients = dict(zip(results.cases["case"], results.cases["patient"], strict=True))
    for stratum in results.strata:
        cases = set(stratum.of(results.cases)["case"])
        of_method: dict[str, list[Curve]] = defaultdict(list)
        for curve in results.curves:
            if curve.name == NAME and curve.case in cases:
                of_method[curve.method].append(curve)
        for method in results.in_order(of_method):
            yield f"{method}, {stratum.label}", *_mean(of_method[method], patients)


def _mean(curves: list[Curve], patients: dict[str, str]) -> tuple[NDArray[np.float64], float]:
    """Mean over patients of their planes, and the mean of their highest frequencies (pixel sizes differ a little)."""
    grouped: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for curve in curves:
        plane = np.reshape(curve.y, (len(curve.x), len(curve.x)))
        grouped[patients.get(curve.case, curve.case)].append(plane / max(plane.max(), 1e-30))
    mean = np.mean([np.mean(found, axis=0) for found in grouped.values()], axis=0)
    return mean / max(mean.max(), 1e-30), float(np.mean([-min(curve.x) for curve in curves]))
