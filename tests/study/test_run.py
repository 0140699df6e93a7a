"""A study from its file to its tables: resumed, spread over processes, and whole after whatever fails."""

from __future__ import annotations

import fcntl
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff.baselines import BASELINES
from medidiff.errors import OutputError, PartialFailure
from medidiff.model import load, save
from medidiff.results.tables import read_tables
from medidiff.seen import Range, Seen
from medidiff.study.plan import make_plan
from medidiff.study.run import run

Write = Callable[..., Path]
IDENTITY = {"name": "identity", "method": "identity"}


def rows(out: Path) -> dict[tuple[str, str, str, str], float]:
    """(case, method, region, metric) -> value."""
    table = read_tables(out)[0]
    return {(r.case, r.method, r.region, r.metric): r.value for r in table.itertuples()}


def pairs(out: Path) -> set[tuple[str, str]]:
    """(case, method) of everything in the tables."""
    return {key[:2] for key in rows(out)}


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished pair: both change when it is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / ".rows").glob("*.json")}


def test_a_study_gives_the_numbers_of_its_definition(study_file: Write, tmp_path: Path) -> None:
    """RMSE of the unchanged scan is that of the files; every table is there, the picture is the worst slice."""
    done = run(make_plan(study_file()))
    out = done.folder
    low, full = (nib.load(tmp_path / f"a_{kind}.nii").get_fdata() for kind in ("low", "full"))
    found = rows(out)
    assert len(pairs(out)) == 4
    assert found["a", "identity", "all", "RMSE"] == pytest.approx(np.sqrt(np.mean((low - full) ** 2)), rel=1e-6)
    assert {path.name for path in out.iterdir()} == {
        "results.csv", "results.parquet", "cases.csv", "curves.json", "statistics.csv", "comparisons.csv",
        "agreement.csv", "conclusions.txt", "study.json", "pictures", ".rows",
    }  # fmt: skip
    assert any("gaussian" in sentence for sentence in done.sentences)
    record = json.loads((out / "study.json").read_text())
    assert (record["status"], record["baseline"], record["failures"]) == ("finished", "identity", [])
    errors = np.sqrt(((low - full) ** 2).mean((0, 1)))
    with np.load(out / "pictures" / "a--identity.npz") as picture:
        assert int(picture["index"]) == errors.argmax()
        assert float(picture["rmse"]) == pytest.approx(errors.max(), rel=1e-6)
        np.testing.assert_allclose(picture["reference"], full[:, :, errors.argmax()].T, rtol=1e-6)
        assert list(picture["sides"]) == ["R", "L"]


def test_what_is_finished_is_not_done_again(study_file: Write) -> None:
    """The same study computes nothing; one method more computes that one only and replaces the others' tables."""
    out = run(make_plan(study_file())).folder
    before = stamps(out)
    again = run(make_plan(study_file()))
    assert (again.computed, again.reused) == (0, 4)
    assert stamps(out) == before
    more = make_plan(study_file(methods=[IDENTITY, {"name": "strong", "method": "gaussian", "smoothing": 3.0}]))
    with pytest.raises(OutputError, match=r"another study.*--overwrite"):
        run(more)
    changed = run(more, overwrite=True)
    assert (changed.computed, changed.reused) == (2, 2)
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert {key[1] for key in rows(out)} == {"identity", "strong"}
    assert {path.stem for path in (out / "pictures").iterdir()} == {
        f"{case}--{method}" for case in "ab" for method in ("identity", "strong")
    }


