"""`medidiff reconstruct` on PET and PET/CT: SUV in, SUV out, and a CT beside it where one is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from scipy.ndimage import gaussian_filter

from medidiff.errors import InputError
from medidiff.inference import reconstruct
from medidiff.inference.blocks import BlockRestorer
from medidiff.inference.cases import find_cases
from medidiff.inference.options import Options
from medidiff.io.dicom import load_volume
from medidiff.model import load, save
from medidiff.seen import Range, Seen

Write = Callable[..., Path]


@pytest.fixture
def pet(tmp_path: Path, write_pet: Write) -> Path:
    """Five slices of 16 x 16 of 4 mm, 3 mm apart."""
    return write_pet(tmp_path / "study" / "pet")


def with_ct(pet: Path, write_series: Write, *, shares_frame: bool = True) -> Path:
    """The study of a PET scan with a CT of the same place; returns its folder."""
    study = pet.parent
    folder = write_series(study / "ct", n=6, size=64)
    frame = dcmread(next(pet.iterdir())).FrameOfReferenceUID
    for k, file in enumerate(sorted(folder.iterdir())):
        image = dcmread(file)
        image.PixelSpacing, image.SliceThickness = [1, 1], 3
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3 * k - 1], [1, 0, 0, 0, 1, 0]
        image.FrameOfReferenceUID = frame if shares_frame else "1.2.3.4.5.6.7"
        image.save_as(file)
    return study


def run_of(out: Path) -> Any:
    return json.loads((out / "run.json").read_text())


def test_pet_in_suv_out(tmp_path: Path, cli: Any, pet: Path, pet_model: Path) -> None:
    """A derived series whose SUV is that of the network's answer, to 1e-4 of each slice's maximum."""
    ended = cli("reconstruct", pet, "-o", tmp_path / "out", "--model", pet_model)
    assert ended.code == 0, ended.err
    (entry,) = run_of(tmp_path / "out")["series"]
    assert entry["folder"].startswith("001_PT_")
    source, written = load_volume(pet), load_volume(tmp_path / "out" / entry["folder"])
    assert written.unit == "SUV"
    model = load(pet_model)
    wanted = model.block_mean(source.array, (3.0, 4.0, 4.0), None)
    assert not np.allclose(wanted, source.array, rtol=0.01)
    highest = np.abs(wanted).max((1, 2), keepdims=True)
    np.testing.assert_array_less(np.abs(written.array - np.maximum(wanted, 0)) / highest, 1e-4)


def test_uncertainty_is_a_second_series_in_suv(tmp_path: Path, cli: Any, pet: Path, pet_model: Path) -> None:
    """Of a model with a spread, in one evaluation; never negative, fine enough to be read."""
    ended = cli("reconstruct", pet, "-o", tmp_path / "out", "--model", pet_model, "--mode", "uncertainty")
    assert ended.code == 0, ended.err
    assert "standard deviation in SUV" in ended.out
    (entry,) = run_of(tmp_path / "out")["series"]
    assert entry["nfe"] == 1
    files = sorted((tmp_path / "out" / entry["uncertainty_folder"]).iterdir())
    assert len(files) == 5
    for file in files:
        image = dcmread(file)
        assert image.pixel_array.min() >= 0
        assert image.pixel_array.max() > 1000


def test_the_ct_of_the_study_is_used_when_asked_for(
    tmp_path: Path, cli: Any, pet: Path, pet_model: Path, write_series: Write
) -> None:
    """Of a PET/CT study the PET is done, the CT set aside or shown to the model; record and header say it."""
    study = with_ct(pet, write_series)
    plain, guided = tmp_path / "plain", tmp_path / "guided"
    for out, more in ((plain, ()), (guided, ("--ct", "study"))):
        ended = cli("reconstruct", study, "-o", out, "--model", pet_model, *more)
        assert ended.code == 0, ended.err
        assert len(run_of(out)["series"]) == 1
    one, other = (load_volume(out / run_of(out)["series"][0]["folder"]).array for out in (plain, guided))
    assert not np.allclose(one, other)
    assert run_of(guided)["parameters"]["ct"] == "study"
    files = sorted((guided / run_of(guided)["series"][0]["folder"]).iterdir())
    assert "guided by a CT" in dcmread(files[0]).DerivationDescription


def test_a_ct_by_its_path_gives_the_same(tmp_path: Path, pet: Path, pet_model: Path, write_series: Write) -> None:
    """Whichever way it was named."""
    study = with_ct(pet, write_series)
    named = {"study": study, str(study / "ct"): pet}
    images = []
    for k, (ct, path) in enumerate(named.items()):
        record = reconstruct(path, tmp_path / f"out{k}", Options(model=str(pet_model), ct=ct))
        images.append(load_volume(tmp_path / f"out{k}" / record.series[0].folder).array)
    np.testing.assert_array_equal(images[0], images[1])


def test_a_ct_that_is_not_there_or_elsewhere_is_told(
    tmp_path: Path, cli: Any, pet: Path, pet_model: Path, write_series: Write
) -> None:
    """No CT in the frame of reference of the PET; a CT a metre away; a model that takes none."""
    study = with_ct(pet, write_series, shares_frame=False)
    ended = cli("reconstruct", study, "-o", tmp_path / "a", "--model", pet_model, "--ct", "study")
    assert ended.code != 0
    assert "no CT in the frame of reference" in ended.err
    for file in (study / "ct").iterdir():
        image = dcmread(file)
        image.ImagePositionPatient[2] += 1000
        image.save_as(file)
    ended = cli("reconstruct", pet, "-o", tmp_path / "b", "--model", pet_model, "--ct", study / "ct")
    assert ended.code != 0
    assert "give the CT of the same examination" in ended.err
    ended = cli("reconstruct", study / "ct", "-o", tmp_path / "c", "--model", "ct", "--ct", "study")
    assert ended.code == 2
    assert "takes no CT beside the scan" in ended.err


def test_the_scans_decide_where_nothing_is_named(pet: Path, write_series: Write) -> None:
    """Of PET/CT the PET, for whom can do both; of a CT alone the CT; a series that was named: its own."""
    study, both = with_ct(pet, write_series), ("SUV", "HU")
    found = find_cases(study, unit=both)
    assert (found.unit, [case.modality for case in found.cases]) == ("SUV", ["PT"])
    assert found.cases[0].study_ct() is not None
    assert find_cases(study / "ct", unit=both).unit == "HU"
    ct_uid = dcmread(next((study / "ct").iterdir())).SeriesInstanceUID
    assert find_cases(study, series=ct_uid, unit=both).unit == "HU"
    assert find_cases(study, unit=("HU",)).unit == "HU"


def test_a_gaussian_filter_does_pet_and_other_filters_say_that_they_do_not(tmp_path: Path, cli: Any, pet: Path) -> None:
    """What rests on the noise of CT is for CT alone."""
    ended = cli("reconstruct", pet, "-o", tmp_path / "out", "--method", "gaussian", "--smoothing", 1)
    assert ended.code == 0, ended.err
    (entry,) = run_of(tmp_path / "out")["series"]
    written = load_volume(tmp_path / "out" / entry["folder"]).array
    wanted = gaussian_filter(load_volume(pet).array, (0, 1, 1))
    assert np.abs(written - wanted).max() < 1e-3 * wanted.max()
    ended = cli("reconstruct", pet, "-o", tmp_path / "no", "--method", "bm3d")
    assert ended.code == 2
    assert "SUV" in ended.err


def test_a_ct_model_refuses_pet_by_unit(tmp_path: Path, cli: Any, pet: Path, tiny_model: Path) -> None:
    """One sentence that names both units."""
    ended = cli("reconstruct", pet, "-o", tmp_path / "out", "--model", tiny_model)
    assert ended.code == 2
    assert "SUV" in ended.err
    assert "HU" in ended.err
    assert not (tmp_path / "out").exists()


def test_nifti_in_suv(tmp_path: Path, pet_model: Path, write_nifti_scan: Callable[..., Path]) -> None:
    """A NIfTI file is in the unit of the model that was named."""
    array = np.random.default_rng(0).gamma(4, 0.25, (5, 24, 24))
    path = write_nifti_scan(tmp_path / "pet.nii.gz", array)
    record = reconstruct(path, tmp_path / "out", Options(model=str(pet_model)))
    assert record.series[0].modality == "PT"
    with pytest.raises(InputError, match="no CT"):
        reconstruct(path, tmp_path / "other", Options(model=str(pet_model), ct="study"))


def test_blocks_are_what_the_method_hands_out(pet_model: Path) -> None:
    """Not slices: a network of three dimensions sees its neighbours whole."""
    from medidiff.inference.methods import load_method

    assert isinstance(load_method(Options(model=str(pet_model))).for_case("x"), BlockRestorer)


def test_outside_of_the_range_the_scan_comes_back_and_the_run_says_why(
    tmp_path: Path, cli: Any, pet: Path, pet_model: Path
) -> None:
    """Noise far below and voxels far above what the model has seen; with --no-guard the change is made all the same."""
    model, path = load(pet_model), tmp_path / "seen.safetensors"
    far = Range(low=1.0, high=2.0, least=1.0, most=2.0)
    card = model.card.model_copy(update={"seen": Seen(relative=far, pixel_mm=far)})
    save(path, model.denoiser, model.architecture, model.scaling, card)
    scans = {}
    for name, more in (("on", ()), ("off", ("--no-guard",))):
        ended = cli("reconstruct", pet, "-o", tmp_path / name, "--model", path, *more)
        assert ended.code == 0, ended.err
        (entry,) = run_of(tmp_path / name)["series"]
        told = "; ".join(entry["warnings"])
        assert "pixels of 4 mm, outside of the 1 to 2 mm that the model has seen" in told
        assert "below the 1 to 2 that the model has seen, in 5 of 5 slices" in told
        assert ("changed all the same" in told) is (name == "off")
        assert entry["change"] == ({"slices": 5, "min": 0.0, "median": 0.0} if name == "on" else None)
        scans[name] = load_volume(tmp_path / name / entry["folder"]).array
    source = load_volume(pet).array
    np.testing.assert_allclose(scans["on"], source, atol=1e-4 * source.max())
    assert not np.allclose(scans["off"], source, rtol=0.01)
