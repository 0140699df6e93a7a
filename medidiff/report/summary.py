"""The tables of a report: the outcomes that matter first, PSNR beside what it must be read with, then everything.

"Best" is the best mean of a column within one stratum (dose, group, kind of reference): a mark for the eye, not a test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from medidiff.metrics.preset import PRESETS
from medidiff.metrics.tissue import TISSUES_HU
from medidiff.report.folder import Outcome, Results, Stratum
from medidiff.report.tables import STAR, Cell, Column, Line, Table
from medidiff.report.words import (
    NOTHING,
    decimals,
    interval,
    many,
    number,
    outcome_words,
    p_value,
    unit_words,
    with_unit,
)
from medidiff.statistics import BETTER

if TYPE_CHECKING:
    import pandas as pd

WIDEST = 6  # outcomes in the main table
TASKS = ("CHO AUC", "TTF f50", "coverage", "coverage of reference", "SUVmean bias", "COV", "noise")
COMPANIONS = ("PSNR input", "PSNR truth", "PSNR best blend", "PSNR limit", "best blend", "attainable gain")
SEEN, SHARP = ("CHO AUC", "contrast"), ("TTF f50 ratio", "NPWE d'")
REGIONS, BAR_HU, BEYOND, WIDEST_BIAS = ("all", *TISSUES_HU), 1.0, "†", 10
LONGEST = 2000  # lines of the table of everything


def tables(results: Results) -> list[Table]:
    """All tables that have a line."""
    found = [
        main_table(results), comparisons_table(results), companions_table(results), bias_table(results),
        detection_table(results), resolution_table(results), everything_table(results),
    ]  # fmt: skip
    return [table for table in found if table is not None and table.lines]


def main_outcomes(results: Results) -> list[Outcome]:
    """The declared primary outcomes, then PSNR and SSIM in the first display window, bias, and tasks."""
    found = results.outcomes(results.summary)
    primary = [o for wanted in results.settings.primary for o in found if wanted.measures(o.metric, o.preset, o.region)]
    whole = [outcome for outcome in found if outcome.region == "all"]
    usual = [_windowed([o for o in whole if o.metric == m], results) for m in ("RMSE", "PSNR", "SSIM", "bias")]
    tasks = [_hardest([o for o in found if o.metric == metric], results) for metric in TASKS]
    chosen = dict.fromkeys(o for o in (*primary, *usual, *tasks) if o is not None)
    return [*chosen][: max(WIDEST, len(primary))] or found[:WIDEST]


def _hardest(outcomes: list[Outcome], results: Results) -> Outcome | None:
    """The whole image before regions, and of these the one that all methods together do worst at.

    Not the one that looks best for anybody: what is easy for all says nothing.
    """

    def rank(outcome: Outcome) -> tuple[bool, float]:
        is_higher_better = BETTER.get(outcome.metric) == "higher"
        return outcome.region != "all", float(outcome.of(results.summary)["mean"].mean()) if is_higher_better else 0.0

    return min(outcomes, key=rank, default=None)


def _windowed(outcomes: list[Outcome], results: Results) -> Outcome | None:
    """Errors over the whole range, indices of images in a display window: what the field prints."""
    order = [*results.record.get("settings", {}).get("presets", ()), *PRESETS]

    def rank(outcome: Outcome) -> tuple[bool, int]:
        preset = PRESETS.get(outcome.preset)
        clips = preset is not None and preset.clip
        return clips != (outcome.metric in ("PSNR", "SSIM")), order.index(outcome.preset) if preset else len(order)

    return min(outcomes, key=rank, default=None)


def main_table(results: Results) -> Table | None:
    """Mean and interval of the outcomes that matter: a group a stratum, a line a method."""
    outcomes = main_outcomes(results)
    places = {o: decimals(o.of(results.summary)["mean"], o.unit) for o in outcomes}
    stratified = len(results.strata) > 1
    first = (Column("Cases", numeric=False),) if stratified else ()
    columns = (
        *first,
        Column("Method", numeric=False),
        Column("n"),
        *(Column(with_unit(o.metric, o.unit), _where(o)) for o in outcomes),
    )
    groups = [tuple(_main_lines(results, stratum, outcomes, places, stratified)) for stratum in results.strata]
    share = f"{100 * results.settings.confidence:g} %"
    return Table(
        "main",
        f"Mean over patients ({share} bootstrap interval)",
        columns,
        tuple(group for group in groups if group),
        f"{STAR} and bold: best mean of the column among the methods of one group; this is not a test. "
        "n: patients (the cases of a patient are averaged first).",
    )


def _main_lines(
    results: Results, stratum: Stratum, outcomes: list[Outcome], places: dict[Outcome, int], stratified: bool
) -> Iterator[Line]:
    table = stratum.of(results.summary)
    found = {(o, line["method"]): line for o in outcomes for line in o.of(table).to_dict("records")}
    best = {o: _best(o, {m: line["mean"] for (other, m), line in found.items() if other == o}, places[o])
            for o in outcomes}  # fmt: skip
    for k, method in enumerate(results.in_order({method for _, method in found})):
        lines = {o: found.get((o, method)) for o in outcomes}
        n = max(int(line["n"]) for line in lines.values() if line)
        cells = [_mean_cell(line, places[o], method in best[o], n) for o, line in lines.items()]
        where = (Cell(stratum.label if k == 0 else ""),) if stratified else ()
        yield (*where, Cell(method), Cell(str(n)), *cells)


def _mean_cell(line: dict[str, Any] | None, places: int, best: bool, n: int) -> Cell:
    if line is None:
        return Cell(NOTHING)
    details = [interval(line["low"], line["high"], places), f"n = {int(line['n'])}" if line["n"] != n else ""]
    mark = f" {STAR}" if best else ""
    return Cell(number(line["mean"], places) + mark, ", ".join(filter(None, details)), best)


def _best(outcome: Outcome, means: dict[str, float], places: int) -> set[str]:
    """Methods with the best mean as it is written; nobody where all are equal, or no direction is declared."""
    direction = BETTER.get(outcome.metric)
    known = {method: round(mean, places) for method, mean in means.items() if not math.isnan(mean)}
    if direction is None or len(known) < 2 or len({*known.values()}) < 2:
        return set()
    if isinstance(direction, str):
        best = (min if direction == "lower" else max)(known.values())
        return {method for method, mean in known.items() if mean == best}
    distance = {method: abs(mean - direction) for method, mean in known.items()}
    return {method for method, far in distance.items() if far == min(distance.values())}


def companions_table(results: Results) -> Table | None:
    """PSNR with the four figures that it is read beside."""
    wanted = [o for o in results.outcomes(results.summary) if o.metric in COMPANIONS and o.region == "all"]
    main = {o.preset for o in main_outcomes(results) if o.metric == "PSNR"}
    wanted = [o for o in wanted if o.preset in main] or wanted
    if not wanted:
        return None
    shown = [metric for metric in ("PSNR", *COMPANIONS) if metric == "PSNR" or any(o.metric == metric for o in wanted)]
    units = {"best blend": "1", "attainable gain": "%"}
    outcomes = {p: [Outcome(m, p, "all", units.get(m, "dB")) for m in shown] for p in {o.preset: 0 for o in wanted}}
    columns = (
        Column("Cases", numeric=False),
        Column("Preset", numeric=False),
        Column("Method", numeric=False),
        *(Column(with_unit(_companion_name(metric), units.get(metric, "dB"))) for metric in shown),
    )
    groups = [
        tuple(_companion_lines(results, stratum, preset, columned))
        for stratum in results.strata
        for preset, columned in outcomes.items()
    ]
    return Table(
        "companions",
        "PSNR beside what it must be read with: means over patients",
        columns,
        tuple(group for group in groups if group),
        "Input: the scan that methods were given. Truth: what the noise-free truth itself would score against this "
        "reference. Best blend: of the result with its input, and the share of the input in it. Limit: the best "
        "conceivable estimate of this reference. Gain: share of the way from input to limit.",
    )


def _companion_name(metric: str) -> str:
    names = {"PSNR": "PSNR", "best blend": "input in best blend", "attainable gain": "attained gain"}
    return names.get(metric, metric.removeprefix("PSNR "))


def _companion_lines(results: Results, stratum: Stratum, preset: str, outcomes: list[Outcome]) -> Iterator[Line]:
    table = stratum.of(results.summary)
    means = {(o, line["method"]): line["mean"] for o in outcomes for line in o.of(table).to_dict("records")}
    beside = {method for outcome, method in means if outcome.metric != "PSNR"}
    for k, method in enumerate(results.in_order(beside)):
        cells = [_plain_number(means.get((o, method), math.nan), o.unit) for o in outcomes]
        yield Cell(stratum.label if k == 0 else ""), Cell(preset if k == 0 else ""), Cell(method), *cells


def _plain_number(value: float, unit: str) -> Cell:
    return Cell(number(value, 2 if unit in ("dB", "1") else 0))


def bias_table(results: Results) -> Table | None:
    """HU bias in each class of tissue and each region, with what is beyond the bar marked."""
    outcomes = [o for o in results.outcomes(results.summary) if o.metric == "bias" and o.unit == "HU"]
    outcomes.sort(key=lambda o: REGIONS.index(o.region) if o.region in REGIONS else len(REGIONS))
    if len(outcomes) < 2:
        return None
    shown, left_out = outcomes[:WIDEST_BIAS], len(outcomes) - WIDEST_BIAS
    columns = (Column("Cases", numeric=False), Column("Method", numeric=False), *(Column(o.region) for o in shown))
    groups = [tuple(_bias_lines(results, stratum, shown)) for stratum in results.strata]
    more = f" {many(left_out, 'further region is', 'further regions are')} in statistics.csv." if left_out > 0 else ""
    return Table(
        "bias",
        "HU bias by tissue: mean over patients of the mean of result minus reference",
        columns,
        tuple(group for group in groups if group),
        f"{BEYOND} beyond ±{BAR_HU:g} HU.{more}",
    )


def detection_table(results: Results) -> Table | None:
    """Every signal of a phantom: whether it can be detected, beside what is left of its contrast."""
    signals = {o.region for o in results.outcomes(results.summary) if o.metric == "CHO AUC"}
    outcomes = _of_regions(results, SEEN, signals)
    note = (
        "CHO AUC: of a channelised Hotelling observer, 0.5 is chance; where it is no higher than that of the input, "
        "nothing was gained for detection. Contrast: a method that takes faint signals for noise lowers it."
    )
    return _region_table(results, "detection", "Faint signals: mean over realisations", outcomes, note)


def resolution_table(results: Results) -> Table | None:
    """Every rod of a phantom: what is left of the input's resolution."""
    rods = {o.region for o in results.outcomes(results.summary) if o.metric in SHARP}
    note = (
        "TTF f50 ratio: 1 is nothing lost. NPWE d' takes for granted that a faint disc is treated as the rod is, and "
        "flatters nonlinear methods: read CHO AUC."
    )
    return _region_table(results, "resolution", "Edges of rods", _of_regions(results, SHARP, rods), note)


