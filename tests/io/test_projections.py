"""The container for projections: what is written comes back, other people's files are read, faults are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from medidiff import DISCLAIMER
from medidiff.errors import InputError, MedidiffError
from medidiff.io.projections import Header, Scanner, open_projections, write_projections
from medidiff.volume import Geometry

N_SLICES, VIEWS, BINS, SIDE, PIXEL_MM = 3, 8, 60, 16, 10.0
ANGLES = np.arange(VIEWS) * 2 * np.pi / VIEWS
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "projections.md"


def _header(kind: Any = "CT", **changes: Any) -> Header:
    fan = Scanner("fan", "flat", ANGLES, BINS, 6.0, 595.0, 1085.6)
    half = Scanner("parallel", "flat", ANGLES / 2, BINS, 4.0)
    affine = np.array([[0, 0, PIXEL_MM, 5], [0, PIXEL_MM, 0, -7], [3.0, 0, 0, 11], [0, 0, 0, 1]])
    geometry = Geometry.from_affine(affine, (N_SLICES, SIDE, SIDE))
    return Header(kind, fan if kind == "CT" else half, geometry, **changes)


def _sinogram(seed: int = 0, low: float = 10, high: float = 900) -> Any:
    return np.random.default_rng(seed).uniform(low, high, (N_SLICES, VIEWS, BINS)).astype(np.float32)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """Counts with air, in two blocks of slices."""
    counts, air = _sinogram(), np.full(BINS, 1000, np.float32)
    blocks = ({"counts": counts[part], "air": air} for part in (slice(0, 2), slice(2, 3)))
    write_projections(tmp_path / "ct.h5", _header(electronic_variance=10.0, parameters={"dose": 0.5}), blocks)
    return tmp_path / "ct.h5"


@pytest.fixture
def pet(tmp_path: Path) -> Path:
    parts = {
        "counts": _sinogram(),
        "attenuation": _sinogram(1, 0.1, 1),
        "scatter": _sinogram(2),
        "randoms": _sinogram(3),
    }
    write_projections(tmp_path / "pet.h5", _header("PET", calibration=7.0), iter([parts]))
    return tmp_path / "pet.h5"


def test_what_is_written_comes_back(ct: Path) -> None:
    """Numbers, scanner, and where the slices lie, exactly; some slices at a time; air for each of them."""
    found, wanted = open_projections(ct), _header()
    np.testing.assert_array_equal(found.read("counts", [0, 2]), _sinogram()[[0, 2]])
    np.testing.assert_array_equal(found.read("air", [1]), np.full((1, VIEWS, BINS), 1000))
    assert found.header.geometry.difference(wanted.geometry, tolerance_mm=0) is None
    np.testing.assert_array_equal(found.header.scanner.angles_rad, ANGLES)
    assert found.header.scanner.source_detector_mm == 1085.6
    assert (found.header.electronic_variance, found.header.parameters) == (10.0, {"dose": 0.5})


def test_pet_comes_back(pet: Path) -> None:
    found = open_projections(pet)
    assert found.header.calibration == 7.0
    np.testing.assert_array_equal(found.read("randoms", [1]), _sinogram(3)[[1]])


def test_the_file_names_its_units_and_its_use_and_nobody(ct: Path) -> None:
    """Every length says mm, every angle rad; the disclaimer is in it; each attribute is documented."""
    with h5py.File(ct) as file:
        assert DISCLAIMER in file.attrs["note"]
        names = {name for group in (file, file["geometry"], file["image"], file["counts"]) for name in group.attrs}
    page = DOCUMENT.read_text(encoding="utf-8")
    assert {"bin_mm", "source_isocentre_mm", "source_detector_mm", "pixel_mm"} <= names
    assert not [name for name in names if f"`{name}`" not in page]


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def blocks() -> Any:
        yield {"counts": _sinogram()[:1], "air": np.ones(BINS, np.float32)}
        raise InputError("no more")

    with pytest.raises(InputError):
        write_projections(tmp_path / "half.h5", _header(), blocks())
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_document_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that bring one's own sinograms, as they stand in docs/projections.md, make a file that is accepted."""
    text = DOCUMENT.read_text(encoding="utf-8")
    code = re.search(r"## Bring your own sinograms.*?```python\n(.*?)```", text, re.S)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    sinograms = np.zeros((2, 90, 128), np.float32)
    exec(code.group(1), {"sinograms": sinograms})
    found = open_projections(tmp_path / "own.h5")
    assert found.header.shape == (2, 90, 128)
    assert found.names == ("line_integrals",)


# -- faults ----------------------------------------------------------------------------------------------


def _set(name: str, value: Any, at: str | None = None) -> Callable[[Any], None]:
    """Replace an attribute of a group, or a dataset."""

    def change(file: Any) -> None:
        if at is not None:
            file[at].attrs[name] = value
        else:
            del file[name]
            file[name] = value

    return change


def _without(name: str) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]

    return change


