"""What the dashboard lists, what belongs together, and what it will not read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dashboard.library import Library
from dashboard.roots import new_folder, permitted
from dashboard.settings import Review
from dashboard.volumes import Volumes
from medidiff.errors import InputError
from medidiff.inference.options import Options
from medidiff.inference.run import reconstruct
from medidiff.io.dicom import load_volume

ROOT = Path(__file__).resolve().parents[2]
LOW = ROOT / "data_samples" / "ct" / "low_dose"
FULL = ROOT / "data_samples" / "ct" / "full_dose"
PET = ROOT / "data_samples" / "pet" / "low_count"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, its full dose, and a run of a classical filter on it."""
    folder = tmp_path_factory.mktemp("study")
    for source in (LOW, FULL):
        shutil.copytree(source, folder / source.name)
    reconstruct(folder / "low_dose", folder / "result", Options(method="gaussian", smoothing=1.0))
    return folder


@pytest.fixture
def library(study: Path) -> Library:
    listed = Library([study])
    listed.add(study)
    return listed


def test_a_reconstruction_stands_beside_its_source(library: Library) -> None:
    """One case for the run with its scan, one for the full dose that nothing was made of."""
    made, alone = sorted(library.cases(), key=lambda case: not case.record)
    assert made.scan is not None
    assert made.scan.place.name == "low_dose"
    assert made.reconstruction is not None
    assert made.record["method"] == "gaussian"
    assert (alone.record, alone.scan and alone.scan.place.name) == ({}, "full_dose")


def test_a_reconstructed_nifti_file_stands_beside_its_source(
    write_nifti_scan: Callable[..., Path], tmp_path: Path
) -> None:
    """Neither has a UID: the run knows the digest of what it read."""
    noise = np.random.default_rng(0).normal(40, 20, (4, 64, 64))
    noise[:, :8] = -1000
    write_nifti_scan(tmp_path / "scan.nii.gz", noise)
    write_nifti_scan(tmp_path / "other.nii.gz", noise + 1)
    reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out", Options(method="gaussian", smoothing=1.0))
    listed = Library([tmp_path])
    listed.add(tmp_path)
    made = next(case for case in listed.cases() if case.record)
    assert made.scan is not None
    assert made.scan.place.name == "scan.nii.gz"
    assert len(listed.cases()) == 2


def test_listing_twice_changes_nothing(library: Library, study: Path) -> None:
    before = [case.key for case in library.cases()]
    assert library.add(study) == 0
    assert [case.key for case in library.cases()] == before


def test_a_reconstruction_without_its_source_says_so(study: Path) -> None:
    """Only the result is listed."""
    listed = Library([study])
    listed.add(study / "result")
    (case,) = listed.cases()
    assert case.scan is None
    assert "its source is not in the listed folders" in case.flags


def test_warnings_and_held_back_changes_are_flags(study: Path, tmp_path: Path) -> None:
    """What run.json says of a series reaches the reader."""
    shutil.copytree(study / "result", tmp_path / "result")
    path = tmp_path / "result" / "run.json"
    record = json.loads(path.read_text())
    record["series"][0] |= {"warnings": ["noise outside"], "change": {"slices": 12, "min": 0.4, "median": 1.0}}
    path.write_text(json.dumps(record))
    listed = Library([tmp_path])
    listed.add(tmp_path)
    assert listed.cases()[0].flags[:2] == ("noise outside", "changed less: 40% of what the model would")


def test_keys_say_nothing(library: Library, study: Path) -> None:
    """Neither a UID nor a name of a folder is in a key."""
    for case in library.cases():
        assert set(case.key) <= set("0123456789abcdef")
        assert len(case.key) == 16


def test_paths_outside_of_the_roots_are_refused(study: Path, tmp_path: Path) -> None:
    """Plainly, by dots, by a link, and in the same words whether they exist or not."""
    outside = tmp_path / "secret"
    outside.mkdir()
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    told = set()
    for path in (outside, inside / ".." / "secret", inside / "link", tmp_path / "absent"):
        with pytest.raises(InputError, match="may read") as caught:
            permitted(path, [inside])
        told.add(str(caught.value).removeprefix(str(path)))
    assert len(told) == 1
    assert permitted(inside, [inside]) == inside.resolve()


