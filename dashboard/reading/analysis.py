"""What a reader study found, as tables: scores, differences, preferences, agreement, detection.

    reader    one reader, or ALL: the mean of the readers who have finished, whose number is fixed; cases are the sample
    interval  95 %; p two-sided; differences are of an arm less the reference, the first arm of the design

Only first readings count, but for agreement within a reader, which sets them beside the repeats. The tests of ALL in
`differences` are one family for Holm's correction; those of one reader, preferences and detection are not adjusted.

    differences  of a case: the mean over readers; BCa interval, sign-flip test, Wilcoxon's, rank-biserial correlation
    preferences  of one reader: exact binomial (Clopper and Pearson); of ALL: the share of readers, case by case, with a
                 BCa interval and the sign-flip test of share - 1/2, as readers of one case are no independent trials
    agreement    ICC(2,1), weighted kappas (medidiff.statistics.agreement), the share of equal scores; images are the
                 sample, of all arms together and of each
    detection    AUC with DeLong's interval and test; JAFROC's figure of merit over resampled cases, a mark within the
                 radius of a lesion being on it, on the nearest one where there are several
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dashboard.reading.design import Design, Images, Lesion
from dashboard.reading.record import Read, finished
from dashboard.reading.session import PREFERENCE, SCORE
from medidiff.statistics.agreement import Estimate, fleiss_kappa, icc, kappa
from medidiff.statistics.intervals import intervals
from medidiff.statistics.paired import holm, rank_biserial, sign_flip, wilcoxon
from medidiff.statistics.roc import area, curve, difference, psi, resampled

ALL, ALL_ARMS = "all readers", "all arms"  # a code name has no space
CONFIDENCE, RESAMPLES = 0.95, 10_000
Array = NDArray[np.float64]
Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Tables by what they are of; `curves` has the points of the ROC and AFROC curves of ALL."""

    scores: pd.DataFrame
    differences: pd.DataFrame
    preferences: pd.DataFrame
    agreement: pd.DataFrame
    detection: pd.DataFrame
    curves: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        return {name: table for name, table in vars(self).items() if len(table)}


def completion(items: Sequence[Read]) -> pd.DataFrame:
    """How far every reader is, and how long they took for an item, in seconds."""
    table = pd.DataFrame({"reader": one.reader, "done": one.is_done, "seconds": one.seconds} for one in items)
    if table.empty:
        return pd.DataFrame({"reader": [], "items": [], "done": [], "median_seconds": []})
    done = table[table["done"]].groupby("reader")["seconds"].median()
    counted = table.groupby("reader")["done"].agg(items="size", done="sum")
    return counted.assign(median_seconds=done).reset_index()


def analyse(design: Design, items: Sequence[Read]) -> Analysis:
    readers = sorted({item.reader for item in items})
    whole = finished(items)
    detected, curves = _detection(design, items, readers, whole)
    return Analysis(
        pd.DataFrame(_scores(design, items, readers, whole)),
        _adjusted(pd.DataFrame(_differences(design, items, readers, whole))),
        pd.DataFrame(_preferences(design, items, readers, whole)),
        pd.DataFrame([*_between(design, items, whole), *_within(design, items, readers)]),
        detected,
        curves,
    )


def _reported(readers: Sequence[str], whole: Sequence[str]) -> dict[str, Sequence[str]]:
    """Whom lines are of: those who have finished together, and everybody alone."""
    return ({ALL: whole} if whole else {}) | {reader: [reader] for reader in readers}


def _cube(design: Design, items: Sequence[Read], question: str, reader: str) -> Array:
    """(cases, arms) scores of a reader's first readings; nan where there is none."""
    rows = {case.number: k for k, case in enumerate(design.cases)}
    found = np.full((len(design.cases), len(design.arms)), np.nan)
    for item in items:
        if item.reader == reader and len(item.arms) == 1 and not item.is_repeat and question in item.answers:
            found[rows[item.case], design.arms.index(item.arms[0])] = item.answers[question]
    return found


def _mean(design: Design, items: Sequence[Read], question: str, whole: Sequence[str]) -> Array:
    return np.mean([_cube(design, items, question, reader) for reader in whole], axis=0)


