"""The metrics page shows the numbers of the report, and hands them out as they are."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import charts, state
from dashboard.library import Library
from dashboard.results import Evaluation, Evaluations
from dashboard.settings import VARIABLE, Review
from dashboard.views.metrics_chosen import Chosen
from dashboard.views.metrics_tables import export
from medidiff import DISCLAIMER
from medidiff.evaluate.output import conclude
from medidiff.report import build
from medidiff.report.folder import Outcome, Results, read_results
from medidiff.report.styles import COLOURS, styles
from medidiff.report.words import decimals, interval, number
from medidiff.results.rows import CaseFacts, Curve, Row
from medidiff.results.tables import write_curves, write_tables
from medidiff.statistics.agreement import bland_altman

SECONDS = 60
METHODS = ("identity", "nlm", "ours")
RMSE = Outcome("RMSE", "hu", "all", "HU")
BIAS = Outcome("bias", "hu", "lung", "HU")
PSNR = Outcome("PSNR", "abdomen", "all", "dB")
FREQUENCIES = tuple(np.linspace(0.1, 0.7, 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients at two doses and three methods; P1 has two cases at each; cases are called like files."""
    place = tmp_path_factory.mktemp("Doe_John") / "numbers"
    place.mkdir()
    random = np.random.default_rng(0)
    rows, facts, curves = list[Row](), list[CaseFacts](), list[Curve]()
    for patient in range(1, 7):
        for case in ("Roe", "Poe") if patient == 1 else ("Roe",):
            for dose in (0.1, 0.5):
                name = f"{case}_{patient}_{dose:g}"
                facts.append(CaseFacts(name, f"P{patient}", "B40f", dose, "shared", 10))
                for k, method in enumerate(METHODS):
                    level = (30 - 8 * k) / np.sqrt(dose) + random.normal(0, 2)
                    rows += [
                        Row(name, method, *(RMSE.region, RMSE.metric, RMSE.preset), level, "HU"),
                        Row(name, method, "lung", "bias", "hu", random.normal(k, 1), "HU"),
                        Row(name, method, "all", "PSNR", "abdomen", np.inf if patient == 6 else 40 - level / 4, "dB"),
                    ]
                    power = tuple(level * np.exp(-np.array(FREQUENCIES)))
                    curves.append(Curve(name, method, "all", "NPS", FREQUENCIES, power, "1/mm", "HU^2 mm^2"))
    write_tables(place, rows, facts)
    write_curves(place, curves)
    settings = {"statistics": {"resamples": 200}, "presets": ["hu", "abdomen"]}
    record = {"format": "medidiff-evaluation-1", "medidiff": "0.1.0", "created": "2026-05-04T03:02:01+00:00",
              "baseline": "identity", "methods": {method: {} for method in METHODS}, "settings": settings}  # fmt: skip
    (place / "study.json").write_text(json.dumps(record))
    conclude(place, "identity")
    build(place)
    return place


@pytest.fixture
def results(folder: Path) -> Results:
    return read_results(folder)


def lines(folder: Path, name: str, **wanted: str) -> list[dict[str, str]]:
    """Of a table, read as text."""
    with (folder / name).open(encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if all(line[key] == text for key, text in wanted.items())]


def test_a_point_is_a_patient(results: Results) -> None:
    """P1's value is the mean of the two cases, and the mean of all is the line of statistics.csv."""
    stratum = results.strata[0]
    points = charts.patients(results, RMSE, [stratum])
    assert len(points) == 6 * 3
    both = results.rows[(results.rows["metric"] == "RMSE") & (results.rows["dose"] == 0.1)]
    wanted = both[(both["patient"] == "P1") & (both["method"] == "nlm")]["value"]
    (line,) = points[(points["patient"] == "P1") & (points["method"] == "nlm")].to_dict("records")
    assert (len(wanted), line["value"]) == (2, pytest.approx(wanted.mean(), rel=1e-12))
    assert line["cases"] == ("Poe_1_0.1", "Roe_1_0.1")
    assert points["point"].is_unique
    assert set(points["dose"]) == {10.0}
    means = points.groupby("method")["value"].mean()
    summary = stratum.of(RMSE.of(results.summary)).set_index("method")["mean"]
    np.testing.assert_allclose(means[list(METHODS)], summary[list(METHODS)], rtol=1e-12)


