"""Simulated low doses: the level and colour of the series itself, seeds, correlation along z, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from typer.testing import CliRunner

from medidiff.cli.app import app
from medidiff.errors import InputError, OutputError, PartialFailure, UsageError
from medidiff.io.blank import BlankSource
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.dicom import DicomSource, open_series, scan
from medidiff.io.nifti import open_nifti, write_nifti
from medidiff.noise.spectrum import homogeneous_regions, region_spectrum
from medidiff.physics.ct import KERNELS, Kernel, noise_image
from medidiff.physics.ellipses import Ellipse, image
from medidiff.simulate import Acquisition, LowDoseSource, calibrate, generator_for, low_dose, z_weights
from medidiff.volume import Geometry, Volume

PIXEL, MATRIX, I0 = 1.5, (192, 192), 3e5
BODY = [Ellipse(120, 90, 1040.0), Ellipse(30, 25, 40.0, x0=-40, y0=20), Ellipse(12, 12, 400.0, y0=60)]


def _volume(slices: np.ndarray, spacing: float = 3.0, mask: np.ndarray | None = None) -> Volume:
    affine = np.diag([spacing, PIXEL, PIXEL, 1.0])
    shape = (slices.shape[0], slices.shape[1], slices.shape[2])
    return Volume(slices, Geometry.from_affine(affine, shape), "HU", mask=mask)


def _scan(kernel: Kernel, n: int = 6) -> Volume:
    """A body with the full-dose noise of a known scanner."""
    clean = (image(BODY, MATRIX, PIXEL) - 1000).astype(np.float32)
    options = {"dose_fraction": 1.0, "i0": I0, "kernel": kernel, "full_dose": True}
    draws = [noise_image(clean, PIXEL, **options, generator=np.random.default_rng([9, k])) for k in range(n)]
    return _volume(np.stack([clean + noise for noise in draws]))


@pytest.mark.parametrize(
    "kernel", [Kernel("ram-lak", 1.2, boost=0.5), Kernel("hann", 0.8, 1.5)], ids=["sharp", "smooth"]
)
def test_inserted_noise_has_the_colour_of_the_series(kernel: Kernel) -> None:
    """Mean frequency within 5 % of the series' own; level sqrt(3) of it at a quarter dose, within 10 %."""
    volume, acquisition = _scan(kernel), Acquisition("1.2.3")
    scan_ = low_dose(volume, acquisition, 0.25, seed=1)
    low = LowDoseSource(volume, acquisition, scan_)
    inserted = np.stack([hu - volume.array[k] for k, hu in low.slices()])
    corners = homogeneous_regions(volume.array)
    own, added = region_spectrum(volume.array, corners, PIXEL), region_spectrum(inserted, corners, PIXEL)
    assert added.mean_frequency == pytest.approx(own.mean_frequency, rel=0.05)
    assert added.level / own.level == pytest.approx(np.sqrt(3), rel=0.1)


def test_i0_is_found_again() -> None:
    """With the scanner's own kernel given, the number of photons comes out within 15 % (level within 7 %)."""
    found = calibrate(_scan(KERNELS["hann"]), Acquisition("1.2.3"), kernel=KERNELS["hann"])
    assert found.i0 == pytest.approx(I0, rel=0.15)


def test_tube_load_sets_the_level_of_each_slice() -> None:
    """Half the tube current is sqrt(2) the inserted noise."""
    volume = _scan(KERNELS["hann"], 3)
    acquisition = Acquisition("1.2.3", tube_load=(200.0, 100.0, 100.0))
    scan_ = low_dose(volume, acquisition, 0.25, kernel="hann", i0=I0)
    low = LowDoseSource(volume, acquisition, scan_)
    levels = [(low.read(k) - volume.read(k))[80:112, 80:112].std() for k in range(2)]
    assert levels[1] / levels[0] == pytest.approx(np.sqrt(2), rel=0.12)