def _scores(design: Design, items: Sequence[Read], readers: Sequence[str], whole: Sequence[str]) -> Iterator[Line]:
    for scale in design.scales:
        question, categories = SCORE + scale.name, range(1, len(scale.anchors) + 1)
        cubes = {reader: _cube(design, items, question, reader) for reader in readers}
        for k, arm in enumerate(design.arms):
            for reader, some in _reported(readers, whole).items():
                counted = np.concatenate([cubes[one][:, k] for one in some])
                values = np.mean([cubes[one][:, k] for one in some], axis=0)
                values = values[np.isfinite(values)]
                yield {
                    "question": scale.name, "arm": arm, "reader": reader, "cases": values.size,
                    "mean": values.mean() if values.size else math.nan,
                    "sd": values.std(ddof=1) if values.size > 1 else math.nan,
                    **{f"scored_{score}": int((counted == score).sum()) for score in categories},
                }  # fmt: skip


def _differences(
    design: Design, items: Sequence[Read], readers: Sequence[str], whole: Sequence[str]
) -> Iterator[Line]:  # fmt: skip
    reference = design.arms[0]
    for scale in design.scales:
        question = SCORE + scale.name
        for reader, some in _reported(readers, whole).items():
            cube = _mean(design, items, question, some)
            for k, arm in list(enumerate(design.arms))[1:]:
                paired = cube[:, k] - cube[:, 0]
                facts = {"question": scale.name, "arm": arm, "reference": reference, "reader": reader}
                yield facts | _paired(paired[np.isfinite(paired)], design.seed)


def _paired(differences: Array, seed: int) -> Line:
    n = differences.size
    if n == 0:
        return {"cases": 0, "difference": math.nan}
    low, high = intervals([differences], CONFIDENCE, RESAMPLES, seed)[:, 0]
    return {
        "cases": n, "difference": differences.mean(), "low": low, "high": high,
        "p": float(sign_flip(differences, RESAMPLES, seed)), "p_wilcoxon": wilcoxon(differences),
        "rank_biserial": rank_biserial(differences),
    }  # fmt: skip


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """With Holm's p of the lines of ALL."""
    if table.empty or "p" not in table:
        return table
    family = (table["reader"] == ALL) & table["p"].notna()
    table.loc[family, "p_holm"] = holm(table.loc[family, "p"].to_numpy())
    return table


def _chosen(design: Design, items: Sequence[Read], reader: str, pair: tuple[str, str], is_repeat: bool) -> Array:
    """(cases,): 1 where the first arm of a pair was preferred, 0 the second, nan where nothing was said."""
    rows = {case.number: k for k, case in enumerate(design.cases)}
    found = np.full(len(design.cases), np.nan)
    for item in items:
        if item.reader == reader and set(item.arms) == set(pair) and item.is_repeat == is_repeat and item.chosen:
            found[rows[item.case]] = item.chosen == pair[0]
    return found


def _pairs(design: Design) -> list[tuple[str, str]]:
    """Each with the later arm first: what it does better than the reference."""
    return [(b, a) for a, b in combinations(design.arms, 2)] if design.preference else []


def _preferences(
    design: Design, items: Sequence[Read], readers: Sequence[str], whole: Sequence[str]
) -> Iterator[Line]:  # fmt: skip
    for pair in _pairs(design):
        facts = {"arm": pair[0], "other": pair[1]}
        if whole:
            shares = np.mean([_chosen(design, items, reader, pair, False) for reader in whole], axis=0)
            low, high = intervals([shares], CONFIDENCE, RESAMPLES, design.seed)[:, 0]
            p = float(sign_flip(shares - 0.5, RESAMPLES, design.seed))
            yield facts | {
                "reader": ALL, "cases": shares.size, "preferred": float(shares.sum()), "share": shares.mean(),
                "low": low, "high": high, "p": p,
            }  # fmt: skip
        for reader in readers:
            found = _chosen(design, items, reader, pair, False)
            n, k = int(np.isfinite(found).sum()), int(np.nansum(found))
            if n:
                test = stats.binomtest(k, n)
                low, high = test.proportion_ci(CONFIDENCE)
                yield facts | {
                    "reader": reader, "cases": n, "preferred": k, "share": k / n, "low": low, "high": high,
                    "p": test.pvalue,
                }  # fmt: skip


