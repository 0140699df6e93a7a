"""Does a CT put uptake into the image that the counts do not show? The answer with a CT less that without one.

    as it is     the CT of the case: what guidance does where it is right
    moved        the same CT MOVED_MM aside: the patient breathed in, or lay differently
    structures   balls of BALL_MM in the body that took up nothing else than what lies around them: of soft tissue where
                 there is lung, of bone elsewhere

Differences are in SUV and in units of the low-count image's local noise (medidiff.noise.activity).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from petbars.methods import Network
from petbars.trials import Trial
from scipy.ndimage import distance_transform_edt, shift

from medidiff.noise.activity import activity_of
from medidiff.volume import Volume

MOVED_MM = (10.0, 10.0, 0.0)  # along slices, rows and columns
BALL_MM, BALLS = 20.0, 5
AWAY_MM = 25.0  # from a lesion and from another ball
LUNG_BELOW, SOFT_HU, BONE_HU = -500.0, 40.0, 350.0
VERSION = 1

Mask = NDArray[np.bool_]


def invented(network: Network, trial: Trial) -> dict[str, dict[str, float]]:
    """Kind of CT -> figures of the difference to the answer without one."""
    assert trial.case.ct is not None
    low = trial.case.suv.with_array(trial.low)
    without = network.run(low, None, trial.key)
    level = activity_of(trial.low, trial.case.spacing_mm).level
    structures, balls = with_balls(trial)
    cts = {"as it is": trial.case.ct, "moved": moved(trial.case.ct, trial.case.spacing_mm), "structures": structures}
    changes = {name: network.run(low, ct, trial.key) - without for name, ct in cts.items()}
    return {name: figures(change, level, trial.body, balls) for name, change in changes.items()}


def figures(change: Any, level: Any, body: Mask, balls: Mask) -> dict[str, float]:
    """Mean and greatest change in the body, and mean (with its sign) and greatest in the balls."""
    found = {}
    for unit, values in (("suv", change), ("noise", change / level)):
        found |= {
            f"body_mean_{unit}": float(np.abs(values[body]).mean()),
            f"body_max_{unit}": float(np.abs(values[body]).max()),
            f"balls_mean_{unit}": float(values[balls].mean()),
            f"balls_max_{unit}": float(np.abs(values[balls]).max()),
        }
    return found


def moved(ct: Volume, spacing: tuple[float, float, float]) -> Volume:
    steps = [mm / step for mm, step in zip(MOVED_MM, spacing, strict=True)]
    return ct.with_array(shift(ct.array, steps, order=1, mode="nearest"))


def with_balls(trial: Trial) -> tuple[Volume, Mask]:
    """The CT with balls, and where they are; fewer than BALLS where there is no room."""
    assert trial.case.ct is not None
    assert trial.case.labels is not None
    spacing, hu = trial.case.spacing_mm, trial.case.ct.array.copy()
    rng = np.random.default_rng(zlib.crc32(trial.key.encode()))
    inside = distance_transform_edt(trial.body, spacing) > BALL_MM / 2
    free = inside & (distance_transform_edt(trial.case.labels == 0, spacing) > AWAY_MM)
    balls = np.zeros(hu.shape, bool)
    for k in range(BALLS):
        in_lung = free & (trial.case.ct.array < LUNG_BELOW)
        places = np.argwhere(in_lung if k % 2 == 0 and in_lung.any() else free)
        if len(places):
            away = distance_to(tuple(places[rng.integers(len(places))]), hu.shape, spacing)
            ball = away <= BALL_MM / 2
            hu[ball] = np.where(trial.case.ct.array[ball] < LUNG_BELOW, SOFT_HU, BONE_HU)
            balls |= ball
            free &= away > AWAY_MM
    return trial.case.ct.with_array(hu), balls


def distance_to(place: tuple[int, ...], shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """(slices, rows, columns) mm from a voxel."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return np.sqrt(sum(((g - at) * mm) ** 2 for g, at, mm in zip(grid, place, spacing, strict=True)))
