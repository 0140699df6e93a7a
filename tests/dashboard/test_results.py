"""Results are found below the listed folders, linked to what is listed, and say in a few figures what matters."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nibabel import load as load_nifti
from nibabel import save as save_nifti

from dashboard import results as module
from dashboard.flags import ADDED, ADDED_SIGMA, BIAS_HU, COVERAGE, COVERAGE_PERCENT, figures_of
from dashboard.library import Library
from dashboard.results import Evaluation, Evaluations
from medidiff.errors import InputError
from medidiff.evaluate.folder import evaluate
from medidiff.evaluate.plan import Evaluation as Asked
from medidiff.evaluate.plan import make_plan
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct
from medidiff.results.database import open_database, store
from medidiff.results.rows import CaseFacts, Row

ROOT = Path(__file__).resolve().parents[2]
CT = ROOT / "data_samples" / "ct"
CASE, METHOD = "001_CT_HANN", "blurred"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, its truth and a blurred result, evaluated in another folder; the name of all of it is a patient's."""
    folder = tmp_path_factory.mktemp("Doe_John")
    shutil.copytree(CT / "low_dose", folder / "scans" / "low")
    shutil.copytree(CT / "noise_free", folder / "scans" / "truth")
    reconstruct(folder / "scans" / "low", folder / "made", Options(method="gaussian", smoothing=3.0))
    asked = Asked(
        folder / "scans" / "truth",
        {METHOD: folder / "made"},
        scan=folder / "scans" / "low",
        dose=0.25,
        reference_noise="none",
    )
    evaluate(make_plan(asked), folder / "elsewhere" / "numbers")
    return folder


@pytest.fixture
def found(study: Path, tmp_path: Path) -> Evaluations:
    library = Library([study])
    library.add(study)
    return Evaluations(library, tmp_path)


@pytest.fixture(autouse=True)
def listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED_SECONDS", 0)


def test_results_are_found_and_named_by_nothing_of_their_folder(found: Evaluations, study: Path) -> None:
    """Key, label and problems say nothing of where they lie."""
    (one,) = found.all()
    assert one.folder == study / "elsewhere" / "numbers"
    assert one.label.startswith(f"evaluation {one.key[:6]}, 20")
    assert found.get(one.key) is one
    assert not any(part in one.label + one.key for part in ("Doe", "numbers", str(study)))


def test_a_point_leads_to_the_result_and_its_worst_slice(found: Evaluations, study: Path) -> None:
    """The case is that of the reconstruction, the slice the one whose error is greatest by plain numpy."""
    (one,) = found.all()
    landing = found.landing(one, CASE, METHOD)
    case = next(case for case in found.library.cases() if case.record)
    assert landing is not None
    assert (landing.case, landing.is_result) == (case.key, True)
    assert case.reconstruction is not None
    truth = next(image for image in found.library.images.values() if image.place.name == "truth")
    errors = [np.mean((case.reconstruction.open().read(k) - truth.open().read(k)) ** 2) for k in range(truth.slices)]
    assert landing.index == int(np.argmax(errors))
    assert found.why_not(one) == ""


def test_without_the_result_a_point_leads_to_its_scan(study: Path, tmp_path: Path) -> None:
    """And says so; without any image there is a sentence."""
    library = Library([study])
    library.add(study / "scans")
    library.add(study / "elsewhere")
    found = Evaluations(library, tmp_path)
    (one,) = found.all()
    landing = found.landing(one, CASE, METHOD)
    assert landing is not None
    low = next(image for image in library.images.values() if image.place.name == "low")
    assert (landing.case, landing.is_result) == (low.key, False)
    alone = Library([study])
    alone.add(study / "elsewhere")
    lonely = Evaluations(alone, tmp_path)
    assert lonely.landing(lonely.all()[0], CASE, METHOD) is None
    assert "None of the images" in lonely.why_not(lonely.all()[0])


def test_results_of_an_earlier_version_lead_nowhere_and_say_why(study: Path, tmp_path: Path) -> None:
    """A study.json without images is read as before."""
    shutil.copytree(study / "elsewhere", tmp_path / "old")
    file = tmp_path / "old" / "numbers" / "study.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: part for key, part in record.items() if key not in ("images", "worst_slice")}))
    library = Library([tmp_path])
    library.add(tmp_path / "old")
    found = Evaluations(library, tmp_path / "scratch")
    (one,) = found.all()
    assert len(found.results(one).rows)
    assert found.landing(one, CASE, METHOD) is None
    assert "earlier version" in found.why_not(one)
    assert found.figures() == {}


ODD = [[], "x", {CASE: 3}, {CASE: {"methods": [1], "scan": None}}, {CASE: {"methods": None}}]