def test_slices_do_not_depend_on_order_or_workers() -> None:
    """Slice by slice backwards, or all at once on three threads: the same bits; another seed or series: others."""
    volume, acquisition = _scan(KERNELS["hann"], 4), Acquisition("1.2.3", thickness_mm=5.0)
    scan_ = low_dose(volume, acquisition, 0.25, kernel="hann", i0=I0)
    low = LowDoseSource(volume, acquisition, scan_)
    backwards = {k: low.read(k) for k in reversed(range(4))}
    for k, hu in low.slices(workers=3):
        assert np.array_equal(hu, backwards[k])
    draws = [generator_for(uid, seed, 0).standard_normal() for uid, seed in (("1", 0), ("1", 1), ("2", 0))]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(("thickness", "spacing"), [(5, 5), (3, 2), (5, 2.5), (5, 1), (8, 3)])
def test_neighbours_correlate_like_overlapping_slices(thickness: float, spacing: float) -> None:
    """Weights of unit power with lag-one correlation 1 - spacing / thickness."""
    w = np.array(z_weights(thickness, spacing))
    assert (w**2).sum() == pytest.approx(1)
    assert (w[1:] * w[:-1]).sum() == pytest.approx(1 - spacing / thickness, abs=1e-6)


def test_padding_is_left_alone() -> None:
    """Padding keeps its value, bit for bit, and the rest does not."""
    volume = _scan(KERNELS["hann"], 1)
    mask = np.zeros(volume.array.shape, bool)
    mask[:, :20] = True
    padded = _volume(np.where(mask, np.float32(-2000), volume.array), mask=mask)
    low = LowDoseSource(padded, Acquisition("1"), low_dose(padded, Acquisition("1"), 0.25, kernel="hann", i0=I0)).read(
        0
    )
    assert (low[mask[0]] == -2000).all()
    assert (low[~mask[0]] != padded.array[0][~mask[0]]).mean() > 0.99


def test_what_cannot_be_simulated_is_refused() -> None:
    """A dose outside 0 to 1, an unknown kernel, a negative seed, and a scan without noise."""
    volume, acquisition = _scan(KERNELS["hann"], 1), Acquisition("1")
    for options in ({"dose_fraction": 1.5}, {"dose_fraction": 0.0}, {"kernel": "B70f"}, {"seed": -1}, {"i0": 0.0}):
        with pytest.raises(UsageError):
            low_dose(volume, acquisition, **{"dose_fraction": 0.5, **options})
    clean = _volume((image(BODY, MATRIX, PIXEL) - 1000).astype(np.float32)[None])
    with pytest.raises(InputError, match="--i0"):
        low_dose(clean, acquisition, 0.5)


REAL = ["lungdx-a0002_siemens_b40f_8mm", "lungdx-a0002_siemens_b70f_8mm"]


