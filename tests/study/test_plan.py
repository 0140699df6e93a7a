"""A study is checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import UsageError
from medidiff.inference.tuned import Best, Tuned, TunedMethod, save_tuned
from medidiff.io.files import file_hash
from medidiff.model import load
from medidiff.study.plan import make_plan

Write = Callable[..., Path]


def test_all_faults_are_named_together(
    study_file: Write, tmp_path: Path, write_nifti_scan: Callable[..., Path]
) -> None:
    """Unknown keys, metrics and methods, a missing file, another grid, another unit, a twin name, a missing result."""
    write_nifti_scan(tmp_path / "small.nii", np.full((3, 24, 24), -1000.0))
    write_nifti_scan(tmp_path / "unit.nii", np.ones((3, 48, 48)))
    (tmp_path / "vendor").mkdir()
    paths = [("a_low.nii", "nowhere.nii"), ("a_low.nii", "small.nii"), ("a_low.nii", "unit.nii")]
    cases = [{"paired": {"scan": scan, "reference": reference}} for scan, reference in paths]
    cases += [{"paired": {"name": "b", "scan": "b_low.nii", "reference": "b_full.nii"}}] * 2
    methods = [
        {"name": "identity", "method": "identity"},
        {"name": "lost", "model": "nowhere"},
        {"name": "magic", "method": "magic"},
        {"name": "vendor", "external": str(tmp_path / "vendor")},
    ]
    path = study_file(cases=cases, methods=methods, metrics=["rmse", "beauty"], presets=["hu", "pink"], colour="red")
    with pytest.raises(UsageError) as error:
        make_plan(path)
    told = str(error.value)
    for fault in ("colour: unknown key", "metrics: beauty unknown", "presets: pink unknown", "'magic' is not a method",
                  "model 'nowhere'", "nowhere.nii: no such file", "small.nii: not the grid", "unit.nii: expected HU",
                  "cases: b is there more than once", "vendor: has no b"):  # fmt: skip
        assert fault in told, told
    assert "\n" not in told
    assert not (tmp_path / "out").exists()


def test_a_faulty_method_is_not_said_to_be_missing(study_file: Write) -> None:
    """The baseline is named, its options are wrong: that is one fault, and not two."""
    path = study_file(
        methods=[{"name": "magic", "method": "magic"}, {"name": "n", "method": "nlm"}], statistics={"baseline": "magic"}
    )
    with pytest.raises(UsageError) as error:
        make_plan(path)
    assert "'magic' is not a method" in str(error.value)
    assert "faults" not in str(error.value)


def test_a_result_made_elsewhere_has_a_number_everywhere(
    study_file: Write, tmp_path: Path, write_nifti_scan: Callable[..., Path]
) -> None:
    """Voxels that are not numbers would not count, and the hardest ones could be left out."""
    image = np.full((3, 48, 48), -1000.0)
    image[1, 20:22, 20:25] = np.nan
    write_nifti_scan(tmp_path / "vendor" / "a.nii.gz", image)
    write_nifti_scan(tmp_path / "vendor" / "b.nii.gz", np.nan_to_num(image))
    with pytest.raises(UsageError, match=r"a: vendor: .*a\.nii\.gz: 10 voxels are not numbers"):
        make_plan(study_file(methods=[{"name": "vendor", "external": str(tmp_path / "vendor")}]))


def test_an_image_is_not_taken_for_lesions(study_file: Write, tmp_path: Path) -> None:
    """Every number of it would become a lesion."""
    with pytest.raises(UsageError, match=r"a_low\.nii: expected a mask \(0 and 1\) or labels"):
        make_plan(study_file(regions={"lesions": "a_low.nii"}))


def test_doses_become_cases_that_share_a_patient(study_file: Write) -> None:
    """`simulate` makes one case a dose; a case without a name is numbered, and without a patient its own."""
    full = {"full": "c_full.nii", "doses": [0.5, 0.25], "kernel": "hann", "i0": 1e5}
    plan = make_plan(study_file(cases=[{"simulate": full}, {"simulate": full | {"name": "c", "patient": "p7"}}]))
    assert [case.name for case in plan.cases] == ["case001@0.5", "case001@0.25", "c@0.5", "c@0.25"]
    assert [case.patient for case in plan.cases] == ["case001", "case001", "p7", "p7"]
    assert {case.facts.reference_noise for case in plan.cases} == {"shared"}
    assert [case.facts.dose for case in plan.cases] == [0.5, 0.25] * 2


def test_a_manifest_is_a_case_a_line(study_file: Write, tmp_path: Path) -> None:
    """Measured pairs as they are, full doses at every dose; the patient is the manifest's."""
    (tmp_path / "list.csv").write_text(
        "patient,split,full,low\np1,test,a_full.nii,a_low.nii\np2,test,c_full.nii,\np3,tune,b_full.nii,\n"
    )
    entry = {"manifest": {"manifest": str(tmp_path / "list.csv"), "doses": [0.25], "kernel": "hann", "i0": 1e5}}
    plan = make_plan(study_file(cases=[entry]))
    assert [(case.name, case.patient) for case in plan.cases] == [("case001", "p1"), ("case002@0.25", "p2")]


