"""The worklist with figures: what evaluations say of an image, as numbers, and what is to be known first, as flags."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import state
from dashboard.flags import ADDED, COVERAGE
from dashboard.results import evaluations
from dashboard.settings import VARIABLE, Review
from dashboard.views import worklist
from medidiff.evaluate.folder import evaluate
from medidiff.evaluate.plan import Evaluation, make_plan
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct

ROOT = Path(__file__).resolve().parents[2]
APP, CT = ROOT / "dashboard" / "app.py", ROOT / "data_samples" / "ct"
SECONDS = 60
MEASURED = ("bias", "psnr", "ssim", "hallucination")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan that was blurred a little and a lot, both judged against the truth, and a PET scan beside."""
    folder = tmp_path_factory.mktemp("Doe_John")
    shutil.copytree(CT / "low_dose", folder / "low")
    shutil.copytree(CT / "noise_free", folder / "truth")
    shutil.copytree(ROOT / "data_samples" / "pet" / "low_count", folder / "pet")
    for name, smoothing in (("weak", 0.5), ("strong", 3.0)):
        reconstruct(folder / "low", folder / name, Options(method="gaussian", smoothing=smoothing))
    methods = {name: folder / name for name in ("weak", "strong")}
    asked = Evaluation(
        folder / "truth", methods, metrics=MEASURED, scan=folder / "low", dose=0.25, reference_noise="none"
    )
    evaluate(make_plan(asked), folder / "numbers")
    return folder


def forget() -> None:
    for function in (state.review, state.library, state.folder, state.volumes, state.jobs, state.database):
        function.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture
def app(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setenv(VARIABLE, Review.of([study], []).environment()[VARIABLE])
    forget()
    yield AppTest.from_file(str(APP), default_timeout=SECONDS).run()
    state.jobs().stop()
    forget()


def lines(app: AppTest) -> list[dict[str, Any]]:
    return app.dataframe[0].value.to_dict("records")


def test_a_reconstruction_has_its_figures_and_flags(app: AppTest) -> None:
    """PSNR and SSIM in the abdomen window as in results.csv, the dose, and the bias of the strong one."""
    assert not app.exception
    made = {"bias" in line["Flags"]: line for line in lines(app) if line["Image"] == "reconstruction"}
    (one,) = evaluations().all()
    rows = evaluations().results(one).rows.set_index(["method", "metric", "preset", "region"])["value"]
    for is_strong, name in ((True, "strong"), (False, "weak")):
        line = made[is_strong]
        assert line["PSNR, dB (abdomen)"] == rows[name, "PSNR", "abdomen", "all"]
        assert line["SSIM (abdomen)"] == rows[name, "SSIM", "abdomen", "all"]
        assert line[ADDED] == rows[name, "strongest added", "", "all"]
        assert (line["Dose, %"], line["Evaluation"]) == (25.0, one.label)
    assert COVERAGE not in made[True]  # nothing claimed an uncertainty


def test_columns_of_numbers_are_numbers(app: AppTest) -> None:
    """So that a click on a column sorts 64 before 512."""
    table = app.dataframe[0].value
    numbers = ["Slices", "Rows", "Columns", "Slice, mm", "Pixel, mm", "Dose, %", "PSNR, dB (abdomen)", "SSIM (abdomen)"]
    assert [name for name in numbers if table[name].dtype.kind not in "if"] == []


def test_flagged_only_counts_the_flags_of_evaluations(app: AppTest) -> None:
    next(toggle for toggle in app.toggle if toggle.label == "Flagged only").set_value(True).run()
    assert all("bias: bone" in line["Flags"] for line in lines(app))
    next(box for box in app.text_input if box.label == "Search").set_value("lung").run()
    assert len(lines(app)) == 1


@pytest.mark.parametrize(
    ("said", "dose"),
    [
        ("B40f Thorax, simulated 25 % dose, research use only", 25.0),
        ("FDG, simulated 1/20 of the counts", 5.0),
        ("B40f Thorax, low dose", math.nan),
    ],
)
def test_a_simulated_scan_says_its_dose(said: str, dose: float) -> None:
    """By the words that `medidiff simulate` adds to the description of a series."""
    image: Any = SimpleNamespace(key="k", series=SimpleNamespace(instances=[SimpleNamespace(reconstruction=said)]))
    case: Any = SimpleNamespace(main=image, scan=None)
    found = worklist._dose(case, {})
    assert (math.nan if found is None else found) == pytest.approx(dose, nan_ok=True)


def test_pictures_that_take_long_come_later(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is there before them; those that are made once are there at once."""
    made: list[object] = []
    slow: Callable[[Any], str] = lambda image: made.append(image) or "picture"  # noqa: E731
    monkeypatch.setattr(worklist, "thumbnail", slow)
    monkeypatch.setattr(worklist, "MOMENT", -1.0)
    cases = state.library().cases()
    assert worklist._pictures(cases) == ([None] * len(cases), False)
    monkeypatch.setattr(worklist, "MOMENT", 60.0)
    assert worklist._pictures(cases) == (["picture"] * len(cases), True)
    assert len(made) == len(cases)