@pytest.mark.parametrize("images", ODD)
def test_a_record_of_something_else_leads_nowhere(study: Path, tmp_path: Path, images: object) -> None:
    shutil.copytree(study / "elsewhere", tmp_path / "odd")
    file = tmp_path / "odd" / "numbers" / "study.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": images, "worst_slice": images}))
    library = Library([study, tmp_path])
    library.add(study / "made")
    library.add(tmp_path / "odd")
    found = Evaluations(library, tmp_path / "scratch")
    assert found.landing(found.all()[0], CASE, METHOD) is None
    assert found.figures() == {}


def test_damaged_results_are_told_without_their_folder(study: Path, tmp_path: Path) -> None:
    """The others are listed; no sentence names a path."""
    place = tmp_path / "Doe_Jane"
    for name in ("good", "cut", "table"):
        shutil.copytree(study / "elsewhere" / "numbers", place / name)
    (place / "cut" / "study.json").write_text("{")
    (place / "table" / "cases.csv").write_text("a,b\n1,2\n")
    (place / "other").mkdir()
    (place / "other" / "study.json").write_text("{}")
    (place / "other" / "results.csv").write_text("a,b\n1,2\n")
    library = Library([tmp_path])
    library.add(place)
    found = Evaluations(library, tmp_path / "scratch")
    assert len(found.all()) == 2
    found.figures()
    problems = found.problems
    broken = next(one for one in found.all() if one.folder.name == "table")
    with pytest.raises(InputError) as refused:
        found.results(broken)
    assert len(problems) == 2
    assert not [text for text in (*problems, str(refused.value)) if "Doe" in text or str(tmp_path) in text]


