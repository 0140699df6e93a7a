"""Calibrate the uncertainty of reconstruction from projections on `calibrate` patients; what it covers on `test` ones.

    python benchmarks/calibrate_projections.py --data SCANS --keep FOLDER [--json FILE] [--conditions ...]

One slice of each patient is projected as benchmarks/projections.py does it. The deviation is that of 8 samples with no
condition, as `--mode uncertainty` draws them (here 8 at a time). Random pixels of it lie in FOLDER once they are worked
out, so the command goes on where it was stopped. The table of factors is fitted as medidiff/inference/calibration.py
says; printed is the coverage of the nominal 90 % interval in percent, by condition, tissue and level, of the table and
of the raw deviation, and the median half width in HU by condition. --json is for scripts/embed_model.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from calibrate_ct import AIR_PIXELS, PIXELS_A_SLICE, Trial, _some, calibrated, covered, joined, pixels
from numpy.typing import NDArray
from projections import CONDITIONS, PIPELINES, trial
from projections_volume import MODEL, sampled

from medidiff import DISCLAIMER
from medidiff.data.manifest import Pair, read_manifest
from medidiff.inference import calibration
from medidiff.inference.calibration import tissue_position
from medidiff.metrics.tissue import TISSUES_HU
from medidiff.metrics.uncertainty import Z90
from medidiff.model import FOR_PROJECTIONS, load

CHOSEN = ("views_60", "dose_10", "arc_120")


def worked_out(pair: Pair, condition: str, number: int, path: Path) -> None:
    """Random pixels of one slice: error, raw deviation, tissue position and truth, level and colour of the noise."""
    with tempfile.TemporaryDirectory() as name:
        one = trial(pair, condition, number, Path(name))
        found = sampled(one, Path(name))
    generator = np.random.default_rng([number, list(CONDITIONS).index(condition)])
    body = one.truth > TISSUES_HU["air"][1]
    chosen = np.concatenate([_some(body, PIXELS_A_SLICE, generator), _some(~body, AIR_PIXELS, generator)])
    maps: dict[str, NDArray[np.floating]] = {
        "error": found.image - one.truth,
        "sd": found.samples.std(0, ddof=1),
        "position": tissue_position(found.image),
        "truth": one.truth,
    }
    noise = {"r": found.level, "colour": found.colour}
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, **noise, **{key: values.ravel()[chosen] for key, values in maps.items()})  # type: ignore[arg-type]
    temporary.replace(path)


def trials(arguments: argparse.Namespace, split: str) -> list[Trial]:
    pairs = [p for p in read_manifest(PIPELINES / "train_ct.csv", arguments.data) if p.split == split]
    pairs = list({pair.patient: pair for pair in reversed(pairs)}.values())[::-1][: arguments.patients]
    found = []
    for condition in arguments.conditions:
        for number, pair in enumerate(pairs):
            path = arguments.keep / f"{split}_{number}_{condition}.npz"
            if not path.exists():
                worked_out(pair, condition, number, path)
            kept = np.load(path)
            level = {name: float(kept[name]) for name in ("r", "colour")}
            maps = {name: kept[name] for name in ("error", "sd", "position", "truth")}
            found.append(Trial(condition, CONDITIONS[condition][2], pair.patient, **level, **maps))
            print(f"{split} {condition} {pair.patient}", flush=True)
    return found


def half_widths(found: list[Trial], sd: NDArray[np.float32]) -> dict[str, list[float]]:
    """By condition, inside the patient: the median of the interval's half width, and that which holds 90 %, in HU."""
    body = joined(found, "truth") > TISSUES_HU["air"][1]
    condition = np.repeat([one.kernel for one in found], [one.error.size for one in found])
    error, widths = np.abs(joined(found, "error")), {}
    for name in dict.fromkeys(condition.tolist()):
        inside = body & (condition == name)
        widths[name] = [round(float(np.median(Z90 * sd[inside])), 1), round(float(np.quantile(error[inside], 0.9)), 1)]
    return widths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, help="weights; without it the embedded ones")
    parser.add_argument("--conditions", nargs="*", default=list(CHOSEN), choices=list(CONDITIONS))
    parser.add_argument("--patients", type=int, default=100, help="at most, of each split")
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    if arguments.model:
        MODEL["model"] = str(arguments.model)
    fitted = trials(arguments, "calibrate")
    table = calibration.fit(pixels(fitted))
    found = trials(arguments, "test")
    figures: dict[str, Any] = {
        "model": load(arguments.model or FOR_PROJECTIONS).sha256,
        "source": "draws",
        "interval_percent": 90,
        "conditions": arguments.conditions,
        "calibration_patients": len({one.patient for one in fitted}),
        "test_patients": len({one.patient for one in found}),
        "coverage_on_test": covered(found, calibrated(table, found)),
        "half_widths_hu": half_widths(found, calibrated(table, found)),
        "table": table.to_dict(),
    }
    raw = covered(found, joined(found, "sd"))
    print(json.dumps({k: v for k, v in figures.items() if k != "table"}, indent=1))
    print(f"raw: {raw['overall']} % overall, {raw['kernel_dose']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
