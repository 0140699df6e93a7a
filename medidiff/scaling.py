"""Invertible maps between physical units and model space; they travel with the model.

    forward(v) = (v - offset) / factor        inverse(x) = x * factor + offset

Nothing is clipped: metal and bone come back as they went in. With `offset = 0` and a power of two as
factor both directions are exact in floating point (only the exponent changes), which is why CT uses 1024.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from medidiff.errors import UnitError
from medidiff.units import Unit

ArrayT = TypeVar("ArrayT")


@dataclass(frozen=True)
class LinearScaling:
    """An affine intensity map for arrays or tensors of any shape, bound to one physical unit."""

    unit: Unit = "HU"
    offset: float = 0.0
    factor: float = 1024.0

    def require(self, unit: str) -> None:
        """Raise UnitError unless `unit` is the one this map was made for."""
        if unit != self.unit:
            raise UnitError(f"the model works on {self.unit}, the data are in {unit}: choose a model made for {unit}")

    def forward(self, values: ArrayT) -> ArrayT:
        """Physical values -> model space."""
        return cast(ArrayT, (cast(Any, values) - self.offset) / self.factor)

    def inverse(self, values: ArrayT) -> ArrayT:
        """Model space -> physical values."""
        return cast(ArrayT, cast(Any, values) * self.factor + self.offset)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
