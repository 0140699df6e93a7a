"""The list of training data: every fault named at once, and pairs that do not fit refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.dataset import prepare_all, prepare_splits
from medidiff.data.manifest import Pair, load_pair, one_of_each, read_manifest
from medidiff.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
Writer = Callable[..., Path]


def written(folder: Path, *lines: str, header: str = "patient,split,full,low", encoding: str = "utf-8") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
    return path


@pytest.fixture
def scans(tmp_path: Path, write_nifti_scan: Writer) -> Path:
    """a.nii, b.nii, c.nii of 3 slices of 64 x 64."""
    for k, name in enumerate("abc"):
        image = np.random.default_rng(k).normal(-300, 200, (3, 64, 64))
        write_nifti_scan(tmp_path / f"{name}.nii", image)
    return tmp_path


def test_measured_and_single_scans_are_read(scans: Path) -> None:
    """`low` may be empty or its column absent; a spreadsheet's byte order mark does not matter."""
    expected = (Pair("p1", "train", scans / "a.nii", scans / "b.nii"), Pair("p2", "tune", scans / "c.nii", None))
    lines = ("p1,train,a.nii,b.nii", "p2,tune,c.nii,")
    assert read_manifest(written(scans, *lines), scans) == expected
    assert read_manifest(written(scans, *lines, encoding="utf-8-sig"), scans) == expected
    short = written(scans, "p2,tune,c.nii", header="patient,split,full")
    assert read_manifest(short, scans) == expected[1:]