@pytest.mark.parametrize("name", REAL)
def test_real_series_keep_their_colour(shared_data: Path, name: str) -> None:
    """On patients, smooth and sharp: mean frequency of the inserted noise within 5 % of the series' own."""
    source = open_series(scan(shared_data / "ct" / name).series[0])
    acquisition = Acquisition.of(source.series)
    low = LowDoseSource(source, acquisition, low_dose(source, acquisition, 0.25))
    chosen = range(2, source.geometry.n_slices, 4)
    full = np.stack([source.read(k) for k in chosen])
    inserted = np.stack([low.read(k) for k in chosen]) - full
    corners = homogeneous_regions(full)
    own, added = (region_spectrum(x, corners, source.geometry.pixel_spacing_mm[0]) for x in (full, inserted))
    assert added.mean_frequency == pytest.approx(own.mean_frequency, rel=0.05)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices of a known scanner as DICOM."""
    folder = tmp_path_factory.mktemp("study")
    _write(_scan(KERNELS["hann"], 4), folder)
    return folder


def _write(volume: Volume, folder: Path) -> None:
    writer = DerivedWriter(BlankSource(volume), folder, Derivation("phantom", is_ai=False))
    for k in range(volume.geometry.n_slices):
        writer.write(k, volume.read(k))


def _simulate(*arguments: object) -> object:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)], catch_exceptions=True)


def _open(folder: Path) -> DicomSource:
    return open_series(scan(folder).series[0])


def test_command_writes_a_series_and_its_parameters(study: Path, tmp_path: Path) -> None:
    """A DICOM series that says what it is, run.json with every parameter; the same seed gives the same pixels."""
    first, second = tmp_path / "a", tmp_path / "b"
    for out in (first, second):
        assert _simulate(study, "--dose", 0.25, "-o", out, "--seed", 7).exit_code == 0
    record = json.loads((first / "run.json").read_text())
    (series,) = record["series"]
    low, full = _open(first / series["folder"]), _open(study)
    assert low.series.uid == series["output_series_uid"] != series["input_series_uid"] == full.series.uid
    assert series["parameters"]["seed"] == 7
    assert "Simulated 25 % dose" in low.header(0).DerivationDescription
    assert f"I0 {series['parameters']['calibration']['i0']:.4g}" in low.header(0).DerivationDescription
    assert np.array_equal(low.read(2), _open(second / series["folder"]).read(2))
    assert (low.read(2) - full.read(2))[80:112, 80:112].std() > 3


def test_command_refuses_an_existing_output(study: Path, tmp_path: Path) -> None:
    """An earlier result needs --overwrite, other files are never touched, and failures leave nothing."""
    out, options = tmp_path / "out", ("--dose", 0.5, "--i0", 1e5, "--kernel", "hann")
    assert _simulate(study, *options, "-o", out).exit_code == 0
    assert isinstance(_simulate(study, *options, "-o", out).exception, OutputError)
    assert _simulate(study, *options, "-o", out, "--overwrite").exit_code == 0
    (out / "notes.txt").write_text("mine")
    assert isinstance(_simulate(study, *options, "-o", out, "--overwrite").exception, OutputError)
    assert isinstance(_simulate(study, "--dose", 2, "-o", tmp_path / "new").exception, UsageError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_interruption_leaves_nothing(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle: no output and no temporary folder."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DerivedWriter, "write", stop)
    _simulate(study, "--dose", 0.5, "--i0", 1e5, "--kernel", "hann", "-o", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nifti_in_nifti_out(tmp_path: Path) -> None:
    """A NIfTI file gives a NIfTI file of the same grid, noisier, and the same record."""
    write_nifti(tmp_path / "scan.nii.gz", _scan(KERNELS["hann"], 3))
    options = ("--dose", 0.25, "--i0", I0, "--kernel", "hann", "-o", tmp_path / "out")
    assert _simulate(tmp_path / "scan.nii.gz", *options).exit_code == 0
    (series,) = json.loads((tmp_path / "out" / "run.json").read_text())["series"]
    full, low = open_nifti(tmp_path / "scan.nii.gz"), open_nifti(tmp_path / "out" / series["folder"] / "scan.nii.gz")
    assert low.geometry.difference(full.geometry) is None
    assert (low.read(1) - full.read(1))[80:112, 80:112].std() > 3


def test_a_failed_series_is_named_and_the_others_are_written(study: Path, tmp_path: Path) -> None:
    """Two series, one of them without noise to measure: that one fails by name, the other is written, exit code 3."""
    clean = (image(BODY, MATRIX, PIXEL) - 1000).astype(np.float32)
    copytree(study, tmp_path / "in" / "noisy")
    _write(_volume(np.stack([clean] * 3)), tmp_path / "in" / "clean")
    result = _simulate(tmp_path / "in", "--dose", 0.25, "--kernel", "hann", "-o", tmp_path / "out")
    assert isinstance(result.exception, PartialFailure)
    assert "--i0" in str(result.exception)
    (series,) = json.loads((tmp_path / "out" / "run.json").read_text())["series"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [series["folder"], "run.json"]