def test_a_folder_of_others_is_left_alone(study_file: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").touch()
    with pytest.raises(OutputError, match="no study of medidiff"):
        run(make_plan(study_file()), overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.doc"]


def test_two_runs_do_not_share_a_folder(study_file: Write, tmp_path: Path) -> None:
    """While one is at work another is refused; a lock that a killed run left behind does not count."""
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is at work"):
            run(make_plan(study_file()))
    run(make_plan(study_file()))


def test_workers_change_nothing(study_file: Write, tiny_model: Path, tmp_path: Path) -> None:
    """One process or two: results.csv to the byte, with a drawn dose, a sampled method and a blend."""
    simulated = {"simulate": {"name": "c", "full": "c_full.nii", "doses": [0.5, 0.25], "kernel": "hann", "i0": 1e5}}
    sample = {"name": "sample", "model": str(tiny_model), "mode": "sample", "steps": 2}
    settings: dict[str, Any] = {"cases": [simulated], "methods": [IDENTITY, sample], "seed": 3}
    texts = []
    for workers in (1, 2):
        out = tmp_path / f"workers{workers}"
        run(make_plan(study_file(**settings, output=str(out))), workers=workers)
        texts.append((out / "results.csv").read_bytes())
        assert not (out / ".work").exists()
    assert texts[0] == texts[1]


def known(low: float, high: float) -> Range:
    return Range(low=low, high=high, least=low, most=high)


def with_range(tiny_model: Path, path: Path, **ranges: Range) -> dict[str, Any]:
    """A model that has seen these ranges, as a study names it."""
    tiny = load(tiny_model)
    card = tiny.card.model_copy(update={"seen": Seen(**ranges)})
    save(path, tiny.denoiser, tiny.architecture, tiny.scaling, card)
    return {"model": str(path)}


def test_what_a_model_has_not_seen_is_told_once_a_case(study_file: Write, tiny_model: Path, tmp_path: Path) -> None:
    """Noise of 11 and 34 HU in pixels of 1 mm, and a model of more and larger: a sentence a case, which names both
    methods of the model and no classical one; the same when nothing is left to be done, and in study.json."""
    narrow = with_range(tiny_model, tmp_path / "narrow.safetensors", noise_hu=known(100, 120), pixel_mm=known(2, 3))
    methods = [IDENTITY, {"name": "net", **narrow}, {"name": "half", **narrow, "strength": 50}]
    first = run(make_plan(study_file(methods=methods)))
    again = run(make_plan(study_file(methods=methods)))
    assert [sentence.split(": ")[0] for sentence in first.warnings] == ["a, net, half", "b, net, half"]
    for sentence in first.warnings:
        assert "pixels of 1 mm, outside of the 2 to 3 mm that the model has seen" in sentence
        assert "HU, below the 100 to 120 HU that the model has seen, in 3 of 3 slices" in sentence
    assert (again.computed, again.warnings) == (0, first.warnings)
    assert json.loads((first.folder / "study.json").read_text())["warnings"] == list(first.warnings)


def test_inside_of_what_a_model_has_seen_nothing_is_told(study_file: Write, tiny_model: Path, tmp_path: Path) -> None:
    """Of the same scans, by a model of both levels and the pixels."""
    wide = with_range(tiny_model, tmp_path / "wide.safetensors", noise_hu=known(1, 120), pixel_mm=known(0.5, 3))
    done = run(make_plan(study_file(methods=[IDENTITY, {"name": "net", **wide}])))
    assert done.warnings == ()
    assert json.loads((done.folder / "study.json").read_text())["warnings"] == []


def test_a_failure_stops_nothing_else_and_the_next_run_mends_it(
    study_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that fails on one case: exit code 3, its name and the reason; all else is there; then it is made up."""
    plan = make_plan(study_file())
    slices = iter(range(99))
    true = BASELINES["gaussian"]

    def fails(image: np.ndarray, level: float, strength: float) -> np.ndarray:
        if next(slices) == 1:
            raise ValueError("negative radius")
        return true.function(image, level, strength)

    with monkeypatch.context() as patch:
        patch.setitem(BASELINES, "gaussian", type(true)(**{**vars(true), "function": fails}))
        with pytest.raises(PartialFailure, match=r"3 of 4 results.*a, gaussian: ValueError: negative radius") as error:
            run(plan)
    assert error.value.exit_code == 3
    out = plan.study.output
    assert pairs(out) == {("a", "identity"), ("b", "identity"), ("b", "gaussian")}
    assert json.loads((out / "study.json").read_text())["failures"] == ["a, gaussian: ValueError: negative radius"]
    before = stamps(out)
    run(plan)
    assert len(pairs(out)) == 4
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before


def test_a_file_that_turns_unreadable_costs_its_case(study_file: Write, tmp_path: Path) -> None:
    """Cut short after the check: the case is named once, the other one is finished."""
    plan = make_plan(study_file())
    whole = (tmp_path / "a_full.nii").read_bytes()
    (tmp_path / "a_full.nii").write_bytes(whole[:2000])
    with pytest.raises(PartialFailure, match=r"a: .*a_full\.nii") as error:
        run(plan)
    assert str(error.value).count("a: ") == 1
    assert {key[0] for key in rows(plan.study.output)} == {"b"}
    assert str(tmp_path) not in (plan.study.output / "study.json").read_text()  # folders may be called by patients
    (tmp_path / "a_full.nii").write_bytes(whole)
    run(plan)
    assert {key[0] for key in rows(plan.study.output)} == {"a", "b"}


def test_a_database_that_goes_away_costs_no_row(study_file: Write, tmp_path: Path) -> None:
    """The tables are whole, the database is named, and the same study stores them when it is back."""
    plan = make_plan(study_file(database=f"sqlite:///{tmp_path / 'rows.db'}"))
    (tmp_path / "rows.db").unlink(missing_ok=True)
    (tmp_path / "rows.db").mkdir()
    with pytest.raises(PartialFailure, match="the database"):
        run(plan)
    assert len(pairs(plan.study.output)) == 4
    (tmp_path / "rows.db").rmdir()
    run(plan)
    assert (tmp_path / "rows.db").stat().st_size > 0


def test_results_made_elsewhere_are_a_method(study_file: Write, tmp_path: Path) -> None:
    """Turned axes are turned back; a blend of 0.25 with the input is x + 0.25 (y - x)."""
    (tmp_path / "vendor").mkdir()
    for name in "ab":
        image = nib.load(tmp_path / f"{name}_full.nii")
        nib.save(image.as_reoriented(np.array([[0, 1], [1, -1], [2, 1]])), tmp_path / "vendor" / f"{name}.nii.gz")
    methods = [
        IDENTITY,
        {"name": "vendor", "external": str(tmp_path / "vendor")},
        {"name": "vendor a quarter back", "external": str(tmp_path / "vendor"), "blend": 0.25},
    ]
    out = run(make_plan(study_file(methods=methods))).folder
    found = rows(out)
    assert found["a", "vendor", "all", "RMSE"] == 0
    assert found["a", "vendor", "all", "PSNR"] == np.inf
    unchanged = found["a", "identity", "all", "RMSE"]
    assert found["a", "vendor a quarter back", "all", "RMSE"] == pytest.approx(unchanged / 4, rel=1e-5)


def test_a_blend_equals_the_strength(study_file: Write, tiny_model: Path) -> None:
    """For a model: blend 0.4 and strength 60 give the same numbers."""
    model = {"model": str(tiny_model)}
    methods = [{"name": "blend", **model, "blend": 0.4}, {"name": "strength", **model, "strength": 60}]
    found = rows(run(make_plan(study_file(methods=methods))).folder)
    assert found["a", "blend", "all", "RMSE"] == found["a", "strength", "all", "RMSE"]


def test_regions_from_files_are_rows(study_file: Write, tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> None:
    """A mask for one case, and a label image whose labels are lesions; others have no such rows."""
    labels = np.zeros((3, 48, 48))
    labels[1, 20:24, 20:24], labels[:, 28:32, 20:24] = 1, 2
    write_nifti_scan(tmp_path / "lesions" / "a.nii", labels)
    regions = {"masks": {"middle": "lesions"}, "lesions": "lesions"}
    found = rows(run(make_plan(study_file(regions=regions))).folder)
    low, full = (nib.load(tmp_path / f"a_{kind}.nii").get_fdata().T for kind in ("low", "full"))
    inside = labels == 2
    expected = np.sqrt(np.mean((low - full)[inside] ** 2))
    assert found["a", "identity", "lesion 2", "RMSE"] == pytest.approx(expected, rel=1e-6)
    assert {key[2] for key in found if key[0] == "a"} >= {"middle", "lesion 1", "lesion 2"}
    assert not {key[2] for key in found if key[0] == "b"} & {"middle", "lesion 1", "lesion 2"}


def test_images_are_kept_when_asked_for(study_file: Write, tmp_path: Path) -> None:
    """The candidate as NIfTI, in the place of the scan."""
    out = run(make_plan(study_file(keep_images=True))).folder
    image, scan = nib.load(out / "images" / "a--identity.nii.gz"), nib.load(tmp_path / "a_low.nii")
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)
    np.testing.assert_allclose(image.get_fdata(), scan.get_fdata(), atol=1e-4)


def test_a_fault_in_the_report_costs_nothing_else(study_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that nobody foresaw: it is named with exit code 3, tables are whole, and the record says failed."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("metric")

    monkeypatch.setattr("medidiff.report.build", broken)
    plan = make_plan(study_file(report=True))
    with pytest.raises(PartialFailure, match=r"4 of 4 .* the report: a fault of medidiff.*KeyError") as failed:
        run(plan)
    assert failed.value.exit_code == 3
    out = plan.study.output
    assert len(pairs(out)) == 4
    record = json.loads((out / "study.json").read_text())
    assert record["status"] == "failed"
    assert "KeyError" in record["failures"][0]


def test_a_scan_without_even_tissue_needs_a_scanner_to_fall_back_on(study_file: Write) -> None:
    """Its noise cannot be measured: named, and with kernel and photons from the study it is simulated."""
    entry: dict[str, Any] = {"name": "c", "full": "c_full.nii", "doses": [0.25]}
    with pytest.raises(PartialFailure, match=r"c@0\.25: the series has no homogeneous soft tissue"):
        run(make_plan(study_file(cases=[{"simulate": entry}])))
    entry["fallback"] = {"kernel": "hann", "i0": 1e5}
    found = rows(run(make_plan(study_file(cases=[{"simulate": entry}])), overwrite=True).folder)
    assert found["c@0.25", "identity", "all", "RMSE"] > 0


def test_a_phantom_is_a_case_with_truth(study_file: Write) -> None:
    """The reference is the truth: every dose has its own noise level, the lower the higher."""
    phantom = {"phantom": {"name": "water", "kind": "uniform", "doses": [1.0, 0.25], "realisations": 2}}
    found = rows(run(make_plan(study_file(cases=[phantom], methods=[IDENTITY]))).folder)
    full, quarter = (found[f"water@{dose}", "identity", "all", "RMSE"] for dose in ("1", "0.25"))
    assert quarter / full == pytest.approx(2, rel=0.1)


def test_memory_does_not_grow_with_slices(study_file: Write, tmp_path: Path, write_nifti_scan: Write) -> None:
    """A hundred slices more of a memory-mapped scan: no array grows with them (such a volume would, by 6.5 MB)."""
    peaks = []
    for n in (20, 20, 120):
        scan = np.random.default_rng(0).normal(-500, 300, (n, 128, 128))
        for name in ("long_low", "long_full"):
            write_nifti_scan(tmp_path / f"{name}.nii", scan)
        case = {"paired": {"name": f"long{n}", "scan": "long_low.nii", "reference": "long_full.nii"}}
        plan = make_plan(study_file(cases=[case], methods=[IDENTITY], output=str(tmp_path / f"out{len(peaks)}")))
        del scan
        tracemalloc.start()
        run(plan)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert abs(peaks[2] - peaks[1]) < 0.5e6
