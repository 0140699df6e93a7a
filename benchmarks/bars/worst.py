"""The patches with the largest error as a figure: input, answer, truth and difference, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bars.judge import PATCH, Notebook
from bars.methods import Network
from bars.trials import Trial
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medidiff import DISCLAIMER
from medidiff.metrics.preset import PRESETS

N = 10
COLUMNS = ("input", "answer", "truth", "answer - truth")
LUNG_BELOW, BONE_SHARE = -300.0, 0.1  # HU of the median; share of pixels above 250 HU

Image = NDArray[np.float32]


def find(trials: Sequence[Trial], network: Network, notebook: Notebook) -> list[tuple[dict[str, Any], Trial]]:
    """The N worst patches, each place once, whatever the kernel and the dose."""
    candidates = []
    for trial in trials:
        row = notebook.row(trial, network.key(trial), lambda t=trial: network.answer(t))
        candidates += [(error, r, c, trial) for error, r, c in row["worst"]]
    found: list[tuple[dict[str, Any], Trial]] = []
    for error, r, c, trial in sorted(candidates, key=lambda x: -x[0]):
        near = [p for p, t in found if (t.scan, t.number) == (trial.scan, trial.number) and _overlap(p, r, c)]
        if not near and len(found) < N:
            place = {"scan": trial.scan, "slice": trial.number, "row": r, "column": c}
            figures = {"kernel": trial.kernel, "dose": trial.dose, "rmse_hu": round(error, 2)}
            found.append((place | figures, trial))
    return found


def _overlap(place: dict[str, Any], r: int, c: int) -> bool:
    return abs(place["row"] - r) < PATCH and abs(place["column"] - c) < PATCH


def figure(found: Sequence[tuple[dict[str, Any], Trial]], network: Network, path: Path) -> list[dict[str, Any]]:
    """Draw them, two a row; what is drawn with its window."""
    fig = Figure(figsize=(13, 1.82 * ((len(found) + 1) // 2) + 0.4), dpi=100)
    FigureCanvasAgg(fig)
    axes = fig.subplots((len(found) + 1) // 2, 8, squeeze=False)
    places = []
    for k, (place, trial) in enumerate(found):
        assert trial.truth is not None
        cut = slice(place["row"], place["row"] + PATCH), slice(place["column"], place["column"] + PATCH)
        y, x, t = trial.y[cut], network.answer(trial)[cut], trial.truth[cut]
        window = _window(t)
        span = float(np.ceil(4 * place["rmse_hu"] / 10) * 10)
        row = axes[k // 2][4 * (k % 2) : 4 * (k % 2) + 4]
        _draw(row, (y, x, t, x - t), window, span)
        what = f"{place['scan']} {place['slice']}, {place['kernel']} {place['dose']:g}"
        text = f"{k + 1}: {what}, {place['rmse_hu']:.0f} HU; {window}; difference ±{span:.0f} HU"
        row[0].set_title(text, fontsize=7, loc="left")
        places.append({**place, "window": window, "difference_hu": span})
    for axis in axes.ravel():
        axis.set_axis_off()
    fig.suptitle(
        f"Worst patches ({PATCH} x {PATCH} pixels): {', '.join(COLUMNS)}. {DISCLAIMER.capitalize()}", fontsize=9
    )
    fig.subplots_adjust(left=0.004, right=0.996, bottom=0.004, top=0.94, wspace=0.03, hspace=0.12)
    fig.savefig(path)
    return places


def _window(truth: Image) -> str:
    if np.median(truth) < LUNG_BELOW:
        return "lung"
    return "bone" if np.mean(truth > 250) > BONE_SHARE else "abdomen"


def _draw(row: Sequence[Any], images: Sequence[Image], window: str, span: float) -> None:
    preset = PRESETS[window]
    for axis, image in zip(row[:3], images[:3], strict=True):
        axis.imshow(image, cmap="gray", vmin=preset.low, vmax=preset.high, interpolation="nearest")
    row[3].imshow(images[3], cmap="RdBu_r", vmin=-span, vmax=span, interpolation="nearest")
