"""Calibrate the uncertainty of a CT model on the `calibrate` patients, then measure what it covers on `test` patients.

    python benchmarks/calibrate_ct.py --data SCANS --model FILE --json calibration.json [--store FILE]

The predicted deviation is the network's own where it has one; with --draws K it is that of K posterior samples. The
table of factors is fitted as medidiff/inference/calibration.py says, over slices at every kernel and dose
(medidiff/data/trials.py, truth known). On patients that had no part in it coverage of the nominal 90 % interval is
printed in percent: per kernel and dose, per tissue (by the truth, and by the estimate, as a user sees it), per tenth of
the calibrated deviation. Beside it, calibrated in the same way with one factor, stand two maps that know less:

    constant       the same width everywhere
    noise-scaled   a width in proportion to the noise level of the slice

with their mean width in HU, that width after scaling each to exactly 90 % on these very pixels, and the interval score
(Winkler 1972; Gneiting & Raftery 2007, Eq. 43): width + 20 times what the truth lies outside, a mean; less is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.manifest import read_manifest
from medidiff.data.trials import cases, low_dose
from medidiff.data.validation import KERNELS
from medidiff.inference import calibration
from medidiff.inference.calibration import Calibration, Pixels, relative_level, tissue_position
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.metrics.tissue import TISSUES_HU as TISSUES
from medidiff.metrics.uncertainty import NOMINAL, Z90, coverage
from medidiff.model import Model, rewrite_card
from medidiff.model import load as load_model
from medidiff.noise.level import noise_estimate

PIXELS_A_SLICE, AIR_PIXELS = 20_000, 4_000
SIZE = 192  # the middle of the slice, for draws: sampling a whole one takes 49 network evaluations
FEWEST = 1000  # pixels that a figure of a part needs
PENALTY = 2 / (1 - NOMINAL)

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trial:
    """Random pixels of one slice at one kernel and dose; error, raw deviation, tissue position and truth are (n,)."""

    kernel: str
    dose: float
    patient: str
    r: float
    colour: float
    error: Values
    sd: Values
    position: Values
    truth: Values


def trials(model: Model, options: argparse.Namespace, split: str) -> list[Trial]:
    """Of all patients of a split, at every kernel and dose."""
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == split]
    found = []
    for number, pair in enumerate(pairs[: options.patients]):
        for clean, pixel_mm in cases(pair, model.slab, options.slices):
            for kernel in KERNELS:
                for dose in options.doses:
                    generator = np.random.default_rng([number, int(1000 * dose)])
                    slab, truth = low_dose(clean, pixel_mm, dose, kernel, generator)
                    found.append(Trial(kernel, dose, pair.patient, *sampled(model, options, slab, truth, generator)))
    return found


def sampled(
    model: Model, options: argparse.Namespace, slab: Values, truth: Values, generator: np.random.Generator
) -> tuple[float, float, Values, Values, Values, Values]:
    """Noise level and colour; error, deviation, position and truth of random pixels, most of them in the patient."""
    asked = Options(mode="uncertainty", draws=options.draws, steps=options.steps)
    parameters = asked.parameters(has_spread=model.has_spread) | {"guard": False}
    if parameters["draws"]:
        inner = tuple(slice((n - SIZE) // 2, (n + SIZE) // 2) for n in truth.shape)
        slab, truth = slab[:, *inner], truth[inner]
    restored = Restorer(model, parameters).slice(0, slab)
    assert restored.deviation is not None
    noise = noise_estimate(slab[len(slab) // 2])
    body = truth > TISSUES["air"][1]
    chosen = np.concatenate([_some(body, PIXELS_A_SLICE, generator), _some(~body, AIR_PIXELS, generator)])
    images = (restored.image - truth, restored.deviation, tissue_position(restored.image), truth)
    error, sd, position, true = (image.ravel()[chosen] for image in images)
    return noise.level, noise.colour[0], error, sd, position, true


def _some(inside: NDArray[np.bool_], n: int, generator: np.random.Generator) -> NDArray[np.intp]:
    places = np.flatnonzero(inside)
    return generator.choice(places, min(n, places.size), replace=False)


def joined(found: Sequence[Trial], name: str) -> Values:
    """A field of all trials, one value a pixel."""
    return np.concatenate([np.broadcast_to(getattr(trial, name), trial.error.shape) for trial in found])


def pixels(found: Sequence[Trial]) -> Pixels:
    sd, r = joined(found, "sd"), joined(found, "r")
    _, patient = np.unique(joined(found, "patient"), return_inverse=True)
    colour, position = joined(found, "colour"), joined(found, "position")
    return Pixels(joined(found, "error"), sd, relative_level(sd, r), colour, position, patient)


def calibrated(table: Calibration, found: Sequence[Trial]) -> Values:
    """The deviation of all pixels of some trials."""
    seen = pixels(found)
    return seen.sd * table.factor(seen.position, seen.level, seen.colour)


def covered(found: Sequence[Trial], sd: Values) -> dict[str, Any]:
    """Coverage of the 90 % interval in percent, overall and in parts; deciles inside the patient, as users see them."""
    error, truth, position = (joined(found, name) for name in ("error", "truth", "position"))
    body = truth > TISSUES["air"][1]
    tenth = np.searchsorted(np.quantile(sd[body], np.arange(0.1, 1, 0.1)), sd)
    groups = np.array([f"{trial.kernel} {trial.dose:g}" for trial in found])
    group = np.repeat(groups, [trial.error.size for trial in found])
    parts: dict[str, dict[str, NDArray[np.bool_]]] = {
        "kernel_dose": {name: body & (group == name) for name in dict.fromkeys(groups.tolist())},
        "tissue": {name: (truth > low) & (truth < high) for name, (low, high) in TISSUES.items()},
        "tissue_by_estimate": {name: np.abs(position - k) < 0.5 for k, name in enumerate(calibration.TISSUES)},
        "level_tenth": {str(k + 1): body & (tenth == k) for k in range(10)},
    }
    figures: dict[str, Any] = {"overall": _percent(error, sd, body)}
    for name, masks in parts.items():
        figures[name] = {key: _percent(error, sd, m) for key, m in masks.items() if m.sum() >= FEWEST}
    return figures


def _percent(error: Values, sd: Values, inside: NDArray[np.bool_]) -> float:
    return round(100 * coverage(error[inside], sd[inside]), 1)


def sharpness(fitted: Sequence[Trial], found: Sequence[Trial], table: Calibration) -> dict[str, dict[str, float]]:
    """Widths and scores of three maps, inside the patient; the simple ones get their factor from `fitted`."""
    maps = {"ours": calibrated(table, found)}
    for name, claim in {
        "constant": lambda t: np.ones_like(joined(t, "r")),
        "noise-scaled": lambda t: joined(t, "r"),
    }.items():
        inside = joined(fitted, "truth") > TISSUES["air"][1]
        ratio = (np.abs(joined(fitted, "error")) / (Z90 * claim(fitted)))[inside]
        maps[name] = claim(found) * np.float32(np.quantile(ratio, NOMINAL))
    body = joined(found, "truth") > TISSUES["air"][1]
    error = np.abs(joined(found, "error"))[body]
    return {name: _sharp(error, Z90 * sd[body]) for name, sd in maps.items()}


def _sharp(error: Values, half: Values) -> dict[str, float]:
    """Of intervals `half` wide on each side."""
    exact = half * np.quantile(error / half, NOMINAL)
    figures = {
        "coverage": 100 * float(np.mean(error <= half)),
        "width": float(2 * half.mean()),
        "score": _score(error, half),
        "width_at_90": float(2 * exact.mean()),
        "score_at_90": _score(error, exact),
    }
    return {key: round(value, 2) for key, value in figures.items()}


def _score(error: Values, half: Values) -> float:
    return float(np.mean(2 * half + PENALTY * np.maximum(error - half, 0), dtype=np.float64))


def store(path: Path, figures: dict[str, Any]) -> str:
    """Put the figures into the card of a model file, everything else kept; returns the new SHA-256."""
    return rewrite_card(path, uncertainty={k: v for k, v in figures.items() if k != "model"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", default="ct")
    parser.add_argument(
        "--draws", type=int, help="take the deviation from so many samples; default: see --mode uncertainty"
    )
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--slices", type=int, default=2, help="of a series")
    parser.add_argument("--doses", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--patients", type=int, help="lines of the manifest used of each split; default: all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help="model file, of the same weights, that gets the table into its card")
    options = parser.parse_args()
    model = load_model(options.model)
    raw = replace(model, card=model.card.model_copy(update={"uncertainty": {}}))
    fitted = trials(raw, options, "calibrate")
    table = calibration.fit(pixels(fitted))
    found = trials(raw, options, "test")
    is_head = model.has_spread and not options.draws
    figures: dict[str, Any] = {
        "model": model.sha256,
        "source": "spread" if is_head else "draws",
        "interval_percent": 90,
        "calibration_patients": len({trial.patient for trial in fitted}),
        "calibration_pixels": int(joined(fitted, "error").size),
        "doses": options.doses,
        "coverage_on_test": covered(found, calibrated(table, found)),
        "sharpness_on_test": sharpness(fitted, found, table),
        "table": table.to_dict(),
    }
    print(json.dumps({k: v for k, v in figures.items() if k != "table"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if options.store:
        print(f"{options.store}: {store(options.store, figures)}")


if __name__ == "__main__":
    main()
