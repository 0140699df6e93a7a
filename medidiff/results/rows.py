"""What an evaluation yields: single numbers and measured functions, each with everything that says what it is.

`results.csv` has one line a `Row` and exactly the columns of COLUMNS; other tables join further facts of the case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = ("case", "method", "region", "metric", "preset", "value", "unit")
WHOLE = "all"  # the region that is the whole image


@dataclass(frozen=True)
class Row:
    """One measured number; `preset` names the intensity range it holds for, "" where there is none."""

    case: str
    method: str
    region: str
    metric: str
    preset: str
    value: float
    unit: str


@dataclass(frozen=True)
class Curve:
    """One measured function (a noise power spectrum, a transfer function, a calibration curve).

    A function of two variables, as a two-dimensional spectrum, has one axis x and len(x)^2 values in y, rows first.
    """

    case: str
    method: str
    region: str
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_unit: str
    y_unit: str


@dataclass(frozen=True)
class CaseFacts:
    """What sets one case apart in tables and statistics; a line of `cases.csv`.

    patient          who the case belongs to: the unit of statistics ("" is never used: a lone case is its own patient)
    group            what figures are split by (a kernel, a vendor, a phantom)
    dose             fraction of the full dose, None where unknown
    reference_noise  what the reference is: "none" (truth), "shared" (the noise was inserted into it), "independent"
    """

    case: str
    patient: str
    group: str = ""
    dose: float | None = None
    reference_noise: str = "independent"
    n_slices: int = 0
    extra: tuple[tuple[str, Any], ...] = ()