def test_identical_images_have_no_point(results: Results) -> None:
    points = charts.patients(results, PSNR, results.strata)
    assert set(points["patient"]) == {f"P{k}" for k in range(1, 6)}


def test_the_dose_chart_has_the_numbers_of_the_statistics_and_of_the_report(folder: Path, results: Results) -> None:
    """Mean and interval are those of statistics.csv, and stand in report.html as they are written there."""
    found = charts.responses(results, RMSE, results.strata)
    chart = charts.dose_chart(results, RMSE, found, charts.patients(results, RMSE, results.strata)).to_dict()
    drawn = [part for part in chart["datasets"].values() if "low" in part[0]]
    page = (folder / "report.html").read_text()
    wanted = {(line["method"], float(line["dose"])): line for line in lines(folder, "statistics.csv", metric="RMSE")}
    assert len(drawn[0]) == len(wanted) == 6
    for line in drawn[0]:
        there = wanted[line["method"], line["dose"] / 100]
        assert [line[name] for name in ("mean", "low", "high")] == [float(there[n]) for n in ("mean", "low", "high")]
        places = decimals([line["mean"], line["low"], line["high"]], "HU")
        assert number(line["mean"], places) in page
        assert interval(line["low"], line["high"], places) in page


def test_one_dose_is_no_response(results: Results) -> None:
    assert charts.responses(results, RMSE, results.strata[:1]).empty


@pytest.mark.parametrize("against", ["identity", "reference"])
def test_limits_of_agreement_are_those_of_the_points(folder: Path, results: Results, against: str) -> None:
    """The lines are those of agreement.csv, and what `bland_altman` makes of the very points that are drawn."""
    stratum = results.strata[1]
    points = charts.patients(results, BIAS, [stratum])
    found = charts.agreements(results, BIAS, stratum, against)
    assert [line["method"] for line in found] == [m for m in METHODS if m != against]
    for line in found:
        both = charts.differences(points, line["method"], None if against == "reference" else against)
        limits = bland_altman(both["difference"].to_numpy())
        for name, estimate in (("bias", limits.bias), ("lower", limits.lower), ("upper", limits.upper)):
            assert line[name] == pytest.approx(estimate.value, rel=1e-9)
            assert (line[f"{name}_low"], line[f"{name}_high"]) == pytest.approx(estimate.interval, rel=1e-9)
        (there,) = lines(folder, "agreement.csv", metric="bias", method=line["method"], against=against, dose="0.5")
        assert float(there["upper_high"]) == line["upper_high"]
        drawn = charts.agreement_chart(results, BIAS, line, both).to_dict()["datasets"].values()
        (levels,) = [part for part in drawn if part and "level" in part[0] and "low" in part[0]]
        assert [level["value"] for level in levels] == [line["bias"], line["lower"], line["upper"]]


def test_a_mean_curve_is_that_of_patients_where_all_are_defined(results: Results) -> None:
    """Two cases of one patient count as much as one of another: (1 + 3) / 2 and 8 are 5 at x = 1 to 2."""
    one, two = _first_patients(results)
    same = results.cases.set_index("case")["patient"]
    again = next(case for case, patient in same.items() if patient == same[one] and case != one)
    curves = [
        Curve(case, METHODS[0], "all", "NPS", (0.0, 1.0, 2.0), (level,) * 3, "1/mm", "HU^2 mm^2")
        for case, level in ((one, 1.0), (again, 3.0))
    ]
    curves.append(Curve(two, METHODS[0], "all", "NPS", (1.0, 2.0, 3.0), (8.0,) * 3, "1/mm", "HU^2 mm^2"))
    means = charts.mean_curves(results, curves)
    assert list(means["x"]) == [1.0, 2.0]
    assert list(means["y"]) == [5.0, 5.0]
    assert set(means["patients"]) == {2}