def test_links_out_of_the_roots_are_not_followed(study: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(study / "elsewhere" / "numbers", target_is_directory=True)
    library = Library([tmp_path / "root"])
    library.add(tmp_path / "root")
    assert Evaluations(library, tmp_path).all() == []


def test_results_written_anew_are_read_anew(study: Path, tmp_path: Path) -> None:
    """And what stays is not read again."""
    shutil.copytree(study / "elsewhere" / "numbers", tmp_path / "numbers")
    library = Library([tmp_path])
    library.add(tmp_path)
    found = Evaluations(library, tmp_path / "scratch")
    before = found.all()[0]
    first = found.results(before)
    assert found.results(found.all()[0]) is first
    file = tmp_path / "numbers" / "results.csv"
    file.write_text(file.read_text().replace("PSNR", "other"))
    os.utime(file, ns=(1, 1))
    after = found.all()[0]
    assert (after.key, after.stamp != before.stamp) == (before.key, True)
    assert "PSNR" not in set(found.results(after).rows["metric"])


def test_a_nifti_file_is_found_by_its_content_however_it_is_stored(
    write_nifti_scan: Callable[..., Path], tmp_path: Path
) -> None:
    """Also turned upside down: the slice is where it lies in the patient."""
    random = np.random.default_rng(0)
    full = np.where(np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 25, 40.0, -1000.0) + random.normal(0, 10, (5, 64, 64))
    write_nifti_scan(tmp_path / "full" / "x.nii.gz", full)
    bad = full.copy()
    bad[1] += 30
    file = write_nifti_scan(tmp_path / "made" / "x.nii.gz", bad)
    save_nifti(load_nifti(file).as_reoriented(np.array([[0, 1], [1, 1], [2, -1]])), file)
    evaluate(make_plan(Asked(tmp_path / "full", {"m": tmp_path / "made"})), tmp_path / "numbers")
    library = Library([tmp_path])
    library.add(tmp_path)
    found = Evaluations(library, tmp_path / "scratch")
    landing = found.landing(found.all()[0], "x", "m")
    assert landing is not None
    image = library.images[landing.case]
    assert (image.place, landing.index) == (file, 3)
    there = np.abs(image.open().read(3)).mean() - np.abs(full[1] + 30).mean()
    assert abs(there) < 1e-2
    gone = Library([tmp_path])
    gone.add(tmp_path)
    file.unlink()
    landing = Evaluations(gone, tmp_path / "scratch").landing(found.all()[0], "x", "m")
    assert landing is not None
    assert (gone.images[landing.case].place.parent.name, landing.is_result) == ("full", False)


def test_the_worklist_gets_the_figures_of_its_images(found: Evaluations) -> None:
    """PSNR and SSIM are those of results.csv in the abdomen window; the scan has its dose from there."""
    (one,) = found.all()
    figures = found.figures()
    case = next(case for case in found.library.cases() if case.record)
    rows = found.results(one).rows.set_index(["metric", "preset", "region"])["value"]
    judged = figures[case.key]
    assert judged.named["PSNR, dB (abdomen)"] == rows["PSNR", "abdomen", "all"]
    assert judged.named["SSIM (abdomen)"] == rows["SSIM", "abdomen", "all"]
    assert judged.evaluation == one.label
    assert (judged.dose, figures[case.scan.key].dose if case.scan else None) == (0.25, 0.25)
    (flag,) = judged.flags
    assert flag.startswith("bias: bone -")
    assert f"lung {rows['bias', 'hu', 'lung']:+.1f} HU" in flag


def table(*rows: tuple[str, str, str, float, str], dose: float = float("nan")) -> pd.DataFrame:
    columns = ["metric", "preset", "region", "value", "unit"]
    return pd.DataFrame(rows, columns=columns).assign(case="a", method="m", dose=dose)


CLAIM = "% of the errors lie in the interval that claims 90 %"


@pytest.mark.parametrize(
    ("rows", "flagged"),
    [
        ([("bias", "hu", "soft", BIAS_HU, "HU")], ""),
        ([("bias", "hu", "soft", -BIAS_HU - 0.1, "HU")], "bias: soft -5.1 HU"),
        ([("bias", "hu", "air", 40.0, "HU")], ""),
        ([("bias", "suv", "all", 40.0, "SUV")], ""),
        ([("SUVmean bias", "", "liver", -6.0, "%")], "bias: liver -6.0 %"),
        ([("bias", "hu", "fat", 6.0, "HU"), ("bias", "hu", "bone", -9.0, "HU")], "bias: bone -9.0 HU, fat +6.0 HU"),
        ([("coverage", "", "patient", COVERAGE_PERCENT, "%"), ("coverage", "", "all", 10.0, "%")], ""),
        ([("coverage", "", "patient", 84.4, "%")], f"low coverage: 84 {CLAIM}"),
        ([("coverage of reference", "", "all", 10.0, "%")], ""),
        ([("strongest added", "", "all", ADDED_SIGMA, "sigma")], ""),
        ([("strongest added", "", "all", 8.0, "sigma")], "hallucination: added structure of 8.0 times the noise"),
        ([("RMSE", "hu", "all", float("nan"), "HU"), ("bias", "hu", "soft", float("nan"), "HU")], ""),
    ],
)  # fmt: skip
def test_what_is_beyond_a_limit_is_flagged(rows: list[tuple[str, str, str, float, str]], flagged: str) -> None:
    """At the limit nothing is; air, SUV without a scale, and coverage of a noisy reference never are."""
    assert "".join(figures_of("e", table(*rows)).flags) == flagged


def test_figures_are_of_the_usual_window_and_else_of_the_first() -> None:
    """Infinite PSNR of equal images stays; what was not measured has no figure."""
    rows = [("PSNR", preset, "all", value, "dB") for preset, value in (("hu", 1.0), ("lung", 2.0))]
    assert figures_of("e", table(*rows)).named == {"PSNR, dB (hu)": 1.0}
    more = [*rows, ("PSNR", "abdomen", "all", float("inf"), "dB"), ("strongest added", "", "all", 2.0, "sigma")]
    found = figures_of("e", table(*more, dose=0.5))
    assert (found.named, found.dose) == ({"PSNR, dB (abdomen)": float("inf"), ADDED: 2.0}, 0.5)
    covered = figures_of("e", table(("coverage", "", "all", 88.0, "%")))
    assert (covered.named, covered.flags) == ({COVERAGE: 88.0}, ())


def test_studies_of_the_database_are_results_too(study: Path, tmp_path: Path) -> None:
    """Their rows are those that were stored, bit for bit, and their links work."""
    library = Library([study])
    library.add(study / "made")
    library.add(study / "scans")
    folder = study / "elsewhere" / "numbers"
    given = Evaluation("k", "s", json.loads((folder / "study.json").read_text()), folder).table()
    facts = CaseFacts(CASE, "P001", "HANN", 0.25, "none", 12)
    engine = open_database(f"sqlite:///{tmp_path / 'results.db'}")
    rows = [Row(*line) for line in given[["case", "method", "region", "metric", "preset", "value", "unit"]].to_numpy()]
    found = Evaluations(library, tmp_path / "scratch", engine)
    assert found.all() == []
    store(engine, "trial 7", rows, [facts], json.loads((folder / "study.json").read_text()))
    (one,) = found.all()
    assert one.label.startswith("trial 7, ")
    pd.testing.assert_frame_equal(found.results(one).rows, given, check_exact=True)
    landing = found.landing(one, CASE, METHOD)
    assert landing is not None
    assert landing.is_result
    assert list(found.figures().values())


def test_a_database_that_is_gone_is_told_without_its_address(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    engine = open_database(f"sqlite:///{path}")
    path.write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("select 1 from studies")
    found = Evaluations(Library([study]), tmp_path, engine)
    assert found.all() == []
    assert found.problems == ["the database does not answer, or holds no studies of medidiff"]