def _of_regions(results: Results, metrics: Iterable[str], regions: set[str]) -> list[Outcome]:
    """Outcomes of these metrics, one metric after the other, the faintest region first where names tell."""
    found = results.outcomes(results.summary)
    return [
        o
        for metric in metrics
        for o in sorted((o for o in found if o.metric == metric and o.region in regions), key=_contrast)
    ]


def _contrast(outcome: Outcome) -> float:
    contrast = re.search(r"(\d+(?:\.\d+)?) HU", outcome.region)
    return float(contrast[1]) if contrast else math.inf


def _region_table(results: Results, name: str, caption: str, outcomes: list[Outcome], note: str) -> Table | None:
    if not outcomes:
        return None
    columns = (Column("Cases", numeric=False), Column("Method", numeric=False),
               *(Column(with_unit(o.metric, o.unit), o.region) for o in outcomes))  # fmt: skip
    groups = [tuple(_region_lines(results, stratum, outcomes)) for stratum in results.strata]
    return Table(name, caption, columns, tuple(group for group in groups if group), note)


def _region_lines(results: Results, stratum: Stratum, outcomes: list[Outcome]) -> Iterator[Line]:
    table = stratum.of(results.summary)
    means = {(o, line["method"]): line["mean"] for o in outcomes for line in o.of(table).to_dict("records")}
    for k, method in enumerate(results.in_order({method for _, method in means})):
        cells = [_plain_number(means.get((o, method), math.nan), "1") for o in outcomes]
        yield Cell(stratum.label if k == 0 else ""), Cell(method), *cells


