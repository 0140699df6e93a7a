"""Does a network that is pulled back to the counts lose less of lesions than one that filters the image?

    python benchmarks/projections_pet.py [--split tune|test] [--drf 4 20] [--torsos 2] [--realisations 5] [--out FILE]

Torsos of benchmarks/petbars with spheres of 10 to 37 mm and known uptake, never trained on; strengths were chosen on
`tune`, what is reported is `test`. Each is scanned several times at each reduction factor, from the same means:

    osem     3 x 21, its Gaussian in mm          map-rdp   its beta
    network  on the OSEM of 5 mm, blended with it: the share of OSEM in % (post-processing)
    shaped   the same, but each voxel blended by the doubt that `guided` uses: what it gains without the counts
    guided   medidiff.inference.guided_pet, its trust

Noise: standard deviation over the scans, root of its mean square over voxels, in % of their mean: in the body off the
lesions, and in the liver. Bias: of a sphere's SUVmean, mean over the scans, in % of the *known uptake* in the same
voxels (partial volume included), or of the noise-free reconstruction, OSEM of 5 mm of the expected counts. "At equal
noise" takes mean |bias| of post-processing at the body noise of `guided`, between its strengths. Research use only,
not for diagnosis.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from petbars.judge import BANDS
from petbars.trials import SPLITS, Case, torso_case
from scipy.ndimage import binary_dilation

from medidiff import DISCLAIMER
from medidiff.inference.guided_pet import FILTER_MM, doubt, guided_osem, smoothed
from medidiff.metrics.pet import bias_percent, lesion
from medidiff.model import load
from medidiff.noise.activity import BODY_SUV, activity_of
from medidiff.physics.osem import map_rdp, osem
from medidiff.physics.pet import Means, ParallelBeam, Sinograms, beam, without_noise

FIGURES = ("mean", "max", "peak")
MAP_ITERATIONS = 4
NEAR = 2  # voxels around a lesion that are not background

Image = NDArray[np.float32]
Key = tuple[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is tried."""

    model: str
    filters_mm: tuple[float, ...]
    betas: tuple[float, ...]
    blends: tuple[float, ...]
    trusts: tuple[float, ...]


def drawn(means: Means, drf: float, seed: Sequence[int]) -> Sinograms:
    """A scan of 1 / `drf` of the time."""
    p = np.float32(1 / drf)
    additive = (means.scatter + means.randoms) * p
    counts = np.random.default_rng(seed).poisson(means.trues * p + additive)
    return Sinograms(counts.astype(np.float32), means.factors * p, additive)


def answers(data: Sinograms, projector: ParallelBeam, case: Case, tried: Settings) -> Iterator[tuple[Key, Image]]:
    """Every method at every strength on one scan."""
    spacing, model = case.spacing_mm, load(tried.model)
    raw = osem(data, projector)
    for mm in tried.filters_mm:
        yield ("osem", mm), smoothed(raw, spacing, mm)
    for beta in tried.betas:
        yield ("map-rdp", beta), map_rdp(data, projector, beta, slice_mm=spacing[0], iterations=MAP_ITERATIONS)
    for trust in tried.trusts:
        found = guided_osem(data, projector, model, spacing, trust=trust)
        yield ("guided", trust), found.images
    x0, y, level = found.network, found.filtered, activity_of(found.filtered, spacing).level
    for percent in tried.blends:
        yield ("network", percent), x0 + np.float32(percent / 100) * (y - x0)
    for trust in tried.trusts:
        v = np.float32(trust) * doubt(x0, level, spacing)
        yield ("shaped", trust), x0 + v / (v + level**2) * (y - x0)


