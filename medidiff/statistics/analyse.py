"""From one number a case to what may be said of methods: the patient is the unit.

A cell is one (metric, preset, region, unit) in one stratum (dose, group, kind of reference); strata are never pooled.
Within a cell the cases of a patient are averaged first.

    summary      a line a cell and method: patients, mean, median, sd, bootstrap interval of the mean
    comparisons  a line a cell and method, against the baseline, over the cases that both have: difference, interval,
                 tests, effect sizes; only metrics whose better direction is declared in BETTER are tested
    agreement    Bland-Altman and ICC of each method with the baseline; where a metric is an error against the
                 reference (its best value is 0) also the limits of agreement with the reference itself

Where the best value is a number t, |value - t| is compared. Holm's correction is over one family: all comparisons of
the primary outcomes, in all strata, but for those that no data of their few patients could make significant: they
cannot err, so they need not count (Tarone 1990, Biometrics 46:515). Others are exploratory and have no adjusted p.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import UsageError
from medidiff.statistics.agreement import BlandAltman, Estimate, bland_altman, icc
from medidiff.statistics.intervals import intervals
from medidiff.statistics.paired import hedges_g, holm, rank_biserial, sign_flip, smallest_p, wilcoxon
from medidiff.statistics.sentences import say, sentence
from medidiff.statistics.settings import BETTER, CELL, StatisticsSettings

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Three tables, and what they say in plain sentences."""

    summary: pd.DataFrame
    comparisons: pd.DataFrame
    agreement: pd.DataFrame
    sentences: list[str]


@dataclass(frozen=True, eq=False)
class Pair:
    """One method beside the baseline in one cell: values (n,) of the patients that have both."""

    facts: Line
    method: str
    cases: int
    ours: Array
    theirs: Array

    @property
    def differences(self) -> Array:
        """(n,) of what is compared: the values, or their distances from the best value."""
        best = BETTER[self.facts["metric"]]
        if isinstance(best, str):
            return self.ours - self.theirs
        return np.abs(self.ours - best) - np.abs(self.theirs - best)


def analyse(table: pd.DataFrame, settings: StatisticsSettings, baseline: str) -> Analysis:
    """Statistics of a table with the columns of a row and the facts of its case; every other method against `baseline`.

    Raises UsageError where no row is of the baseline.
    """
    methods = sorted(set(table["method"]))
    if baseline not in methods:
        raise UsageError(f"baseline: no result is of '{baseline}'; choose from {', '.join(methods)}")
    table = table.assign(cell=table.groupby(list(CELL), dropna=False, sort=True).ngroup())
    facts = table.drop_duplicates("cell").sort_values("cell")[list(CELL)].to_dict("records")
    pairs = list(_pairs(table, facts, baseline))
    summary, comparisons = _summary(table, facts, settings), _comparisons(pairs, baseline, settings)
    agreement = _agreement(table, facts, pairs, baseline, settings)
    lines = comparisons.to_dict("records")
    comparisons["sentence"] = [sentence(line, settings) for line in lines]
    return Analysis(summary, comparisons, agreement, say(summary, lines, baseline, settings))


def _summary(table: pd.DataFrame, facts: list[Line], settings: StatisticsSettings) -> pd.DataFrame:
    import pandas as pd

    known = table[table["value"].notna()]
    patients = known.groupby(["cell", "method", "patient"])["value"].agg(["mean", "size"])
    grouped = patients.groupby(level=["cell", "method"])
    found = [(key, part["mean"].to_numpy(), int(part["size"].sum())) for key, part in grouped]
    low, high = intervals([values for _, values, _ in found], settings.confidence, settings.resamples, settings.seed)
    lines = [
        facts[cell] | {"method": method, "n": values.size, "cases": cases} | _location(values)
        for (cell, method), values, cases in found
    ]
    table = pd.DataFrame(lines, columns=SUMMARY)
    return table.assign(low=low, high=high, confidence=settings.confidence, interval="BCa bootstrap")


SUMMARY = [*CELL, "method", "n", "cases", "mean", "median", "sd", "low", "high", "confidence", "interval"]


def _location(values: Array) -> Line:
    """Equal images have infinite PSNR: the mean says so, and there is no spread."""
    spread = values.std(ddof=1) if values.size > 1 and np.isfinite(values).all() else np.nan
    return {"mean": values.mean(), "median": np.median(values), "sd": spread}