def _between(design: Design, items: Sequence[Read], whole: Sequence[str]) -> Iterator[Line]:
    """Agreement between the readers who have finished, of all arms together and of each."""
    if len(whole) < 2:
        return
    for scale in design.scales:
        cubes = np.stack([_cube(design, items, SCORE + scale.name, reader) for reader in whole], axis=-1)
        arms = {ALL_ARMS: cubes.reshape(-1, len(whole))} | {arm: cubes[:, k] for k, arm in enumerate(design.arms)}
        for arm, scores in arms.items():
            facts = {"question": scale.name, "arm": arm, "readers": "between " + ", ".join(whole)}
            yield facts | _agreed(scores, len(scale.anchors), design.seed)
    for pair in _pairs(design):
        chosen = np.stack([_chosen(design, items, reader, pair, False) for reader in whole], axis=-1)
        facts = {"question": PREFERENCE, "arm": f"{pair[0]} or {pair[1]}", "readers": "between " + ", ".join(whole)}
        yield facts | _agreed(chosen + 1, 2, design.seed)


def _within(design: Design, items: Sequence[Read], readers: Sequence[str]) -> Iterator[Line]:
    """Agreement of a reader's two readings of the same images."""
    for reader in readers:
        for scale in design.scales:
            scores = np.array(_twice(items, reader, SCORE + scale.name), float).reshape(-1, 2)
            if len(scores):
                facts = {"question": scale.name, "arm": ALL_ARMS, "readers": f"within {reader}"}
                yield facts | _agreed(scores, len(scale.anchors), design.seed)
        for pair in _pairs(design):
            chosen = np.stack([_chosen(design, items, reader, pair, again) for again in (False, True)], axis=-1)
            chosen = chosen[np.isfinite(chosen).all(1)]
            if len(chosen):
                facts = {"question": PREFERENCE, "arm": f"{pair[0]} or {pair[1]}", "readers": f"within {reader}"}
                yield facts | _agreed(chosen + 1, 2, design.seed)


def _twice(items: Sequence[Read], reader: str, question: str) -> list[tuple[int, int]]:
    found: dict[tuple[int, str], dict[bool, int]] = {}
    for item in items:
        if item.reader == reader and len(item.arms) == 1 and question in item.answers:
            found.setdefault((item.case, item.arms[0]), {})[item.is_repeat] = item.answers[question]
    return [(two[False], two[True]) for two in found.values() if len(two) == 2]


def _agreed(scores: Array, categories: int, seed: int) -> Line:
    """Of scores (images, readings) from 1."""
    whole = scores.astype(int) - 1
    absolute = icc(scores)[0]
    linear, quadratic = (kappa(whole, categories, power, CONFIDENCE, seed=seed) for power in (1, 2))
    counts = np.stack([np.bincount(row, minlength=categories) for row in whole])
    return {
        "images": len(scores), "equal": float((scores == scores[:, :1]).all(1).mean()),
        **_told("icc", absolute), **_told("kappa_linear", linear), **_told("kappa_quadratic", quadratic),
        "kappa_fleiss": fleiss_kappa(counts),
    }  # fmt: skip


def _told(name: str, found: Estimate) -> Line:
    return {name: found.value, f"{name}_low": found.interval[0], f"{name}_high": found.interval[1]}


@dataclass(frozen=True, eq=False)
class Ratings:
    """One reader on one arm.

    rated, false  (cases,) the highest mark, and the highest that is on no lesion; 0 for none
    lesions       (lesions,) the highest mark on each
    false_marks   how many there were
    """

    rated: Array
    false: Array
    lesions: Array
    false_marks: int


def located(marks: Sequence[tuple[tuple[float, float, float], int]], lesions: Sequence[Lesion]) -> list[int | None]:
    """Number of the lesion that each mark is on, None for a false one."""
    found: list[int | None] = []
    for position, _ in marks:
        apart = [math.dist(position, lesion.position_mm) for lesion in lesions]
        near = [k for k, lesion in enumerate(lesions) if apart[k] <= lesion.radius_mm]
        found.append(min(near, key=lambda k: apart[k]) if near else None)
    return found


def _ratings(items: Sequence[Read], reader: str, arm: str, cases: Sequence[Images]) -> Ratings:
    """Of the cases that count; an item without a mark is rated 0."""
    rows = {case.number: k for k, case in enumerate(cases)}
    rated, false, false_marks = np.zeros(len(cases)), np.zeros(len(cases)), 0
    on = [np.zeros(len(case.lesions or ())) for case in cases]
    for item in items:
        if item.reader == reader and item.arms == (arm,) and not item.is_repeat and item.case in rows:
            k = rows[item.case]
            for (_, confidence), lesion in zip(item.marks, located(item.marks, cases[k].lesions or ()), strict=True):
                rated[k] = max(rated[k], confidence)
                if lesion is None:
                    false[k], false_marks = max(false[k], confidence), false_marks + 1
                else:
                    on[k][lesion] = max(on[k][lesion], confidence)
    return Ratings(rated, false, np.concatenate(on), false_marks)


