"""From a table of results to claims: the patient is the unit, strata stay apart, and no more is said than n allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import pytest

from medidiff.errors import UsageError
from medidiff.statistics import Analysis, Outcome, StatisticsSettings, analyse
from medidiff.statistics.sentences import _number, say

FAST = StatisticsSettings(resamples=200)
FACTS = {"region": "all", "preset": "hu", "unit": "HU", "group": "B40f", "dose": 0.25, "reference_noise": "shared"}


def line(patient: str, method: str, value: float, **other: object) -> dict[str, object]:
    facts = {**FACTS, "metric": "RMSE", "case": f"case of {patient}", **other}
    return {"patient": patient, "method": method, "value": value, "n_slices": 1, **facts}


def study(values: Mapping[str, Iterable[float]], **other: object) -> pd.DataFrame:
    """One value a patient and method."""
    return pd.DataFrame(
        line(f"p{k}", method, value, **other) for method, column in values.items() for k, value in enumerate(column)
    )


def lowered(n: int, by: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """`ours` is lower than `nlm` in every one of n patients."""
    random = np.random.default_rng(seed)
    nlm = random.normal(20, 4, n)
    return study({"nlm": nlm, "ours": nlm - by - random.uniform(-1, 1, n)})


def compared(analysis: Analysis, **wanted: object) -> pd.Series:
    table = analysis.comparisons
    for key, value in wanted.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_claim_says_everything_that_belongs_to_it() -> None:
    """Size, interval, n, p and adjusted p; eight patients that all agree give p = 2/256."""
    analysis = analyse(lowered(8), FAST, "nlm")
    claim = analysis.sentences[-1]
    found = compared(analysis, method="ours")
    assert found["p"] == found["p_holm"] == found["p_wilcoxon"] == 2 / 256
    assert found["rank_biserial"] == -1
    assert found["low"] < found["difference"] < found["high"] < 0
    size, near, far = (_number(-found[name]) for name in ("difference", "high", "low"))
    assert claim == (
        f"Dose 25 %, group B40f: RMSE (hu) of ours is lower than that of nlm by {size} HU "
        f"(95 % interval {near} to {far} HU, n = 8 patients, p = 0.008, Holm p = 0.008)."
    )


def test_a_primary_outcome_may_be_limited_to_one_dose() -> None:
    """Three doses and two methods make six comparisons of a bare outcome; declared for one dose, two are the family."""
    random = np.random.default_rng(3)
    base = random.normal(20, 4, 8)
    values = {"nlm": base, "ours": base - 3, "tv": base + 2}
    table = pd.concat([study(values, dose=dose) for dose in (0.5, 0.25, 0.1)])
    assert set(analyse(table, FAST, "nlm").comparisons["family"]) == {6}
    limited = StatisticsSettings(resamples=200, primary=(Outcome(metric="RMSE", preset="hu", dose=0.25),))
    comparisons = analyse(table, limited, "nlm").comparisons
    assert set(comparisons[comparisons["primary"]]["dose"]) == {0.25}
    assert sorted(comparisons["family"]) == [0, 0, 0, 0, 2, 2]


def test_four_patients_cannot_conclude_and_the_sentence_says_why() -> None:
    """The smallest possible p of four patients is 0.125; it counts in no family."""
    analysis = analyse(lowered(4), FAST, "nlm")
    told = (
        "the smallest possible two-sided p of an exact sign-flip test is 2/2^4 = 0.125, so no result can be significant"
    )
    assert analysis.sentences[-1].endswith(f"n = 4 is too small to conclude: {told}.")
    found = compared(analysis, method="ours")
    assert (found["p"], found["smallest_p"], found["family"]) == (0.125, 0.125, 0)
    assert math.isnan(found["p_holm"])


def test_one_patient_has_neither_test_nor_interval() -> None:
    """A figure is given; no p."""
    analysis = analyse(lowered(1), FAST, "nlm")
    assert analysis.sentences[-1].endswith(
        "in the one patient or phantom there is; one allows no test and no interval."
    )
    assert compared(analysis, method="ours")[["p", "p_wilcoxon", "low"]].isna().all()


def test_no_difference_is_not_equality() -> None:
    """What was not shown is said not to be shown."""
    random = np.random.default_rng(5)
    analysis = analyse(study({m: random.normal(20, 1, 8) for m in ("nlm", "ours")}), FAST, "nlm")
    assert "no difference was shown" in analysis.sentences[-1]
    assert "this does not show that they are equal" in analysis.sentences[-1]


def test_no_sentence_has_a_p_without_n() -> None:
    """Whatever the number of patients."""
    for n in (2, 4, 6, 8, 20):
        analysis = analyse(lowered(n), FAST, "nlm")
        for told in [*analysis.sentences, *analysis.comparisons["sentence"]]:
            assert " p = " not in told or f"n = {n} patients" in told


def test_cases_of_a_patient_are_one_observation() -> None:
    """Ten scans of each of six patients are n = 6, not 60; the patient counts by the mean of the scans."""
    table = pd.concat([lowered(6, seed=0).assign(case=lambda t, s=s: t["case"] + f" scan {s}") for s in range(10)])
    table.loc[table["case"].str.endswith("scan 0"), "value"] += 5
    once, many = (compared(analyse(t, FAST, "nlm"), method="ours") for t in (lowered(6), table))
    assert (many["n"], many["cases"]) == (6, 60)
    assert many["p"] == once["p"]
    assert many["mean_method"] == pytest.approx(once["mean_method"] + 0.5)
    summary = analyse(table, FAST, "nlm").summary
    assert summary["n"].tolist() == [6, 6]


def test_doses_and_groups_are_never_pooled() -> None:
    """Three doses (one unknown) by two kernels are six strata, in the family of one study."""
    strata = [(dose, group) for dose in (0.1, 0.25, math.nan) for group in ("B40f", "D45f")]
    table = pd.concat([lowered(8, seed=k).assign(dose=dose, group=group) for k, (dose, group) in enumerate(strata)])
    analysis = analyse(table, FAST, "nlm")
    assert len(analysis.comparisons) == 6
    assert (analysis.comparisons["family"] == 6).all()
    assert analysis.comparisons["p_holm"].tolist() == pytest.approx([6 * 2 / 256] * 6)
    assert len(analysis.summary) == 12
    assert (analysis.summary["n"] == 8).all()


def test_a_family_too_large_for_its_patients_is_told() -> None:
    """Six patients and two comparisons: 2 x 2/64 > 0.05, so nothing can be significant, and it is said before."""
    table = pd.concat([lowered(6, seed=k).assign(group=group) for k, group in enumerate("ab")])
    told = analyse(table, FAST, "nlm").sentences
    assert any("no adjusted p can be below 2 x 0.0312 = 0.0625" in sentence for sentence in told)


def test_only_declared_outcomes_are_claimed() -> None:
    """PSNR is tested, uncorrected and marked as exploratory; a metric without a better direction is not tested."""
    extra = [lowered(8).assign(metric=metric, unit="dB") for metric in ("PSNR", "NPS peak")]
    analysis = analyse(pd.concat([lowered(8), *extra]), FAST, "nlm")
    assert compared(analysis, metric="RMSE")["family"] == 1
    psnr = compared(analysis, metric="PSNR")
    assert math.isnan(psnr["p_holm"])
    assert "exploratory, not adjusted" in psnr["sentence"]
    assert set(analysis.comparisons["metric"]) == {"RMSE", "PSNR"}
    assert set(analysis.summary["metric"]) == {"RMSE", "PSNR", "NPS peak"}
    both = StatisticsSettings.model_validate({"primary": ["PSNR", {"metric": "RMSE", "preset": "abdomen"}]})
    assert both.primary[0] == Outcome(metric="PSNR")
    assert compared(analyse(pd.concat([lowered(8), *extra]), both, "nlm"), metric="PSNR")["family"] == 1


def test_without_a_declared_outcome_everything_is_exploratory() -> None:
    """It is said, and no claim follows."""
    told = analyse(lowered(8).assign(metric="PSNR"), FAST, "nlm").sentences
    assert told[-1] == "No comparison is of a primary outcome (RMSE): all comparisons are exploratory."


def test_bias_is_compared_by_its_distance_from_zero() -> None:
    """-0.5 is better than +2 although it is lower by 2.5; limits of agreement with the reference keep the sign."""
    table = study({"nlm": np.full(8, 2.0), "ours": np.tile([-0.4, -0.6], 4)}).assign(metric="bias")
    analysis = analyse(table, StatisticsSettings(primary=(Outcome(metric="bias"),), resamples=200), "nlm")
    found = compared(analysis, method="ours")
    assert found["difference"] == pytest.approx(-1.5)
    assert "|bias| (hu) of ours is lower than that of nlm by 1.50 HU" in found["sentence"]
    limits = analysis.agreement.set_index(["method", "against"])["bias"]
    assert limits["ours", "reference"] == pytest.approx(-0.5)
    assert limits["ours", "nlm"] == pytest.approx(-2.5)


def test_a_case_counts_where_both_methods_have_it() -> None:
    """A failed case is left out of both sides of its comparison, and the gap is told; others keep it."""
    table = pd.concat([lowered(8), study({"tv": np.full(8, 19.0)})])
    gap = table[~((table["method"] == "ours") & (table["patient"] == "p3"))]
    full, holed = analyse(table, FAST, "nlm"), analyse(gap, FAST, "nlm")
    assert (compared(holed, method="ours")["n"], compared(holed, method="tv")["n"]) == (7, 8)
    kept = lowered(8).query("patient != 'p3' and method == 'nlm'")["value"]
    assert compared(holed, method="ours")["mean_baseline"] == pytest.approx(kept.mean())
    assert compared(full, method="tv")["p"] == compared(holed, method="tv")["p"]
    assert any("RMSE (hu) of ours lacks 1 case that another method has" in told for told in holed.sentences)


def test_infinite_and_missing_numbers_are_told_not_hidden() -> None:
    """Equal images have infinite PSNR: so is the mean, without an interval; such cases enter no comparison."""
    table = lowered(8).assign(metric="PSNR")
    table.loc[(table["method"] == "ours") & (table["patient"] == "p0"), "value"] = math.inf
    table.loc[(table["method"] == "nlm") & (table["patient"] == "p1"), "value"] = math.nan
    analysis = analyse(table, FAST, "nlm")
    summary = analysis.summary.set_index("method")
    assert math.isinf(summary.loc["ours", "mean"])
    assert math.isfinite(summary.loc["ours", "median"])
    assert math.isnan(summary.loc["ours", "low"])
    assert summary["n"].to_dict() == {"nlm": 7, "ours": 8}
    assert compared(analysis, method="ours")["n"] == 6


def test_numbers_that_are_all_missing_give_empty_tables() -> None:
    """Columns without a line, and no claim."""
    analysis = analyse(lowered(3).assign(value=math.nan), FAST, "nlm")
    assert analysis.summary.empty
    assert {"n", "mean", "low"} < {*analysis.summary.columns}
    assert analysis.comparisons.empty
    assert "all comparisons are exploratory" in analysis.sentences[-1]


def test_results_do_not_depend_on_order_or_company() -> None:
    """Shuffled rows, and a table with more methods and metrics, give the same numbers for the same comparison."""
    table = lowered(20)
    more = pd.concat([table, study({"tv": range(20)}), lowered(20).assign(metric="SSIM")]).sample(
        frac=1, random_state=1
    )
    one, other = (compared(analyse(t, FAST, "nlm"), method="ours", metric="RMSE") for t in (table, more))
    exact = ["n", "p", "smallest_p", "p_wilcoxon", "test"]
    assert one[exact].tolist() == other[exact].tolist()
    close = ["low", "high", "difference", "hedges_g"]
    assert one[close].tolist() == pytest.approx(other[close].tolist())


def test_tables_read_from_files_say_the_same() -> None:
    """Whole numbers come back from CSV as 8.0: no sentence shows it."""
    table = pd.concat([lowered(6, seed=k).assign(group=group) for k, group in enumerate("ab")])
    second = pd.DataFrame([line("p0", "nlm", 20.0, case="a second scan", group="a")])
    made = analyse(pd.concat([table, second]), FAST, "nlm")
    summary, comparisons = (
        frame.astype({column: float for column in frame.columns if frame[column].dtype == int})
        for frame in (made.summary, made.comparisons)
    )
    assert any("at most n = 6" in told for told in made.sentences)
    assert any("lacks 1 case" in told for told in made.sentences)
    assert say(summary, comparisons.to_dict("records"), "nlm", FAST) == made.sentences


def test_an_absent_baseline_is_refused() -> None:
    """Naming the methods there are."""
    with pytest.raises(UsageError, match="no result is of 'bm3d'; choose from nlm, ours"):
        analyse(lowered(3), FAST, "bm3d")


def test_studies_of_a_single_method_are_described() -> None:
    """Nothing to compare: summary and agreement with the reference only."""
    analysis = analyse(study({"nlm": range(5)}).assign(metric="bias"), FAST, "nlm")
    assert len(analysis.summary) == 1
    assert analysis.comparisons.empty
    assert analysis.agreement["against"].tolist() == ["reference"]
    assert "all comparisons are exploratory" in analysis.sentences[-1]


def test_of_comparisons_without_a_difference_one_in_twenty_is_below_alpha() -> None:
    """400 null comparisons of eight patients through the whole chain: 6/128 is the level that n = 8 reaches."""
    random = np.random.default_rng(0)
    strata = [
        study({m: patients + random.standard_exponential(8) for m in ("nlm", "ours")}, group=f"group {k}")
        for k, patients in enumerate(random.normal(20, 4, (400, 8)))
    ]
    found = analyse(pd.concat(strata), StatisticsSettings(resamples=100), "nlm").comparisons
    rate = 6 / 128
    assert (found["p"] <= 0.05).mean() == pytest.approx(rate, abs=3.5 * math.sqrt(rate * (1 - rate) / 400))
    assert not (found["p_holm"] <= 0.05).any()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0312, "0.0312"),
        (3.14159, "3.14"),
        (123.4, "123"),
        (12345.6, "12346"),
        (1e-9, "1e-09"),
        (0, "0"),
        (-2.0, "-2.00"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """Never fewer digits than are known, never a power of ten where plain digits do."""
    assert _number(value) == text


def test_many_comparisons_of_one_phantom_each_are_one_sentence() -> None:
    """Nine strata of one phantom say once that one allows no test; a stratum of eight patients keeps its sentence."""
    lone = [study({"nlm": [20.0], "ours": [10.0]}, group=f"phantom {k}") for k in range(9)]
    analysis = analyse(pd.concat([*lone, lowered(8)]), FAST, "nlm")
    assert [s for s in analysis.sentences if "one allows no test" in s] == [
        "9 comparisons rest on one patient or phantom each; one allows no test and no interval, so their differences "
        "are only in the tables."
    ]
    assert sum("n = 8 patients" in s for s in analysis.sentences) == 1
