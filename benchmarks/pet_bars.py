"""Which bars does a PET model meet? Low-count scans of phantoms never trained on, of a real scan and of a cylinder.

    python benchmarks/pet_bars.py --data SCANS --model FILE [--also FILE] [--split tune|test] [--no-map]

Everything is measured against the full-count reconstruction of the same events, in a body mask and a range that it
declares, with the phantom's own lesion masks (a real scan: its hottest foci, petbars/trials.py). Methods: the low-count
image, the noise-free reconstruction (a limit: the full scan's own noise keeps PSNR below it), Gaussian, NLM and MAP-RDP
at the strengths tuned for each reduction factor on `tune`, the model without and with its CT, and --also a second one.

Bars, at the reduction factor --decide:

    PSNR         at least 2 dB above the best classical method, for each kind of body, with a mean |lesion bias| of
                 SUVmean that is not larger than that method's
    lesions      |mean SUVmean bias| at most 5 % for 17 mm and more, 15 % for 10 mm
    total        activity of every body within 1 %, at every reduction factor
    foci         matched-filter foci of 10 mm in the cylinder above 5 (and 3) standard deviations of the full scan's
                 filtered image: not more than the full scan has, at every reduction factor. Of normal noise 3e-7 of
                 the voxels exceed 5, 1.3e-3 exceed 3, so the full scan is expected to have 0.01 foci above 5

and without a bar, what a CT that is moved or shows structures without uptake puts into the image (petbars/invented.py).
`--split tune` also searches the strengths that are not in --tuned; `test` needs them. Images, and every figure that was
worked out, are kept in --cache, so that a second model costs its own evaluations only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bars.judge import Notebook
from bars.report import Report
from bars.trials import Store
from petbars.invented import invented
from petbars.judge import BANDS, DEVIATIONS, UPTAKE, VERSION, Row, band, judge
from petbars.methods import CLASSICAL, IDEAL, INPUT, Answers, Filter, Given, Network
from petbars.search import search
from petbars.trials import SPLITS, Case, Trial, scan_case, shares, torso_case, trials, uniform_case
from petbars.tuned import TunedPet, absent, load_tuned, save_tuned

from medidiff import DISCLAIMER
from medidiff.data.manifest import Pair, read_manifest
from medidiff.data.pet_cases import masks_of, pasted

PIPELINES = Path(__file__).parents[1] / "pipelines"
ABOVE_DB, LARGE_PERCENT, SMALL_PERCENT, TOTAL_PERCENT = 2.0, 5.0, 15.0, 1.0
LARGE_MM = 16.5
LESION_FIGURES = {key: f"SUV{key}" for key in UPTAKE} | {"ideal": "SUVmean against the noise-free image"}
COLUMNS = ("psnr", "nrmse", "ssim", "psnr_ideal", "total", "body", "cov")


@dataclass(frozen=True, eq=False)
class Scores:
    """Rows by kind of body, reduction factor and method."""

    rows: dict[tuple[str, float, str], list[Row]]

    @property
    def groups(self) -> list[tuple[str, float]]:
        return list(dict.fromkeys((kind, drf) for kind, drf, _ in self.rows))

    def mean(self, kind: str, drf: float, method: str, figure: str) -> float:
        """Over bodies, of those that have the figure; nan for none."""
        values = [row[figure] for row in self.rows[kind, drf, method] if figure in row]
        return float(np.mean(values)) if values else float("nan")

    def lesions(self, kind: str, drf: float, method: str) -> list[Row]:
        return [lesion for row in self.rows[kind, drf, method] for lesion in row["lesions"].values()]


@dataclass
class Clock:
    """Seconds of processor of each part of a run."""

    last: float = field(default_factory=time.process_time)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name], self.last = now - self.last, now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.laps.items())


def collect(bodies: Sequence[Sequence[Trial]], methods: Sequence[Answers], notebook: Notebook) -> Scores:
    """Every method on every trial."""
    rows: dict[tuple[str, float, str], list[Row]] = {}
    for trial in (trial for body in bodies for trial in body):
        for method in methods:
            if isinstance(method, Network) and method.with_ct and trial.case.ct is None:
                continue
            row = notebook.get(
                trial.key, f"{method.key(trial)} v{VERSION}", lambda m=method, t=trial: judge(m.answer(t), t)
            )
            rows.setdefault((trial.case.kind, trial.drf, method.name), []).append(row)
    return Scores(rows)


# ---------------------------------------------------------------- tables


def tables(scores: Scores, names: Sequence[str], report: Report) -> None:
    for kind, drf in scores.groups:
        here = [name for name in names if (kind, drf, name) in scores.rows]
        print(f"\n{kind}, DRF {drf:g}: against the full scan (PSNR* against the noise-free one), activity and COV in %")
        print(" " * 14 + "".join(c.rjust(9) for c in ("PSNR", "NRMSE", "SSIM", "PSNR*", "total", "body", "COV")))
        for name in here:
            means = {column: scores.mean(kind, drf, name, column) for column in COLUMNS}
            print(f"{name:14}" + "".join(f"{value:9.{_digits(column)}f}" for column, value in means.items()))
            kept = {column: value if np.isfinite(value) else None for column, value in means.items()}
            report.figures.setdefault(f"{kind} {drf:g}", {})[name] = kept
        _lesion_table(scores, kind, drf, here, report)
        if kind == "uniform":
            _foci_table(scores, drf, here, report)


def _digits(column: str) -> int:
    return 4 if column in ("nrmse", "ssim") else 2


def _lesion_table(scores: Scores, kind: str, drf: float, names: Sequence[str], report: Report) -> None:
    """Mean (and mean of |bias|) of each size band."""
    sizes = {size for name in names for size in map(band, scores.lesions(kind, drf, name))}
    bands = [size for size in (*BANDS, "cut") if size in sizes]
    for figure, title in LESION_FIGURES.items() if bands else ():
        counts = {b: sum(band(row) == b for row in scores.lesions(kind, drf, names[0])) for b in bands}
        print(f"  bias of {title}, %: mean (mean of |bias|) by diameter in mm, and number of lesions")
        print(" " * 14 + "".join(f"{b} ({counts[b]})".rjust(16) for b in bands))
        for name in names:
            lesions = scores.lesions(kind, drf, name)
            found = {b: [row[figure] for row in lesions if band(row) == b] for b in bands}
            cells = {b: (float(np.mean(v)), float(np.mean(np.abs(v)))) for b, v in found.items()}
            print(f"{name:14}" + "".join(f"{mean:8.1f} ({size:5.1f})" for mean, size in cells.values()))
            report.figures[f"{kind} {drf:g}"][name][title] = cells


def _foci_table(scores: Scores, drf: float, names: Sequence[str], report: Report) -> None:
    print("  foci above " + " and ".join(f"{k} SD" for k in DEVIATIONS))
    for name in names:
        found = _foci(scores, drf, name)
        print(f"{name:14}" + "".join(f"{n:9d}" for n in found.values()))
        report.figures[f"uniform {drf:g}"][name]["foci"] = found


def _foci(scores: Scores, drf: float, name: str) -> dict[str, int]:
    rows = scores.rows["uniform", drf, name]
    return {str(k): sum(row["foci"][str(k)] for row in rows) for k in DEVIATIONS}


# ---------------------------------------------------------------- bars


def bars(scores: Scores, model: str, classical: Sequence[str], full: Row, decide: float, report: Report) -> None:
    """Every bar of one way to use the model."""
    for kind, drf in scores.groups:
        if (kind, drf, model) in scores.rows and drf == decide and kind != "uniform":
            _psnr_bar(scores, kind, drf, model, classical, report)
            _lesion_bars(scores, kind, drf, model, report)
    there = [(kind, drf) for kind, drf in scores.groups if (kind, drf, model) in scores.rows]
    totals = {f"{k}, DRF {d:g}": max(abs(r["total"]) for r in scores.rows[k, d, model]) for k, d in there}
    worst = max(totals, key=lambda place: totals[place])
    report.bar(f"{model}: total activity off", totals[worst], TOTAL_PERCENT, "%", at_most=True, where=worst)
    for k in map(str, DEVIATIONS):
        counts = {drf: _foci(scores, drf, model)[k] for kind, drf in there if kind == "uniform"}
        drf = max(counts, key=lambda d: counts[d])
        what = f"{model}: foci above {k} SD in even uptake"
        report.bar(what, counts[drf], full[k], "", at_most=True, where=f"worst DRF {drf:g}; full scan: {full[k]}")


def _psnr_bar(scores: Scores, kind: str, drf: float, model: str, classical: Sequence[str], report: Report) -> None:
    best = max(classical, key=lambda name: scores.mean(kind, drf, name, "psnr"))
    gain = scores.mean(kind, drf, model, "psnr") - scores.mean(kind, drf, best, "psnr")
    limit = scores.mean(kind, drf, IDEAL, "psnr") - scores.mean(kind, drf, best, "psnr")
    where = f"{kind}, DRF {drf:g}; noise-free image: {limit:.2f}"
    report.bar(f"{model}: PSNR above {best}", gain, ABOVE_DB, "dB", at_most=False, where=where)
    biases = {name: [abs(row["mean"]) for row in scores.lesions(kind, drf, name)] for name in (model, best)}
    if biases[best]:
        limit = float(np.mean(biases[best]))
        what = f"{model}: mean |SUVmean bias| not above {best}'s"
        report.bar(what, float(np.mean(biases[model])), limit, "%", at_most=True, where=f"{kind}, DRF {drf:g}")


def _lesion_bars(scores: Scores, kind: str, drf: float, model: str, report: Report) -> None:
    lesions = scores.lesions(kind, drf, model)
    large = [row["mean"] for row in lesions if row["diameter_mm"] >= LARGE_MM]
    small = [row["mean"] for row in lesions if band(row) == "10"]
    for size, values, limit in (("17 mm and more", large, LARGE_PERCENT), ("10 mm", small, SMALL_PERCENT)):
        if values:
            mean, worst = float(np.mean(values)), max(values, key=abs)
            where = f"{kind}, DRF {drf:g}: mean {mean:+.2f}, worst of {len(values)} {worst:+.1f}"
            report.bar(f"{model}: |SUVmean bias|, {size}", abs(mean), limit, "%", at_most=True, where=where)


# ---------------------------------------------------------------- a CT that is wrong


def misled(
    bodies: Sequence[Sequence[Trial]], network: Network, decide: float, notebook: Notebook, report: Report
) -> None:
    """What the CT of the torsos adds when it is right, moved, or shows what took up nothing."""
    chosen = [t for body in bodies for t in body if t.case.kind == "torso" and t.drf == decide]
    rows = [notebook.get(f"invented {t.key}", network.identity, lambda t=t: invented(network, t)) for t in chosen]
    print(f"\n{network.name} less the answer without, DRF {decide:g}: SUV (units of the noise); balls: of the false CT")
    heads = ("body mean |d|", "body max |d|", "balls mean d", "balls max |d|")
    print(" " * 14 + "".join(head.rjust(18) for head in heads))
    for name in rows[0]:
        columns = {key: [row[name][key] for row in rows] for key in rows[0][name]}
        found = {key: float(np.max(v) if "max" in key else np.mean(v)) for key, v in columns.items()}
        keys = [key.removesuffix("_suv") for key in found if key.endswith("_suv")]
        print(f"{name:14}" + "".join(f"{found[f'{k}_suv']:9.3f} ({found[f'{k}_noise']:6.2f})" for k in keys))
        report.figures.setdefault("invented", {}).setdefault(network.name, {})[name] = found


# ---------------------------------------------------------------- the run


def bodies_of(options: argparse.Namespace, pairs: Sequence[Pair], store: Store) -> list[list[Trial]]:
    """Torsos, the real scans of the split, and the cylinder, each at every reduction factor."""
    lesions = [pair.full for pair in pairs if masks_of(pair.full)]
    scans = [pair for pair in pairs if not masks_of(pair.full)] if options.scans else []
    cases: list[Case] = [
        torso_case(options.split, k, options.slices, cut)
        for k, cut in enumerate(shares([pasted(folder) for folder in lesions], options.torsos))
    ]
    cases += [scan_case(pair.full, pair.patient) for pair in scans]
    cases.append(uniform_case(options.slices))
    return [trials(case, options.drf, store) for case in cases]


def known_strengths(options: argparse.Namespace, names: list[str]) -> TunedPet | None:
    """Those of the file, None where there is none; only `tune` may search what is lacking."""
    known = load_tuned(options.tuned) if options.tuned.exists() else None
    lacking = absent(known, names, options.drf)
    if lacking and options.split != "tune":
        raise SystemExit(f"{options.tuned}: lacks strengths of {', '.join(lacking)}: run with --split tune first")
    return known


def searched(
    options: argparse.Namespace,
    names: list[str],
    known: TunedPet | None,
    bodies: Sequence[Sequence[Trial]],
    notebook: Notebook,
) -> TunedPet:
    """What is known, and what it lacks searched now and kept in the file."""
    lacking = absent(known, names, options.drf)
    if known is not None and not lacking:
        return known
    torsos = [body for body in bodies if body[0].case.kind == "torso"]
    tuned = search(lacking, torsos, notebook).added_to(known)
    save_tuned(options.tuned, tuned)
    return tuned


def networks(options: argparse.Namespace) -> tuple[list[Network], list[Network]]:
    """The model, and the further ones, each without and with a CT."""
    model = Network.of(options.model, "model", options.device)
    others = [one for file in options.also for one in Network.of(file, Path(file).stem[:9], options.device)]
    method = model[0].method
    print(f"model {method.name} {method.sha256[:12]}, split {options.split}. {DISCLAIMER.capitalize()}.", flush=True)
    return model, others


def main() -> None:
    options, report, clock = parse(), Report(), Clock()
    notebook = Notebook(options.cache / "rows.jsonl")
    model, others = networks(options)
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == options.split]
    classical = [name for name in CLASSICAL if options.map or name != "map_rdp"]
    known = known_strengths(options, classical)
    bodies = bodies_of(options, pairs, Store(options.cache / "images"))
    clock.lap("bodies and scans")
    tuned = searched(options, classical, known, bodies, notebook)
    clock.lap("strengths")
    filters = [Filter(name, tuned.methods[name]) for name in classical]
    methods: list[Answers] = [Given(INPUT), Given(IDEAL), *filters, *others, *model]
    scores = collect(bodies, methods, notebook)
    clock.lap("methods")
    tables(scores, [method.name for method in methods], report)
    decide = options.decide if options.decide in options.drf else max(options.drf)
    for network in (n for n in (*model, *others) if n.with_ct):
        misled(bodies, network, decide, notebook, report)
    clock.lap("false CT")
    print(f"\nseconds of processor: {clock}\n")
    cylinder = bodies[-1][0]
    full = notebook.get(cylinder.key, f"full v{VERSION}", lambda: judge(cylinder.full, cylinder))["foci"]
    for network in model:
        bars(scores, network.name, classical, full, decide, report)
    report.verdicts()
    if options.json:
        write(options, model[0], bodies, report)


def write(options: argparse.Namespace, model: Network, bodies: Sequence[Sequence[Trial]], report: Report) -> None:
    """Every figure as JSON, with the range of PSNR, NRMSE and SSIM of each body."""
    ranges = {body[0].case.key: body[0].preset.high for body in bodies}
    found = {"note": DISCLAIMER, "model": model.method.sha256, "split": options.split, "range_suv": ranges}
    text = json.dumps(found | {"bars": report.bars} | report.figures, indent=1)
    options.json.write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="root of the manifest's paths")
    parser.add_argument("--manifest", type=Path, default=PIPELINES / "train_pet.csv")
    parser.add_argument("--model", default="pet", help="embedded model or file")
    parser.add_argument("--also", nargs="*", default=[], help="further models, e.g. the same network as a regression")
    parser.add_argument("--tuned", type=Path, default=PIPELINES / "tuned_pet.yaml", help="strengths of the filters")
    parser.add_argument("--split", default="tune", choices=SPLITS)
    parser.add_argument("--torsos", type=int, default=4)
    parser.add_argument("--slices", type=int, default=40, help="of a torso and of the cylinder")
    parser.add_argument("--drf", type=float, nargs="+", default=[4.0, 10.0, 20.0, 50.0])
    parser.add_argument("--decide", type=float, default=20.0, help="reduction factor of the bars; else the highest")
    parser.add_argument("--no-map", dest="map", action="store_false", help="without MAP-RDP, which is slow")
    parser.add_argument("--no-scans", dest="scans", action="store_false", help="without the real scans of the split")
    parser.add_argument("--cache", type=Path, default=Path("runs") / "petbars")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