def _bias_lines(results: Results, stratum: Stratum, outcomes: list[Outcome]) -> Iterator[Line]:
    table = stratum.of(results.summary)
    found = {(o, line["method"]): line for o in outcomes for line in o.of(table).to_dict("records")}
    for k, method in enumerate(results.in_order({method for _, method in found})):
        cells = [_bias_cell(found.get((o, method))) for o in outcomes]
        yield Cell(stratum.label if k == 0 else ""), Cell(method), *cells


def _bias_cell(line: dict[str, Any] | None) -> Cell:
    if line is None:
        return Cell(NOTHING)
    mark = f" {BEYOND}" if abs(line["mean"]) > BAR_HU else ""
    return Cell(number(line["mean"], 2) + mark, interval(line["low"], line["high"], 2))


def comparisons_table(results: Results) -> Table | None:
    """Every comparison of a primary outcome with the baseline."""
    lines = results.comparisons[results.comparisons["primary"].astype(bool)]
    if lines.empty:
        return None
    columns = (
        Column("Cases", numeric=False), Column("Outcome", numeric=False), Column("Method", numeric=False), Column("n"),
        Column("Difference", f"{100 * results.settings.confidence:g} % interval"), Column("p"), Column("Holm p"),
        Column("Hedges g"),
    )  # fmt: skip
    groups = [tuple(map(_compared, by_study(results, stratum.of(lines)), _repeat(stratum))) for stratum in
              results.strata]  # fmt: skip
    return Table(
        "comparisons",
        f"Primary outcomes against {results.baseline}: difference of means over the patients that both have",
        columns,
        tuple(group for group in groups if group),
        "Two-sided paired sign-flip tests, Holm's correction over the family of primary comparisons; "
        f"alpha = {results.settings.alpha:g}. Where the best value is a number, distances from it are compared. "
        "A dash: not in the family, or too few patients.",
    )