def _pairs(table: pd.DataFrame, facts: list[Line], baseline: str) -> Iterator[Pair]:
    """Every method beside the baseline in every cell; a case counts where both have a finite number."""
    finite = table[np.isfinite(table["value"])]
    wide = finite.groupby(["cell", "patient", "case", "method"])["value"].mean().unstack("method")
    for method in wide.columns.drop(baseline, errors="ignore"):
        both = wide[[method, baseline]].dropna() if baseline in wide.columns else wide.iloc[:0]
        patients = both.groupby(level=["cell", "patient"]).mean()
        counts = both.groupby(level="cell").size()
        for cell, part in patients.groupby(level="cell"):
            ours, theirs = part.to_numpy().T
            yield Pair(facts[cell], method, int(counts[cell]), ours, theirs)


def _comparisons(pairs: list[Pair], baseline: str, settings: StatisticsSettings) -> pd.DataFrame:
    import pandas as pd

    tested = [pair for pair in pairs if pair.facts["metric"] in BETTER]
    differences = [pair.differences for pair in tested]
    low, high = intervals(differences, settings.confidence, settings.resamples, settings.seed)
    lines = [
        pair.facts | {"method": pair.method, "baseline": baseline} | _comparison(pair, d, settings)
        for pair, d in zip(tested, differences, strict=True)
    ]
    table = pd.DataFrame(lines, columns=COMPARISON)
    table["low"], table["high"] = low, high
    family = table["primary"].to_numpy(bool) & (table["smallest_p"] <= settings.alpha).to_numpy(bool)
    table.loc[family, "p_holm"] = holm(table.loc[family, "p"].to_numpy(float))
    table["family"] = np.where(family, int(family.sum()), 0)
    return table


COMPARISON = [
    *CELL, "method", "baseline", "primary", "family", "better", "n", "cases", "mean_method", "mean_baseline",
    "difference", "low", "high", "p", "test", "p_holm", "smallest_p", "p_wilcoxon", "hedges_g", "rank_biserial",
]  # fmt: skip


def _comparison(pair: Pair, differences: Array, settings: StatisticsSettings) -> Line:
    facts, n, best = pair.facts, differences.size, BETTER[pair.facts["metric"]]
    least = smallest_p(n, settings.resamples)
    return {
        "primary": any(outcome.names(facts) for outcome in settings.primary),
        "better": best if isinstance(best, str) else f"closer to {best:g}",
        "n": n,
        "cases": pair.cases,
        "mean_method": pair.ours.mean(),
        "mean_baseline": pair.theirs.mean(),
        "difference": differences.mean(),
        "p": float(sign_flip(differences, settings.resamples, settings.seed)) if n > 1 else np.nan,
        "test": "sign flip, exact" if least == 2.0 ** (1 - n) else f"sign flip, {settings.resamples} random",
        "p_holm": np.nan,
        "smallest_p": least,
        "p_wilcoxon": wilcoxon(differences) if n > 1 else np.nan,
        "hedges_g": hedges_g(differences),
        "rank_biserial": rank_biserial(differences),
    }


def _agreement(
    table: pd.DataFrame, facts: list[Line], pairs: list[Pair], baseline: str, settings: StatisticsSettings
) -> pd.DataFrame:
    import pandas as pd

    lines = [_agrees_with_baseline(pair, baseline, settings.confidence) for pair in pairs]
    errors = table[(table["metric"].map(BETTER.get) == 0.0) & np.isfinite(table["value"])]
    patients = errors.groupby(["cell", "method", "patient"])["value"].mean()
    for (cell, method), values in patients.groupby(level=["cell", "method"]):
        limits = bland_altman(values.to_numpy(), settings.confidence)
        lines.append(facts[cell] | {"method": method, "against": "reference"} | _limits(limits))
    return pd.DataFrame(lines, columns=AGREEMENT)


AGREEMENT = [
    *CELL, "method", "against", "n", "bias", "bias_low", "bias_high", "lower", "lower_low", "lower_high",
    "upper", "upper_low", "upper_high", "icc21", "icc21_low", "icc21_high", "icc31", "icc31_low", "icc31_high",
]  # fmt: skip


def _agrees_with_baseline(pair: Pair, baseline: str, confidence: float) -> Line:
    absolute, consistent = icc(np.column_stack([pair.ours, pair.theirs]), confidence)
    return (
        pair.facts
        | {"method": pair.method, "against": baseline}
        | _limits(bland_altman(pair.ours - pair.theirs, confidence))
        | _spread("icc21", absolute)
        | _spread("icc31", consistent)
    )


def _limits(found: BlandAltman) -> Line:
    return {"n": found.n} | _spread("bias", found.bias) | _spread("lower", found.lower) | _spread("upper", found.upper)


def _spread(name: str, estimate: Estimate) -> Line:
    return {name: estimate.value, f"{name}_low": estimate.interval[0], f"{name}_high": estimate.interval[1]}
