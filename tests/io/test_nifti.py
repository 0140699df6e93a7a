"""NIfTI: place, type and unit survive; nibabel and dcm2niix are the oracles."""

from __future__ import annotations

import resource
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medidiff.errors import GeometryError, InputError, OutputError, UnitError
from medidiff.io.nifti import Flipped, match_grid, open_nifti, write_nifti
from medidiff.volume import Geometry, Volume

OBLIQUE = np.array([[-0.7, 0.1, 0.0, 90.0], [0.1, 0.7, 0.2, -70.0], [0.0, -0.2, 2.5, 11.0], [0, 0, 0, 1]])


def shear_free(affine: np.ndarray) -> np.ndarray:
    """The nearest affine with perpendicular axes and the same voxel sizes."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / zooms)
    return np.block([[(u @ v) * zooms, affine[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])


def body(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    """Whole HU with air, no symmetry: every voxel has its own value."""
    return (np.arange(np.prod(shape)).reshape(shape) * 7 - 1000).astype(np.int16)


def saved(path: Path, array: np.ndarray, kind: type = nib.Nifti1Image, slope: float | None = None) -> Path:
    header = kind.header_class(endianness=">" if array.dtype.byteorder == ">" else "<")
    image = kind(array, shear_free(OBLIQUE), header)
    image.set_data_dtype(array.dtype)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, -1024)
    nib.save(image, path)
    return path


def doubled(source: object) -> Volume:
    """Another volume on the grid of `source`."""
    values = np.stack([source.read(k) for k in range(source.geometry.n_slices)])  # type: ignore[attr-defined]
    return Volume(values + 1, source.geometry, "HU")  # type: ignore[attr-defined]


def test_voxels_lie_where_nibabel_says_with_x_and_y_reversed(tmp_path: Path) -> None:
    """NIfTI is RAS and (column, row, slice), medidiff LPS and (slice, row, column)."""
    array = body()
    source = open_nifti(saved(tmp_path / "a.nii.gz", array))
    index = np.array([[3, 2, 4], [0, 0, 0], [1, 4, 5]])  # slice, row, column
    ras = nib.affines.apply_affine(nib.load(tmp_path / "a.nii.gz").affine, index[:, ::-1])
    assert_allclose(source.geometry.world(index), ras * [-1, -1, 1], atol=1e-4)
    assert_array_equal([source.read(k)[r, c] for k, r, c in index], array[tuple(index[:, ::-1].T)])


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "<f4", "<f8", "<u2", "u1"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_affine_codes_type_and_units_are_those_of_the_input(tmp_path: Path, dtype: str, name: str) -> None:
    """NIfTI in, NIfTI out: the header fields of place, type and unit are equal byte by byte."""
    unsigned = np.dtype(dtype).kind == "u"
    array = (np.arange(120) * 2).reshape(6, 5, 4).astype(dtype) if unsigned else body().astype(dtype)
    source = open_nifti(saved(tmp_path / name, array, slope=8 if unsigned else None))
    assert write_nifti(tmp_path / "out" / name, Volume(doubled(source).array - 1, source.geometry, "HU"), source) == []
    before, after = nib.load(tmp_path / name), nib.load(tmp_path / "out" / name)
    for key in before.header:
        assert before.header[key].tobytes() == after.header[key].tobytes(), key
    assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    assert after.header.get_data_dtype() == np.dtype(dtype)


def test_whole_numbers_are_rounded_and_a_type_that_is_too_small_widened(tmp_path: Path) -> None:
    """int16 -> int32 with a warning when a value exceeds 32767; 0.6 is rounded to 1, not cut to 0."""
    source = open_nifti(saved(tmp_path / "a.nii", body()))
    values = np.full(source.geometry.shape, 0.6, np.float32)
    assert write_nifti(tmp_path / "b.nii", Volume(values, source.geometry, "HU"), source) == []
    assert (np.asarray(nib.load(tmp_path / "b.nii").dataobj) == 1).all()
    values[0, 0, 0] = 40000
    warnings = write_nifti(tmp_path / "b.nii", Volume(values, source.geometry, "HU"), source)
    assert "do not fit the data type int16 of the source: written as int32" in warnings[0]
    assert nib.load(tmp_path / "b.nii").get_data_dtype() == np.int32
    assert np.asarray(nib.load(tmp_path / "b.nii").dataobj).max() == 40000


def test_padding_and_values_that_are_no_numbers_come_back_untouched(tmp_path: Path) -> None:
    """A constant minimum below -1500 HU and NaN hold no measurement."""
    array = body().astype(np.float32)
    array[0], array[1, 0, 0] = -2000, np.nan
    source = open_nifti(saved(tmp_path / "a.nii", array))
    assert np.isfinite(source.read(0)).all()
    write_nifti(tmp_path / "b.nii", doubled(source), source)
    after = np.asarray(nib.load(tmp_path / "b.nii").dataobj)
    assert_array_equal(after[0], array[0])
    assert np.isnan(after[1, 0, 0])
    assert_array_equal(after[2:], array[2:] + 1)


def test_nifti_2_and_a_fourth_axis_of_one_are_kept(tmp_path: Path) -> None:
    """The kind of file and the shape of its array come back."""
    source = open_nifti(saved(tmp_path / "a.nii", body()[..., None], nib.Nifti2Image))
    write_nifti(tmp_path / "b.nii", doubled(source), source)
    after = nib.load(tmp_path / "b.nii")
    assert isinstance(after, nib.Nifti2Image)
    assert after.shape == (6, 5, 4, 1)


def test_the_same_scan_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time stamp in the gzip header."""
    source = open_nifti(saved(tmp_path / "a.nii.gz", body()))
    for name in ("b.nii.gz", "c.nii.gz"):
        write_nifti(tmp_path / name, source, source)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


