"""Reconstruction from projections on patients: fbp, pwls, tv, a network on fbp, diffusion with the data in the loop.

    python benchmarks/projections.py --data SCANS --split tune|test --twin FILE --rows ROWS.jsonl [--conditions ...]

One slice (the middle one) of every patient of the split is projected as `medidiff project` does it, with twice the
views asked for: every other view is reconstructed, those between are held out. Every method goes through `medidiff
reconstruct`'s own code, from a container on disk. Measured in the body against the slice itself: PSNR and SSIM (`hu`),
RMSE, HU bias of soft tissue, chi-square on held-out rays over that of the slice (which is above 1: a grid of pixels
cannot give what three rays a bin through one twice as fine do), seconds, evaluations of the network, calls of the
projector. Rows that are in ROWS are not worked out again.

On `tune` the best strength of STRENGTHS by mean RMSE is looked for in each condition, from the one that was best before
to where both its neighbours are worse, and stored in TUNED; on `test` these are used. --twin is the network of
pipelines/train_ct_projections_twin.yaml: one evaluation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label

from medidiff import DISCLAIMER
from medidiff.data.manifest import Pair, load_pair, read_manifest
from medidiff.inference.engine import prepare
from medidiff.inference.projection_options import ProjectionOptions
from medidiff.inference.projections import reconstruct_projections
from medidiff.io.projections import Header, Scanner, write_projections
from medidiff.metrics.image import hu_bias, psnr, rmse
from medidiff.metrics.ssim import ssim
from medidiff.metrics.tissue import tissue_masks
from medidiff.model import FOR_PROJECTIONS, load
from medidiff.physics.projectors import Beam, Projector, evenly
from medidiff.physics.scanner import ELECTRONIC_VARIANCE, I0, scanner_beam
from medidiff.physics.transmission import counts, line_integrals_of, transmission, weights_of
from medidiff.units import hu_to_mu
from medidiff.volume import Geometry

Image = NDArray[np.float32]

PIPELINES = Path(__file__).parents[1] / "pipelines"
TUNED = PIPELINES / "tuned_projections.json"
AIR_HU, BODY_HU = -1000.0, -500.0
CONDITIONS: dict[str, tuple[int, float, float]] = {  # views, arc in degrees, dose
    "views_60": (60, 360.0, 1.0),
    "views_30": (30, 360.0, 1.0),
    "views_120": (120, 360.0, 1.0),
    "views_360": (360, 360.0, 1.0),
    "dose_25": (360, 360.0, 0.25),
    "dose_10": (360, 360.0, 0.10),
    "dose_5": (360, 360.0, 0.05),
    "arc_120": (120, 120.0, 1.0),
}
STRENGTHS: dict[str, tuple[float, ...]] = {
    "pwls": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    "tv": (0.1, 0.3, 1.0, 3.0, 5.5, 10.0, 30.0, 100.0, 300.0),
    "diffusion": (0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
}
METHODS = ("fbp", "pwls", "tv", "twin", "diffusion", "unconditional")
"""What --methods can name; `diffusion:dds`, `diffusion:pigdm` and `diffusion:dps` are other guidance, `ct` the embedded
model for images, told the backprojection, `ct-unconditional` the same, told nothing."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A slice and its projections: what is reconstructed lies in `container`, what is held out here."""

    patient: str
    condition: str
    truth: Image
    body: NDArray[np.bool_]
    container: Path
    held: Projector
    line: torch.Tensor
    weights: torch.Tensor

    def chi_square(self, image: Image) -> float:
        """On the rays that were held out."""
        mu = torch.from_numpy(np.asarray(hu_to_mu(image), np.float32))[None]
        return float((self.weights * (self.line - self.held.apply(mu)) ** 2).mean())