def _detection(
    design: Design, items: Sequence[Read], readers: Sequence[str], whole: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Empty where lesions are not marked, or unknown."""
    lines: list[Line] = []
    curves: list[Line] = []
    known = [case for case in design.cases if case.lesions is not None] if design.levels else []
    for name, some in _reported(readers, whole).items():
        cases = [case for case in known if all(_has_read(items, reader, case, len(design.arms)) for reader in some)]
        n_lesions = np.array([len(case.lesions or ()) for case in cases], int)
        if not n_lesions.sum():
            continue
        ratings = {arm: [_ratings(items, reader, arm, cases) for reader in some] for arm in design.arms}
        lines += _detected(design, ratings, n_lesions, name)
        curves += _curves(ratings, n_lesions) if name == ALL else []
    return pd.DataFrame(lines), pd.DataFrame(curves)


def _has_read(items: Sequence[Read], reader: str, case: Images, arms: int) -> bool:
    """Whether a reader has finished all arms of a case."""
    done = [item for item in items if (item.reader, item.case, item.is_repeat) == (reader, case.number, False)]
    return sum(item.is_done for item in done if len(item.arms) == 1) == arms


def _detected(
    design: Design, ratings: dict[str, list[Ratings]], n_lesions: NDArray[np.int_], reader: str
) -> Iterator[Line]:
    """One line an arm; kernels are means over the readers."""
    ill, cases = n_lesions > 0, np.arange(len(n_lesions))
    columns = np.flatnonzero(~ill) if (~ill).any() else cases
    rows = np.repeat(cases, n_lesions)
    whole, merit = {}, {}
    for arm, ours in ratings.items():
        whole[arm] = np.mean([psi(one.rated[ill], one.rated[~ill]) for one in ours], axis=0)
        merit[arm] = np.mean([psi(one.lesions, one.false[columns]) for one in ours], axis=0)
    for arm, ours in ratings.items():
        line: Line = {
            "arm": arm, "reader": reader, "normal": int((~ill).sum()), "abnormal": int(ill.sum()),
            "lesions": len(rows), "found": float(np.mean([(one.lesions > 0).mean() for one in ours])),
            "false_marks_per_image": float(np.mean([one.false_marks for one in ours])) / len(cases),
        }  # fmt: skip
        if (~ill).any():
            line |= _told("auc", area(whole[arm], CONFIDENCE))
        line["figure"] = "JAFROC" if (~ill).any() else "JAFROC1"
        line |= _told("figure_of_merit", resampled(merit[arm], rows, columns, CONFIDENCE, seed=design.seed)[0])
        if arm != design.arms[0]:
            line |= _compared(whole, merit, arm, design, rows, columns)
        yield line


def _compared(
    whole: dict[str, Array], merit: dict[str, Array], arm: str, design: Design, rows: NDArray[np.int_],
    columns: NDArray[np.int_],
) -> Line:  # fmt: skip
    """An arm less the reference."""
    reference, line = design.arms[0], {}
    if whole[arm].size:
        found, p = difference(whole[arm] - whole[reference], CONFIDENCE)
        line = _told("auc_difference", found) | {"auc_p": p}
    found, p = resampled(merit[arm] - merit[reference], rows, columns, CONFIDENCE, seed=design.seed)
    return line | _told("figure_difference", found) | {"figure_p": p}


def _curves(ratings: dict[str, list[Ratings]], n_lesions: NDArray[np.int_]) -> Iterator[Line]:
    """Points of both curves, the readers' ratings taken together; they need normal cases."""
    ill = n_lesions > 0
    if ill.all():
        return
    for arm, ours in ratings.items():
        kinds = {
            "ROC": (
                np.concatenate([one.rated[ill] for one in ours]),
                np.concatenate([one.rated[~ill] for one in ours]),
            ),
            "AFROC": (np.concatenate([one.lesions for one in ours]), np.concatenate([one.false[~ill] for one in ours])),
        }
        for kind, (positive, negative) in kinds.items():
            for step, (x, y) in enumerate(zip(*curve(positive, negative), strict=True)):
                yield {"curve": kind, "arm": arm, "step": step, "x": float(x), "y": float(y)}
