"""Calibrated uncertainty: by what a predicted deviation is multiplied, by tissue, level and colour of the noise.

    sd' = sd f(t, u) g(c)        t = tissue of the smoothed x_hat
                                 u = log2(sd / r), r the noise level of the slice
                                 c = colour of its noise, 2-fold averaging (see medidiff.noise.level)

A network learns its spread on its training data, and samples do not spread fully, so neither covers what it claims to.
In cells of tissue and level over slices with known truth the factor is the conformal quantile (Angelopoulos & Bates
2023, arXiv:2107.07511) that makes x_hat +- 1.645 sd' hold 90 % of the pixels:

    q = quantile_0.9( |x_hat - x| / (1.645 sd) )

log q is shrunk towards what tissue and level alone say where few patients stand behind a cell, made such that sd'
never falls while sd rises (isotonic regression), and interpolated: piecewise linear in u, in c, and between tissues.
f and g are fitted in turn, each to what the other leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import isotonic_regression

from medidiff.metrics.uncertainty import NOMINAL, Z90
from medidiff.metrics.windows import smoothed

TISSUES = ("air", "lung", "edge", "fat", "soft", "contrast", "bone")
EVERYWHERE = "everywhere"
PLATEAUS_HU = ((-2000, -960), (-920, -640), (-560, -200), (-140, -60), (-10, 120), (160, 220), (280, 4000))
SMOOTHING = 1.5  # pixels; less and noise chooses the tissue, more and edges do
NODES = tuple(float(u) for u in np.arange(-6, 2.01, 0.5))  # of u
COLOURS = (-1.2, -0.6, -0.2, 0.0, 0.2, 0.4)  # of c: nearly white noise to that of the smoothest kernels
ROUNDS = 3
FEW_PATIENTS = 2.0  # a cell of so many counts as much as what tissue and level say without it
FEWEST_PIXELS = 100  # of a patient in a cell; below it he has none there

Source = Literal["spread", "draws"]


@dataclass(frozen=True)
class Calibration:
    """Factors of the predicted deviation: f (tissues, nodes) of `TISSUES` and `nodes`, g of `colours`."""

    factors: tuple[tuple[float, ...], ...]
    nodes: tuple[float, ...] = NODES
    colour_factors: tuple[float, ...] = (1.0,)
    colours: tuple[float, ...] = (0.0,)

    def __call__(
        self, sd: NDArray[np.float32], x_hat: NDArray[np.float32], r: float, colour: float
    ) -> NDArray[np.float32]:
        """(rows, columns) calibrated deviation, from the predicted one, the estimate and the noise level, all in HU."""
        at = np.full_like(sd, colour)
        return sd * self.factor(tissue_position(x_hat), relative_level(sd, r), at)

    def by_level(self, sd: NDArray[np.float32], level: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated deviation of a block from the predicted one and the local noise level, all of one shape and unit,
        with the factors of the first row: where there are no tissues to tell apart."""
        nodes = np.interp(relative_level(sd, level), self.nodes, np.log(self.factors[0]))
        return sd * np.exp(nodes).astype(np.float32)

    def factor(
        self, position: NDArray[np.float32], level: NDArray[np.float32], colour: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Factors at tissue positions (see `tissue_position`), levels u and colours c, of one shape."""
        column = np.interp(level, self.nodes, np.arange(len(self.nodes)))
        row = position if len(self.factors) > 1 else np.zeros_like(position)
        log = map_coordinates(np.log(self.factors), [row, column], order=1, mode="nearest")
        log += np.interp(colour, self.colours, np.log(self.colour_factors))
        return np.exp(log).astype(np.float32)

    @property
    def _rows(self) -> tuple[str, ...]:
        return TISSUES if len(self.factors) == len(TISSUES) else (EVERYWHERE,)

    def to_dict(self) -> dict[str, Any]:
        """For a card: JSON types, four digits."""
        return {
            "nodes": list(self.nodes),
            "factors": {t: _digits(f) for t, f in zip(self._rows, self.factors, strict=True)},
            "colours": list(self.colours),
            "colour_factors": _digits(self.colour_factors),
        }


def of_card(uncertainty: dict[str, Any], source: Source) -> Calibration | None:
    """The calibration that a model's card holds for deviations of this source; None where it holds none.

    Cards of old hold one `factor` for draws.
    """
    if uncertainty.get("source", "draws") != source:
        return None
    if "table" in uncertainty:
        table = uncertainty["table"]
        names = (EVERYWHERE,) if EVERYWHERE in table["factors"] else TISSUES
        rows = tuple(tuple(table["factors"][name]) for name in names)
        return Calibration(rows, *(tuple(table[key]) for key in ("nodes", "colour_factors", "colours")))
    return Calibration(((float(uncertainty["factor"]),),), (0.0,)) if "factor" in uncertainty else None


def _digits(factors: tuple[float, ...]) -> list[float]:
    return [float(f"{factor:.4g}") for factor in factors]


def tissue_position(x_hat: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, columns) index into TISSUES, by the smoothed estimate in HU; between two of them in the gap."""
    knots = np.array(PLATEAUS_HU, np.float64).ravel()
    seen = smoothed(x_hat, (SMOOTHING, SMOOTHING), 3, "symmetric")
    return np.interp(seen, knots, np.repeat(np.arange(len(TISSUES)), 2)).astype(np.float32)


def relative_level(sd: NDArray[np.float32], r: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """u = log2(sd / r)."""
    return np.log2(np.maximum(sd, 1e-6) / r).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a calibration is fitted to, each (n,).

    error     x_hat - x in HU
    sd        predicted deviation in HU
    level     its relative level u
    colour    of the slice's noise
    position  tissue position
    patient   whose pixel it is
    """

    error: NDArray[np.float32]
    sd: NDArray[np.float32]
    level: NDArray[np.float32]
    colour: NDArray[np.float32]
    position: NDArray[np.float32]
    patient: NDArray[np.intp]


def fit(pixels: Pixels) -> Calibration:
    """The table that covers NOMINAL in every cell, as far as its patients can tell."""
    ratio = np.log(np.maximum(np.abs(pixels.error), 1e-6) / (Z90 * np.maximum(pixels.sd, 1e-6)))
    place = _nearest(pixels.colour, COLOURS)
    count = np.bincount(place, minlength=len(COLOURS))
    log_g = np.zeros(len(COLOURS))
    table = Calibration(((1.0,),), (0.0,))
    for _ in range(ROUNDS):
        log_g += _cells(ratio - _log(table, pixels), place, pixels.patient, np.zeros_like(log_g))
        log_g = np.interp(COLOURS, np.array(COLOURS)[count > 0], log_g[count > 0])
        log_g -= np.average(log_g, weights=count)
        left = ratio - np.interp(pixels.colour, COLOURS, log_g).astype(np.float32)
        table = Calibration(_table(left, pixels), NODES, tuple(np.exp(log_g).tolist()), COLOURS)
    return table


def fit_by_level(pixels: Pixels) -> Calibration:
    """The table of one row that covers NOMINAL at every level, for `Calibration.by_level`; units are those of `pixels`,
    whose `patient` is a body here, and whose colour and position do not matter."""
    ratio = np.log(np.maximum(np.abs(pixels.error), 1e-6) / (Z90 * np.maximum(pixels.sd, 1e-6)))
    node, overall = _nearest(pixels.level, NODES), _quantile(ratio)
    found = _cells(ratio, node, pixels.patient, np.full(len(NODES), overall))
    return Calibration((_rising(found, np.bincount(node, minlength=len(NODES)).astype(np.float64) + 1.0),))


def _log(table: Calibration, pixels: Pixels) -> NDArray[np.float32]:
    return np.log(table.factor(pixels.position, pixels.level, pixels.colour))


def _nearest(values: NDArray[np.float32], nodes: tuple[float, ...]) -> NDArray[np.intp]:
    """Index of the node that lies nearest to each value."""
    return np.rint(np.interp(values, nodes, np.arange(len(nodes)))).astype(np.intp)


def _table(ratio: NDArray[np.float32], pixels: Pixels) -> tuple[tuple[float, ...], ...]:
    """f, from the logarithms of |error| / (1.645 sd)."""
    tissue, node = np.rint(pixels.position).astype(np.intp), _nearest(pixels.level, NODES)
    overall, shape = _quantile(ratio), (len(TISSUES), len(NODES))
    by_tissue = _cells(ratio, tissue, pixels.patient, np.full(shape[0], overall))
    by_level = _cells(ratio, node, pixels.patient, np.full(shape[1], overall))
    prior = by_tissue[:, None] + by_level - overall
    cell = tissue * shape[1] + node
    table = _cells(ratio, cell, pixels.patient, prior.ravel()).reshape(shape)
    weight = np.bincount(cell, minlength=prior.size).reshape(shape) + 1.0
    return tuple(_rising(row, w) for row, w in zip(table, weight, strict=True))


def _rising(log_factor: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, ...]:
    """Factors near exp(log_factor) with which the calibrated deviation never falls from node to node."""
    log_level = np.log(2) * np.array(NODES)
    return tuple(np.exp(isotonic_regression(log_level + log_factor, weights=weight).x - log_level).tolist())


def _cells(
    ratio: NDArray[np.float32], cell: NDArray[np.intp], patient: NDArray[np.intp], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantile of each cell, pulled to `prior` the more, the fewer patients are in it."""
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(prior.size + 1))
    values = prior.copy()
    for k in np.flatnonzero(np.diff(bounds)):
        inside = order[bounds[k] : bounds[k + 1]]
        n = np.count_nonzero(np.bincount(patient[inside]) >= FEWEST_PIXELS)
        values[k] += n / (n + FEW_PATIENTS) * (_quantile(ratio[inside]) - prior[k])
    return values


def _quantile(ratio: NDArray[np.float32]) -> float:
    """The conformal one: of n scores the ceil(NOMINAL (n + 1))-th, the greatest where there are too few."""
    return float(np.quantile(ratio, min(1.0, NOMINAL * (1 + 1 / ratio.size)), method="higher"))
