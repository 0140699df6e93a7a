"""Whoever has a scan finds it in the record of its numbers, and the slice that is furthest from its reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff.evaluate.folder import evaluate
from medidiff.evaluate.images import Furthest, digest
from medidiff.evaluate.journal import Journal
from medidiff.evaluate.plan import Evaluation, make_plan
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import open_series, scan
from medidiff.io.nifti import open_nifti, write_nifti
from medidiff.results.rows import CaseFacts
from medidiff.volume import Geometry

Write = Callable[..., Path]
BAD = 3  # the slice that is made worst


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "study.json").read_text())


def result_of(source: Path, target: Path) -> Path:
    """A derived series whose slice BAD is far off."""
    opened = open_series(scan(source).series[0])
    target.mkdir()
    writer = DerivedWriter(opened, target, Derivation("test", "test"))
    for index in range(opened.geometry.n_slices):
        writer.write(index, opened.read(index) + (50 if index == BAD else 1))
    return target


def test_a_series_is_known_by_its_uid_and_a_file_by_its_content(tmp_path: Path, write_series: Write) -> None:
    """Digests are the first 16 digits of SHA-256, of the UID or of the SHA-256 of the file, in hexadecimal."""
    reference = write_series(tmp_path / "full", n=5)
    series = result_of(reference, tmp_path / "series")
    file = tmp_path / "file.nii.gz"
    write_nifti(file, open_series(scan(series).series[0]))
    out = evaluate(make_plan(Evaluation(reference, {"a": series, "b": file}, scan=series)), tmp_path / "out").folder
    uids = [scan(folder).series[0].uid for folder in (reference, series)]
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    full, made, filed = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (*uids, content))
    case = record(out)["images"]["001_CT_B40f"]
    assert case == {"reference": full, "scan": made, "methods": {"a": made, "b": filed}}
    assert not any(uid in (out / "study.json").read_text() for uid in uids)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, -1)])
def test_the_worst_slice_lies_where_it_lies_however_a_file_is_stored(
    tmp_path: Path, write_series: Write, flips: tuple[int, ...]
) -> None:
    """Its index is that of the reference; its position finds the same slice in a file with flipped axes."""
    reference = write_series(tmp_path / "full", n=5)
    file = tmp_path / "file.nii.gz"
    write_nifti(file, open_series(scan(result_of(reference, tmp_path / "series")).series[0]))
    image = nib.load(file)
    nib.save(image.as_reoriented(np.column_stack([range(3), flips[::-1]])), file)
    out = evaluate(make_plan(Evaluation(reference, {"m": file})), tmp_path / "out").folder
    found = record(out)["worst_slice"]["001_CT_B40f"]["m"]
    worst = Furthest(found["index"], tuple(found["position_mm"]))
    stored, wanted = open_nifti(file, "HU"), open_series(scan(reference).series[0])
    assert worst.index == worst.in_place(wanted.geometry) == BAD
    assert worst.in_place(stored.geometry) == (BAD if flips[0] == 1 else 4 - BAD)
    there = np.sort(stored.read(worst.in_place(stored.geometry)), axis=None)
    np.testing.assert_allclose(there, np.sort(wanted.read(BAD) + 50, axis=None), atol=0.6)


def test_a_position_is_that_of_the_middle_of_the_slice() -> None:
    """Of a 3 x 5 slice of 2 x 1 mm pixels: two columns and a row from its first voxel."""
    origins = np.array([[10.0, 20, 30], [10, 20, 35]])
    place = Geometry(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (2.0, 1.0), (3, 5))
    assert Furthest.of(1, place) == Furthest(1, (12.0, 22.0, 35.0))


def test_work_of_an_earlier_version_has_no_slice(tmp_path: Path) -> None:
    """A journal without the new fields is read as before; with them they come back as they were."""
    journal, worst = Journal(tmp_path), Furthest(2, (0.1, -2.0, 3.5))
    journal.put("A", "m", "k", (), (), CaseFacts("A", "P001"), worst=worst, image=digest("x"))
    found = journal.get("A", "m", "k")
    assert found is not None
    assert (found.worst, found.image) == (worst, digest("x"))
    file = next((tmp_path / ".rows").iterdir())
    old = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("worst", "image")}
    file.write_text(json.dumps(old))
    found = journal.get("A", "m", "k")
    assert found is not None
    assert (found.worst, found.image) == (None, "")
