"""Tables as LaTeX and Markdown: escaped, balanced, and with the same numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from medidiff.report.folder import read_results
from medidiff.report.methods import paragraphs, subjects, tuned
from medidiff.report.pictures import choose
from medidiff.report.summary import main_outcomes, tables
from medidiff.report.tables import TEX, Cell, Column, Table, latex, markdown, tex
from medidiff.report.words import decimals, interval, leaves, listed, number, p_value
from medidiff.results.rows import Row


def test_latex_is_escaped_and_balanced() -> None:
    """Nothing that LaTeX would take for a command is left; braces balance; each line has as many cells as columns."""
    evil = r"50 % of A_1 & {B} $x$ #2 ~ ^ \input{x} <i>"
    table = Table(
        "t", evil, (Column(evil, numeric=False), Column("n", "HU")), (((Cell(evil), Cell("3", "1 to 4", True)),),)
    )
    made = latex(table)
    assert r"\textbf{3 (1 to 4)}" in made
    assert r"\input" not in made
    bare = re.sub(r"\\[%&$#_{}]", "", made)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[%#]|(?<!\\)_", bare)
    cells = [line.count("&") for line in bare.splitlines() if line.endswith("\\\\")]
    assert cells == [1, 1]
    assert all(f"\\{name}{{{inside}}}" in made for name, inside in (("begin", "tabular"), ("end", "table")))


def test_every_special_letter_of_latex_is_known() -> None:
    """The ten of the LaTeX companion, and the signs that our tables use."""
    assert set("\\&%$#_{}~^") | set("−∞–★") <= TEX.keys()
    assert tex("a  b\n%") == r"a b \%"


def test_markdown_keeps_numbers_and_escapes_bars(folder: Any) -> None:
    """The numbers of the Markdown table are those of the cells; a bar in a name does not make a column."""
    made = folder(patients=4, methods=("a|b", "identity"))
    made.write(curves=False, pictures=False)
    main = next(table for table in tables(read_results(made.path)) if table.name == "main")
    lines = [line for line in markdown(main).splitlines() if line.startswith("|")]
    shown = [line for group in main.groups for line in group]
    for line, cells in zip(lines[2:], shown, strict=True):
        split = re.split(r"(?<!\\)\|", line)[1:-1]
        assert [part.strip().strip("*").replace("\\", "") for part in split] == [cell.whole for cell in cells]


def test_primary_outcomes_lead_the_main_table(folder: Any) -> None:
    """What the study declared comes first, whatever it is."""
    made = folder(patients=2)
    record = made.record()
    record["settings"]["statistics"]["primary"] = [{"metric": "SSIM"}, {"metric": "RMSE", "region": "lung"}]
    made.write(record=record, curves=False, pictures=False)
    first, second, *_ = main_outcomes(read_results(made.path))
    assert (first.metric, second.metric, second.region) == ("SSIM", "RMSE", "lung")


def test_phantom_tasks_are_shown_whole_and_the_hardest_leads(folder: Any) -> None:
    """Every signal with what is left of its contrast; in the main table the one that methods do worst at."""
    made = folder(patients=1, doses=(0.25,), methods=("identity", "nlm"))
    case = made.cases[0].case
    for method, easy, hard, left in (("identity", 0.9, 0.8, 9.7), ("nlm", 0.95, 0.7, 2.5)):
        for region, auc in (("disc 10 mm 5 HU", easy), ("disc 5 mm 10 HU", hard)):
            made.rows.append(Row(case, method, region, "CHO AUC", "", auc, "1"))
            made.rows.append(Row(case, method, region, "contrast", "", left, "HU"))
    made.write(curves=False, pictures=False)
    results = read_results(made.path)
    assert [o.region for o in main_outcomes(results) if o.metric == "CHO AUC"] == ["disc 5 mm 10 HU"]
    detection = next(table for table in tables(results) if table.name == "detection")
    assert [column.whole for column in detection.columns[2:]] == [
        "CHO AUC (disc 10 mm 5 HU)",
        "CHO AUC (disc 5 mm 10 HU)",
        "contrast / HU (disc 10 mm 5 HU)",
        "contrast / HU (disc 5 mm 10 HU)",
    ]
    assert [cell.text for cell in detection.groups[0][1][1:]] == ["nlm", "0.95", "0.70", "2.50", "2.50"]


def test_ranks_of_cases(folder: Any) -> None:
    """Two cases: the better one is the median (the lower of two) and the best; names are those of the table."""
    made = folder(patients=2, doses=(0.1,), methods=("identity",))
    made.write(curves=False, pictures=False)
    rmse = {row.case: row.value for row in made.rows if (row.metric, row.region) == ("RMSE", "all")}
    found = {shown.rank: shown.case for shown in choose(read_results(made.path))}
    assert found == {"worst": max(rmse, key=rmse.get), "median and best": min(rmse, key=rmse.get)}  # type: ignore[arg-type]


def test_the_methods_paragraph_names_every_setting(folder: Any) -> None:
    """Each value of the record's settings and methods is in the text, with the hash of the model and the versions."""
    made = folder(patients=3)
    record = made.record()
    made.write(record=record, curves=False, pictures=False)
    text = "\n".join(paragraphs(read_results(made.path)))
    for name, value in leaves(record["settings"]):
        assert f"{name} {value}" in text
    for parameters in record["methods"].values():
        for name, value in leaves(parameters):
            assert f"{name.replace('_', ' ')} {value}" in text
    for fact in ("6 cases of 3 patients", "10 % and 25 % of the full dose", "abc123def", "torch 2.9", "medidiff 9.9.9",
                 "500 resamples", "seed 11", "alpha 0.04", "-160 to 240 HU", "data range 4095 HU"):  # fmt: skip
        assert fact in text
    assert "strengths found on the tune split by medidiff tune" in text


