"""PET in a study: NIfTI in SUV, lesions from masks, and what works on CT numbers alone refused beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import UsageError
from medidiff.results.tables import read_tables
from medidiff.study.inputs import one_scan
from medidiff.study.plan import make_plan
from medidiff.study.run import run

Write = Callable[..., Path]
METHODS = [{"name": "identity", "method": "identity"}, {"name": "gaussian", "method": "gaussian", "smoothing": 0.8}]
SPACING = (3.0, 4.0, 4.0)
PAIR = {"name": "p1", "scan": "low.nii", "reference": "full.nii", "unit": "SUV"}


@pytest.fixture
def pet(tmp_path: Path, write_nifti_scan: Write) -> dict[str, Any]:
    """A body of SUV 1 with two hot lesions on 8 slices, its noisier copy, and their masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    full = np.broadcast_to(np.where(x**2 + y**2 < 200, 1.0, 0.0), (8, 32, 32)).copy()
    labels = np.zeros(full.shape)
    labels[2:5, 10:14, 10:14], labels[4:7, 18:21, 18:23] = 1, 2
    full[labels == 1] += 6
    full[labels == 2] += 3
    full = np.maximum(full + rng.normal(0, 0.05, full.shape), 0)
    low = np.maximum(full + rng.normal(0, 0.4, full.shape), 0)
    for name, image in {"full": full, "low": low, "lesions/p1": labels, "liver": full > 0.8}.items():
        write_nifti_scan(tmp_path / f"{name}.nii", image, SPACING)
    return {
        "cases": [{"paired": PAIR}],
        "methods": METHODS,
        "metrics": ["rmse", "psnr", "bias", "suv", "cov", "nema", "companions"],
        "regions": {"lesions": "lesions", "masks": {"liver": "liver.nii"}},
    }


def study_of(study_file: Write, **settings: Any) -> Path:
    """A study file that leaves the intensity range to medidiff."""
    import yaml

    path = study_file(**settings)
    values = yaml.safe_load(path.read_text())
    del values["presets"]
    path.write_text(yaml.safe_dump(values))
    return path


def read(path: Path) -> Any:
    return nib.load(path).get_fdata().T


def test_lesion_bias_equals_plain_numpy(study_file: Write, pet: dict[str, Any], tmp_path: Path) -> None:
    """SUVmean, SUVmax and TLG of two lesions and their bias, and the COV of a region; the range is that of SUV."""
    out = run(make_plan(study_of(study_file, **pet, keep_images=True, report=True))).folder
    table = read_tables(out)[0]
    found = {(r.method, r.region, r.metric): r.value for r in table.itertuples()}
    reference, labels = read(tmp_path / "full.nii"), read(tmp_path / "lesions" / "p1.nii")
    voxel_ml = np.prod(SPACING) / 1000
    for method in ("identity", "gaussian"):
        image = read(out / "images" / f"p1--{method}.nii.gz")
        for label in (1, 2):
            new, old = image[labels == label], reference[labels == label]
            expected = {
                "SUVmean": (new.mean(), old.mean()),
                "SUVmax": (new.max(), old.max()),
                "TLG": (new.sum() * voxel_ml, old.sum() * voxel_ml),
            }
            for metric, (value, truth) in expected.items():
                assert found[method, f"lesion {label}", metric] == pytest.approx(value, rel=1e-4)
                bias = 100 * (value - truth) / truth
                assert found[method, f"lesion {label}", f"{metric} bias"] == pytest.approx(bias, abs=0.02)
        liver = image[read(tmp_path / "liver.nii") > 0]
        assert found[method, "liver", "COV"] == pytest.approx(100 * liver.std(ddof=1) / liver.mean(), rel=1e-3)
    assert set(table["preset"]) == {"", "suv"}
    assert any("RMSE (suv) of gaussian" in line for line in (out / "conclusions.txt").read_text().splitlines())
    assert (out / "report.html").stat().st_size > 10_000


