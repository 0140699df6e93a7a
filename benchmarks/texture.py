"""Which image has the texture of a full-dose scan: the blend of a scan with its estimate, or a sample of the posterior?

    python benchmarks/texture.py --data SCANS [--model ct] [--dose 0.25]

    blend    x_hat + sqrt(a) (y - x_hat), what `--mode texture` ships              a the dose of y
    sample   one draw of the posterior, `--mode sample`
    full     x + n, fresh noise of the full dose: what a reader knows

On pseudo-clean trials (medidiff/data/trials.py) of `test` patients. Noise is what changes when the scan is repeated:
the difference of two scans of one truth over sqrt(2), each processed alike. Level and mean frequency are measured in
regions of 32 pixels where the truth is smooth and where it is structured, each over that of `full`: 1 is right, and
0.9 to 1.1 is asked for. RMSE against the truth holds what does not change as well, blur. Unsupported is what neither
truth nor scan explain (medidiff/metrics/hallucination.py): rings of frequencies, and added structure. Correlation is
that of image - x between two draws of one scan; a blend is drawn once. Medians over patients, and the range of levels.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from medidiff.data.manifest import read_manifest
from medidiff.data.trials import cases, low_dose
from medidiff.data.validation import KERNELS
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.metrics.hallucination import excess, patch_corners, patches_at, texture, transforms
from medidiff.model import Model
from medidiff.model import load as load_model
from medidiff.noise.spectrum import ROI, homogeneous_regions, region_spectrum

Image = NDArray[np.float32]
Row = dict[str, float]
SIZE = 320  # the middle of the slice: a sample of a whole one takes long
STRUCTURED_HU = (-200.0, 300.0)
AIR_HU = -900.0  # mean of a patch that is not in the patient


def structured_regions(truth: Image, n: int = 24) -> NDArray[np.intp]:
    """(n, 3) slice 0, first row and column of the soft-tissue regions with the strongest edges of organs."""
    smooth = gaussian_filter(truth, 1.0)
    half = ROI // 2
    centres = np.s_[half : truth.shape[0] - half : half, half : truth.shape[1] - half : half]
    low, high = minimum_filter(smooth, ROI)[centres], maximum_filter(smooth, ROI)[centres]
    inside = (low > STRUCTURED_HU[0]) & (high < STRUCTURED_HU[1])
    order = np.argsort(np.where(inside, low - high, np.inf), axis=None)[: min(n, int(inside.sum()) // 2)]
    corners = np.stack(np.unravel_index(order, inside.shape), axis=1) * half
    return np.insert(corners, 0, 0, axis=1).astype(np.intp)


def images(model: Model, slab: Image, dose: float, case: int) -> dict[str, Image]:
    """The scan, its mean, the blend and a draw."""
    chosen = {"mean": Options(), "blend": Options(mode="texture", dose=dose), "sample": Options(mode="sample")}
    made = {name: Restorer(model, one.parameters(), case=case).slice(0, slab).image for name, one in chosen.items()}
    return {"low dose": slab[len(slab) // 2]} | made


def invented(image: Image, truth: Image, y: Image, pixel_mm: float) -> dict[str, float]:
    """Percent of frequency rings, and of pixels, that hold what neither truth nor scan supports."""
    corners = patch_corners(np.ones(truth.shape, bool))
    corners = corners[patches_at(truth, corners).mean((1, 2)) > AIR_HU]
    seen = texture(*(transforms(one, corners) for one in (image, truth, y)))
    added = excess(image, truth, y, (pixel_mm, pixel_mm)).added
    return {"unsupported": 100 * float(seen.unsupported.mean()), "added": 100 * float(np.mean(added != 0))}


def judge(model: Model, clean: Image, pixel_mm: float, colour: str, dose: float, case: int) -> dict[str, Row]:
    """Image -> figure -> value, for one slice."""
    scans = [scan(clean, pixel_mm, dose, colour, [case, k]) for k in (0, 1)]
    fulls = [scan(clean, pixel_mm, 1.0, colour, [case, k])[0][len(clean) // 2] for k in (2, 3)]
    truth = scans[0][1]
    first, second = (images(model, slab, dose, 2 * case + k) for k, (slab, _) in enumerate(scans))
    first["full"], second["full"] = fulls
    again = images(model, scans[0][0], dose, 2 * case + 1)["sample"]
    places = {"smooth": homogeneous_regions(truth[None]), "structured": structured_regions(truth)}
    noise = {name: ((first[name] - second[name]) / np.sqrt(2))[None] for name in first}
    rows: dict[str, Row] = {}
    for name, image in first.items():
        rows[name] = {"rmse": float(np.sqrt(np.mean((image - truth) ** 2)))}
        rows[name] |= invented(image, truth, first["low dose"], pixel_mm)
        for place, corners in places.items():
            if len(corners):
                mine, wanted = (region_spectrum(noise[n], corners, pixel_mm) for n in (name, "full"))
                rows[name][f"level {place}"] = mine.level / wanted.level
                rows[name][f"frequency {place}"] = mine.mean_frequency / wanted.mean_frequency
    one, other = ((image - truth).ravel() for image in (first["sample"], again))
    rows["sample"]["correlation"] = float(np.corrcoef(one, other)[0, 1])
    return rows


def scan(clean: Image, pixel_mm: float, dose: float, colour: str, seed: list[int]) -> tuple[Image, Image]:
    """(slab, truth) of the middle of a slice, as `low_dose` draws them."""
    slab, truth = low_dose(clean, pixel_mm, dose, colour, np.random.default_rng(seed))
    inner = tuple(slice((n - SIZE) // 2, (n + SIZE) // 2) for n in truth.shape)
    return slab[:, *inner], truth[inner]


def summarise(slices: list[dict[str, float]]) -> dict[str, object]:
    """Medians, and the range of the level in smooth and in structured tissue."""
    keys = dict.fromkeys(key for row in slices for key in row)
    values = {key: [row[key] for row in slices if key in row] for key in keys}
    summary: dict[str, object] = {key: round(float(np.median(v)), 3) for key, v in values.items()}
    ranges = {key: [round(min(v), 2), round(max(v), 2)] for key, v in values.items() if key.startswith("level")}
    return summary | {"range": ranges}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.csv")
    parser.add_argument("--model", default="ct")
    parser.add_argument("--split", default="test")
    parser.add_argument("--dose", type=float, default=0.25)
    parser.add_argument("--patients", type=int, help="lines of the manifest used; default: all of the split")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == options.split]
    table: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for number, pair in enumerate(pairs[: options.patients]):
        clean, pixel_mm = cases(pair, model.slab, 1)[0]
        for colour in KERNELS:
            for name, row in judge(model, clean, pixel_mm, colour, options.dose, number).items():
                table[colour, name].append(row)
    rows = [{"kernel": colour, "image": name, **summarise(found)} for (colour, name), found in sorted(table.items())]
    for line in rows:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    if options.json:
        figures = {"model": model.sha256, "split": options.split, "dose": options.dose, "rows": rows}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