def by_study(results: Results, lines: pd.DataFrame) -> list[dict[str, Any]]:
    """An outcome after the other, methods in the order of the study."""
    order = [*dict.fromkeys(zip(lines["metric"], lines["preset"], lines["region"], strict=True))]
    return sorted(
        lines.to_dict("records"),
        key=lambda line: (order.index((line["metric"], line["preset"], line["region"])),
                          results.methods.index(line["method"])),
    )  # fmt: skip


def _repeat(stratum: Stratum) -> Iterator[str]:
    yield stratum.label
    while True:
        yield ""


def _compared(line: dict[str, Any], where: str) -> Line:
    places = decimals([line["difference"], line["low"], line["high"]], line["unit"])
    difference = f"{number(line['difference'], places)} {unit_words(line['unit'])}".strip()
    return (
        Cell(where),
        Cell(outcome_words(line["metric"], line["preset"], line["region"])),
        Cell(line["method"]),
        Cell(str(int(line["n"]))),
        Cell(difference, interval(line["low"], line["high"], places)),
        Cell(p_value(line["p"])),
        Cell(p_value(line["p_holm"])),
        Cell(number(line["hedges_g"], 2)),
    )


def everything_table(results: Results) -> Table | None:
    """One line a number of statistics.csv."""
    lines = [_everything_line(results, line) for line in _ordered(results)]
    over = len(lines) - LONGEST
    note = f"{many(over, 'further line is', 'further lines are')} in statistics.csv." if over > 0 else ""
    columns = (
        Column("Cases", numeric=False), Column("Metric", numeric=False), Column("Preset", numeric=False),
        Column("Region", numeric=False), Column("Method", numeric=False), Column("n"), Column("Mean"),
        Column("Interval", f"{100 * results.settings.confidence:g} %"), Column("Median"), Column("SD"),
        Column("Unit", numeric=False),
    )  # fmt: skip
    return Table("everything", "Every metric of every method", columns, (tuple(lines[:LONGEST]),), note)


def _ordered(results: Results) -> Iterable[tuple[Stratum, dict[str, Any]]]:
    rank = {method: k for k, method in enumerate(results.methods)}
    for stratum in results.strata:
        table = stratum.of(results.summary)
        for line in sorted(
            table.to_dict("records"),
            key=lambda line: (line["metric"], line["preset"], line["region"] != "all", line["region"],
                              rank[line["method"]]),
        ):  # fmt: skip
            yield stratum, line


def _everything_line(results: Results, item: tuple[Stratum, dict[str, Any]]) -> Line:
    stratum, line = item
    places = decimals([line["mean"], line["low"], line["high"]], line["unit"])
    texts = (
        stratum.label, line["metric"], line["preset"] or NOTHING, line["region"], line["method"], str(int(line["n"])),
        number(line["mean"], places), interval(line["low"], line["high"], places) or NOTHING,
        number(line["median"], places), number(line["sd"], places), unit_words(line["unit"]) or NOTHING,
    )  # fmt: skip
    return tuple(map(Cell, texts))


def _where(outcome: Outcome) -> str:
    return ", ".join([outcome.preset] * bool(outcome.preset) + [outcome.region] * (outcome.region != "all"))
