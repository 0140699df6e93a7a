"""How good is a CT model on patients it has never seen? RMSE against a noise-free truth, per kernel and dose.

    python benchmarks/ct_quality.py --data SCANS [--manifest pipelines/train_ct.csv] [--model ct] [--split test]

Construction ("pseudo-clean"): medidiff/data/trials.py. Every figure is the median over patients of
the mean over a patient's slices, beside the worst patient.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.data.manifest import read_manifest
from medidiff.data.trials import cases, low_dose
from medidiff.data.validation import KERNELS
from medidiff.model import Model
from medidiff.model import load as load_model

TISSUES = {"air": (-1100, -950), "lung": (-950, -600), "fat": (-150, -50), "soft": (0, 120), "bone": (250, 2000)}


def rmse(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Root mean square difference, HU."""
    return float(np.sqrt(np.mean((a - b) ** 2, dtype=np.float64)))


def judge(model: Model, slab: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
    """Error before and after, over the slice and inside the patient, and mean HU bias per tissue."""
    low = slab[len(slab) // 2]
    with torch.inference_mode():
        answer = model.image(model.denoiser.mean(model.condition(slab)), truth.shape)
    body = truth > -950
    row = {"before": rmse(low, truth), "after": rmse(answer, truth)}
    row |= {"body_before": rmse(low[body], truth[body]), "body_after": rmse(answer[body], truth[body])}
    for tissue, (lower, upper) in TISSUES.items():
        inside = (truth > lower) & (truth < upper)
        if inside.sum() > 500:
            row[f"bias_{tissue}"] = float(np.mean(answer[inside] - truth[inside]))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", default="ct")
    parser.add_argument("--split", default="test")
    parser.add_argument("--slices", type=int, default=4, help="of a series")
    parser.add_argument("--doses", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--patients", type=int, help="lines of the manifest used; default: all of the split")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == options.split]
    table: dict[tuple[str, float], dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for number, pair in enumerate(pairs[: options.patients]):
        for clean, pixel_mm in cases(pair, model.slab, options.slices):
            lone = bool(np.array_equal(clean[0], clean[-1]))
            for colour in KERNELS:
                for dose in options.doses:
                    generator = np.random.default_rng([number, int(1000 * dose)])
                    slab, truth = low_dose(clean, pixel_mm, dose, colour, generator, lone)
                    table[colour, dose][pair.patient].append(judge(model, slab, truth))
    summary = [summarise(colour, dose, patients) for (colour, dose), patients in sorted(table.items())]
    columns = (
        "kernel",
        "dose",
        "patients",
        "rmse_before",
        "rmse_after",
        "gain_percent",
        "worst_percent",
        "body_percent",
    )
    print("  ".join(columns) + "  worst |HU bias|")
    for row in summary:
        print("  ".join(str(row[c]).rjust(len(c)) for c in columns), " ", row["bias"])
    if options.json:
        options.json.write_text(json.dumps({"model": model.sha256, "split": options.split, "rows": summary}, indent=1))


def summarise(colour: str, dose: float, patients: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Medians over patients; `gain` is the reduction of RMSE in percent, `worst` that of the worst patient."""
    means = {p: {k: float(np.mean([r[k] for r in rows if k in r])) for k in rows[0]} for p, rows in patients.items()}
    gains = [100 * (1 - m["after"] / m["before"]) for m in means.values()]
    body = [100 * (1 - m["body_after"] / m["body_before"]) for m in means.values()]
    tissues = {t: [m[f"bias_{t}"] for m in means.values() if f"bias_{t}" in m] for t in TISSUES}
    return {
        "kernel": colour,
        "dose": dose,
        "patients": len(means),
        "rmse_before": round(float(np.median([m["before"] for m in means.values()])), 2),
        "rmse_after": round(float(np.median([m["after"] for m in means.values()])), 2),
        "gain_percent": round(float(np.median(gains)), 1),
        "worst_percent": round(min(gains), 1),
        "body_percent": round(float(np.median(body)), 1),
        "bias": {t: round(max(values, key=abs), 2) for t, values in tissues.items() if values},
    }


if __name__ == "__main__":
    main()