def test_a_strength_from_a_tuned_file_is_said_to_be(folder: Any) -> None:
    """The file, its hash, the split and the group, in place of medidiff's own default."""
    made = folder(patients=2)
    record = made.record()
    source = {"file": "tuned.yaml", "sha256": "cafe", "split": "tune", "group": "smooth 0.25", "what": "smoothing"}
    record["methods"]["nlm"]["tuned"] = source
    made.write(record=record, curves=False, pictures=False)
    text = "\n".join(paragraphs(read_results(made.path)))
    told = "smoothing was found by medidiff tune on the trials smooth 0.25 of the split tune (tuned.yaml, SHA-256 cafe)"
    assert told in text
    assert "is the default" not in text


def test_only_our_own_default_counts_as_tuned() -> None:
    """A strength that somebody chose is not said to be tuned, and a model has none."""
    from medidiff.baselines.registry import BASELINES

    default = BASELINES["nlm"].smoothing
    assert default is not None
    assert tuned({"method": "nlm", "smoothing": default})
    assert not tuned({"method": "nlm", "smoothing": default + 0.1})
    assert not tuned({"model": "ct"})


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [(-0.04, 1, "0.0"), (-1.25, 1, "−1.2"), (float("inf"), 2, "∞"), (float("nan"), 2, "–"), (float("-inf"), 1, "−∞")],
)
def test_numbers(value: float, places: int, text: str) -> None:
    """A true minus, none for zero; what is infinite or unknown says so."""
    assert number(value, places) == text


def test_words() -> None:
    """Digits follow the largest number of a column; p-values are not zero; lists have an and."""
    assert decimals([23.41, 8.1], "HU") == 2
    assert decimals([23.41, 8.1], "SUV") == 1
    assert decimals([0.91], "1") == 4
    assert decimals([44.1], "dB") == 2
    assert decimals([float("inf")], "1") == 3
    assert interval(1, float("nan"), 1) == ""
    assert (p_value(0.0002), p_value(0.0312), p_value(float("nan"))) == ("< 0.001", "0.031", "–")
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert leaves({"a": {"b": [1, 2]}, "c": None, "d": [{"e": True}]}) == [
        ("a.b", "1, 2"), ("c", "none"), ("d 1.e", "yes"),
    ]  # fmt: skip


def test_the_best_is_starred_as_it_is_written() -> None:
    """Means that read alike are best together; where all read alike nobody is; a bias is best near zero."""
    from medidiff.report.folder import Outcome
    from medidiff.report.summary import _best

    rmse, bias = Outcome("RMSE", "hu", "all", "HU"), Outcome("bias", "hu", "all", "HU")
    assert _best(rmse, {"a": 1.001, "b": 1.002, "c": 3}, 2) == {"a", "b"}
    assert _best(rmse, {"a": 1.001, "b": 1.002}, 2) == set()
    assert _best(bias, {"a": -0.2, "b": 0.5}, 2) == {"a"}
    assert _best(Outcome("NPS mean", "", "all", "1/mm"), {"a": 1, "b": 2}, 2) == set()


def test_phantoms_are_not_patients(folder: Any) -> None:
    """What was drawn is counted apart, and its settings are told."""
    made = folder(patients=2, doses=(0.1,))
    made.cases[0] = replace(made.cases[0], extra=(("simulation", {"kind": "rods", "matrix": 256}),))
    record = made.record()
    record["cases"][made.cases[0].case] = {"kind": "rods"}
    made.write(record=record, curves=False, pictures=False)
    results = read_results(made.path)
    assert subjects(results) == "1 patient and 1 phantom"
    assert "Phantom: kind rods; matrix 256." in "\n".join(paragraphs(results))