def judged(job: tuple[str, int, int, float, int, Settings]) -> list[Row]:
    """Noise, bias and spread of every method and strength on one torso at one reduction factor."""
    split, number, slices, drf, realisations, tried = job
    torch.set_num_threads(1)
    case = torso_case(split, number, slices, [])
    acquired = case.acquired
    means = acquired.means(0, slices)
    projector = beam(case.suv.geometry.matrix, acquired.coarse.pixel_mm, acquired.coarse.geometry)
    ideal = smoothed(osem(without_noise(means), projector), case.spacing_mm, FILTER_MM)
    images: dict[Key, list[Image]] = {}
    for k in range(realisations):
        data = drawn(means, drf, (number, k, round(1000 * drf)))
        for key, image in answers(data, projector, case, tried):
            images.setdefault(key, []).append(image)
    return [
        {"torso": number, "drf": drf, "method": method, "strength": strength, **_row(case, ideal, np.stack(stack))}
        for (method, strength), stack in images.items()
    ]


def _row(case: Case, ideal: Image, stack: Image) -> Row:
    """Of the images (realisations, slices, rows, columns) of one method."""
    assert case.labels is not None
    assert case.even is not None
    background = (ideal > BODY_SUV) & ~binary_dilation(case.labels > 0, iterations=NEAR)
    deviation, mean = stack.std(0, ddof=1, dtype=np.float64), stack.mean(0, dtype=np.float64)
    return {
        "noise_body": _noise(deviation, mean, background),
        "noise_liver": _noise(deviation, mean, case.even),
        "total": bias_percent(float(mean.sum()), float(ideal.sum())),
        "lesions": [_lesion(case, ideal, stack, t.number, t.diameter_mm) for t in case.targets],
    }


