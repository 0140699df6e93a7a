"""What the tables say, in sentences that may be pasted: never a p-value without n, never more than n allows.

A difference is claimed where the p of the declared family, adjusted by Holm, is at most alpha. Where even the most
extreme data of n patients could not reach that, the sentence says so instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medidiff.statistics.paired import EXACT_N
from medidiff.statistics.settings import BETTER, CELL, StatisticsSettings

if TYPE_CHECKING:
    import pandas as pd

Line = Mapping[str, Any]
LONE_TOLD = 6  # comparisons of a single patient that have a sentence each


def say(summary: pd.DataFrame, lines: Sequence[Line], baseline: str, settings: StatisticsSettings) -> list[str]:
    """How it was done, what cannot be concluded, then one sentence a comparison of the primary outcomes."""
    primary = [line for line in lines if line["primary"]]
    sentences = [
        "The patient is the unit: the cases of a patient at one dose and in one group are averaged first, "
        "and doses and groups are never pooled.",
        f"Intervals of means are BCa bootstrap intervals ({_percent(settings.confidence)}, {settings.resamples} "
        "resamples); with few patients they are too narrow: those of 95 % hold the truth in about 80 % of studies with "
        "4 patients, 89 % with 8, 92 % with 15.",
    ]
    if not primary:
        wanted = ", ".join(outcome.metric for outcome in settings.primary) or "none"
        return [*sentences, f"No comparison is of a primary outcome ({wanted}): all comparisons are exploratory."]
    return [*sentences, *_family(primary, baseline, settings), *_gaps(summary, settings), *_claims(primary, settings)]


def _claims(primary: Sequence[Line], settings: StatisticsSettings) -> list[str]:
    """A sentence a comparison; many that rest on one patient or phantom each are told in one."""
    lone = [line for line in primary if line["n"] == 1]
    if len(lone) <= LONE_TOLD:
        return [sentence(line, settings) for line in primary]
    told = (
        f"{len(lone)} comparisons rest on one patient or phantom each; one allows no test and no interval, so their "
        "differences are only in the tables."
    )
    return [sentence(line, settings) for line in primary if line["n"] > 1] + [told]


def sentence(line: Line, settings: StatisticsSettings) -> str:
    """One comparison in one sentence."""
    where, n = _stratum(line), int(line["n"])
    if n == 1:
        return f"{where}{_measured(line)} in the one patient or phantom there is; one allows no test and no interval."
    figures = _figures(line, settings)
    if line["smallest_p"] > settings.alpha:
        return (
            f"{where}{_measured(line)} ({figures}); n = {n} is too small to conclude: the smallest possible "
            f"two-sided p of an exact sign-flip test is 2/2^{n} = {_number(line['smallest_p'])}, so no result can be "
            "significant."
        )
    adjusted = line["p_holm"] if line["family"] else line["p"]
    if adjusted <= settings.alpha:
        return f"{where}{_measured(line)} ({figures})."
    return f"{where}no difference was shown: {_measured(line)} ({figures}); this does not show that they are equal."


def _family(primary: Sequence[Line], baseline: str, settings: StatisticsSettings) -> list[str]:
    """What is corrected for what, and whether the number of patients allows any result at all."""
    outcomes = ", ".join(dict.fromkeys(_outcome(line) for line in primary))
    methods = ", ".join(dict.fromkeys(line["method"] for line in primary))
    strata = len({(str(line["dose"]), line["group"], line["reference_noise"]) for line in primary})
    family = [line for line in primary if line["family"]]
    m, n, least = (
        len(family),
        int(max(line["n"] for line in primary)),
        min((line["smallest_p"] for line in family), default=1),
    )
    told = [
        f"Primary comparisons: {outcomes} of {methods} against {baseline} in {_many(strata, 'stratum', 'strata')} of "
        f"dose and group, by two-sided paired sign-flip tests (exact up to {EXACT_N} patients) at alpha = "
        f"{settings.alpha:g}; {_corrected(m)}; every other comparison is exploratory."
    ]
    if m > 1 and least <= settings.alpha < m * least:
        told.append(
            f"With {m} comparisons and at most n = {n} patients no adjusted p "
            f"can be below {m} x {_number(least)} = {_number(min(1, m * least))}: no result can be significant after "
            "the correction; declare fewer primary outcomes or add patients."
        )
    return told


def _corrected(m: int) -> str:
    """Over what Holm's correction is, of the `m` comparisons that can be significant."""
    if m == 0:
        return "none has patients enough to be significant at all, so there is nothing to correct for"
    are = "comparison that has" if m == 1 else f"{m} comparisons that have"
    return f"Holm's correction is over the family of the {are} patients enough to be significant at all"