def test_what_works_on_hu_is_refused_beforehand(study_file: Write, pet: dict[str, Any]) -> None:
    """A model, a method that knows the noise of CT, a strength found on CT, a CT preset, an empty folder: one line."""
    methods = [
        {"name": "identity", "method": "identity"},
        {"name": "net", "model": "ct"},
        {"name": "nlm", "method": "nlm"},
        {"name": "blur", "method": "gaussian"},
    ]
    path = study_file(**pet | {"methods": methods, "presets": ["abdomen"]})
    with pytest.raises(UsageError) as error:
        make_plan(path)
    for fault in ("abdomen is not for SUV", "net: ", "nlm: method 'nlm' works on HU, the data are in SUV",
                  "blur: its default strength was found on CT: give smoothing for SUV"):  # fmt: skip
        assert fault in str(error.value), str(error.value)
    path.parent.joinpath("dicom").mkdir()
    with pytest.raises(UsageError, match="dicom: holds no files"):
        make_plan(study_of(study_file, **pet | {"cases": [{"paired": PAIR | {"scan": "dicom"}}]}))


def test_pet_in_dicom_is_a_case_as_nifti_is(tmp_path: Path, write_pet: Write, write_series: Write) -> None:
    """The one PET of a PET/CT study, by unit; and the one CT."""
    write_pet(tmp_path / "pet", n=3)
    write_series(tmp_path / "ct", n=3)
    assert [one_scan(tmp_path, unit=unit).open().unit for unit in ("HU", "SUV")] == ["HU", "SUV"]


def test_results_made_elsewhere_are_read_in_suv(study_file: Write, pet: dict[str, Any], tmp_path: Path) -> None:
    """Somebody's PET, the reference itself: no bias anywhere."""
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "p1.nii").write_bytes((tmp_path / "full.nii").read_bytes())
    methods = [{"name": "vendor", "external": str(tmp_path / "vendor")}]
    table = read_tables(run(make_plan(study_of(study_file, **pet | {"methods": methods}))).folder)[0]
    bias = table[table["metric"].str.endswith("bias")]
    assert len(bias) > 8
    np.testing.assert_allclose(bias["value"], 0, atol=1e-6)


def test_spheres_of_a_phantom_are_recovered(study_file: Write, tmp_path: Path, write_nifti_scan: Write) -> None:
    """Contrast recovery is 100 % in the exact image and falls when it is smoothed, also of the middle slices alone."""
    n, size = 9, 64
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * 2.0
    image = np.zeros((n, size, size))
    image[:] = np.where(x**2 + y**2 < 60**2, 1.0, 0.0)
    image[4][(x - 30) ** 2 + y**2 < 11**2] = 4
    write_nifti_scan(tmp_path / "exact.nii", image, (2.0, 2.0, 2.0))
    sphere = {"name": "22 mm", "x_mm": 30, "y_mm": 0, "slice": 4, "diameter_mm": 20, "ratio": 4}
    nema = {"spheres": [sphere], "background": [[-30, 0], [0, 30], [0, -30]], "background_slices": [3, 4, 5]}
    case = {"paired": {"name": "nema", "scan": "exact.nii", "reference": "exact.nii", "unit": "SUV", "nema": nema}}
    path = study_of(study_file, cases=[case], methods=METHODS, metrics=["nema"], slices=5)
    table = read_tables(run(make_plan(path)).folder)[0]
    found = {(r.method, r.metric): r.value for r in table.itertuples() if r.region == "22 mm"}
    assert found["identity", "contrast recovery"] == pytest.approx(100, abs=0.5)
    assert 80 < found["gaussian", "contrast recovery"] < 99.5
    assert found["identity", "background variability"] == pytest.approx(0, abs=1e-4)


def test_real_tumours(study_file: Write, shared_data: Path) -> None:
    """Two FDG-PET of sarcoma: smoothing lowers SUVmax and keeps the total activity."""
    root = shared_data / "pet_lesions"
    names = ("STS_002", "STS_010")
    cases = [
        {"paired": {"name": n, "scan": f"{n}/PET_image.nii.gz", "reference": f"{n}/PET_image.nii.gz", "unit": "SUV"}}
        for n in names
    ]
    masks = study_file().parent / "masks"
    masks.mkdir()
    for name in names:
        (masks / f"{name}.nii.gz").write_bytes((root / name / "PET_mask.nii.gz").read_bytes())
    regions = {"masks": {"tumour": str(masks)}}
    path = study_of(
        study_file, data_root=str(root), cases=cases, methods=METHODS, metrics=["suv", "cov"], regions=regions
    )
    table = read_tables(run(make_plan(path)).folder)[0]
    for name in names:
        of = table[(table["case"] == name) & (table["method"] == "gaussian")].set_index(["region", "metric"])["value"]
        assert of["tumour", "SUVmax"] > 3
        assert -40 < of["tumour", "SUVmax bias"] < 0
        assert abs(of["all", "total activity bias"]) < 1
