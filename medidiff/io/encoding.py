"""How values become the stored numbers of a slice.

    CT    stored = round((HU - RescaleIntercept) / RescaleSlope)    slope and intercept as in the source
    PET   stored = round(SUV / factor / RescaleSlope)               slope = max |SUV / factor| / 32767, of each slice

A slope is a decimal string of at most 16 characters (PS3.5 6.2), so that numbers are computed with the slope that is
written, not with the one that was wanted. A PET slice never has the slope 1: some readers take the data type of the
first slice for all, and would cut the others to whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medidiff.io.headers import number

HIGHEST = 32767  # of 16 bits, signed
EMPTY_SLOPE = 1 / HIGHEST  # of a slice of zeros, whatever that of its source


@dataclass(frozen=True)
class Encoding:
    """How values in the source's unit become stored numbers in one slice."""

    slope: float
    intercept: float
    bits: int
    is_signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.is_signed else (0, 2 * half - 1)

    @property
    def dtype(self) -> np.dtype:
        kind = "int" if self.is_signed else "uint"
        return np.dtype(f"{kind}{8 if self.bits <= 8 else 16}")

    def fits(self, low: float, high: float) -> bool:
        lowest, highest = self.limits
        return low >= lowest and high <= highest

    def numbers(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.rint((values.astype(np.float64) - self.intercept) / self.slope)


def of_header(dataset: Dataset) -> Encoding:
    """As the source of a CT slice is stored."""
    slope, intercept = number(dataset, "RescaleSlope") or 1.0, number(dataset, "RescaleIntercept") or 0.0
    bits = min(int(dataset.get("BitsStored") or 16), 16)
    return Encoding(slope, intercept, bits, dataset.get("PixelRepresentation") == 1)


def of_range(values: NDArray[np.floating]) -> Encoding:
    """16 signed bits that the values of a PET slice, in the source's unit, just fill."""
    largest = float(np.abs(values).max(initial=0.0))
    slope = float(format_number_as_ds(largest / HIGHEST)) if largest > 0 else 0.0
    if slope == 1.0:
        slope = float(format_number_as_ds(largest / (HIGHEST - 1)))
    return Encoding(slope or float(format_number_as_ds(EMPTY_SLOPE)), 0.0, 16, True)


def set_rescale(dataset: Dataset, encoding: Encoding) -> None:
    dataset.RescaleSlope = format_number_as_ds(float(encoding.slope))
    dataset.RescaleIntercept = format_number_as_ds(float(encoding.intercept))