def _gaps(summary: pd.DataFrame, settings: StatisticsSettings) -> list[str]:
    """Methods that lack cases that others have: their comparisons leave out the same cases of the baseline."""
    lost = summary.groupby(list(CELL), dropna=False)["cases"].transform("max") - summary["cases"]
    lacking = summary.assign(lost=lost)[lost > 0].to_dict("records")
    return [
        f"{_stratum(line)}{_outcome(line)} of {line['method']} lacks {_many(int(line['lost']), 'case')} that another "
        "method has; comparisons use the cases that both methods have."
        for line in lacking
        if any(outcome.names(line) for outcome in settings.primary)
    ]


def _measured(line: Line) -> str:
    """`RMSE (hu) of a is lower than that of b by 3.1 HU`."""
    ours, theirs, unit = line["method"], line["baseline"], _unit(line["unit"])
    difference = line["difference"]
    name = _named(line["metric"] if isinstance(BETTER[line["metric"]], str) else _distance(line), line)
    if difference == 0:
        return f"{name} of {ours} equals that of {theirs}"
    way = "lower" if difference < 0 else "higher"
    return f"{name} of {ours} is {way} than that of {theirs} by {_number(abs(difference))}{unit}"


def _distance(line: Line) -> str:
    best = BETTER[line["metric"]]
    return f"|{line['metric']}|" if best == 0 else f"|{line['metric']} - {best:g}|"


def _figures(line: Line, settings: StatisticsSettings) -> str:
    """Interval of the size of the difference, n, p; the interval has the sign of the words before it."""
    low, high = (line["low"], line["high"]) if line["difference"] >= 0 else (-line["high"], -line["low"])
    told = [
        f"{_percent(settings.confidence)} interval {_number(low)} to {_number(high)}{_unit(line['unit'])}",
        f"n = {int(line['n'])} patients",
        _p("p", line["p"]),
    ]
    if line["family"]:
        told.append(_p("Holm p", line["p_holm"]))
    elif not line["primary"]:
        told.append("exploratory, not adjusted")
    return ", ".join(told)


def _outcome(line: Line) -> str:
    return _named(line["metric"], line)


def _named(name: str, line: Line) -> str:
    """`RMSE (hu, region lung)`."""
    place = [line["preset"]] * bool(line["preset"]) + [f"region {line['region']}"] * (line["region"] != "all")
    return name + (f" ({', '.join(place)})" if place else "")


def _stratum(line: Line) -> str:
    """`Dose 25 %, group B40f: `, or nothing where there is neither."""
    told = [] if math.isnan(line["dose"]) else [f"dose {_percent(line['dose'])}"]
    told += [f"group {line['group']}"] if line["group"] else []
    words = ", ".join(told)
    return f"{words[0].upper()}{words[1:]}: " if told else ""


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _unit(unit: str) -> str:
    return "" if unit in ("", "1") else f" {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _p(name: str, value: float) -> str:
    return f"{name} < 0.001" if value < 0.001 else f"{name} = {round(value, 3):g}"


def _number(value: float) -> str:
    """Three digits, never in powers of ten where plain digits do."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits}f}" if 0 <= digits <= 6 else f"{value:.0f}" if digits < 0 else f"{value:.3g}"