def test_a_header_extension_survives(tmp_path: Path) -> None:
    """Extensions move the image data (vox_offset); both must still agree."""
    image = nib.Nifti1Image(body(), shear_free(OBLIQUE))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment that needs more than sixteen bytes"))
    nib.save(image, tmp_path / "a.nii")
    source = open_nifti(tmp_path / "a.nii")
    write_nifti(tmp_path / "b.nii", source, source)
    after = nib.load(tmp_path / "b.nii")
    assert b"more than sixteen" in after.header.extensions[0].get_content()
    assert_array_equal(np.asarray(after.dataobj), body())


def test_a_new_file_has_the_sheared_affine_of_a_tilted_gantry(tmp_path: Path) -> None:
    """The sform holds the shear, the qform cannot and is left unset."""
    origins = np.array([[0, 0.8 * k, 2.0 * k] for k in range(4)])
    geometry = Geometry(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.5, 0.6), (5, 6))
    write_nifti(tmp_path / "a.nii", Volume(np.full((4, 5, 6), -1000.0, np.float32), geometry, "HU"))
    image = nib.load(tmp_path / "a.nii")
    assert_allclose(image.affine[:3, 2], [0, -0.8, 2.0], atol=1e-6)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16
    assert open_nifti(tmp_path / "a.nii").geometry.difference(geometry) is None


def test_uneven_slices_are_refused_with_the_numbers(tmp_path: Path) -> None:
    """One affine cannot say 4, 1 and 7 mm; accepted only on request."""
    origins = np.array([[0.0, 0, z] for z in (0, 4, 5, 12)])
    geometry = Geometry(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1, 1), (5, 6))
    volume = Volume(np.full((4, 5, 6), -1000.0, np.float32), geometry, "HU")
    with pytest.raises(GeometryError, match=r"1\.00 to 7\.00 mm apart .* off by 3\.0 mm; keep DICOM"):
        write_nifti(tmp_path / "a.nii", volume)
    write_nifti(tmp_path / "a.nii", volume, allow_uneven=True)


@pytest.mark.parametrize(
    "flips", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
)
def test_flipping_leaves_every_voxel_where_it_is(tmp_path: Path, flips: tuple[bool, bool, bool]) -> None:
    """The value at a place in the patient does not depend on the order of storage; match_grid finds the flips."""
    source = open_nifti(saved(tmp_path / "a.nii", body()))
    flipped = Flipped(source, flips)
    index = np.array([1, 3, 2])
    there = np.array([n - 1 - i if f else i for i, n, f in zip(index, source.geometry.shape, flips, strict=True)])
    assert_allclose(flipped.geometry.world(index), source.geometry.world(there), atol=1e-9)
    assert flipped.read(1)[3, 2] == source.read(there[0])[there[1], there[2]]
    matched = match_grid(source, flipped.geometry)
    assert matched.geometry.difference(flipped.geometry) is None
    assert all(np.array_equal(matched.read(k), flipped.read(k)) for k in range(matched.geometry.n_slices))


