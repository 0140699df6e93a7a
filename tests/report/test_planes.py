"""Two-dimensional spectra in the report: patients count once, and panels show colour, not level."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from medidiff.report import build
from medidiff.report.folder import read_results
from medidiff.report.planes import NAME, planes
from medidiff.results.rows import Curve


def plane(case: str, values: np.ndarray) -> Curve:
    """A plane of 4 x 4 frequencies."""
    return Curve(case, "ct", "all", NAME, (-0.5, -0.25, 0.0, 0.25), tuple(values.ravel().tolist()), "1/mm", "HU^2 mm^2")


def test_there_is_a_panel_for_each_stratum_and_method(folder: Callable[..., Any]) -> None:
    """Two doses and three methods: six panels, named in the alternative text; the page holds the figure."""
    made = folder(patients=2)
    (plot,) = planes(read_results(made.write(pictures=False)))
    assert len(re.findall("% dose", plot.alt.partition("Panels: ")[2])) == 6
    assert "Noise in two dimensions" in build(made.path).read_text(encoding="utf-8")


def test_level_does_not_show_and_a_patient_counts_once(folder: Callable[..., Any]) -> None:
    """A plane a hundred times as strong has the weight of the other; cases of a patient are averaged first."""
    from medidiff.report import planes as module

    one, two = np.zeros((2, 4, 4))
    one[2, 1], two[1, 2] = 1, 1
    mean, reach = module._mean([plane("a", 100 * one), plane("b", two)], {"a": "p", "b": "q"})
    np.testing.assert_allclose(mean, one + two)
    assert reach == 0.5
    mean, _ = module._mean([plane("a", one), plane("b", one), plane("c", two)], {"a": "p", "b": "p", "c": "q"})
    np.testing.assert_allclose(mean, one + two)


def test_no_plane_no_figure(folder: Callable[..., Any]) -> None:
    """Without the measure there is nothing to show."""
    assert not list(planes(read_results(folder(patients=1).write(curves=False, pictures=False))))
