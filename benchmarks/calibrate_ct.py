"""Calibrate the uncertainty of a CT model on the `calibrate` patients, then measure what it covers on `test` patients.

    python benchmarks/calibrate_ct.py --data SCANS --model FILE --json calibration.json

K posterior samples give a standard deviation per pixel, too small as it stands: a few steps do not spread fully, and
all samples share the model's own error. `factor` makes mean +- 1.645 factor * sd cover 90 % of the pixels inside the
patient: the conformal quantile of |error| / sd (Angelopoulos & Bates 2023, arXiv:2107.07511) over the calibration
slices at every kernel and dose. One factor cannot be right everywhere, so coverage is printed per kernel and dose, per
tissue, and per third of the predicted level, on patients that had no part in it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from ct_quality import KERNELS, TISSUES, cases, low_dose
from numpy.typing import NDArray

from medidiff.data.manifest import read_manifest
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.model import Model
from medidiff.model import load as load_model

Z90 = 1.6449
LEVEL = 0.9
SAMPLES_A_SLICE = 20_000
SIZE = 192  # the middle of the slice: sampling a whole one takes 49 network evaluations

Table = dict[str, NDArray[np.float32]]


def measure(model: Model, options: argparse.Namespace, split: str) -> dict[tuple[str, float], Table]:
    """|error|, sd (uncalibrated) and truth of random pixels inside the patient, per kernel and dose."""
    parameters = Options(mode="uncertainty", draws=options.draws, steps=options.steps).parameters()
    rows: dict[tuple[str, float], list[Table]] = {}
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == split]
    for number, pair in enumerate(pairs[: options.patients]):
        for clean, pixel_mm in cases(pair, model.slab, 1):
            lone = bool(np.array_equal(clean[0], clean[-1]))
            for colour in KERNELS:
                for dose in options.doses:
                    generator = np.random.default_rng([number, int(1000 * dose)])
                    slab, truth = low_dose(clean, pixel_mm, dose, colour, generator, lone)
                    inner = tuple(slice((n - SIZE) // 2, (n + SIZE) // 2) for n in truth.shape)
                    slab, truth = slab[:, *inner], truth[inner]
                    restored = Restorer(model, parameters, case=number).slice(0, slab)
                    assert restored.deviation is not None
                    body = np.flatnonzero(truth > -950)
                    chosen = generator.choice(body, min(SAMPLES_A_SLICE, body.size), replace=False)
                    table = {
                        "error": np.abs(restored.image - truth).ravel()[chosen],
                        "sd": restored.deviation.ravel()[chosen],
                        "truth": truth.ravel()[chosen],
                    }
                    rows.setdefault((colour, dose), []).append(table)
    return {key: {k: np.concatenate([t[k] for t in tables]) for k in tables[0]} for key, tables in rows.items()}


def joined(tables: dict[tuple[str, float], Table]) -> Table:
    """All kernels and doses together."""
    return {k: np.concatenate([t[k] for t in tables.values()]) for k in ("error", "sd", "truth")}


def coverage(table: Table, factor: float) -> float:
    """Share of pixels whose truth lies inside the 90 % interval, in percent."""
    return round(100 * float(np.mean(table["error"] <= Z90 * factor * table["sd"])), 1)


def report(tables: dict[tuple[str, float], Table], factor: float) -> dict[str, object]:
    """Coverage of the 90 % interval, overall and in parts."""
    every = joined(tables)
    thirds = np.quantile(every["sd"], [0, 1 / 3, 2 / 3, 1])
    part = {
        "overall": coverage(every, factor),
        "kernel_dose": {f"{colour} {dose}": coverage(table, factor) for (colour, dose), table in tables.items()},
        "tissue": {},
        "level_third": [],
    }
    for tissue, (low, high) in TISSUES.items():
        inside = (every["truth"] > low) & (every["truth"] < high)
        if inside.sum() > 1000:
            part["tissue"][tissue] = coverage({k: v[inside] for k, v in every.items()}, factor)
    for low, high in pairwise(thirds):
        inside = (every["sd"] >= low) & (every["sd"] <= high)
        part["level_third"].append(coverage({k: v[inside] for k, v in every.items()}, factor))
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", default="ct")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--doses", type=float, nargs="+", default=[0.5, 0.1])
    parser.add_argument("--patients", type=int, default=9, help="lines of the manifest used of each split")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    uncalibrated = replace(model, card=model.card.model_copy(update={"uncertainty": {}}))
    fit = joined(measure(uncalibrated, options, "calibrate"))
    ratio = fit["error"] / (Z90 * np.maximum(fit["sd"], 1e-3))
    factor = round(float(np.quantile(ratio, LEVEL)), 3)
    figures = {
        "model": model.sha256,
        "factor": factor,
        "draws": options.draws,
        "steps": options.steps,
        "interval_percent": 90,
        "calibration_pixels": int(ratio.size),
        "coverage_on_test": report(measure(uncalibrated, options, "test"), factor),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
