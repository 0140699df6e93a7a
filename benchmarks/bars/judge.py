"""Figures of one answer to one trial, and a notebook of those that were worked out before.

rmse      of the truth, from three moments, at every strength: e = x - t, d = y - x,
          RMSE(x + alpha d)^2 = <e^2> + 2 alpha <e d> + alpha^2 <d^2>
gain_db   10 log10(MSE(y, full) / MSE(x + alpha d, full)), the same way against the noisy full dose
ssim      in the presets SSIM_PRESETS
bias      mean of x - t where the truth is surely a tissue (medidiff.metrics.tissue)
worst     RMSE of the worst patches of PATCH x PATCH pixels, and where they are
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bars.trials import Trial
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from medidiff.metrics.preset import PRESETS
from medidiff.metrics.ssim import Structure
from medidiff.metrics.tissue import tissue_masks
from medidiff.tune import moments_of

SSIM_PRESETS = ("abdomen", "hu")
LEAST_PIXELS = 500  # of a tissue
PATCH, KEPT = 64, 3
VERSION = 1  # of a row

Image = NDArray[np.float32]
Row = dict[str, Any]


def judge(x: Image, trial: Trial) -> Row:
    """Everything that is asked of an answer; of a measured series only what concerns the full dose."""
    body, y = trial.body, trial.y
    row: Row = {"full_body": moments_of(x[body], y[body], trial.full[body])}
    if trial.truth is None:
        return row
    truth = trial.truth
    row |= {"full": moments_of(x, y, trial.full), "truth": moments_of(x, y, truth)}
    row["truth_body"] = moments_of(x[body], y[body], truth[body])
    row |= {f"ssim_{name}": Structure.of(x, truth, PRESETS[name]).ssim() for name in SSIM_PRESETS}
    masks = tissue_masks(truth, noisy=False).items()
    row["bias"] = {name: float((x - truth)[mask].mean()) for name, mask in masks if mask.sum() >= LEAST_PIXELS}
    return row | {"worst": worst_patches(x, truth)}


def rmse(moments: tuple[float, float, float], alpha: float = 0.0) -> float:
    """RMSE of the answer blended with the scan."""
    a, b, c = moments
    return float(np.sqrt(max(a + 2 * alpha * b + alpha**2 * c, 0.0)))


def gain_db(moments: tuple[float, float, float], alpha: float = 0.0) -> float:
    """Gain over the scan of the answer blended with it."""
    return 20 * float(np.log10(rmse(moments, 1.0) / rmse(moments, alpha)))


def worst_patches(x: Image, truth: Image) -> list[tuple[float, int, int]]:
    """(RMSE, first row, first column) of the worst patches that do not overlap."""
    square = uniform_filter((x - truth) ** 2, PATCH, mode="constant")
    half, found = PATCH // 2, []
    inside = np.full(square.shape, -1.0, np.float32)
    inside[half : 1 - half, half : 1 - half] = square[half : 1 - half, half : 1 - half]
    for _ in range(KEPT):
        r, c = (int(k) for k in np.unravel_index(np.argmax(inside), inside.shape))
        found.append((float(np.sqrt(max(inside[r, c], 0))), r - half, c - half))
        inside[max(r - PATCH, 0) : r + PATCH, max(c - PATCH, 0) : c + PATCH] = -1
    return found


@dataclass
class Notebook:
    """Rows by trial and method, one a line of a file."""

    path: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                trial, method, row = json.loads(line)
                self.rows[trial, method] = row

    def row(self, trial: Trial, method: str, answer: Callable[[], Image]) -> Row:
        """Of an answer to a trial, from the file or worked out now."""
        return self.get(trial.key, f"{method} v{VERSION}", lambda: judge(answer(), trial))

    def get(self, what: str, method: str, make: Callable[[], Row]) -> Row:
        """Any row, from the file or made now."""
        if (what, method) not in self.rows:
            self.rows[what, method] = make()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([what, method, self.rows[what, method]]) + "\n")
        return self.rows[what, method]