def trial(pair: Pair, condition: str, seed: int, folder: Path) -> Trial:
    volume, _ = load_pair(pair)
    k = len(volume.array) // 2
    hu = volume.array[k] if volume.mask is None else np.where(volume.mask[k], AIR_HU, volume.array[k])
    truth, pixel_mm = np.maximum(hu, AIR_HU).astype(np.float32), volume.geometry.pixel_spacing_mm[0]
    views, arc, dose = CONDITIONS[condition]
    beam = scanner_beam(evenly(2 * views, arc), len(truth) * pixel_mm / 2)
    photons = np.float32(dose * I0)
    mu = np.maximum(hu_to_mu(truth), 0).astype(np.float32)
    counted = counts(photons * transmission(mu, pixel_mm, beam), ELECTRONIC_VARIANCE, np.random.default_rng(seed))
    path = folder / f"{pair.patient}_{condition}.h5"
    seen, air = _every_other(beam, 0), np.full(beam.n_bins, photons)
    scanner = Scanner(
        "fan", "curved", seen.angles, seen.n_bins, seen.bin_mm, seen.source_isocentre_mm, seen.source_detector_mm
    )
    geometry: Geometry = volume.geometry.select(k, k + 1)
    header = Header("CT", scanner, geometry, electronic_variance=ELECTRONIC_VARIANCE, parameters={"dose": dose})
    write_projections(path, header, iter([{"counts": counted[None, 0::2], "air": air}]))
    held = Projector(truth.shape, pixel_mm, _every_other(beam, 1))
    line = torch.from_numpy(line_integrals_of(counted[1::2], air))[None]
    weights = torch.from_numpy(weights_of(counted[1::2], ELECTRONIC_VARIANCE))[None]
    return Trial(pair.patient, condition, truth, body_of(truth), path, held, line, weights)


def _every_other(beam: Beam, first: int) -> Beam:
    return replace(beam, angles=beam.angles[first::2])


def body_of(truth: Image) -> NDArray[np.bool_]:
    """The largest connected part that is denser than lung, with what it encloses."""
    parts, n = label(truth > BODY_HU)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if n else 0
    return np.asarray(binary_fill_holes(parts == largest), bool)


@dataclass(frozen=True)
class Given:
    """Weights: of diffusion (None: the embedded ones) and of the twin; and a folder to work in."""

    model: Path | None
    twin: Path | None
    folder: Path


def reconstructed(one: Trial, method: str, strength: float | None, given: Given) -> tuple[Image, Any]:
    """The image and what it cost."""
    if method == "twin":
        image, cost = reconstructed(one, "fbp", None, given)
        began = time.perf_counter()
        restored = _twin(given.twin).mean(np.stack([image] * 3))
        return restored, {**cost, "seconds": cost["seconds"] + time.perf_counter() - began, "nfe": 1}
    chosen: dict[str, Any] = {"method": method.split(":")[0], "smoothing": strength}
    if method.startswith(("unconditional", "ct")):
        chosen |= {"method": "diffusion", "unconditional": "unconditional" in method}
        chosen |= {"model": "ct"} if method.startswith("ct") else {}
    elif ":" in method:
        chosen |= {"data_guidance": method.split(":")[1]}
    if chosen["method"] == "diffusion" and given.model:
        chosen = {"model": str(given.model)} | chosen
    out = given.folder / "out"
    options = ProjectionOptions(**chosen, overwrite=True)
    began = time.perf_counter()
    series = reconstruct_projections(one.container, out, options).series[0]
    seconds = time.perf_counter() - began
    image = np.asarray(nib.load(out / series.folder / "reconstruction.nii.gz").dataobj, np.float32)[..., 0].T
    cost = {"seconds": seconds, "nfe": series.nfe, "calls": series.operator_calls, "chi2_seen": series.data_residual}
    return image, cost


_LOADED: dict[Path, Any] = {}


def _twin(path: Path | None) -> Any:
    if path is None:
        raise SystemExit("--twin FILE is needed for the method twin")
    if path not in _LOADED:
        _LOADED[path] = load(path)
        prepare(_LOADED[path])
    return _LOADED[path]


def row(one: Trial, method: str, strength: float | None, given: Given) -> dict[str, Any]:
    image, cost = reconstructed(one, method, strength, given)
    soft = tissue_masks(one.truth)["soft"] & one.body
    return {
        "patient": one.patient,
        "condition": one.condition,
        "method": method,
        "strength": strength,
        "psnr": psnr(image, one.truth, mask=one.body),
        "ssim": ssim(image, one.truth, mask=one.body),
        "rmse": rmse(image, one.truth, mask=one.body),
        "bias": hu_bias(image, one.truth, soft),
        "chi2_held": one.chi_square(image) / one.chi_square(one.truth),
        **cost,
    }


def asked(
    methods: list[str], condition: str, tried: tuple[list[dict[str, Any]], list[str]] | None
) -> list[tuple[str, float | None]]:
    """Methods with their strengths: the best that is known; with rows and patients of `tune` its neighbours too."""
    tuned = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    found: list[tuple[str, float | None]] = []
    for method in methods:
        kind = "diffusion" if method not in STRENGTHS and method not in ("fbp", "twin") else method
        if kind not in STRENGTHS:
            found.append((method, None))
        elif tried is not None and method in STRENGTHS:
            best = best_of(*tried, method, condition) or tuned.get(kind, {}).get(condition, 1.0)
            k = STRENGTHS[method].index(best)
            found += [(method, strength) for strength in STRENGTHS[method][max(k - 1, 0) : k + 2]]
        else:
            found.append((method, tuned[kind][condition]))
    return found