def _with_value(name: str, value: float) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file[name][1, 2, 3] = value

    return change


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "another format": (_set("format", "mine", "/"), "its format is 'mine', expected 'medidiff-projections-1'"),
    "no format": (lambda file: file.attrs.pop("format"), "has no attribute format"),
    "another kind": (_set("kind", "MR", "/"), "kind of / is 'MR', expected CT or PET"),
    "no data": (_without("counts"), "CT without data, expected /counts or /line_integrals"),
    "no air": (_without("air"), "counts without an air scan"),
    "air of another size": (_set("air", np.ones(BINS + 1)), r"/air has the shape \(61,\), expected \(60,\)"),
    "air of zero": (_set("air", np.zeros(BINS)), "60 values of /air are 0"),
    "air of another dose": (_set("air", np.full(BINS, 100.0)), "of the rays count more than /air does"),
    "nan": (_with_value("counts", np.nan), "1 values of /counts are not numbers, the first in slice 2"),
    "infinite": (_with_value("counts", np.inf), "1 values of /counts are not numbers, the first in slice 2"),
    "negative": (_with_value("counts", -3), "1 values of /counts are below 0, the first in slice 2"),
    "flat counts": (_set("counts", np.ones((VIEWS, BINS))), r"expected \(slices, views, bins\)"),
    "no geometry": (_without("geometry"), "/geometry has no attribute beam"),
    "angles of other views": (_set("geometry/angles_rad", ANGLES[:5]), "8 views of projections for 5"),
    "degrees": (_set("geometry/angles_rad", np.degrees(ANGLES)), "they look like degrees"),
    "angles in disorder": (_set("geometry/angles_rad", ANGLES[::-1]), "do not rise"),
    "another beam": (_set("beam", "cone", "geometry"), "beam of /geometry is 'cone', expected fan or parallel"),
    "another detector": (_set("detector", "round", "geometry"), "detector of /geometry is 'round'"),
    "negative pitch": (_set("bin_mm", -1.0, "geometry"), "bin_mm of /geometry is -1.0, expected a number above 0"),
    "pitch in metres": (_set("bin_mm", 0.006, "geometry"), "check bin_mm and pixel_mm"),
    "distances changed over": (_set("source_detector_mm", 500.0, "geometry"), "the first is the longer one"),
    "source in the image": (_set("source_isocentre_mm", 90.0, "geometry"), "the source is 90 mm from the isocentre"),
    "a text for a number": (_set("source_isocentre_mm", "far", "geometry"), "is far, expected a number above 0"),
    "places of other slices": (_set("image/origins_mm", np.zeros((5, 3))), "3 slices of projections for 5"),
    "places that are none": (_set("image/origins_mm", np.full((3, 3), np.nan)), "values that are not numbers"),
    "axes askew": (_set("image/right", np.array([1.0, 1, 0])), "are not perpendicular unit vectors"),
    "no pixel size": (lambda file: file["image"].attrs.pop("pixel_mm"), "/image has no attribute pixel_mm"),
    "no noise": (lambda file: file["counts"].attrs.pop("electronic_variance"), "no attribute electronic_variance"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named(ct: Path, change: Callable[[Any], None], says: str) -> None:
    """One sentence with the file, what was found and what was expected."""
    with h5py.File(ct, "a") as file:
        change(file)
    with pytest.raises(MedidiffError, match=says) as refused:
        open_projections(ct)
    assert str(refused.value).startswith(f"{ct}: ")


PET_FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no scatter": (_without("scatter"), "PET counts without /scatter"),
    "attenuation as integrals": (_with_value("attenuation", 3.0), "/attenuation are above 1"),
    "nothing comes through": (_with_value("attenuation", 0.0), "/attenuation are 0"),
    "negative randoms": (_with_value("randoms", -1.0), "/randoms are below 0"),
    "a fan": (_set("beam", "fan", "geometry"), "has no attribute detector|PET in a fan|has no attribute source"),
    "no calibration": (lambda file: file["counts"].attrs.pop("calibration"), "no attribute calibration"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), PET_FAULTS.values(), ids=PET_FAULTS.keys())
def test_a_fault_of_pet_is_named(pet: Path, change: Callable[[Any], None], says: str) -> None:
    with h5py.File(pet, "a") as file:
        change(file)
    with pytest.raises(MedidiffError, match=says):
        open_projections(pet)


def test_counts_for_line_integrals_are_noticed(ct: Path) -> None:
    with h5py.File(ct, "a") as file:
        file["line_integrals"] = file["counts"][:]
        del file["counts"]
    with pytest.raises(InputError, match="are above 50, as counts are"):
        open_projections(ct)


def test_what_is_no_hdf5_or_cut_short(tmp_path: Path, ct: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match="not an HDF5 file"):
        open_projections(tmp_path / "text.h5")
    whole = ct.read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short or damaged"):
        open_projections(tmp_path / "short.h5")
    with pytest.raises(InputError, match="no such file"):
        open_projections(tmp_path / "none.h5")
