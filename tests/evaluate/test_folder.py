"""Folders against a reference: the numbers are those of plain numpy, pairs are right, and nothing finished is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity

from medidiff.errors import InputError, OutputError, UsageError
from medidiff.evaluate.folder import evaluate
from medidiff.evaluate.journal import Journal
from medidiff.evaluate.plan import Evaluation, make_plan, named
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import load_volume, open_series, scan
from medidiff.io.nifti import write_nifti

Write = Callable[..., Path]


@pytest.fixture
def volumes() -> tuple[np.ndarray, np.ndarray]:
    """A reference and a candidate (slices, rows, columns) in HU, discs of water with noise."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:40, :36] - 19.5
    clean = np.where(x**2 + y**2 < 200, 40.0, -1000.0)
    reference = clean + random.normal(0, 10, (4, 40, 36))
    return np.rint(reference).astype(np.float32), np.rint(reference + random.normal(2, 15, (4, 40, 36))).astype(
        np.float32
    )


def derive(source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A derived series of a DICOM folder, its values changed."""
    opened = open_series(scan(source).series[0])
    target.mkdir(parents=True)
    writer = DerivedWriter(opened, target, Derivation("test", "test"))
    for index in range(opened.geometry.n_slices):
        writer.write(index, change(opened.read(index)))
    return target


def measured(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv", keep_default_na=False)


def value(out: Path, **wanted: str) -> float:
    table = measured(out)
    for column, text in {"region": "all", **wanted}.items():
        table = table[table[column] == text]
    assert len(table) == 1
    return float(table["value"].iloc[0])


def test_the_numbers_are_those_of_numpy_and_scikit_image(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """RMSE over all voxels, PSNR and SSIM as means over slices, computed here from the same files."""
    y, x = volumes
    write_nifti_scan(tmp_path / "full.nii.gz", y)
    write_nifti_scan(tmp_path / "low.nii.gz", x)
    asked = Evaluation(tmp_path / "full.nii.gz", {"low": tmp_path / "low.nii.gz"}, presets=("hu", "abdomen"))
    out = evaluate(make_plan(asked), tmp_path / "out").folder
    files = [nib.load(tmp_path / name).get_fdata().transpose(2, 1, 0) for name in ("low.nii.gz", "full.nii.gz")]
    for preset, low, high, clip in (("hu", -1024, 3071, False), ("abdomen", -160, 240, True)):
        a, b = (((np.clip(f, low, high) if clip else f) - low) / (high - low) for f in files)  # [0, 1]
        mse = ((a - b) ** 2).mean(axis=(1, 2))
        similar = [
            structural_similarity(p, q, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
            for p, q in zip(a, b, strict=True)
        ]
        assert value(out, metric="RMSE", preset=preset) == pytest.approx(
            (high - low) * np.sqrt(((a - b) ** 2).mean()), rel=1e-9
        )
        assert value(out, metric="PSNR", preset=preset) == pytest.approx(np.mean(-10 * np.log10(mse)), rel=1e-9)
        assert value(out, metric="SSIM", preset=preset) == pytest.approx(np.mean(similar), rel=1e-9)
    assert value(out, metric="bias") == pytest.approx((files[0] - files[1]).mean(), rel=1e-6)
    assert list(measured(out)) == ["case", "method", "region", "metric", "preset", "value", "unit"]
    assert {path.name for path in out.iterdir()} >= {"results.parquet", "cases.csv", "curves.json", "statistics.csv"}


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_dicom_and_nifti_mix_whatever_the_order_of_storage(tmp_path: Path, write_series: Write, flips) -> None:
    """A NIfTI candidate with flipped axes gives the numbers of the same candidate in DICOM, and the other way round."""
    reference = write_series(tmp_path / "full", n=5)
    dicom = derive(reference, tmp_path / "dicom", lambda hu: np.round(0.9 * hu + 3))
    nifti = tmp_path / "nifti.nii.gz"
    write_nifti(nifti, open_series(scan(dicom).series[0]))
    image = nib.load(nifti)
    nib.save(image.as_reoriented(np.column_stack([range(3), flips[::-1]])), nifti)
    out = tmp_path / "out"
    outcome = evaluate(make_plan(Evaluation(reference, {"dicom": dicom, "nifti": nifti})), out)
    table = measured(out).pivot_table(index=["region", "metric", "preset"], columns="method", values="value")
    assert not outcome.failures
    assert len(table) > 8
    np.testing.assert_allclose(table["dicom"], table["nifti"], rtol=1e-12)
    back = evaluate(make_plan(Evaluation(nifti, {"dicom": reference})), tmp_path / "back").folder
    assert value(back, metric="RMSE", preset="hu") == pytest.approx(
        value(out, metric="RMSE", preset="hu", method="nifti")
    )


def test_cases_are_named_without_the_patient(tmp_path: Path, write_series: Write) -> None:
    """Nothing that is written holds an identifier of the headers; two series of one patient count as one patient."""
    tags = {"PatientID": "ID4711", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101", "AccessionNumber": "AC99"}
    for kernel in ("B40f", "B70f"):
        source = write_series(tmp_path / "full" / "ID4711" / kernel, kernel=kernel, **tags)
        derive(source, tmp_path / "result" / "ID4711" / kernel, lambda hu: hu + 5)
    uids = [
        uid for s in scan(tmp_path / "full").series for uid in (s.uid, s.frame_of_reference, s.instances[0].study_uid)
    ]
    broken = sorted((tmp_path / "result" / "ID4711" / "B70f").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:-500])
    out = tmp_path / "out"
    outcome = evaluate(make_plan(Evaluation(tmp_path / "full", {"m": tmp_path / "result"})), out)
    assert [case for case, *_ in outcome.failures] == ["002_CT_B70f"]
    for path in (p for p in out.rglob("*") if p.is_file()):
        for secret in (*tags.values(), "Doe", "ID4711", *filter(None, uids)):
            assert secret.encode() not in path.read_bytes(), path
            assert secret not in path.name
    cases = pd.read_csv(out / "cases.csv")
    assert list(cases["case"]) == ["001_CT_B40f"]
    assert list(cases["patient"]) == ["P001"]
    assert list(cases["group"]) == ["B40f"]


def test_kernels_of_one_scan_are_told_apart(tmp_path: Path, write_series: Write) -> None:
    """Two series at the same place, listed in another order by the candidate, find their partners by the kernel."""
    for kernel, back in (("B40f", "z"), ("B70f", "a")):
        source = write_series(tmp_path / "full" / kernel, kernel=kernel, FrameOfReferenceUID="1.2.3")
        derive(source, tmp_path / "result" / back, lambda hu: hu + 5)
    out = evaluate(make_plan(Evaluation(tmp_path / "full", {"m": tmp_path / "result"})), tmp_path / "out").folder
    rmse = measured(out).query("metric == 'RMSE' and preset == 'hu' and region == 'all'")
    assert list(rmse["case"]) == ["001_CT_B40f", "002_CT_B70f"]
    assert list(rmse["value"]) == pytest.approx([5, 5])


def test_what_does_not_match_is_listed_on_both_sides(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """Every volume without a partner is named, of every candidate, and nothing is written."""
    for folder, names in {"full": "abc", "x": "abd", "y": "ab"}.items():
        for name in names:
            write_nifti_scan(tmp_path / folder / f"{name}.nii.gz", volumes[0])
    with pytest.raises(InputError) as error:
        make_plan(Evaluation(tmp_path / "full", {"x": tmp_path / "x", "y": tmp_path / "y"}))
    sentence = str(error.value)
    assert "c is only in the reference; d is only in the candidate" in sentence
    assert sentence.count("c is only in the reference") == 2
    assert "y (" in sentence


def test_another_grid_is_refused_before_anything_is_measured(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """Volumes of one name and another shape are no pair."""
    for folder, stop in (("full", 4), ("x", 3)):
        write_nifti_scan(tmp_path / folder / "a.nii.gz", volumes[0][:stop])
        write_nifti_scan(tmp_path / folder / "b.nii.gz", volumes[0])
    with pytest.raises(InputError, match=r"a: shape \(3, 40, 36\) against \(4, 40, 36\)"):
        make_plan(Evaluation(tmp_path / "full", {"x": tmp_path / "x"}))


def test_voxels_without_a_number_are_not_left_out_silently(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """A candidate that is no number where it is worst would look better than it is."""
    reference, candidate = volumes
    candidate = np.where(np.abs(candidate - reference) > 20, np.nan, candidate)
    write_nifti_scan(tmp_path / "reference.nii.gz", reference)
    write_nifti_scan(tmp_path / "candidate.nii.gz", candidate)
    asked = Evaluation(tmp_path / "reference.nii.gz", {"ours": tmp_path / "candidate.nii.gz"}, metrics=("rmse",))
    warnings = evaluate(make_plan(asked), tmp_path / "out").warnings
    assert f"{np.isnan(candidate).sum()} voxels of the reference do not count" in " ".join(warnings)


def test_names_decide_where_places_are_the_same(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """Files of one name are a pair although all lie on one grid; folders hold the same case under another ending."""
    for k, name in enumerate("ab"):
        write_nifti_scan(tmp_path / "full" / f"{name}.nii.gz", volumes[0])
        write_nifti_scan(tmp_path / "x" / f"{name}.nii", volumes[0] + k + 1)
    out = evaluate(make_plan(Evaluation(tmp_path / "full", {"x": tmp_path / "x"})), tmp_path / "out").folder
    assert [value(out, case=name, metric="bias") for name in "ab"] == [1, 2]


def test_a_case_that_fails_is_named_and_done_when_it_is_mended(
    tmp_path: Path, write_nifti_scan: Write, volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file costs its own case; the same command measures this one only, once it can be read."""
    for name in "abc":
        write_nifti_scan(tmp_path / "full" / f"{name}.nii.gz", volumes[0])
        write_nifti_scan(tmp_path / "x" / f"{name}.nii.gz", volumes[1])
    damaged = tmp_path / "x" / "b.nii.gz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    asked = Evaluation(tmp_path / "full", {"x": tmp_path / "x"})
    first = evaluate(make_plan(asked), tmp_path / "out")
    assert [(case, method) for case, method, _ in first.failures] == [("b", "x")]
    assert first.measured == 2
    assert set(measured(first.folder)["case"]) == {"a", "c"}
    record = json.loads((first.folder / "study.json").read_text())
    assert record["status"] == "failed"
    assert len(record["failures"]) == 1
    damaged.write_bytes(whole)
    again = evaluate(make_plan(asked), tmp_path / "out")
    assert not again.failures
    assert again.measured == 1
    assert set(measured(again.folder)["case"]) == {"a", "b", "c"}
    assert evaluate(make_plan(asked), tmp_path / "out").measured == 0


def test_a_file_that_changed_is_measured_again(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """Finished numbers hold for the very files that they came from."""
    full = write_nifti_scan(tmp_path / "full.nii.gz", volumes[0])
    candidate = write_nifti_scan(tmp_path / "x.nii.gz", volumes[1])
    asked = Evaluation(full, {"x": candidate})
    evaluate(make_plan(asked), tmp_path / "out")
    write_nifti_scan(candidate, volumes[0])
    out = evaluate(make_plan(asked), tmp_path / "out").folder
    assert value(out, metric="RMSE", preset="hu") == 0
    assert value(out, metric="PSNR", preset="hu") == np.inf


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """Only an evaluation is continued or replaced, and another one only with --overwrite."""
    full = write_nifti_scan(tmp_path / "full.nii.gz", volumes[0])
    asked, other = Evaluation(full, {"x": full}), Evaluation(full, {"x": full}, presets=("lung",))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    with pytest.raises(OutputError, match="no evaluation of medidiff"):
        evaluate(make_plan(asked), mine, overwrite=True)
    out = evaluate(make_plan(asked), tmp_path / "out").folder
    with pytest.raises(OutputError, match="another evaluation"):
        evaluate(make_plan(other), out)
    assert set(measured(evaluate(make_plan(other), out, overwrite=True).folder)["preset"]) == {
        "lung",
        "hu",
    }  # bias is of hu
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt: was not written"):
        evaluate(make_plan(asked), out, overwrite=True)
    assert (out / "notes.txt").exists()


def test_masks_and_label_maps_are_regions(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """A mask is one region and a label map one a label; the numbers are those of the voxels inside."""
    y, x = volumes
    full, candidate = write_nifti_scan(tmp_path / "full.nii.gz", y), write_nifti_scan(tmp_path / "x.nii.gz", x)
    liver, lesions = np.zeros_like(y), np.zeros_like(y)
    liver[1:3, 10:20, 10:20], lesions[0, 5:9, 5:9], lesions[3, 20:25, 20:25] = 1, 1, 7
    write_nifti_scan(tmp_path / "masks" / "liver.nii.gz", liver)
    write_nifti_scan(tmp_path / "masks" / "lesions.nii.gz", lesions)
    out = evaluate(make_plan(Evaluation(full, {"x": candidate}, mask=tmp_path / "masks")), tmp_path / "out").folder
    for region, inside in {"liver": liver == 1, "lesions 1": lesions == 1, "lesions 7": lesions == 7}.items():
        error = (x - y)[inside].astype(float)
        assert value(out, region=region, metric="bias") == pytest.approx(error.mean())
        assert value(out, region=region, metric="RMSE", preset="hu") == pytest.approx(np.sqrt((error**2).mean()))


def test_a_mask_may_belong_to_one_case(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """A folder named after a case holds masks of this case only, though others have the same grid."""
    for name in "ab":
        write_nifti_scan(tmp_path / "full" / f"{name}.nii.gz", volumes[0])
    write_nifti_scan(tmp_path / "masks" / "b" / "liver.nii.gz", np.ones_like(volumes[0]))
    asked = Evaluation(tmp_path / "full", {"x": tmp_path / "full"}, mask=tmp_path / "masks")
    table = measured(evaluate(make_plan(asked), tmp_path / "out").folder)
    assert set(table[table["region"] == "liver"]["case"]) == {"b"}
    write_nifti_scan(tmp_path / "masks" / "spleen.nii.gz", np.ones((2, 8, 8)))
    with pytest.raises(InputError, match=r"on the grid of no case: .*spleen"):
        make_plan(asked)


def test_suv_has_its_own_preset_and_ct_is_not_in_it(tmp_path: Path, write_nifti_scan: Write, write_series) -> None:
    """PET in NIfTI is measured in the range of SUV; what looks like SUV is refused as HU."""
    uptake = np.random.default_rng(0).gamma(2, 1, (3, 32, 32)).astype(np.float32)
    full, low = write_nifti_scan(tmp_path / "a.nii.gz", uptake), write_nifti_scan(tmp_path / "b.nii.gz", 1.1 * uptake)
    out = evaluate(make_plan(Evaluation(full, {"low": low}, unit="SUV")), tmp_path / "out").folder
    error = 0.1 * uptake.astype(float)
    assert value(out, metric="RMSE", preset="suv", unit="SUV") == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert value(out, metric="bias", preset="suv", unit="SUV") == pytest.approx(error.mean(), rel=1e-5)
    assert json.loads((out / "study.json").read_bytes())["settings"]["statistics"]["primary"][0]["preset"] == "suv"
    with pytest.raises(InputError, match="expected HU"):
        make_plan(Evaluation(full, {"low": low}))
    with pytest.raises(InputError, match="in HU and not in SUV"):
        make_plan(Evaluation(write_series(tmp_path / "ct"), {"low": low}, unit="SUV"))


def test_pet_in_dicom_is_measured_in_suv(tmp_path: Path, write_pet: Write, write_series: Write) -> None:
    """The PET of a PET/CT study against a derived one; without the unit it is refused, and told what to add."""
    full = write_pet(tmp_path / "study" / "pet")
    write_series(tmp_path / "study" / "ct", n=3)
    low = derive(full, tmp_path / "low", lambda suv: 0.9 * suv)
    uptake = load_volume(full).array.astype(float)
    plan = make_plan(Evaluation(tmp_path / "study", {"low": low}, unit="SUV"))
    out = evaluate(plan, tmp_path / "out").folder
    assert value(out, metric="RMSE", preset="suv", unit="SUV") == pytest.approx(
        0.1 * np.sqrt((uptake**2).mean()), rel=1e-3
    )
    assert set(measured(out)["case"]) == {"001_PT_unknown"}
    with pytest.raises(InputError, match="holds PET in DICOM, which is in SUV and not in HU; add --unit SUV"):
        make_plan(Evaluation(full, {"low": low}))


def test_every_mistake_is_in_one_sentence(tmp_path: Path) -> None:
    """Options are checked together, before any file is read."""
    asked = Evaluation(
        tmp_path / "none", {"x": tmp_path / "nowhere"}, ("abdomn", "suv"), ("rmse", "snr", "companions"), dose=25,
        reference_noise="some",
    )  # fmt: skip
    with pytest.raises(UsageError) as error:
        make_plan(asked)
    for fault in ("abdomn unknown", "suv is for SUV", "snr unknown", "needs --scan", "25 is not a fraction", "'some'",
                  "none: no such", "nowhere: no such"):  # fmt: skip
        assert fault in str(error.value)


def test_candidates_are_named_by_the_user_or_their_path(tmp_path: Path) -> None:
    """NAME=PATH, or the last part of the path; two of one name, or a name that is none, are refused together."""
    assert named(["ours=a/b", "c/d.nii.gz"]) == {"ours": Path("a/b"), "d": Path("c/d.nii.gz")}
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert list(named([f"x={odd}"])) == ["x"]
    with pytest.raises(UsageError, match=r"two candidates are called x.*'/' is no name|'/' is no name.*called x"):
        named(["x=a", "x=b", "/=c"])


def test_uncertainty_maps_of_a_reconstruction_come_along(tmp_path: Path, write_nifti_scan: Write, volumes) -> None:
    """The map that lies beside a result is what it claims, not a second result."""
    y, x = volumes
    full = write_nifti_scan(tmp_path / "full.nii.gz", y)
    run = tmp_path / "run"
    write_nifti_scan(run / "001_CT_nifti" / "reconstruction.nii.gz", x)
    write_nifti_scan(run / "001_CT_nifti_uncertainty" / "uncertainty.nii.gz", np.full_like(x, 15))
    series = {"folder": "001_CT_nifti", "uncertainty_folder": "001_CT_nifti_uncertainty", "input_series_uid": "1.2.3"}
    record = {"format": "medidiff-run-1", "parameters": {"mode": "uncertainty", "series": "1.2.3"}, "series": [series]}
    (run / "run.json").write_text(json.dumps(record))
    asked = make_plan(Evaluation(full, {"run": run}, metrics=("rmse", "uncertainty")))
    assert asked.cases[0].partners["run"].deviation is not None
    out = evaluate(asked, tmp_path / "out").folder
    assert "coverage" in " ".join(measured(out)["metric"])
    assert json.loads((out / "study.json").read_text())["methods"] == {"run": {"mode": "uncertainty"}}
    with np.load(out / "pictures" / "full--run.npz") as picture:
        worst = int(picture["index"])
        assert {"candidate", "reference", "deviation", "pixel_mm", "sides", "rmse"} <= set(picture)
        slices = np.sqrt(((x - y).astype(float) ** 2).mean(axis=(1, 2)))
        assert worst == slices.argmax()
        assert float(picture["rmse"]) == pytest.approx(slices.max())


def test_a_full_disk_stops_the_work_and_keeps_what_is_finished(
    tmp_path: Path, write_nifti_scan: Write, volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is tried after a result could not be written; what was is in the tables, and the rest is resumed."""
    for name in "abc":
        write_nifti_scan(tmp_path / "full" / f"{name}.nii.gz", volumes[0])
    asked = Evaluation(tmp_path / "full", {"x": tmp_path / "full"}, metrics=("rmse",))
    put, tried = Journal.put, []

    def full(self, case, *more, **facts):
        tried.append(case)
        if case != "a":
            raise OutputError("out: cannot be written (No space left on device)")
        return put(self, case, *more, **facts)

    monkeypatch.setattr(Journal, "put", full)
    first = evaluate(make_plan(asked), tmp_path / "out")
    assert tried == ["a", "b"]
    assert [case for case, *_ in first.failures] == ["b"]
    assert set(measured(first.folder)["case"]) == {"a"}
    monkeypatch.setattr(Journal, "put", put)
    again = evaluate(make_plan(asked), tmp_path / "out")
    assert (again.measured, again.failures) == (2, [])


def test_real_series_find_their_nifti_by_position(tmp_path: Path, shared_data: Path) -> None:
    """Two patients in one flat folder, NIfTI files of any name: the place in the patient pairs them."""
    originals = [shared_data / "ct" / name for name in ("crlm1006_ge_5mm", "lungdx-a0002_siemens_b40f_8mm")]
    for k, folder in enumerate(originals):
        for number in (10, 11, 12):
            target = tmp_path / "full" / f"{k}-{number}.dcm"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder / f"{number:04d}.dcm", target)
    found = scan(tmp_path / "full").usable
    assert len(found) == 2
    (tmp_path / "x").mkdir()
    for series, name in zip(found, ("z", "b"), strict=True):
        write_nifti(tmp_path / "x" / f"{name}.nii", open_series(series))
    out = evaluate(
        make_plan(Evaluation(tmp_path / "full", {"x": tmp_path / "x"}, metrics=("rmse",))), tmp_path / "out"
    ).folder
    rmse = measured(out).query("metric == 'RMSE' and preset == 'hu' and region == 'all'")
    assert list(rmse["value"]) == [0, 0]
    assert [case[:7] for case in rmse["case"]] == ["001_CT_", "002_CT_"]
    assert len(set(pd.read_csv(out / "cases.csv")["patient"])) == 2