def best_of(rows: list[dict[str, Any]], patients: list[str], method: str, condition: str) -> float | None:
    """The strength with the smallest mean RMSE, of those that all these patients were reconstructed with."""
    errors: dict[float, dict[str, float]] = {}
    for one in rows:
        if (one["method"], one["condition"]) == (method, condition) and one["patient"] in patients:
            errors.setdefault(one["strength"], {})[one["patient"]] = one["rmse"]
    means = {s: float(np.mean(list(e.values()))) for s, e in errors.items() if len(e) == len(patients)}
    return min(means, key=lambda strength: means[strength], default=None)


def table(rows: list[dict[str, Any]], split: str) -> None:
    """Means over patients, and differences with their intervals from diffusion."""
    for condition in dict.fromkeys(r["condition"] for r in rows):
        here = [r for r in rows if r["condition"] == condition]
        print(f"\n{condition} ({split}, {len({r['patient'] for r in here})} patients)")
        print("method            strength   PSNR    SSIM   RMSE    bias  chi2 held  seconds   NFE  calls")
        for method, strength in dict.fromkeys((r["method"], r["strength"]) for r in here):
            found = [r for r in here if (r["method"], r["strength"]) == (method, strength)]
            mean = {k: float(np.mean([r[k] for r in found])) for k in ("psnr", "ssim", "rmse", "bias", "chi2_held")}
            seconds = float(np.median([r["seconds"] for r in found]))
            calls = max(sum((r["calls"] or {}).values()) for r in found)
            print(
                f"{method:17s} {strength or 0:8.2g} {mean['psnr']:6.2f}  {mean['ssim']:.4f} {mean['rmse']:6.1f} "
                f"{mean['bias']:+7.2f} {mean['chi2_held']:10.2f} {seconds:8.1f} {found[0]['nfe'] or 0:5d} {calls:6d}"
            )
        if split != "tune":
            _differences(here)


HEADING = f"""# Reconstruction from projections: the trial

{DISCLAIMER.capitalize()}.
Written by `python benchmarks/projections.py --data SCANS --split test --twin TWIN --rows ROWS --markdown FILE`,
which says what is measured. Middle slices of test patients, every other view held out; means over patients, inside the
body, against the slice itself.

- *twin*: a network of the size, data, steps and seed of the one in *diffusion*, for the mean alone, on the fbp
- *smoothing*: tuned on patients of the split `tune`
- *chi2*: chi-square on held-out rays, over that of the slice itself
- *s*: seconds a slice, the median, on one core of two, the other one busy; *calls*: of the projector and its adjoint
- *gain*: PSNR of diffusion less that of the method, in dB, and that of the patient with the lowest
"""
SHOWN = ("fbp", "pwls", "tv", "twin", "diffusion")
NAMES = {"views": "{} views", "dose": "360 views, {} % of the dose", "arc": "120 views over {} degrees"}