def test_another_grid_is_refused(tmp_path: Path) -> None:
    source = open_nifti(saved(tmp_path / "a.nii", body()))
    with pytest.raises(GeometryError, match=r"a\.nii: not the grid of the DICOM series: shape"):
        match_grid(source, source.geometry.select(0, 2))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.linspace(0, 1, 120), r"expected HU with air near -1000, found 0 to 1 \(normalised values\)"),
        (np.linspace(0, 4095, 120), r"found 0 to 4095 \(shifted or other values\)"),
    ],
)
def test_values_that_cannot_be_hu_are_refused(tmp_path: Path, values: np.ndarray, sentence: str) -> None:
    """NIfTI declares no unit, so the range decides."""
    with pytest.raises(UnitError, match=sentence):
        open_nifti(saved(tmp_path / "a.nii", values.reshape(6, 5, 4).astype(np.float32)))


def test_what_is_not_one_ct_volume_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Each fault by name."""
    (tmp_path / "text.nii").write_text("not an image" * 100)
    saved(tmp_path / "whole.nii", body())
    (tmp_path / "cut.nii").write_bytes((tmp_path / "whole.nii").read_bytes()[:400])
    saved(tmp_path / "whole.nii.gz", body())
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "whole.nii.gz").read_bytes()[:-40])
    saved(tmp_path / "series.nii", np.repeat(body()[..., None], 2, axis=3))
    faults = {
        "absent.nii": "no such file",
        "text.nii": "not readable as NIfTI",
        "cut.nii": "cut short or damaged",
        "cut.nii.gz": "cut short or damaged|not readable as NIfTI",
        "series.nii": r"expected one 3-D volume, found an array of \(6, 5, 4, 2\)",
    }
    for name, sentence in faults.items():
        with pytest.raises(InputError, match=sentence):
            open_nifti(tmp_path / name)


def test_damage_in_the_middle_of_a_packed_file_is_seen(tmp_path: Path) -> None:
    """The data may still unpack, to other numbers: only the checksum at the very end tells."""
    values = np.random.default_rng(0).normal(0, 300, (40, 40, 10)).astype(np.float32)
    packed = bytearray(saved(tmp_path / "a.nii.gz", values).read_bytes())
    for shift in range(200, len(packed) - 200, len(packed) // 20):
        damaged = packed.copy()
        damaged[shift : shift + 4] = b"\xff\x00\xff\x00"
        (tmp_path / "b.nii.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|not readable as NIfTI"):
            open_nifti(tmp_path / "b.nii.gz")


def test_a_file_without_one_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no number"):
        open_nifti(saved(tmp_path / "a.nii", np.full((6, 5, 4), np.nan, np.float32)))


def test_a_wrong_name_or_place_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = open_nifti(saved(tmp_path / "a.nii", body()))
    with pytest.raises(OutputError, match=r"ends in \.nii or \.nii\.gz"):
        write_nifti(tmp_path / "b.img", source)
    with pytest.raises(OutputError, match="cannot be written"):
        write_nifti(tmp_path / "a.nii" / "b.nii", source)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stops the write in the middle of the file, as a full disk does; an older file stays whole."""
    saved(tmp_path / "a.nii", body())
    before = (tmp_path / "a.nii").read_bytes()
    source = open_nifti(tmp_path / "a.nii")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\)"):
            write_nifti(tmp_path / "a.nii", source, source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.nii").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_suv_is_taken_at_its_word(tmp_path: Path) -> None:
    """What the caller calls SUV is not measured by what CT looks like; a number that is none reads as no uptake."""
    values = np.random.default_rng(0).gamma(2, 1, (6, 5, 4)).astype(np.float32)
    values[0, 0, 0] = np.nan
    path = saved(tmp_path / "a.nii", values)
    with pytest.raises(UnitError, match="expected HU"):
        open_nifti(path)
    source = open_nifti(path, "SUV")
    assert source.unit == "SUV"
    mask = source.padding(0)
    assert mask is not None
    assert source.read(0)[0, 0] == 0
    assert mask.sum() == 1