def _first_patients(results: Results) -> list[str]:
    """A case each of two patients, the first of whom has several."""
    by_patient = results.cases.groupby("patient")["case"].apply(list)
    several = next(cases for cases in by_patient if len(cases) > 1)
    return [several[0], next(cases[0] for cases in by_patient if cases != several)]


def encodings(chart: dict[str, Any], name: str) -> list[Any]:
    found = [part["encoding"][name] for part in chart["layer"] if name in part["encoding"]]
    assert found
    return found


def test_points_say_what_they_are_in_the_colours_of_the_report(results: Results) -> None:
    """Case, method, dose and value; a method has one colour in every chart, and black, the seventh, is light."""
    points = charts.patients(results, RMSE, results.strata)
    chart = charts.distribution_chart(results, RMSE, points, (0, 100)).to_dict()
    hints = {hint["field"] for hint in encodings(chart, "tooltip")[-1]}
    assert hints >= {"case", "method", "dose", "value"}
    scale = encodings(chart, "color")[-1]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {m: styles(METHODS)[m].colour for m in METHODS}
    assert [param["name"] for param in chart["params"]] == [charts.PICK]
    many = [f"m{k}" for k in range(7)]
    assert styles(many)["m6"].colour == COLOURS[6] == "#000000"
    object.__setattr__(results, "methods", tuple(many))
    assert charts._colour(results).to_dict()["scale"]["range"] == [*COLOURS[:6], charts.INK]


def chosen(folder: Path, results: Results, tmp_path: Path, names: Callable[[str], str] = str) -> Chosen:
    evaluation = Evaluation("k", "s", results.record, folder)
    found = Evaluations(Library([folder]), tmp_path)
    return Chosen(found, evaluation, results, RMSE, results.strata[1:], ["nlm", "ours"], names)


def test_the_download_is_a_part_of_results_csv_and_says_what_it_is_for(
    folder: Path, results: Results, tmp_path: Path
) -> None:
    """The chosen lines with the very columns and digits; the disclaimer stands beside it."""
    with zipfile.ZipFile(io.BytesIO(export(chosen(folder, results, tmp_path)))) as archive:
        assert sorted(archive.namelist()) == ["README.txt", "results.csv"]
        assert DISCLAIMER in archive.read("README.txt").decode()
        table = archive.read("results.csv").decode().splitlines()
    whole = (folder / "results.csv").read_text().splitlines()
    assert table[0] == whole[0]
    assert len(table) == 1 + 7 * 2
    assert set(table[1:]) <= set(whole)
    assert all(",RMSE," in line and "_0.5," in line and ",identity," not in line for line in table[1:])


def test_the_download_calls_cases_as_the_page_does(folder: Path, results: Results, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(export(chosen(folder, results, tmp_path, lambda case: "case 1")))) as archive:
        assert b"oe_" not in archive.read("results.csv") + archive.read("README.txt")


# ---------------------------------------------------------------- the page


def forget() -> None:
    for function in (state.review, state.library, state.folder, state.volumes, state.jobs, state.database):
        function.cache_clear()  # type: ignore[attr-defined]


def metrics_page() -> None:
    from dashboard.views import metrics

    metrics.show()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], AppTest]]:
    """The page of a server that was started with a folder."""

    def started(place: Path) -> AppTest:
        monkeypatch.setenv(VARIABLE, Review.of([place], []).environment()[VARIABLE])
        forget()
        return AppTest.from_function(metrics_page, default_timeout=SECONDS).run()

    yield started
    forget()


def box(page: AppTest, label: str) -> Any:
    return next(box for box in page.selectbox if box.label == label)


def shown(page: AppTest) -> str:
    """All texts and tables."""
    texts = [str(part.value) for kind in ("caption", "markdown", "info", "warning", "error") for part in page.get(kind)]
    return "\n".join([*texts, *(table.value.to_string() for table in page.dataframe)])


