"""Which bars does a CT model meet? Quality against noise-free truth, noisy full dose, phantoms and almost no noise.

    python benchmarks/ct_bars.py --data SCANS [--model ct] [--split tune] [--parts truth noisy noise-free]

Parts and bars, per group (a kernel at a dose) and in the mean over the groups:

    truth       RMSE against the noise-free truth at least 15 % below the best of BM3D, NLM and TV at the strengths
                tuned for the group, and below every other network given; within 0.1 dB of one of the same kind;
                SSIM above all of them; |HU bias| of every tissue at most 1 HU
    noisy       RMSE against a noisy full dose whose noise the low dose shares: with one strength for all groups at
                least 70 % of the gain that is attainable, 10 log10(1 / dose) dB; also on measured series
    noise-free  a slice (and a phantom) almost without noise changes by at most 1 HU RMS
    resolution  phantoms: TTF at the input's f50 keeps at least 90 % for edges of CNR >= 3; AUC of a channelised
                Hotelling observer is not below the input's by more than 0.02
    worst       the ten worst patches as a figure

Trials and their construction: benchmarks/bars/trials.py. Patients are the unit: the mean over a patient's slices first,
then mean and worst over patients. Decide on split `tune`; `test` is for figures. Trials and every figure that was
worked out are kept in --cache, so that a second model costs its own evaluations only. Kernels other than
`smooth` and `sharp` are shown and do not decide. Research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bars import task
from bars import worst as worst_patches
from bars.judge import SSIM_PRESETS, Notebook, Row, gain_db, rmse
from bars.methods import CLASSICAL, INPUT, Answers, Filter, Network, Scan
from bars.report import Report
from bars.trials import MEASURED, Store, Trial, measured_trials, pseudo_clean_trials

from medidiff import DISCLAIMER
from medidiff.data.manifest import read_manifest
from medidiff.inference.tuned import load_tuned
from medidiff.metrics.companions import limit_gain_db
from medidiff.metrics.tissue import TISSUES_HU

PIPELINES = Path(__file__).parents[1] / "pipelines"
PARTS = ("truth", "noisy", "noise-free", "resolution", "worst")
QUICK = PARTS[:3]
DECIDING = ("smooth", "sharp")
BELOW_PERCENT, BIAS_HU, ATTAINED_PERCENT, WITHIN_DB = 15.0, 1.0, 70.0, 0.1
QUIET_HU, KEPT, AUC_LOST = 1.0, 0.9, 0.02
NOISY_DOSES = (0.25, 0.1)
QUICK_DOSES = (0.25,)
STRENGTHS = tuple(range(60, 101, 4))


@dataclass(frozen=True, eq=False)
class Scores:
    """Rows of every method, by group, method and patient."""

    rows: dict[tuple[str, str, str], list[Row]]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(group for group, _, _ in self.rows))

    def per_patient(self, group: str, method: str, figure: Any) -> dict[str, float]:
        """Patient -> mean over slices of a figure (row -> number or None)."""
        found = {}
        for (g, m, patient), rows in self.rows.items():
            values = [value for value in map(figure, rows) if value is not None] if (g, m) == (group, method) else []
            if values:
                found[patient] = float(np.mean(values))
        return found

    def mean(self, group: str, method: str, figure: Any) -> float:
        return float(np.mean(list(self.per_patient(group, method, figure).values())))


def collect(trials: Iterator[Trial], methods: Sequence[Answers], notebook: Notebook) -> Scores:
    """Every method on every trial."""
    rows: dict[tuple[str, str, str], list[Row]] = {}
    for trial in trials:
        for method in methods:
            row = notebook.row(trial, method.key(trial), lambda m=method, t=trial: m.answer(t))
            rows.setdefault((trial.group, method.name, trial.patient), []).append(row)
    return Scores(rows)


def decides(group: str) -> bool:
    return group.split()[0] in (*DECIDING, MEASURED)


# ---------------------------------------------------------------- truth


def against_truth(scores: Scores, model: Network, others: Sequence[Network], report: Report) -> None:
    """RMSE over the slice and inside the patient, SSIM and bias."""
    names = [INPUT, *CLASSICAL, *(other.name for other in others), model.name]
    for region in ("truth", "truth_body"):
        print(f"\nRMSE, HU, {'whole slice' if region == 'truth' else 'inside the patient'}: mean over patients")
        print("group".ljust(15) + "".join(n.rjust(10) for n in names) + "   below best   worst patient")
        found = [_rmse_line(scores, group, region, names, report) for group in scores.groups]
        below = [percent for group, percent in zip(scores.groups, found, strict=True) if decides(group)]
        worst = int(np.argmin(below))
        what = "RMSE below best classical, " + ("slice" if region == "truth" else "body")
        groups = [g for g in scores.groups if decides(g)]
        report.bar(what, below[worst], BELOW_PERCENT, "%", at_most=False, where=f"worst group {groups[worst]}")
        report.bar(f"{what}, mean", float(np.mean(below)), BELOW_PERCENT, "%", at_most=False, where="mean of groups")
    _others(scores, model, others, report)
    _similarity(scores, names, report)
    _bias(scores, model, report)


def _rmse_line(scores: Scores, group: str, region: str, names: Sequence[str], report: Report) -> float:
    """Print a group; percent below the best classical method."""
    patients = {n: scores.per_patient(group, n, lambda row: rmse(row[region])) for n in names}
    means = {n: float(np.mean(list(values.values()))) for n, values in patients.items()}
    best = min(CLASSICAL, key=lambda n: means[n])
    ours = patients[names[-1]]
    below = 100 * (1 - means[names[-1]] / means[best])
    each = {patient: 100 * (1 - value / patients[best][patient]) for patient, value in ours.items()}
    worst = min(each, key=lambda patient: each[patient])
    figures = "".join(f"{means[n]:10.2f}" for n in names)
    print(f"{group:15}{figures}   {below:6.1f} % ({best})  {each[worst]:6.1f} % {worst}")
    report.figures.setdefault(region, {})[group] = {
        "rmse": means,
        "below_best_percent": below,
        "best": best,
        "patients": len(ours),
        "per_patient_percent": each,
    }
    return below


def _others(scores: Scores, model: Network, others: Sequence[Network], report: Report) -> None:
    """Bars against further networks: a plain one is to be beaten, one of the same backbone to be reached."""
    for other in others:
        lag = {
            g: 20 * np.log10(_mean_rmse(scores, g, model.name) / _mean_rmse(scores, g, other.name))
            for g in scores.groups
            if decides(g)
        }
        worst = max(lag, key=lambda g: lag[g])
        limit, what = (0.0, "below") if other.is_plain else (WITHIN_DB, "within 0.1 dB of")
        report.bar(f"RMSE {what} {other.name}", float(lag[worst]), limit, "dB", at_most=True, where=f"worst {worst}")
        mean = float(np.mean(list(lag.values())))
        report.bar(f"RMSE {what} {other.name}, mean", mean, limit, "dB", at_most=True, where="mean of groups")


def _mean_rmse(scores: Scores, group: str, name: str) -> float:
    return scores.mean(group, name, lambda row: rmse(row["truth"]))


def _similarity(scores: Scores, names: Sequence[str], report: Report) -> None:
    for preset in SSIM_PRESETS:
        print(f"\nSSIM, preset {preset}, whole slice")
        print("group".ljust(15) + "".join(n.rjust(10) for n in names))
        margin = {}
        for group in scores.groups:
            means = {n: scores.mean(group, n, lambda row, p=preset: row[f"ssim_{p}"]) for n in names}
            print(f"{group:15}" + "".join(f"{means[n]:10.4f}" for n in names))
            margin[group] = means[names[-1]] - max(means[n] for n in names[:-1])
            report.figures.setdefault(f"ssim_{preset}", {})[group] = means
        deciding = [g for g in margin if decides(g)]
        worst = min(deciding, key=lambda g: margin[g])
        report.bar(f"SSIM {preset} above all", margin[worst], 0.0, "", at_most=False, where=f"worst {worst}")


def _bias(scores: Scores, model: Network, report: Report) -> None:
    print("\nHU bias: mean over patients (worst patient) [input's own mean, which is chance]")
    print("group".ljust(15) + "".join(t.rjust(22) for t in TISSUES_HU))
    extremes: dict[str, tuple[float, str]] = {}
    for group in scores.groups:
        cells = []
        for tissue in TISSUES_HU:
            found = scores.per_patient(group, model.name, lambda row, t=tissue: row["bias"].get(t))
            chance = scores.per_patient(group, INPUT, lambda row, t=tissue: row["bias"].get(t))
            mean, worst = float(np.mean(list(found.values()))), max(found.values(), key=abs)
            cells.append(f"{mean:8.2f} ({worst:6.2f}) [{np.mean(list(chance.values())):5.2f}]")
            report.figures.setdefault("bias", {}).setdefault(group, {})[tissue] = {"mean": mean, "worst": worst}
            if decides(group) and abs(mean) > abs(extremes.get(tissue, (0.0, ""))[0]):
                extremes[tissue] = (mean, group)
        print(f"{group:15}" + "".join(cell.rjust(22) for cell in cells))
    for tissue, (mean, group) in extremes.items():
        report.bar(f"|HU bias| {tissue}", abs(mean), BIAS_HU, "HU", at_most=True, where=f"{mean:+.2f} in {group}")


def card_rows(scores: Scores, model: Network) -> list[dict[str, Any]]:
    """The table of a model card: means over patients, worst patient, worst bias of a patient."""
    rows = []
    for group in scores.groups:
        kernel, dose = group.split()
        before, after, body_before, body_after = (
            scores.per_patient(group, name, lambda row, r=region: rmse(row[r]))
            for region in ("truth", "truth_body")
            for name in (INPUT, model.name)
        )
        gains = [100 * (1 - after[p] / before[p]) for p in after]
        biases = {t: scores.per_patient(group, model.name, lambda row, t=t: row["bias"].get(t)) for t in TISSUES_HU}
        rows.append(
            {
                "kernel": kernel,
                "dose": float(dose),
                "patients": len(after),
                "rmse_before": round(_mean(before), 2),
                "rmse_best_classical": round(min(_mean_rmse(scores, group, name) for name in CLASSICAL), 2),
                "rmse_after": round(_mean(after), 2),
                "gain_percent": round(float(np.mean(gains)), 1),
                "worst_percent": round(min(gains), 1),
                "body_percent": round(float(np.mean([100 * (1 - body_after[p] / body_before[p]) for p in after])), 1),
                "bias": {t: round(max(each.values(), key=abs), 2) for t, each in biases.items() if each},
            }
        )
    return rows


def _mean(patients: dict[str, float]) -> float:
    return float(np.mean(list(patients.values())))


# ---------------------------------------------------------------- noisy full dose


def against_noisy(
    scores: Scores, measured: Scores, model: Network, others: Sequence[Network], strength: float | None, report: Report
) -> None:
    """Gain at one strength for all groups, in percent of the attainable gain."""
    both = Scores(scores.rows | measured.rows)
    groups = [g for g in both.groups if float(g.split()[1]) in NOISY_DOSES]
    deciding = [g for g in groups if decides(g)]
    names = [model.name, *(o.name for o in others), *CLASSICAL]
    curves = {n: {s: [_attained(both, g, n, s) for g in deciding] for s in STRENGTHS} for n in names}
    print(f"\nGain against the noisy full dose, percent of the attainable, inside the patient: {', '.join(deciding)}")
    for s, values in curves[model.name].items():
        print(f"  strength {s:3}: worst {min(values):5.1f}  mean {np.mean(values):5.1f}  each", _numbers(values))
    best = {n: max(curve, key=lambda s: min(curve[s])) for n, curve in curves.items()}
    chosen = best | ({model.name: strength} if strength is not None else {})
    print(f"\n{'dB (percent)':15}" + "".join(f"{n} @{chosen[n]:g}".rjust(18) for n in names) + "    attainable")
    for group in groups:
        cells = [
            f"{_gain(both, group, n, chosen[n]):7.2f} ({_attained(both, group, n, chosen[n]):5.1f})" for n in names
        ]
        print(f"{group:15}" + "".join(c.rjust(18) for c in cells) + f"{_limit(group):10.2f}")
    attained = {g: _attained(both, g, model.name, chosen[model.name]) for g in deciding}
    whole = {g: _attained(both, g, model.name, chosen[model.name], "full") for g in deciding if MEASURED not in g}
    report.figures["noisy"] = {"strength": chosen, "body_percent": attained, "slice_percent": whole, "curve": curves}
    simulated, real = ({g: v for g, v in attained.items() if (MEASURED in g) == is_real} for is_real in (False, True))
    parts = {"body": simulated, "slice": whole, "measured series": real}
    for what, values in ((what, values) for what, values in parts.items() if values):
        worst = min(values, key=lambda g: values[g])
        name = f"gain against noisy full dose, {what}, strength {chosen[model.name]:g}"
        report.bar(name, values[worst], ATTAINED_PERCENT, "% of attainable", at_most=False, where=f"worst {worst}")


def _limit(group: str) -> float:
    return limit_gain_db(float(group.split()[1]), "shared")


def _gain(scores: Scores, group: str, method: str, strength: float, region: str = "full_body") -> float:
    return scores.mean(group, method, lambda row: gain_db(row[region], 1 - strength / 100))


def _attained(scores: Scores, group: str, method: str, strength: float, region: str = "full_body") -> float:
    return 100 * _gain(scores, group, method, strength, region) / _limit(group)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:5.1f}" for v in values)


# ---------------------------------------------------------------- almost no noise, phantoms, worst patches


def noise_free(
    trials: Iterator[Trial], kernels: Sequence[str], model: Network, notebook: Notebook, report: Report
) -> None:
    """RMS change of noise-free slices and phantoms."""
    print("\nRMS change of a noise-free input, HU: slices, mean over patients (worst); phantoms")
    patients: dict[str, dict[str, list[float]]] = {kernel: {} for kernel in kernels}
    for trial in trials:
        assert trial.truth is not None
        row = notebook.get(f"quiet {trial.key}", model.identity, lambda t=trial.truth: {"rms": task.change(model, t)})
        patients[trial.kernel].setdefault(trial.patient, []).append(row["rms"])
    changes = {}
    for kernel, each in patients.items():
        means = [float(np.mean(values)) for values in each.values()]
        phantoms = task.quiet_phantoms(kernel, model, notebook)
        shown = "  ".join(f"{kind} {value:.2f}" for kind, value in phantoms.items())
        print(f"{kernel:15}{np.mean(means):6.2f} ({max(means):.2f})   {shown}")
        report.figures.setdefault("noise_free", {})[kernel] = {"mean": np.mean(means), "worst": max(means), **phantoms}
        if kernel in DECIDING:
            changes |= {f"slices {kernel}": float(np.mean(means))}
            changes |= {f"phantom {kind} {kernel}": value for kind, value in phantoms.items()}
    where = max(changes, key=lambda name: changes[name])
    report.bar("change of a noise-free input", changes[where], QUIET_HU, "HU RMS", at_most=True, where=where)


def resolution(
    kernels: Sequence[str], doses: Sequence[float], model: Network, store: Store, notebook: Notebook, report: Report
) -> None:
    """Edges and faint signals in phantoms."""
    groups = [(kernel, dose) for kernel in kernels for dose in doses]
    kept, lost = {}, {}
    for kernel, dose in groups:
        print(f"\nEdges, {kernel} {dose:g}: CNR in the input, share of TTF kept at the input's f50, ratio of f50")
        found = task.edges(kernel, dose, model, store, notebook)
        for rod, row in found.items():
            judged = row["cnr"] >= task.LEAST_CNR
            note = "" if judged else "   (CNR < 3)"
            print(f"  {rod:14}{row['cnr']:6.1f}{row['kept']:8.2f}{row['f50_ratio']:8.2f}{note}")
            kept |= {f"{rod}, {kernel} {dose:g}": row["kept"]} if judged else {}
        print(f"Signals, {kernel} {dose:g}: AUC in the input, in the answer, difference")
        before = task.detection(kernel, dose, None, store, notebook)
        after = task.detection(kernel, dose, model, store, notebook)
        for signal, row in before.items():
            gain = after[signal]["CHO AUC"] - row["CHO AUC"]
            print(f"  {signal:18}{row['CHO AUC']:8.3f}{after[signal]['CHO AUC']:8.3f}{gain:+8.3f}")
            lost[f"{signal}, {kernel} {dose:g}"] = -gain
        report.figures.setdefault("resolution", {})[f"{kernel} {dose:g}"] = {
            "edges": found,
            "input": before,
            "auc": after,
        }
    where = min(kept, key=lambda name: kept[name])
    report.bar("TTF kept at the input's f50, CNR >= 3", kept[where], KEPT, "", at_most=False, where=where)
    where = max(lost, key=lambda name: lost[name])
    report.bar("AUC lost", lost[where], AUC_LOST, "", at_most=True, where=where)
    report.bar(
        "AUC lost, mean", float(np.mean(list(lost.values()))), AUC_LOST, "", at_most=True, where="mean of signals"
    )


# ---------------------------------------------------------------- the run


def main() -> None:
    options = parse()
    report = Report()
    store, notebook = Store(options.cache / "trials"), Notebook(options.cache / "rows.jsonl")
    model = Network.of(options.model, "model", options.device)
    others = [Network.of(file, Path(file).stem[:9], options.device) for file in options.against]
    tuned = load_tuned(options.tuned)
    methods: list[Answers] = [Scan(), *(Filter(name, tuned[name]) for name in CLASSICAL), *others, model]
    pairs = [pair for pair in read_manifest(options.manifest, options.data) if pair.split == options.split]
    print(f"model {model.model.card.name} {model.model.sha256[:12]}, split {options.split}. {DISCLAIMER.capitalize()}.")

    def trials(doses: Sequence[float] = options.doses) -> Iterator[Trial]:
        for pair in pairs:
            yield from pseudo_clean_trials(pair, store, options.slices, options.kernels, doses)

    if {"truth", "noisy"} & set(options.parts):
        scores = collect(trials(), methods, notebook)
    if "truth" in options.parts:
        against_truth(scores, model, others, report)
        report.figures["rows"] = card_rows(scores, model)
    if "noisy" in options.parts:
        real = (t for pair in pairs for t in measured_trials(pair, store, options.measured_slices, NOISY_DOSES))
        against_noisy(scores, collect(real, methods, notebook), model, others, options.strength, report)
    if "noise-free" in options.parts:
        noise_free(trials(options.doses[:1]), options.kernels, model, notebook, report)
    if "resolution" in options.parts:
        doses = options.doses if options.full else QUICK_DOSES
        resolution(options.kernels, doses, model, store, notebook, report)
    if "worst" in options.parts:
        found = worst_patches.find(list(trials()), model, notebook)
        report.figures["worst_patches"] = worst_patches.figure(found, model, options.figure)
        print(f"\nWorst patches: {options.figure}")
        for place in report.figures["worst_patches"]:
            print(" ", ", ".join(f"{name} {value}" for name, value in place.items()))
    print()
    report.verdicts()
    if options.json:
        identity = {"model": model.model.sha256, "split": options.split, "slices": options.slices}
        text = json.dumps({**identity, "bars": report.bars, **report.figures}, indent=1)
        options.json.write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="root of the manifest's paths")
    parser.add_argument("--manifest", type=Path, default=PIPELINES / "train_ct.csv")
    parser.add_argument("--model", default="ct", help="embedded model or file")
    parser.add_argument("--against", nargs="*", default=[], help="further models or files")
    parser.add_argument("--tuned", type=Path, default=PIPELINES / "tuned_ct.yaml", help="strengths of the filters")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--slices", type=int, default=1, help="of a scan")
    parser.add_argument("--measured-slices", type=int, default=3, help="of a measured series")
    parser.add_argument("--kernels", nargs="+", default=list(DECIDING), help="smoothest too, which does not decide")
    parser.add_argument("--doses", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument(
        "--strength", type=float, help="of the model in `noisy`; default: the best, to be found on tune"
    )
    parser.add_argument("--parts", nargs="+", default=list(QUICK), choices=PARTS)
    parser.add_argument("--full", action="store_true", help="resolution at every dose, not at a quarter only")
    parser.add_argument("--figure", type=Path, default=Path("docs") / "images" / "worst_patches.png")
    parser.add_argument("--cache", type=Path, default=Path("runs") / "bars")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
