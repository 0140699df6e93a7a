"""Where the known objects of a phantom lie in a slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.view import Context, Feature

Offsets = tuple[NDArray[np.floating], NDArray[np.floating]]


def of_role(context: Context, *roles: str) -> list[Feature]:
    return [feature for feature in context.features if feature.role in roles]


def is_there(feature: Feature, index: int) -> bool:
    return feature.slices is None or index in feature.slices


def offsets(feature: Feature, shape: Sequence[int], pixel_mm: tuple[float, float]) -> Offsets:
    """x (1, columns) and y (rows, 1) of each pixel from the feature's centre, in mm."""
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel_mm[1] - feature.ellipse.x0
    y = (np.arange(shape[0]) - (shape[0] - 1) / 2) * pixel_mm[0] - feature.ellipse.y0
    return x[None], y[:, None]


def distance(feature: Feature, shape: Sequence[int], pixel_mm: tuple[float, float]) -> NDArray[np.floating]:
    """(rows, columns) mm from the feature's centre."""
    return np.hypot(*offsets(feature, shape, pixel_mm))


def side_mm(pixel_mm: tuple[float, float]) -> float:
    """Side of a square pixel of the same area."""
    return float(np.sqrt(pixel_mm[0] * pixel_mm[1]))