def test_every_faulty_line_is_named_at_once(scans: Path) -> None:
    """Unknown split, missing files, empty cells, short lines, one patient or one scan in two splits."""
    path = written(
        scans,
        "p1,train,a.nii,",
        "p1,test,b.nii,",
        "p2,trian,b.nii,",
        "p3,train,nowhere.nii,gone.nii",
        "p4,train,,",
        ",train,b.nii,",
        "p5,tune,c.nii,",
        "p6,train,c.nii,",
        "p7",
    )
    with pytest.raises(InputError) as refused:
        read_manifest(path, scans)
    message = str(refused.value)
    for fault in (
        "lines [2, 3]: one patient in several splits (['test', 'train'])",
        "line 4: split 'trian'",
        "line 5: 'nowhere.nii' does not exist",
        "line 5: 'gone.nii' does not exist",
        "line 6: 'full' is empty",
        "line 7: 'patient' is empty",
        "lines [8, 9]: one full in several splits (['train', 'tune'])",
        "line 10: split 'None'",
        "line 10: 'full' is empty",
    ):
        assert fault in message
    assert "p1" not in message  # patients are named by their lines
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"missing: \['full', 'patient', 'split'\]"),
        (b"patient,full\np,a.nii\n", r"missing: \['split'\]"),
        (b"patient,split,full,low\n", "lists no scans"),
        (b"\xff\xfe\x00\x00\x80", "not readable as a CSV manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """Empty, without its columns, without lines, not text; and a file that is not there."""
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_manifest(path, tmp_path)
    with pytest.raises(InputError, match="not readable"):
        read_manifest(tmp_path / "nowhere.csv", tmp_path)


def test_pairs_on_different_grids_are_refused(tmp_path: Path, write_nifti_scan: Writer) -> None:
    """Both files and what differs with both values: shape, spacing, position."""
    image = np.full((3, 64, 64), -500.0)
    full = write_nifti_scan(tmp_path / "full.nii", image)
    for low, words in (
        (write_nifti_scan(tmp_path / "short.nii", image[:2]), r"shape \(3, 64, 64\) against \(2, 64, 64\)"),
        (write_nifti_scan(tmp_path / "fine.nii", image, (5, 1, 0.8)), "pixel spacing"),
        (write_nifti_scan(tmp_path / "thick.nii", image, (6, 1, 1)), "slice positions differ"),
    ):
        with pytest.raises(InputError, match=rf"full\.nii and {low.name}: geometries differ .*{words}"):
            load_pair(Pair("p", "train", full, low))
    assert load_pair(Pair("p", "train", full, full))[1] is not None


def test_all_unusable_pairs_of_all_splits_are_named_at_once(scans: Path, write_nifti_scan: Writer) -> None:
    """Different grids, values that are no HU, unreadable files; the good ones are prepared and kept."""
    rng = np.random.default_rng(0)
    other_grid = write_nifti_scan(scans / "other_grid.nii", rng.normal(-300, 200, (2, 64, 64)))
    no_hu = write_nifti_scan(scans / "no_hu.nii", rng.uniform(0, 1, (3, 64, 64)))
    broken = scans / "broken.nii"
    broken.write_bytes((scans / "b.nii").read_bytes()[:5000])
    (scans / "text.nii.gz").write_text("not a scan")
    (scans / "empty_folder").mkdir()
    pairs = [
        Pair("p1", "train", scans / "a.nii", scans / "b.nii"),
        Pair("p2", "train", scans / "a.nii", other_grid),
        Pair("p3", "train", no_hu, None),
        Pair("p4", "tune", broken, None),
        Pair("p5", "tune", scans / "text.nii.gz", None),
        Pair("p6", "tune", scans / "empty_folder", None),
    ]
    with pytest.raises(InputError) as refused:
        prepare_all(pairs, (2.0, 1.25), scans / "cache")
    message = str(refused.value)
    assert "5 of 6 pairs cannot be used" in message
    for name in ("other_grid.nii", "no_hu.nii", "broken.nii", "text.nii.gz", "empty_folder"):
        assert name in message
    assert len(list((scans / "cache").glob("*/clean.npy"))) == 1


def test_measured_pairs_are_prepared_as_they_are(scans: Path) -> None:
    """Full dose is the target, low dose the input, bit for bit; shrinking factors are for single scans."""
    pairs = (
        Pair("p1", "train", scans / "a.nii", scans / "b.nii"),
        Pair("p2", "tune", scans / "c.nii", scans / "c.nii"),
    )
    cases = prepare_splits(pairs, (2.0, 1.25), scans / "cache")
    assert {split: len(found) for split, found in cases.items()} == {"train": 1, "tune": 1}
    full, low = load_pair(pairs[0])
    case = cases["train"][0]
    assert low is not None
    assert case.noise is None
    assert case.low is not None
    np.testing.assert_array_equal(case.clean, full.array)
    np.testing.assert_array_equal(case.low, low.array)


def test_measured_dicom_series_are_paired(tmp_path: Path) -> None:
    """The sample study's low and full dose fit each other; with a slice of one missing they do not."""
    study = ROOT / "data_samples" / "ct"
    full, low = load_pair(Pair("p", "train", study / "full_dose", study / "low_dose"))
    assert low is not None
    assert low.array.shape == full.array.shape
    assert (low.array - full.array).std() > 5
    files = sorted((study / "low_dose").iterdir())
    for file in files[:-1]:
        shutil.copy(file, tmp_path)
    with pytest.raises(InputError, match="geometries differ"):
        load_pair(Pair("p", "train", study / "full_dose", tmp_path))


def test_a_trial_takes_the_smallest_scan_of_each_split(scans: Path, write_nifti_scan: Writer) -> None:
    """Folders count all their files."""
    write_nifti_scan(scans / "small.nii", np.full((1, 32, 32), -500.0))
    (scans / "folder").mkdir()
    for k in range(2):
        (scans / "folder" / f"{k}.bin").write_bytes(bytes(10))
    pairs = (
        Pair("p1", "train", scans / "a.nii", None),
        Pair("p2", "train", scans / "small.nii", None),
        Pair("p3", "tune", scans / "b.nii", None),
        Pair("p4", "tune", scans / "folder", None),
    )
    assert {pair.patient for pair in one_of_each(pairs)} == {"p2", "p4"}


def test_the_shipped_recipe_splits_patients_as_the_scans_folder_does(shared_data: Path) -> None:
    """Every line exists, no patient is in two splits, and all five splits' roles are filled."""
    pairs = read_manifest(ROOT / "pipelines" / "train_ct.csv", shared_data)
    assert {pair.split for pair in pairs} == {"train", "tune", "calibrate", "test"}
    assert len(pairs) >= 100
