"""Calibrate the uncertainty of a PET model on bodies of the `calibrate` split, then measure what it covers on `test`.

    python benchmarks/calibrate_pet.py --data SCANS --model FILE --json calibration.json [--store FILE]

Bodies are the torsos of benchmarks/petbars/trials.py (lesions cut from scans of the split, drawn spheres), scanned with
fewer counts; the error is that against the reconstruction of expected counts, which has no noise. The factors by the
level of the predicted deviation (medidiff/inference/calibration.py) are fitted to voxels of all reduction factors.
Printed, in percent of the voxels, is what nominal 90 % intervals cover in bodies that had no part in it: per reduction
factor, per region (lesions, the liver's inside, the rest of the body), per tenth of the calibrated deviation. Beside it
stand, calibrated by one factor, a constant width and one in proportion to the local noise, each with its mean width in
SUV and its interval score (Gneiting & Raftery 2007, Eq. 43: width + 20 times what the truth lies outside; less is
better).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bars.trials import Store
from calibrate_ct import store as into_card
from numpy.typing import NDArray
from petbars.trials import Trial, shares, torso_case, trials

from medidiff.data.manifest import read_manifest
from medidiff.data.pet_cases import masks_of, pasted
from medidiff.inference.blocks import BlockRestorer
from medidiff.inference.calibration import Calibration, Pixels, fit_by_level, relative_level
from medidiff.inference.options import Options
from medidiff.metrics.uncertainty import NOMINAL, Z90, coverage
from medidiff.model import Model
from medidiff.model import load as load_model
from medidiff.noise.activity import activity_of

VOXELS_A_SCAN = 20_000  # of the body; of lesions all
FEWEST = 300
PENALTY = 2 / (1 - NOMINAL)
REGIONS = ("lesions", "liver", "rest of the body")

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Voxels:
    """Some voxels of one scan, each (n,): error and deviation in SUV, local noise in SUV, place in REGIONS."""

    drf: float
    body: str
    error: Values
    sd: Values
    level: Values
    region: NDArray[np.intp]


def scans(options: argparse.Namespace, split: str) -> Iterator[Trial]:
    """Of every torso of a split at every reduction factor."""
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == split]
    cut = [pasted(pair.full) for pair in pairs if masks_of(pair.full)]
    for number, lesions in enumerate(shares(cut, options.torsos)):
        case = torso_case(split, number, options.slices, lesions)
        yield from trials(case, options.drf, Store(options.cache / "images"))


def voxels(model: Model, trial: Trial, with_ct: bool) -> Voxels:
    """What the model claims of one scan, and how far off it is."""
    parameters = Options(mode="uncertainty").parameters(has_spread=model.has_spread) | {"guard": False}
    restorer = BlockRestorer(model, parameters, guide=trial.case.ct if with_ct else None)
    low = trial.case.suv.with_array(trial.low)
    with ThreadPoolExecutor(1) as io:
        found = list(restorer.blocks(low, range(len(trial.low)), io, {}))
    image, sd = (np.stack([getattr(r, name) for r in found]) for name in ("image", "deviation"))
    level = activity_of(trial.low, trial.case.spacing_mm).level
    assert trial.case.labels is not None
    assert trial.case.even is not None
    is_lesion = trial.case.labels > 0
    region = np.where(is_lesion, 0, np.where(trial.case.even, 1, 2))
    rest = np.flatnonzero(trial.body & ~is_lesion)
    generator = np.random.default_rng(int(trial.drf))
    chosen = np.concatenate([np.flatnonzero(is_lesion), generator.choice(rest, VOXELS_A_SCAN, replace=False)])
    fields = (one.ravel()[chosen] for one in (image - trial.ideal, sd, level, region))
    return Voxels(trial.drf, trial.case.key, *fields)


def joined(found: Sequence[Voxels], name: str) -> Any:
    """A field of all scans, one value a voxel."""
    return np.concatenate([np.broadcast_to(getattr(one, name), one.error.shape) for one in found])


def fitted(found: Sequence[Voxels]) -> Calibration:
    error, sd, level = (joined(found, name) for name in ("error", "sd", "level"))
    _, body = np.unique(joined(found, "body"), return_inverse=True)
    nothing = np.zeros_like(sd)
    return fit_by_level(Pixels(error, sd, relative_level(sd, level), nothing, nothing, body))


def covered(found: Sequence[Voxels], sd: Values) -> dict[str, Any]:
    """Coverage of the 90 % interval in percent, overall and in parts."""
    error, region, drf = (joined(found, name) for name in ("error", "region", "drf"))
    tenth = np.searchsorted(np.quantile(sd, np.arange(0.1, 1, 0.1)), sd)
    parts = {
        "drf": {f"{value:g}": drf == value for value in np.unique(drf)},
        "region": {name: region == k for k, name in enumerate(REGIONS)},
        "level_tenth": {str(k + 1): tenth == k for k in range(10)},
    }
    figures: dict[str, Any] = {"overall": _percent(error, sd, np.ones(sd.shape, bool))}
    for name, masks in parts.items():
        figures[name] = {key: _percent(error, sd, mask) for key, mask in masks.items() if mask.sum() >= FEWEST}
    return figures


def _percent(error: Values, sd: Values, inside: NDArray[np.bool_]) -> float:
    return round(100 * coverage(error[inside], sd[inside]), 1)


def sharpness(calibrating: Sequence[Voxels], found: Sequence[Voxels], sd: Values) -> dict[str, dict[str, float]]:
    """Width and score of ours and of two simple maps, which get their one factor from `calibrating`."""
    maps = {"ours": sd}
    for name in ("constant", "noise-scaled"):

        def simple(voxels: Sequence[Voxels], name: str = name) -> Values:
            level: Values = joined(voxels, "level")
            return np.ones_like(level) if name == "constant" else level

        ratio = np.abs(joined(calibrating, "error")) / simple(calibrating)
        maps[name] = simple(found) * np.float32(np.quantile(ratio, NOMINAL) / Z90)
    error = joined(found, "error")
    return {name: _score(error, one) for name, one in maps.items()}


def _score(error: Values, sd: Values) -> dict[str, float]:
    outside = np.maximum(np.abs(error) - Z90 * sd, 0)
    score = 2 * Z90 * sd + PENALTY * outside
    figures = {"width_suv": 2 * Z90 * sd.mean(), "score": score.mean(), "covered": 100 * coverage(error, sd)}
    return {name: round(float(value), 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_pet.csv")
    parser.add_argument("--model", default="pet")
    parser.add_argument("--torsos", type=int, default=4)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--drf", type=float, nargs="+", default=[4.0, 10.0, 20.0, 50.0])
    parser.add_argument("--cache", type=Path, default=Path("runs") / "petbars")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help="model file, of the same weights, that gets the table into its card")
    options = parser.parse_args()
    model = load_model(options.model)
    raw = replace(model, card=model.card.model_copy(update={"uncertainty": {}}))
    parts = {}
    for split in ("calibrate", "test"):
        parts[split] = [voxels(raw, trial, ct) for trial in scans(options, split) for ct in (False, True)]
    table = fitted(parts["calibrate"])
    sd = table.by_level(joined(parts["test"], "sd"), joined(parts["test"], "level"))
    figures: dict[str, Any] = {
        "model": model.sha256,
        "source": "spread",
        "interval_percent": 90,
        "calibration_bodies": len({one.body for one in parts["calibrate"]}),
        "calibration_voxels": int(joined(parts["calibrate"], "error").size),
        "drf": options.drf,
        "coverage_on_test": covered(parts["test"], sd),
        "sharpness_on_test": sharpness(parts["calibrate"], parts["test"], sd),
        "table": table.to_dict(),
    }
    print(json.dumps({k: v for k, v in figures.items() if k != "table"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if options.store:
        print(f"{options.store}: {into_card(options.store, figures)}")


if __name__ == "__main__":
    main()