def page(rows: list[dict[str, Any]]) -> str:
    """All that was measured, as Markdown: a line for each method in each condition, means over patients."""
    lines = [
        HEADING,
        "| | patients | method | smoothing | PSNR | SSIM | RMSE, HU | bias, HU | chi2 | s | NFE | calls | gain |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        kind, value = condition.split("_")
        for method in SHOWN:
            found = [r for r in rows if (r["condition"], r["method"]) == (condition, method)]
            if not found:
                continue
            mean = {k: float(np.mean([r[k] for r in found])) for k in ("psnr", "ssim", "rmse", "bias", "chi2_held")}
            best = {r["patient"]: r["psnr"] for r in rows if (r["condition"], r["method"]) == (condition, "diffusion")}
            gain = np.array([best[r["patient"]] - r["psnr"] for r in found if r["patient"] in best])
            cells = [
                NAMES[kind].format(value),
                len(found),
                method,
                f"{found[0]['strength']:g}" if found[0]["strength"] else "",
                *(f"{mean[k]:{form}}" for k, form in (("psnr", ".2f"), ("ssim", ".3f"), ("rmse", ".1f"))),
                f"{mean['bias']:+.1f}",
                f"{mean['chi2_held']:.3g}",
                f"{np.median([r['seconds'] for r in found]):.1f}",
                found[0]["nfe"] or "",
                max(sum((r["calls"] or {}).values()) for r in found) or "",
                f"{gain.mean():+.2f} ({gain.min():+.2f})" if method != "diffusion" and len(gain) else "",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def complete(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of patients that were reconstructed with everything in SHOWN: the run may have been stopped."""
    done: dict[tuple[str, str], set[str]] = {}
    for one in rows:
        done.setdefault((one["condition"], one["patient"]), set()).add(one["method"])
    return [one for one in rows if done[one["condition"], one["patient"]] >= set(SHOWN)]


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a condition: patients, and mean PSNR of the methods that all of them were reconstructed with."""
    lines = []
    for condition in dict.fromkeys(r["condition"] for r in rows):
        here = [r for r in rows if r["condition"] == condition]
        line: dict[str, Any] = {"condition": condition, "patients": len({r["patient"] for r in here})}
        for method in dict.fromkeys(r["method"] for r in here):
            found = [r["psnr"] for r in here if r["method"] == method]
            if len(found) == line["patients"]:
                line[method] = round(float(np.mean(found)), 2)
        lines.append(line)
    return lines


def _differences(here: list[dict[str, Any]]) -> None:
    by = {(r["method"], r["patient"]): r["psnr"] for r in here}
    patients = sorted({r["patient"] for r in here})
    for other in dict.fromkeys(r["method"] for r in here if r["method"] != "diffusion"):
        both = [p for p in patients if (other, p) in by and ("diffusion", p) in by]
        gain = np.array([by["diffusion", p] - by[other, p] for p in both])
        if len(gain):
            print(f"  diffusion - {other}: {gain.mean():+.2f} dB (lowest {gain.min():+.2f}, {len(gain)} patients)")


def store_best(rows: list[dict[str, Any]], patients: list[str], conditions: list[str]) -> None:
    tuned = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    for method in STRENGTHS:
        for condition in conditions:
            best = best_of(rows, patients, method, condition)
            if best is not None:
                tuned.setdefault(method, {})[condition] = best
    temporary = TUNED.with_suffix(".partial")
    temporary.write_text(json.dumps(tuned, indent=1) + "\n")
    temporary.replace(TUNED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("tune", "test"), default="test")
    parser.add_argument("--model", type=Path, help="weights of diffusion; without it the embedded ones")
    parser.add_argument("--twin", type=Path)
    parser.add_argument("--json", type=Path, help="figures for scripts/embed_model.py")
    parser.add_argument("--markdown", type=Path, help="a table of all that was measured")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--conditions", nargs="*", default=list(CONDITIONS), choices=list(CONDITIONS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--patients", type=int, default=100, help="at most, in the order of the manifest")
    arguments = parser.parse_args()
    pairs = [p for p in read_manifest(PIPELINES / "train_ct.csv", arguments.data) if p.split == arguments.split]
    pairs = list({pair.patient: pair for pair in reversed(pairs)}.values())[::-1]  # one series of each patient
    pairs = pairs[: arguments.patients]
    patients = [pair.patient for pair in pairs]
    done = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []

    def wanted(condition: str) -> list[tuple[str, str, float | None]]:
        known = {(r["patient"], r["method"], r["strength"]) for r in done if r["condition"] == condition}
        tried = (done, patients) if arguments.split == "tune" else None
        lines = [(p, *one) for p in patients for one in asked(arguments.methods, condition, tried)]
        return [one for one in lines if one not in known]

    with tempfile.TemporaryDirectory() as name, arguments.rows.open("a") as file:
        given = Given(arguments.model, arguments.twin, Path(name))
        for condition in arguments.conditions:
            while todo := wanted(condition):
                for number, pair in enumerate(pairs):
                    mine = [(method, strength) for patient, method, strength in todo if patient == pair.patient]
                    if not mine:
                        continue
                    one = trial(pair, condition, number, Path(name))
                    for method, strength in mine:
                        done.append(row(one, method, strength, given))
                        file.write(json.dumps(done[-1]) + "\n")
                        file.flush()
    if arguments.split == "tune":
        store_best(done, patients, arguments.conditions)
    else:  # strengths that were best once are no part of the result
        methods = list(dict.fromkeys(r["method"] for r in done))
        valid = {condition: asked(methods, condition, None) for condition in CONDITIONS}
        done = complete([r for r in done if (r["method"], r["strength"]) in valid[r["condition"]]])
    if arguments.json:
        name = arguments.model or FOR_PROJECTIONS
        figures = {"model": load(name).sha256, "rows": means(done)}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(page(done))
    table([r for r in done if r["condition"] in arguments.conditions], arguments.split)
    print(f"\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
