"""A study says which files its numbers are of, as far as there are any."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from medidiff.evaluate.images import digest
from medidiff.io.files import file_hash
from medidiff.study.plan import make_plan
from medidiff.study.run import run

Write = Callable[..., Path]
GAUSSIAN = {"name": "gaussian", "method": "gaussian"}


def of(path: Path) -> str:
    return digest(file_hash(path))


def test_images_that_are_kept_are_known(study_file: Write, tmp_path: Path) -> None:
    """Scan, reference and the kept result of a pair; the slice counts among the middle ones that were measured."""
    out = run(make_plan(study_file(keep_images=True, slices=1, methods=[GAUSSIAN]))).folder
    record = json.loads((out / "study.json").read_text())
    kept = of(out / "images" / "a--gaussian.nii.gz")
    scan, reference = (of(tmp_path / f"a_{kind}.nii") for kind in ("low", "full"))
    assert record["images"]["a"] == {"scan": scan, "reference": reference, "methods": {"gaussian": kept}}
    worst = record["worst_slice"]["a"]["gaussian"]
    place = nib.load(tmp_path / "a_low.nii").affine @ np.array([23.5, 23.5, 1, 1])  # RAS; the second slice of three
    assert worst["index"] == 0
    np.testing.assert_allclose(worst["position_mm"], place[:3] * [-1, -1, 1], atol=1e-3)


def test_what_is_not_kept_is_not_named(study_file: Write, tmp_path: Path) -> None:
    """A simulated dose is in no file; results made elsewhere are in theirs, unless they were blended with the scan."""
    for case in ("a", "b"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / f"{case}.nii").write_bytes((tmp_path / f"{case}_full.nii").read_bytes())
    other = {"name": "other", "external": str(tmp_path / "other")}
    out = run(make_plan(study_file(methods=[GAUSSIAN, other, other | {"name": "half", "blend": 0.5}]))).folder
    record = json.loads((out / "study.json").read_text())
    assert record["images"]["b"]["methods"] == {"other": of(tmp_path / "other" / "b.nii")}
    assert set(record["worst_slice"]["b"]) == {"gaussian", "half", "other"}
    fallback = {"kernel": "hann", "i0": 4e5}
    cases = [{"simulate": {"name": "c", "full": "c_full.nii", "doses": [0.25, 0.5], "fallback": fallback}}]
    out = run(make_plan(study_file(cases=cases, methods=[GAUSSIAN], output=str(tmp_path / "simulated")))).folder
    images = json.loads((out / "study.json").read_text())["images"]
    assert images == {name: {"reference": of(tmp_path / "c_full.nii"), "methods": {}} for name in ("c@0.25", "c@0.5")}
