"""The page: self-contained, escaped, true to the table, and there whatever the folder lacks."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff import DISCLAIMER
from medidiff.errors import InputError
from medidiff.report import build
from medidiff.results.tables import read_tables

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, the words of the page, and the cells of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += f" {data}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, folder_class: type) -> tuple[Page, Path]:
    """A folder with everything, and its page."""
    made = folder_class(tmp_path_factory.mktemp("report") / "results", patients=6)
    return Page(build(made.write(), title="Low dose & <noise>")), made.path


def test_the_page_needs_nothing_from_outside(full: tuple[Page, Path]) -> None:
    """No address of a network or a file is loaded, no script runs: every src is a data URI, every link an anchor."""
    page, _ = full
    for _, attributes in page.tags:
        assert not (attributes.keys() & {"onclick", "onload", "srcset"})
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|@font-face", page.source)


def test_every_picture_says_what_it_shows(full: tuple[Page, Path]) -> None:
    """Alternative texts are there, and those of plots hold their numbers; names of anchors exist."""
    page, _ = full
    assert len(page.images()) > 30
    assert all((image["alt"] or "").strip() for image in page.images())
    assert any("Means:" in (image["alt"] or "") for image in page.images())
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_the_main_table_holds_the_means_over_patients(full: tuple[Page, Path]) -> None:
    """RMSE and PSNR in the summary are those computed from results.csv, as written; the best has a star."""
    page, path = full
    rows, _ = read_tables(path)
    whole = rows[rows["region"] == "all"]
    lines = [[" ".join(cell.split()) for cell in line] for line in page.tables[0][1:]]
    assert len(lines) == 6
    doses = [0.1] * 3 + [0.25] * 3
    for dose, line in zip(doses, lines, strict=True):
        mine = whole[(whole["method"] == line[1]) & (whole["dose"] == dose)]
        for column, metric in ((3, "RMSE"), (4, "PSNR"), (5, "SSIM")):
            shown = re.match(r"[\d.]+", line[column])
            assert shown is not None
            mean = mine[mine["metric"] == metric]["value"].mean()
            digits = len(shown[0].partition(".")[2])
            assert float(shown[0]) == pytest.approx(mean, abs=0.5000001 * 10**-digits)
        assert line[2] == "6"
    assert [("★" in line[3]) for line in lines] == [False, False, True] * 2


def test_the_worst_case_is_the_worst(full: tuple[Page, Path]) -> None:
    """For each method the case with the largest RMSE of all its cases is named as worst, the smallest as best."""
    page, path = full
    rows, _ = read_tables(path)
    rmse = rows[(rows["metric"] == "RMSE") & (rows["region"] == "all")]
    for method in ("identity", "nlm", "ct"):
        mine = rmse[rmse["method"] == method].sort_values("value")["case"].tolist()
        for rank, case in (("Worst", mine[-1]), ("Best", mine[0]), ("Median", mine[(len(mine) - 1) // 2])):
            assert f"{rank} case: {case} (RMSE" in page.text
    assert "Window −160 to 240 HU (abdomen), pixel 0.8 mm" in page.text


def test_research_use_only_stands_at_both_ends(full: tuple[Page, Path]) -> None:
    """Above the first table and below the last."""
    page, _ = full
    places = [found.start() for found in re.finditer(DISCLAIMER, page.text, re.IGNORECASE)]
    assert places[0] < page.text.index("Summary Plots")
    assert places[-1] > page.text.rindex("Provenance")
    assert "Low dose & <noise>" in page.text


def test_names_cannot_break_the_page(folder: Any) -> None:
    """A method called <script>, mathematics, quotes or braces is shown as it is, in page, LaTeX and plots."""
    evil = ("<script>alert(1)</script>", '_$x^2 {% raw %} & "q" 50 %', "identity")
    made = folder(patients=2, doses=(0.1,), methods=evil)
    made.rows = [row for row in made.rows if row.metric in ("RMSE", "PSNR")]
    page = Page(build(made.write()))
    assert "script" not in {tag for tag, _ in page.tags}
    for name in evil:
        assert name in page.text
    assert html.escape(evil[0]) in page.source
    tex = (made.path / "tables" / "main.tex").read_text(encoding="utf-8")
    assert r"\_\$x\textasciicircum{}2 \{\% raw \%\} \&" in tex


def test_failures_come_first(folder: Any) -> None:
    """What failed is told above everything else, with how much is missing."""
    made = folder(patients=1, doses=(0.1,))
    record = made.record() | {"status": "failed", "failures": ["p0_10, ct: slice 3 holds values that are no numbers"]}
    page = Page(build(made.write(record=record, curves=False, pictures=False)))
    assert page.text.index("1 part of this study failed") < page.text.index("What the statistics say")
    assert "p0_10, ct: slice 3 holds values that are no numbers" in page.text


def test_warnings_about_scans_are_told(folder: Any) -> None:
    """In a list of their own, above what the statistics say."""
    made = folder(patients=1, doses=(0.1,))
    warnings = ["p0_10, ct: noise of 200 HU", "p1_10, ct: pixels of 3 mm"]
    page = Page(build(made.write(record=made.record() | {"warnings": warnings}, curves=False, pictures=False)))
    assert page.text.index("2 warnings about the scans") < page.text.index(warnings[1])
    assert page.text.index(warnings[1]) < page.text.index("What the statistics say")


def test_one_case_of_one_method_without_record(folder: Any) -> None:
    """The least there can be: no study.json, curves, pictures or statistics; nothing is claimed that is not known."""
    made = folder(patients=1, doses=(0.1,), methods=("mine",))
    made.cases = [replace(made.cases[0], dose=None, group="", n_slices=0)]
    page = Page(build(made.write(record=False, curves=False, pictures=False)))
    assert "1 method (mine) on 1 patient (1 case)." in page.text
    assert "★" not in str(page.tables[0])
    assert "The settings of mine are not recorded." in page.text
    assert [line[0].strip() for line in page.tables[-1]] == ["report"]
    assert f"mine, only: {made.cases[0].case}" in page.text


def test_one_patient_cannot_prove_anything(folder: Any) -> None:
    """The page repeats that one patient allows no test."""
    made = folder(patients=1, doses=(0.1,))
    page = Page(build(made.write(curves=False, pictures=False)))
    assert "one allows no test and no interval" in page.text


def test_infinite_psnr_is_shown_as_infinite(folder: Any) -> None:
    """Identical images: the mean is infinite and says so; the plot names what it cannot draw."""
    made = folder(patients=3, doses=(0.1,))
    made.rows = [replace(row, value=np.inf) if (row.metric, row.method) == ("PSNR", "ct") else row for row in made.rows]
    page = Page(build(made.write(curves=False, pictures=False)))
    assert any("∞" in cell for cell in page.tables[0][3])
    assert "3 infinite values (identical images) cannot be drawn" in page.text
    assert r"$\infty$" in (made.path / "tables" / "main.tex").read_text(encoding="utf-8")


def test_a_report_can_be_made_again(folder: Any) -> None:
    """Twice the same but for the time; statistics that lie in the folder are used as they are; no leftovers."""
    made = folder(patients=2, doses=(0.1,))
    made.rows = [row for row in made.rows if row.metric == "RMSE"]
    made.write(curves=False)
    first = build(made.path).read_text(encoding="utf-8")
    (made.path / "report.html").write_text("broken", encoding="utf-8")
    second = build(made.path).read_text(encoding="utf-8")
    stamp = re.compile(r"\d{4}-\d\d-\d\dT[\d:+]+")
    assert stamp.sub("", first) == stamp.sub("", second)
    assert not [path.name for path in made.path.rglob("*") if path.name.startswith(".") or "partial" in path.name]


@pytest.mark.parametrize("damage", ["study.json", "statistics.csv", "picture", "empty"])
def test_damaged_folders_are_refused_in_a_sentence(folder: Any, damage: str) -> None:
    """The file is named; an older report stays."""
    made = folder(patients=1, doses=(0.1,))
    if damage == "empty":
        made.rows = []
    made.write(curves=False, pictures=damage == "picture")
    (made.path / "report.html").write_text("older", encoding="utf-8")
    if damage == "picture":
        for path in (made.path / "pictures").iterdir():
            path.write_bytes(b"no picture")
    elif damage == "statistics.csv":
        for name in ("statistics.csv", "comparisons.csv", "agreement.csv"):
            (made.path / name).write_text("metric,mean\nRMSE,much\n", encoding="utf-8")
    elif damage == "study.json":
        (made.path / damage).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"\.npz|study\.json|statistics\.csv|holds no results"):
        build(made.path)
    assert (made.path / "report.html").read_text(encoding="utf-8") == "older"


def test_a_primary_outcome_of_one_dose_is_a_column_of_all(folder: Any) -> None:
    """Declared for one dose, RMSE is still shown at every dose; only its claims are of that one."""
    made = folder()
    record = made.record()
    record["settings"]["statistics"]["primary"] = [{"metric": "RMSE", "preset": "hu", "region": "all", "dose": 0.25}]
    page = build(made.write(record=record, pictures=False)).read_text(encoding="utf-8")
    assert "25 % dose" in made.path.joinpath("methods.txt").read_text(encoding="utf-8")
    assert "10 % dose" in page
