"""What decides the quality of the CT model? One change at a time, the same small budget, two seeds.

    python benchmarks/ablations.py train --data SCANS [--arms base map ...] [--seeds 0 1]     stops and resumes
    python benchmarks/ablations.py judge --data SCANS                                         what is trained so far
    python benchmarks/ablations.py table                                                      markdown of the above

Every arm trains the same small network from scratch for STEPS steps of 16 patches of 96 x 96, in bfloat16 (4 minutes on
one core with AMX); only what its name says differs. Judged on `tune` patients: RMSE against a noise-free truth as a
share of the input's (the trials of medidiff/data/trials.py, lower is better), and on the one whole series of the split,
at a quarter of the dose with noise of its own spectrum, the gain in dB on the noisy full dose of the best blend of
answer and input (benchmarks/ct_real.py, higher is better), which no trial of ours can flatter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ct_real import gains

from medidiff.config import load_settings
from medidiff.data.dataset import prepare_splits
from medidiff.data.manifest import Pair, read_manifest
from medidiff.data.trials import cases, low_dose
from medidiff.inference.engine import prepare
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.model import load
from medidiff.training import BEST, TrainSettings, samples, train

ROOT = Path(__file__).parents[1]
STEPS = 800
RECIPE = ROOT / "pipelines" / "ablation.yaml"
ARMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "naive": ("augmentation.naive=true", "cleaning=none"),
    "map": ("architecture.noise=map",),
    "slab1": ("architecture.slab=1",),
    "narrow": ("augmentation.spectrum.width=[0.5,0.72]", "augmentation.spectrum.flatness=[0.004,0.02]"),
    "pixels": ("augmentation.zoom=[1,1]",),
    "regression": ("mean_share=1.0", "null_share=0.0"),
    "haar": ("architecture.fold=haar",),
    "slab5": ("architecture.slab=5",),
    "wide": ("architecture.widths=[32,64,128,256]",),
    "redcnn": (
        "network=redcnn",
        "augmentation.patch=64",
        "augmentation.patches=1",
        "learning_rate=2e-4",
        "warmup=20",
        "steps=1150",  # as long as STEPS of `base` take: 0.248 s a step, its samples included, beside 0.357
    ),
}
QUESTIONS = {
    "Noise-free base and noise of one colour, or the naive way (noise into scans as they are)": ("naive",),
    "Range of kernels and pixel sizes": ("narrow", "pixels"),
    "Noise level as a number or as a map": ("map",),
    "Slab of 1, 3 or 5 slices": ("slab1", "slab5"),
    "Fold and width": ("haar", "wide"),
    "Diffusion draws, plain regression, or RED-CNN for the same time": ("regression", "redcnn"),
}
WORDS = {
    "base": "base: unshuffle 2, widths 24-48-96-192, slab 3, number, measured spectra, cleaned by TV, zoom",
    "naive": "scans as they are, noise of any kernel",
    "map": "number and map",
    "slab1": "slab 1",
    "narrow": "sharp kernels only",
    "pixels": "no zoom",
    "regression": "every draw trains the mean",
    "haar": "Haar 2",
    "slab5": "slab 5",
    "wide": "widths 32-64-128-256",
    "redcnn": "RED-CNN, 1,150 steps of 4 patches of 64 x 64",
}


def settings_of(arm: str, seed: int, data: Path) -> TrainSettings:
    """The recipe of one arm."""
    name = f"{arm}_{seed}"
    general = [f"data_root={data}", f"seed={seed}", f"steps={STEPS}", f"output=runs/ablations/{name}", f"name={name}"]
    return load_settings(TrainSettings, RECIPE, [*general, *ARMS[arm]])


def train_arm(arm: str, seed: int, data: Path) -> None:
    """Train one arm unless that is done; its time is added up over interruptions."""
    settings = settings_of(arm, seed, data)
    done = settings.output / "seconds.json"
    if done.exists():
        return
    pairs = [p for p in read_manifest(settings.manifest, data) if p.split == "train"]
    found = prepare_splits(pairs, settings.factors, settings.cache, cleaning=settings.cleaning)
    steps = [record.seconds for record in train(settings, samples(settings, found["train"]), [])]
    done.write_text(json.dumps({"seconds_per_step": float(np.median(steps))}))


def judge(arm: str, seed: int, data: Path, pairs: list[Pair]) -> dict[str, Any]:
    """Figures of one trained arm on `tune` patients."""
    model = load(settings_of(arm, seed, data).output / BEST)
    seconds = _seconds(model)
    if arm == "redcnn":  # 10 s a slice otherwise; its RMSE is 0.2 to 0.4 % higher by it
        prepare(model, precision="bf16")
    trials: dict[str, list[float]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        for clean, pixel_mm in cases(pair, model.slab, 1):
            for colour in ("smooth", "sharp"):
                for dose in (0.5, 0.25, 0.1):
                    generator = np.random.default_rng([number, int(1000 * dose)])
                    slab, truth = low_dose(clean, pixel_mm, dose, colour, generator)
                    trials[colour].append(_rmse(model.mean(slab), truth) / _rmse(slab[len(slab) // 2], truth))
    restorer = Restorer(model, Options().parameters())
    real = {pair.full.name: gains(restorer, pair.full, 0.25)[1] for pair in pairs if pair.full.is_dir()}
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    return {
        "arm": arm,
        "seed": seed,
        "model": model.sha256,
        "parameters": parameters,
        **{colour: float(np.mean(values)) for colour, values in trials.items()},
        "real": real,
        **json.loads((settings_of(arm, seed, data).output / "seconds.json").read_text()),
        "seconds_per_slice": seconds,
    }


def _rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2, dtype=np.float64)))


def _seconds(model: Any) -> float:
    cond = model.condition(np.random.default_rng(0).normal(40, 30, (model.slab, 512, 512)).astype(np.float32))
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            model.denoiser.mean(cond)
            times.append(time.perf_counter() - began)
    return min(times)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line an arm, mean of the seeds and their difference."""

    def cell(arm: str, key: str, digits: int) -> str:
        values = [float(np.mean(list(r[key].values()))) if key == "real" else r[key] for r in rows if r["arm"] == arm]
        spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 else " (one seed)"
        return f"{np.mean(values):.{digits}f}{spread}" if values else "-"

    def line(arm: str) -> str:
        cells = [cell(arm, "smooth", 3), cell(arm, "sharp", 3), cell(arm, "real", 2)]
        mine = [r for r in rows if r["arm"] == arm]
        cost = f"{min(r['seconds_per_slice'] for r in mine):.2f}" if mine else "-"  # other work only adds to it
        million = f"{mine[0]['parameters'] / 1e6:.2f}" if mine else "-"
        return f"| {WORDS[arm]} | {' | '.join(cells)} | {million} | {cost} |"

    head = "| | smooth | sharp | real, dB | million weights | s a slice |\n|---|---|---|---|---|---|"
    lines = [head, line("base")]
    for question, arms in QUESTIONS.items():
        lines += [f"| **{question}** | | | | | |", *[line(arm) for arm in arms]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "judge", "table"])
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, default=Path("runs/ablations/figures.json"))
    options = parser.parse_args()
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms]
    if options.step == "train":
        for arm, seed in wanted:
            print(f"{arm}, seed {seed}", flush=True)
            train_arm(arm, seed, options.data)
        return
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    if options.step == "judge":
        pairs = [
            p for p in read_manifest(settings_of("base", 0, options.data).manifest, options.data) if p.split == "tune"
        ]
        known = {(row["arm"], row["seed"]) for row in rows}
        for arm, seed in wanted:
            if (arm, seed) in known or not (settings_of(arm, seed, options.data).output / "seconds.json").exists():
                continue
            rows.append(judge(arm, seed, options.data, pairs))
            print(rows[-1], flush=True)
            options.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