def test_a_key_changes_with_everything_that_decides_numbers(study_file: Write, tmp_path: Path) -> None:
    """Metrics, method, seed, dose, content of a scan: each gives another key; paths and workers do not."""

    def keys(**changes: object) -> list[str]:
        plan = make_plan(study_file(**changes))
        return [plan.key(case, method) for case, method in plan.pairs]

    usual = keys()
    assert len(set(usual)) == 4
    assert keys(workers=2, output=str(tmp_path / "other")) == usual
    assert not set(keys(metrics=["rmse"])) & set(usual)
    assert not set(keys(seed=1)) & set(usual)
    strong = [{"name": "identity", "method": "identity"}, {"name": "gaussian", "method": "gaussian", "smoothing": 2}]
    assert [key in usual for key in keys(methods=strong)] == [True, False, True, False]
    scan = tmp_path / "a_low.nii"
    content = bytearray(scan.read_bytes())
    content[-4:] = np.float32(7).tobytes()
    scan.write_bytes(content)
    assert [key in usual for key in keys()] == [False, False, True, True]


def test_masks_must_lie_on_the_scan(study_file: Write, tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> None:
    """A mask of another grid, and a folder without one mask, are faults."""
    write_nifti_scan(tmp_path / "masks" / "a.nii", np.ones((3, 24, 24)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"a\.nii: not the grid.*empty has no file for any case"):
        make_plan(study_file(regions={"masks": {"liver": "masks", "empty": "empty"}}))


def write_tuned(path: Path, **methods: TunedMethod) -> Path:
    common = {"created": "2026", "manifest": "list.csv", "manifest_sha256": "0", "settings": {}}
    save_tuned(path, Tuned(**common, methods=methods))
    return path


def best(smoothing: float | None, alpha: float) -> Best:
    return Best(patients=1, slices=1, smoothing=smoothing, rmse_input=9, rmse=5, alpha=alpha, rmse_blend=5)


def test_strength_and_blend_come_from_a_tuned_file(study_file: Write, tmp_path: Path, tiny_model: Path) -> None:
    """Overall or of one group; what a method is says which file, and a file that changes gives another key."""
    gaussian = TunedMethod(evaluations=9, unit="pixels", overall=best(1.5, 0.25), groups={"smooth 0.25": best(0.5, 0)})
    sha = load(tiny_model).sha256
    learned = TunedMethod(evaluations=1, model_sha256=sha, overall=best(None, 0.4), groups={})
    file = write_tuned(tmp_path / "tuned.yaml", gaussian=gaussian, tiny=learned)
    entry = {"method": "gaussian", "tuned": str(file)}
    methods = [
        {"name": "overall", **entry},
        {"name": "group", **entry, "tuned_group": "smooth 0.25"},
        {"name": "blended", **entry, "blend": "tuned"},
        {"name": "model", "model": str(tiny_model), "tuned": str(file), "blend": "tuned"},
    ]
    plan = make_plan(study_file(methods=methods))
    options = [method.options for method in plan.methods]
    assert [(o.smoothing, o.strength) for o in options if o] == [(1.5, 100), (0.5, 100), (1.5, 75), (None, 60)]
    assert plan.methods[1].parameters["tuned"] == {
        "file": "tuned.yaml", "sha256": file_hash(file), "split": "tune", "group": "smooth 0.25", "what": "smoothing",
    }  # fmt: skip
    before = plan.key(plan.cases[0], plan.methods[0])
    write_tuned(file, gaussian=gaussian.model_copy(update={"overall": best(1.4, 0)}), tiny=learned)
    after = make_plan(study_file(methods=methods))
    assert after.key(after.cases[0], after.methods[0]) != before


def test_tuned_files_that_do_not_fit_are_faults(study_file: Write, tmp_path: Path, tiny_model: Path) -> None:
    """No file, no such method, no such group, another version of the model, and settings that contradict."""
    gaussian = TunedMethod(evaluations=9, unit="pixels", overall=best(1.5, 0.25), groups={"smooth 0.25": best(0.5, 0)})
    other = TunedMethod(evaluations=1, model_sha256="another", overall=best(None, 0.4), groups={})
    file = str(write_tuned(tmp_path / "tuned.yaml", gaussian=gaussian, tiny=other))
    methods = [
        {"name": "m1", "method": "gaussian", "tuned": str(tmp_path / "nowhere.yaml")},
        {"name": "m2", "method": "nlm", "tuned": file},
        {"name": "m3", "method": "gaussian", "tuned": file, "tuned_group": "sharp 0.9"},
        {"name": "m4", "model": str(tiny_model), "tuned": file, "blend": "tuned"},
        {"name": "m5", "method": "gaussian", "tuned": file, "smoothing": 2},
        {"name": "m6", "method": "gaussian", "blend": "tuned"},
        {"name": "m7", "model": "ct", "tuned": file},
    ]
    with pytest.raises(UsageError) as error:
        make_plan(study_file(methods=methods, colour="red"))
    for fault in ("colour: unknown key", "nowhere.yaml: no such settings file", "holds nothing for nlm, only for",
                  "no group 'sharp 0.9' for gaussian, only smooth 0.25", "another version of model tiny",
                  "smoothing and tuned both", "needs a file of medidiff tune", "a model has no strength"):  # fmt: skip
        assert fault in str(error.value), str(error.value)
