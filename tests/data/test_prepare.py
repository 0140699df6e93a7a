"""Prepared cases: made once, the same each time, never mixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.data import prepare as preparation
from medidiff.data.clean import average_along_z, pseudo_clean, shrink
from medidiff.data.dataset import phantom_cases
from medidiff.data.manifest import Pair
from medidiff.data.phantoms import dead_leaves
from medidiff.data.prepare import case_folder, prepare
from medidiff.noise.level import noise_level

Writer = Callable[..., Path]


def scan(seed: int = 0, n: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return dead_leaves(96, n, rng, n_leaves=30) + rng.normal(0, 20, (n, 96, 96))


def test_a_case_is_made_once_and_is_the_same_when_made_anew(tmp_path: Path, write_nifti_scan: Writer) -> None:
    """The second call reads the files of the first; another cache gets the same numbers."""
    pair = Pair("p", "train", write_nifti_scan(tmp_path / "a.nii", scan()), None)
    first = prepare(pair, 2.0, tmp_path / "cache")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    again = prepare(pair, 2.0, tmp_path / "cache")
    anew = prepare(pair, 2.0, tmp_path / "cache2")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == stamps
    assert first.noise is not None
    for other in (again, anew):
        np.testing.assert_array_equal(other.clean, first.clean)
        np.testing.assert_array_equal(other.noise, first.noise)
    assert first.clean.shape == first.noise.shape == (2, 48, 48)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_an_interrupted_preparation_continues(
    tmp_path: Path, write_nifti_scan: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while writing, the half case is not taken for a whole one."""
    pair = Pair("p", "train", write_nifti_scan(tmp_path / "a.nii", scan()), None)
    whole = prepare(pair, 2.0, tmp_path / "whole")
    store = preparation.store

    def stop(path: Path, array: np.ndarray) -> None:
        if path.name == "clean.npy":
            raise KeyboardInterrupt
        store(path, array)

    monkeypatch.setattr(preparation, "store", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(pair, 2.0, tmp_path / "cache")
    monkeypatch.setattr(preparation, "store", store)
    np.testing.assert_array_equal(prepare(pair, 2.0, tmp_path / "cache").clean, whole.clean)


def test_scans_whose_files_have_equal_names_and_sizes_are_told_apart(tmp_path: Path, write_nifti_scan: Writer) -> None:
    """p1/full.nii and p2/full.nii of one shape are two cases; the same file elsewhere is one."""
    one, two, copy = (
        Pair("p", "train", write_nifti_scan(tmp_path / f"p{k}" / "full.nii", scan(seed)), None)
        for k, seed in enumerate((0, 1, 0))
    )
    folders = [case_folder(tmp_path, pair, 2.0) for pair in (one, two, copy)]
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]
    assert case_folder(tmp_path, one, 1.25) != folders[0]
    assert case_folder(tmp_path, Pair("p", "train", one.full, two.full), 2.0) != folders[0]


def test_cleaning_takes_the_noise_and_keeps_the_means() -> None:
    """On discs in 25 HU of kernel-like noise: less error, noise below 40 %, means of organs kept."""
    rows, columns = np.mgrid[:160, :160]
    organs = [np.hypot(rows - r, columns - c) < 18 for r, c in ((50, 50), (50, 110), (110, 50), (110, 110))]
    truth = np.full((160, 160), 40.0, np.float32)
    for organ, value in zip(organs, (-100.0, 60.0, 120.0, 300.0), strict=True):
        truth[organ] = value
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(truth.shape), 0.5)
    noisy = (truth + 25 * noise / noise.std()).astype(np.float32)
    clean = pseudo_clean(noisy)
    assert clean.dtype == np.float32
    assert np.sqrt(np.mean((clean - truth) ** 2)) < 0.6 * np.sqrt(np.mean((noisy - truth) ** 2))
    for organ in organs:
        inside = gaussian_filter(organ.astype(float), 2) > 0.99
        assert clean[inside].mean() == pytest.approx(noisy[inside].mean(), abs=1.0)
        assert clean[inside].std() < 0.4 * noisy[inside].std()
    assert noise_level(clean) < 0.4 * noise_level(noisy)


def test_shrinking_keeps_the_mean_and_lowers_the_noise() -> None:
    """Area averages to multiples of 16; white noise falls with the factor."""
    image = np.random.default_rng(0).normal(40, 20, (128, 192)).astype(np.float32)
    small = shrink(image, 2.0)
    assert small.shape == (64, 96)
    assert small.mean() == pytest.approx(image.mean(), abs=1e-3)
    assert small.std() == pytest.approx(10, rel=0.05)
    assert shrink(image, 1.0) is image


@pytest.mark.parametrize(("step_mm", "width"), [(5.0, 1), (3.0, 1), (1.5, 2), (1.0, 3), (0.625, 5), (0.0, 1)])
def test_thin_slices_are_averaged_to_three_millimetres(step_mm: float, width: int) -> None:
    """A ramp stays a ramp inside, noise falls by sqrt(width), the number of slices is kept."""
    stack = np.random.default_rng(0).normal(0, 10, (40, 16, 16)).astype(np.float32)
    averaged = average_along_z(stack, step_mm)
    assert averaged.shape == stack.shape
    assert averaged[5:-5].std() == pytest.approx(10 / np.sqrt(width), rel=0.05)
    middle = stack[20 - width // 2 : 20 - width // 2 + width].mean(0)
    np.testing.assert_allclose(averaged[20], middle, atol=1e-4)


def test_dead_leaves_are_deterministic_tissue() -> None:
    """The same generator draws the same phantom; air outside, body inside, slices change slowly."""
    one, two, other = (dead_leaves(64, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 100
    assert one.shape == (3, 64, 64)
    assert np.all(one[:, 0] == -1000)
    assert -200 < np.median(one[:, 24:40, 24:40]) < 200
    assert np.abs(one[0] - one[1]).mean() < 0.5 * np.abs(one[0] - other[0]).mean()


def test_phantom_cases_do_not_depend_on_their_number() -> None:
    """Phantom k of a seed is always the same, with noise of zero mean and another in each slice."""
    few, more = phantom_cases(1, 48, 3), phantom_cases(2, 48, 3)
    assert few[0].noise is not None
    np.testing.assert_array_equal(few[0].clean, more[0].clean)
    np.testing.assert_array_equal(few[0].noise, more[0].noise)
    assert abs(few[0].noise.mean()) < 0.1 * few[0].noise.std()
    assert np.abs(few[0].noise[0] - few[0].noise[1]).mean() > 0.5 * few[0].noise.std()


def test_other_cleanings_of_a_case_are_added_when_asked_for(tmp_path: Path, write_nifti_scan: Writer) -> None:
    """As it is, by total variation, by non-local means: less noise each time than nothing done, one noise bank."""
    pair = Pair("p", "train", write_nifti_scan(tmp_path / "a.nii", scan()), None)
    raw, tv, nlm = (prepare(pair, 2.0, tmp_path / "cache", cleaning) for cleaning in ("none", "tv", "nlm"))
    assert raw.noise is not None
    np.testing.assert_allclose(raw.clean[0], shrink(np.maximum(scan()[0], -1024).astype(np.float32), 2.0), atol=0.5)
    for cleaned in (tv, nlm):
        assert cleaned.clean.shape == raw.clean.shape
        assert noise_level(cleaned.clean[0]) < 0.6 * noise_level(raw.clean[0])
    np.testing.assert_array_equal(prepare(pair, 2.0, tmp_path / "cache", "tv").clean, tv.clean)
