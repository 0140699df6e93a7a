"""The methods paragraph of a paper, from the record of the study alone: what is not recorded is not claimed.

Plain text in short paragraphs, each setting by name; the last one repeats all settings as they were run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from medidiff import DISCLAIMER, __version__
from medidiff.baselines.registry import BASELINES
from medidiff.metrics.preset import LDCT_BENCHMARK, PRESETS, Preset
from medidiff.report.folder import Results
from medidiff.report.words import leaves, listed, many
from medidiff.statistics import BETTER
from medidiff.statistics.paired import EXACT_N

METRICS = {
    "RMSE": "root mean squared error over all voxels",
    "NRMSE": "RMSE as a fraction of the declared range",
    "PSNR": "peak signal-to-noise ratio, mean over slices",
    "SSIM": "structural similarity (Wang et al. 2004; Gaussian window of 11 x 11 pixels, sigma 1.5, K1 0.01, K2 0.03), "
    "mean over slices",
    "MS-SSIM": "multi-scale structural similarity, mean over slices",
    "VIF": "visual information fidelity, mean over slices",
    "GMSD": "gradient magnitude similarity deviation, mean over slices",
    "HaarPSI": "Haar wavelet-based perceptual similarity, mean over slices",
    "bias": "mean of result minus reference over all voxels",
    "noise": "standard deviation in uniform regions, by the noise power spectrum",
    "NPS mean": "mean frequency of the noise power spectrum",
    "NPS shift": "mean frequency of the noise power spectrum less that of the reference",
    "CNR": "contrast-to-noise ratio of inserts",
    "TTF f50": "frequency at which the task transfer function of an edge falls to a half",
    "NPWE d'": "detectability index of the non-prewhitening observer with an eye filter",
    "CHO AUC": "area under the ROC curve of a channelised Hotelling observer",
    "coverage": "share of errors inside the claimed 90 % interval",
    "coverage of reference": "share of differences from the noisy reference inside the claimed 90 % interval",
}
BESIDE = {
    "PSNR input": "the PSNR of the input",
    "PSNR truth": "that of the noise-free truth",
    "PSNR best blend": "that of the best blend of result and input",
    "PSNR limit": "the limit that the best conceivable estimate of this reference attains",
}
KINDS = {
    "paired": "with two acquisitions",
    "simulated": "with a low dose simulated from a full dose",
    "phantom": "of a drawn phantom with known truth",
}
SIMULATION = {
    "simulated": "Low doses were simulated by noise insertion in the projection domain (Yu et al. 2012)",
    "": "Simulation",
}
LONG = 4  # values that are still told one by one
NOISES = {
    "none": "the noise-free truth",
    "shared": "the full-dose scan that the low dose was simulated from (the two share noise)",
    "independent": "an independent acquisition",
}


def paragraphs(results: Results) -> list[str]:
    """The text, ready to paste."""
    parts = (_cases(results), _simulation(results), _methods(results), _metrics(results), _statistics(results),
             _software(results), _settings(results))  # fmt: skip
    return [" ".join(sentences) for part in parts if (sentences := [*part])]


def _cases(results: Results) -> Iterator[str]:
    cases, record = results.cases, results.record
    doses = [f"{100 * dose:.6g} %" for dose in sorted({*cases["dose"].dropna()})]
    groups = [group for group in sorted({*cases["group"]}) if group]
    counted = f"{many(len(cases), 'case')} of {subjects(results)}"
    slices = [int(n) for n in cases["n_slices"] if n == n and n > 0]
    yield f"We evaluated {listed(results.methods)} on {counted}" + (
        f" ({_span(slices)} slices a case, {sum(slices)} in all)." if slices else "."
    )
    if doses:
        yield f"Doses were {listed(doses)} of the full dose."
    if groups:
        yield f"Cases were grouped as {listed(groups)}."
    for noise in sorted({*cases["reference_noise"]}):
        count = int((cases["reference_noise"] == noise).sum())
        yield f"The reference of {many(count, 'case')} was {NOISES.get(noise, noise)}."
    kinds = [_kind(record, case) for case in cases["case"]]
    told = [
        f"{many(kinds.count(kind), 'case')} {KINDS.get(kind, f'of the phantom {kind}')}"
        for kind in dict.fromkeys(kinds)
        if kind
    ]
    if told:
        yield f"By origin: {listed(told)}."


def subjects(results: Results) -> str:
    """`4 patients and 1 phantom`."""
    drawn = {case for case in results.cases["case"] if _kind(results.record, case) not in ("", "paired", "simulated")}
    is_drawn = results.cases["case"].isin(drawn)
    counts = ((~is_drawn, "patient"), (is_drawn, "phantom"))
    return listed(many(results.cases["patient"][which].nunique(), word) for which, word in counts if which.any())


def _kind(record: Mapping[str, Any], case: str) -> str:
    return str(record.get("cases", {}).get(case, {}).get("kind", ""))


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _simulation(results: Results) -> Iterator[str]:
    """How low doses were made; settings that differ from case to case are given as ranges."""
    found: dict[str, dict[str, list[str]]] = {}
    for case, extra in zip(results.cases["case"], results.cases.get("extra", ()), strict=False):
        for part, values in (json.loads(extra) if extra else {}).items():
            title = SIMULATION.get(_kind(results.record, case), "Phantom") if part == "simulation" else f"{part}s"
            for name, value in leaves(values):
                found.setdefault(title, {}).setdefault(name, []).append(value)
    for title, settings in found.items():
        if "" in settings:
            yield f"{title[0].upper()}{title[1:]}: {_spread(settings[''])}."
            continue
        told = "; ".join(f"{name} {_spread(values)}" for name, values in settings.items())
        yield f"{title}: {told}."


def _spread(values: list[str]) -> str:
    """A setting of several cases: what it is in all, the few values it has, their range, or where they are."""
    distinct = list(dict.fromkeys(values))
    if any(value.count(",") >= (LONG if len(distinct) == 1 else 1) for value in distinct):
        return f"{distinct[0].count(',') + 1} numbers a case (in cases.csv)"
    if len(distinct) <= LONG:
        return listed(distinct)
    try:
        numbers = [float(value) for value in distinct]
    except ValueError:
        return f"{len(distinct)} different ones (in cases.csv)"
    return f"{min(numbers):.4g} to {max(numbers):.4g}"


def _methods(results: Results) -> Iterator[str]:
    recorded = results.record.get("methods", {})
    for method in results.methods:
        parameters = recorded.get(method)
        if not parameters:
            yield f"The settings of {method} are not recorded."
        elif parameters.get("external"):
            rest = {key: value for key, value in parameters.items() if key != "external"}
            yield f"Results of {method} were given as files; how they were made is not recorded{_in_brackets(rest)}."
        else:
            rest = {key: value for key, value in parameters.items() if key != "tuned"}
            yield f"{method}: {_what(parameters)}{_in_brackets(rest)}."
            if source := parameters.get("tuned"):
                yield _found_in(source)
            elif tuned(parameters):
                yield (
                    f"Its smoothing is the default of medidiff {_version(results)}: "
                    "strengths found on the tune split by medidiff tune."
                )


def _found_in(source: Mapping[str, Any]) -> str:
    """Where a strength or blend that a study took from a file of `medidiff tune` comes from."""
    what, several = source["what"], " and " in source["what"]
    trials = "all trials" if source["group"] == "overall" else f"the trials {source['group']}"
    return (
        f"Its {what} {'were' if several else 'was'} found by medidiff tune on {trials} of the split {source['split']} "
        f"({source['file']}, SHA-256 {source['sha256']})."
    )


def _what(parameters: Mapping[str, Any]) -> str:
    baseline = BASELINES.get(parameters.get("method", ""))
    if baseline is None:
        return "a trained model"
    unit = f", smoothing in {baseline.unit}" if baseline.smoothing is not None else ""
    return f"{baseline.title} ({baseline.source}){unit}"


def _in_brackets(parameters: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in leaves(parameters))
    return f" ({told})" if told else ""


def _dose(dose: float | None) -> str:
    return "" if dose is None else f"{100 * dose:g} % dose"


def tuned(parameters: Mapping[str, Any]) -> bool:
    """Whether a classical method ran with the strength that our search found."""
    baseline = BASELINES.get(parameters.get("method", ""))
    return baseline is not None and baseline.smoothing is not None and parameters.get("smoothing") == baseline.smoothing


def _metrics(results: Results) -> Iterator[str]:
    found = list(dict.fromkeys(results.rows["metric"]))
    told = [f"{name}: {METRICS[name]}" for name in METRICS if name in found]
    others = [name for name in found if name not in METRICS and name not in BESIDE]
    if told:
        yield f"Metrics: {'; '.join(told)}."
    if others:
        yield f"Also measured: {listed(others)}."
    if beside := [words for name, words in BESIDE.items() if name in found]:
        yield f"PSNR is reported beside {listed(beside)}."
    presets = [name for name in dict.fromkeys(results.rows["preset"]) if name]
    if presets:
        yield f"Intensity ranges, declared and never the maximum of an image: {'; '.join(map(_range, presets))}."
    if any(name in PRESETS and PRESETS[name].conventions == LDCT_BENCHMARK for name in presets):
        yield (
            "Under ldct-benchmark presets the conventions of Eulig et al. (2024), Medical Physics 51:8776 hold: means "
            "over slices of all pixels, RMSE and VIF of HU clipped to -1024 to 1900, SSIM with a flat window of 7 x 7."
        )
    regions = [name for name in dict.fromkeys(results.rows["region"]) if name != "all"]
    if regions:
        yield f"Regions beside the whole image (all): {listed(regions)}."


def _range(name: str) -> str:
    preset: Preset | None = PRESETS.get(name)
    if preset is None:
        return name
    what = "window, values clipped to it" if preset.clip else "nothing clipped"
    return f"{name} {preset.low:g} to {preset.high:g} {preset.unit} ({what}; data range {preset.range:g} {preset.unit})"


def _statistics(results: Results) -> Iterator[str]:
    s = results.settings
    primary = listed(
        f"{o.metric} ({', '.join(filter(None, [o.preset or 'every preset', o.region, _dose(o.dose)]))})"
        for o in s.primary
    )
    yield (
        "The patient is the unit of statistics: the cases of a patient at one dose and in one group were averaged, and "
        f"doses and groups were not pooled. Intervals of means are bootstrap intervals (BCa, {s.resamples} resamples, "
        f"confidence {100 * s.confidence:g} %, seed {s.seed}). The primary outcome was {primary}."
    )
    if len(results.methods) > 1:
        yield (
            f"Every other method was compared with {results.baseline} (baseline) by two-sided paired sign-flip tests "
            f"over patients (exact up to {EXACT_N}, else {s.resamples} random flips), the Wilcoxon signed-rank test "
            f"beside them; alpha {s.alpha:g}, Holm's correction over the primary comparisons that have patients "
            "enough to be significant at all. Effect sizes are Hedges' g and the rank-biserial correlation; agreement "
            "is by Bland and Altman's limits and intraclass correlations ICC(2,1) and ICC(3,1)."
        )
        aimed = [m for m in dict.fromkeys(results.rows["metric"]) if m in BETTER and not isinstance(BETTER[m], str)]
        if aimed:
            yield f"Of {listed(aimed)} the distance from the best value was compared."


def _version(results: Results) -> str:
    return str(results.record.get("medidiff", __version__))


def _software(results: Results) -> Iterator[str]:
    record = results.record
    software = [f"{name} {version}" for name, version in leaves(record.get("software", {}))]
    yield f"Software: {listed([f'medidiff {_version(results)}', *software])}."
    if seeds := [f"{name} {value}" for name, value in leaves(record.get("seeds", {}))]:
        yield f"Seeds: {listed(seeds)}; what is drawn for a case depends on neither order nor workers."
    yield f"medidiff is for {DISCLAIMER}."


def _settings(results: Results) -> Iterator[str]:
    settings = {key: value for key, value in results.record.get("settings", {}).items() if key != "methods"}
    if settings:
        yield f"All settings as run: {'; '.join(f'{name} {value}' for name, value in leaves(settings))}."