def _noise(deviation: NDArray[np.float64], mean: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
    return float(100 * np.sqrt((deviation[where] ** 2).mean()) / mean[where].mean())


def _lesion(case: Case, ideal: Image, stack: Image, number: int, diameter_mm: float) -> Row:
    """Bias in % of the mean over the scans, and spread over them in % of the known uptake."""
    mask = case.labels == number
    uptakes = [lesion(image, mask, case.spacing_mm) for image in stack]
    found: Row = {"diameter_mm": diameter_mm}
    for name, reference in (("truth", case.suv.array), ("ideal", ideal)):
        known = lesion(reference, mask, case.spacing_mm)
        for figure in FIGURES:
            mean = float(np.mean([getattr(one, figure) for one in uptakes]))
            found[f"{figure}_{name}"] = bias_percent(mean, getattr(known, figure))
    spread = np.std([one.mean for one in uptakes], ddof=1)
    return found | {"spread": float(100 * spread / lesion(case.suv.array, mask, case.spacing_mm).mean)}


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Curve:
    """One method at one reduction factor, a point for each strength."""

    strengths: list[float]
    rows: list[list[Row]]  # of the torsos

    def figure(self, name: str) -> NDArray[np.float64]:
        """(strengths,) mean over torsos."""
        return np.array([np.mean([row[name] for row in rows]) for rows in self.rows])

    def lesions(self, size: str, name: str, *, absolute: bool = False) -> NDArray[np.float64]:
        """(strengths,) mean over the lesions of a size."""
        low, high = BANDS[size]
        chosen = [[x[name] for r in rows for x in r["lesions"] if low <= x["diameter_mm"] < high] for rows in self.rows]
        return np.array([np.mean(np.abs(values) if absolute else values) for values in chosen])


def curves(rows: Sequence[Row], drf: float) -> dict[str, Curve]:
    here = [row for row in rows if row["drf"] == drf]
    found = {}
    for method in dict.fromkeys(row["method"] for row in here):
        mine = [row for row in here if row["method"] == method]
        strengths = sorted({row["strength"] for row in mine})
        found[method] = Curve(strengths, [[row for row in mine if row["strength"] == s] for s in strengths])
    return found


def show(drf: float, found: dict[str, Curve]) -> None:
    """Noise and mean bias of every method and strength."""
    print(f"\nDRF {drf:g}: noise %, activity off %, mean bias of SUVmean % by diameter in mm: of the known uptake |")
    print("of the noise-free reconstruction | spread over the scans in % of the known uptake")
    print(" " * 16 + "   body  liver  total |" + " |".join("".join(f"{size:>7}" for size in BANDS) for _ in range(3)))
    for method, curve in found.items():
        parts = [[curve.lesions(size, name) for size in BANDS] for name in ("mean_truth", "mean_ideal", "spread")]
        noise = [curve.figure(name) for name in ("noise_body", "noise_liver", "total")]
        for k, strength in enumerate(curve.strengths):
            cells = " |".join("".join(f"{values[k]:7.1f}" for values in part) for part in [noise, *parts])
            print(f"{method:9}{strength:7g}{cells}")


def at_equal_noise(drf: float, found: dict[str, Curve], noise: str) -> list[Row]:
    """mean |bias| of `guided` and of post-processing at its noise; strengths with less noise than any are left out."""
    guided, blend = found["guided"], found["network"]
    at, known = guided.figure(noise), blend.figure(noise)
    rows = []
    for k, trust in enumerate(guided.strengths):
        for reference, size in product(("truth", "ideal"), BANDS):
            name = f"mean_{reference}"
            theirs = float(np.interp(at[k], known, blend.lesions(size, name, absolute=True)))
            ours = float(guided.lesions(size, name, absolute=True)[k])
            rows.append({
                "drf": drf, "trust": trust, "noise": float(at[k]), "region": noise, "reference": reference,
                "size": size, "guided": ours, "network": theirs, "below_all": bool(at[k] < known[0]),
            })  # fmt: skip
    return rows


def show_equal(rows: Sequence[Row]) -> None:
    """mean |bias| of post-processing and of `guided`, side by side."""
    first = rows[0]
    print(f"\nDRF {first['drf']:g}, at equal noise in the {first['region'].removeprefix('noise_')}: mean |bias| % of")
    print("SUVmean, post-processing -> guided, of the known uptake | of the noise-free reconstruction")
    print(" " * 22 + " |".join("".join(f"{size:>14}" for size in BANDS) for _ in range(2)))
    for trust in dict.fromkeys(row["trust"] for row in rows):
        mine = [row for row in rows if row["trust"] == trust]
        cells = [
            "".join(f"{r['network']:6.1f} ->{r['guided']:5.1f}" for r in mine if r["reference"] == name)
            for name in ("truth", "ideal")
        ]
        mark = "<" if mine[0]["below_all"] else " "
        print(f"trust {trust:5g} {mark}{mine[0]['noise']:6.2f} %  " + " |".join(cells))
    if any(row["below_all"] for row in rows):
        print("<: less noise than post-processing at full strength, which is what it is compared with")


def main() -> None:
    options = parse()
    tried = Settings(options.model, tuple(options.filters), tuple(options.betas), tuple(sorted(options.blends)),
                     tuple(sorted(options.trust)))  # fmt: skip
    jobs = [
        (options.split, number, options.slices, drf, options.realisations, tried)
        for drf, number in product(options.drf, range(options.torsos))
    ]
    print(f"model {options.model} {load(options.model).sha256[:12]}, split {options.split}, {options.torsos} torsos of "
          f"{options.slices} slices, {options.realisations} scans each. {DISCLAIMER.capitalize()}.")  # fmt: skip
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        rows = [row for found in pool.map(judged, jobs) for row in found]
    compared = []
    for drf in options.drf:
        found = curves(rows, drf)
        show(drf, found)
        for noise in ("noise_body", "noise_liver"):
            here = at_equal_noise(drf, found, noise)
            show_equal(here)
            compared += here
    if options.out:
        text = json.dumps({"note": DISCLAIMER, "options": vars(options), "rows": rows, "equal": compared}, default=str)
        options.out.write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pet", help="embedded model or file")
    parser.add_argument("--split", default="tune", choices=SPLITS)
    parser.add_argument("--torsos", type=int, default=2)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--realisations", type=int, default=5)
    parser.add_argument("--drf", type=float, nargs="+", default=[4.0, 20.0])
    parser.add_argument("--trust", type=float, nargs="+", default=[0.3, 1.0])
    parser.add_argument("--blends", type=float, nargs="+", default=[0, 5, 10, 20, 30, 50, 75, 100], help="%% of OSEM")
    parser.add_argument("--filters", type=float, nargs="+", default=[5.0, 8.0, 12.0], help="of OSEM, mm")
    parser.add_argument("--betas", type=float, nargs="*", default=[0.1, 0.4], help="of MAP-RDP")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON of every figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