def test_the_page_shows_the_primary_outcome_first(start: Callable[[Path], AppTest], folder: Path) -> None:
    """RMSE of the whole image, every case in a table, the statistics and what may be concluded."""
    page = start(folder)
    assert not page.exception
    assert not page.error
    assert (box(page, "Metric").value, box(page, "Region").value) == ("RMSE", "all")
    every, summary, compared = (table.value for table in page.dataframe)
    assert len(every) == 14 * 3
    assert every["RMSE (hu) / HU"].dtype == float
    there = lines(folder, "statistics.csv", metric="RMSE", method="ours", dose="0.1")[0]
    here = summary[(summary["Method"] == "ours") & summary["Cases of"].str.startswith("10 %")].iloc[0]
    assert (here["Mean"], here["Interval, from"]) == (float(there["mean"]), float(there["low"]))
    assert set(compared["Method"]) == {"nlm", "ours"}
    assert "The patient is the unit" in shown(page)
    assert "earlier version" in shown(page)  # this record names no images


def test_another_outcome_is_shown_when_asked_for(start: Callable[[Path], AppTest], folder: Path) -> None:
    """And every view of it."""
    page = start(folder)
    box(page, "Metric").set_value("bias").run()
    assert "bias (hu, lung) / HU" in page.dataframe[0].value
    for view, words in {"Dose": "Large: mean", "Agreement": "Bland-Altman", "Functions": "Means over patients"}.items():
        page.session_state["metrics-view"] = view
        page.run()
        assert not page.exception
        assert any(words in caption.value for caption in page.caption)


def test_names_of_files_are_shown_when_asked_for_only(start: Callable[[Path], AppTest], folder: Path) -> None:
    """No name of a case or folder on the page, nor in the address."""
    page = start(folder)
    assert "oe_" not in shown(page)
    assert "Doe" not in shown(page)
    address = "".join(map(str, page.query_params["study"]))
    assert set(page.query_params) == {"study"}
    assert len(address) == 16
    assert set(address) <= set("0123456789abcdef")
    next(toggle for toggle in page.toggle if toggle.label == "Show names of files").set_value(True).run()
    assert "Poe_1_0.1" in page.dataframe[0].value["Case"].to_numpy()


def test_a_patient_of_several_cases_is_asked_which(start: Callable[[Path], AppTest], folder: Path) -> None:
    """A click on such a point offers the cases, called as everywhere on the page; of another one it opens none here."""
    page = start(folder)
    page.session_state["metrics-picked"] = f"{page.dataframe[1].value['Cases of'][0]}|P1|nlm"
    page.run()
    assert not page.exception
    assert box(page, "Case").options == ["case 1", "case 3"]
    assert "No image of case 1 is listed." in shown(page)
    assert "**nlm, P1\\: " in shown(page)


def test_without_results_there_is_a_sentence(start: Callable[[Path], AppTest], tmp_path: Path) -> None:
    page = start(tmp_path)
    assert not page.exception
    assert "No results yet" in page.info[0].value


def test_without_its_database_the_page_shows_what_lies_in_folders(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so, without the address of the database."""
    asked = Review.of([folder], [], database=f"sqlite:///{tmp_path / 'gone' / 'x.db'}")
    monkeypatch.setenv(VARIABLE, asked.environment()[VARIABLE])
    forget()
    page = AppTest.from_function(metrics_page, default_timeout=SECONDS).run()
    assert not page.exception
    assert "the database does not answer" in page.warning[0].value
    assert "gone" not in shown(page)
    assert len(page.dataframe) == 3
    forget()


def test_damaged_results_are_told_in_a_sentence(start: Callable[[Path], AppTest], folder: Path, tmp_path: Path) -> None:
    for name in ("study.json", "results.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page = start(tmp_path)
    assert not page.exception
    assert "no such file" in page.error[0].value
    assert str(tmp_path) not in shown(page)