def test_files_behind_a_link_out_of_the_roots_are_not_listed(study: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "away").symlink_to(study / "low_dose")
    listed = Library([tmp_path / "root"])
    listed.add(tmp_path / "root")
    assert listed.images == {}


def test_results_are_written_inside_of_the_roots_alone(tmp_path: Path) -> None:
    """Neither dots nor a link lead out, whatever the last part of the path is."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    for path in (root / "..", root / ".." / "new", root / "link", tmp_path / "new", root / "absent" / "new"):
        with pytest.raises(InputError):
            new_folder(path, [root])
    assert new_folder(root / "new", [root]) == root / "new"


def test_a_file_that_was_written_anew_is_another_image(write_nifti_scan: Callable[..., Path], tmp_path: Path) -> None:
    """Its volume is the new one, and the old one is no longer listed; nor is one that was deleted."""
    listed = Library([tmp_path])
    volumes = Volumes(listed, tmp_path / "volumes")
    (tmp_path / "volumes").mkdir()
    seen = []
    for value in (-500.0, -700.0):
        path = write_nifti_scan(tmp_path / "scans" / "scan.nii", np.full((2, 8, 8), value))
        os.utime(path, ns=(int(-value), int(-value)))
        listed.add(tmp_path / "scans")
        (key,) = listed.images
        seen.append(float(nib.load(volumes.whole(key)).get_fdata().mean()))
    assert seen == [-500.0, -700.0]
    path.unlink()
    listed.add(tmp_path / "scans")
    assert listed.images == {}


def test_the_volume_of_a_series_holds_its_numbers_where_they_are(library: Library, tmp_path: Path) -> None:
    """HU of every voxel, and the world position of a corner, read back by nibabel."""
    case = next(case for case in library.cases() if not case.record)
    image = nib.load(Volumes(library, tmp_path).whole(case.key))
    wanted = load_volume(FULL)
    np.testing.assert_allclose(image.get_fdata().T, wanted.array, atol=0.51)
    x, y, z = image.affine[:3, 3]
    np.testing.assert_allclose([-x, -y, z], wanted.geometry.origins_mm[0], atol=1e-3)


def test_the_first_slice_is_the_middle_one_at_its_place(library: Library, tmp_path: Path) -> None:
    case = library.cases()[0]
    volumes = Volumes(library, tmp_path)
    first, whole = nib.load(volumes.middle(case.key)), nib.load(volumes.whole(case.key))
    k = whole.shape[2] // 2
    assert first.shape == (*whole.shape[:2], 1)
    np.testing.assert_array_equal(first.get_fdata()[..., 0], whole.get_fdata()[..., k])
    np.testing.assert_allclose(first.affine @ [0, 0, 0, 1], whole.affine @ [0, 0, k, 1], atol=1e-3)


def test_a_difference_is_one_less_the_other(library: Library, tmp_path: Path) -> None:
    made = next(case for case in library.cases() if case.record)
    assert made.scan is not None
    volumes = Volumes(library, tmp_path)
    result, scan, both = (
        nib.load(volumes.whole(name)).get_fdata() for name in (made.key, made.scan.key, f"{made.key}-{made.scan.key}")
    )
    np.testing.assert_allclose(both, result - scan, atol=1e-3)
    assert np.abs(both).max() > 1


@pytest.mark.parametrize("name", ["", "../x", "0" * 16, "zz", "0" * 16 + "/..", f"{'0' * 16}-{'1' * 16}"])
def test_unknown_names_are_refused(library: Library, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        Volumes(library, tmp_path).whole(name)
    assert list(tmp_path.iterdir()) == []


def test_files_do_not_grow_beyond_a_limit(library: Library, tmp_path: Path) -> None:
    """The one asked for stays; older ones go."""
    volumes = Volumes(library, tmp_path, limit_bytes=1)
    for case in library.cases():
        kept = volumes.whole(case.key)
        assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_only_images_of_the_same_grid_lie_beside(library: Library) -> None:
    made = next(case for case in library.cases() if case.record)
    assert {image.place.name for image in library.beside(made.main)} >= {"low_dose", "full_dose"}


def in_space_of(scan: Path, other: Path, out: Path, shift_mm: float = 0.0) -> Path:
    """A copy of the series `other` in the frame of reference of `scan`, moved along z."""
    frame = pydicom.dcmread(next(scan.glob("*.dcm"))).FrameOfReferenceUID
    out.mkdir()
    for path in other.glob("*.dcm"):
        slice_ = pydicom.dcmread(path)
        slice_.FrameOfReferenceUID = frame
        x, y, z = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [x, y, z + shift_mm]
        slice_.save_as(out / path.name)
    return out


def test_pet_and_ct_of_one_space_can_be_fused(study: Path, tmp_path: Path) -> None:
    """From either side, scans before what was made of them; not of another frame, and not where they do not meet."""
    shutil.copytree(study, tmp_path / "study")
    shutil.copytree(PET, tmp_path / "study" / "another frame")
    in_space_of(LOW, PET, tmp_path / "study" / "pet")
    listed = Library([tmp_path])
    listed.add(tmp_path)
    by_name = {image.place.name: image for image in listed.images.values()}
    pet, ct = by_name["pet"], by_name["low_dose"]
    result = next(case.main for case in listed.cases() if case.record)
    assert listed.fusable(ct) == listed.fusable(result) == [pet]
    assert listed.fusable(pet) == [by_name["full_dose"], ct, result]
    assert listed.fusable(by_name["another frame"]) == []
    shutil.rmtree(tmp_path / "study" / "pet")
    in_space_of(LOW, PET, tmp_path / "study" / "pet", shift_mm=500)
    listed.add(tmp_path)
    assert listed.fusable(ct) == []


def test_nifti_files_are_fused_within_a_folder_alone(write_nifti_scan: Callable[..., Path], tmp_path: Path) -> None:
    """They name no frame of reference."""
    for folder in ("one", "other"):
        write_nifti_scan(tmp_path / folder / "ct.nii", np.full((4, 8, 8), -900.0))
        write_nifti_scan(tmp_path / folder / "pet.nii", np.full((4, 8, 8), -900.0), (3, 2, 2))
    listed = Library([tmp_path])
    listed.add(tmp_path)
    for key, image in listed.images.items():
        if image.place.name == "pet.nii":
            listed.images[key] = replace(image, unit="SUV", modality="PT")
    for image in list(listed.images.values()):
        (other,) = listed.fusable(image)
        assert other.place.parent == image.place.parent
        assert other.unit != image.unit


def test_settings_reach_another_process(tmp_path: Path) -> None:
    asked = Review.of([tmp_path], [], port=9000, token="abc")
    assert Review.from_environment(asked.environment()) == asked
    assert asked.roots == (str(tmp_path.resolve()),)


def test_nifti_files_are_listed_by_what_their_numbers_are(tmp_path: Path) -> None:
    """PET in SUV and a CT are; a label map is none."""
    for name in ("pet/low_count.nii.gz", "pet/ct.nii.gz", "pet/lesions.nii.gz"):
        shutil.copy(ROOT / "data_samples" / name, tmp_path)
    library = Library([tmp_path])
    library.add(tmp_path)
    found = {image.place.name: (image.modality, image.unit) for image in library.images.values()}
    assert found == {"low_count.nii.gz": ("PT", "SUV"), "ct.nii.gz": ("CT", "HU")}


def test_the_deviation_of_a_nifti_result_is_in_the_unit_of_its_image(tmp_path: Path) -> None:
    shutil.copy(ROOT / "data_samples" / "ct" / "low_dose.nii.gz", tmp_path / "scan.nii.gz")
    reconstruct(tmp_path / "scan.nii.gz", tmp_path / "result", Options(mode="uncertainty"))
    library = Library([tmp_path])
    library.add(tmp_path)
    (case,) = library.cases()
    assert case.deviation is not None
    assert (case.deviation.modality, case.deviation.unit) == ("CT", "HU")
