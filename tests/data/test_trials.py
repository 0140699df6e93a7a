"""Pseudo-clean trials: the noise is what the dose says, the truth has none, and a slice's neighbours are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.manifest import Pair
from medidiff.data.phantoms import dead_leaves
from medidiff.data.transforms import apply_kernel, body_deviation
from medidiff.data.trials import FULL_NOISE_HU, both_doses, cases, low_dose, spread
from medidiff.data.validation import KERNELS
from medidiff.metrics.companions import limit_gain_db, truth_gain_db


@pytest.mark.parametrize(("n", "wanted", "expected"), [(1, 3, [0]), (10, 1, [4]), (10, 2, [3, 6]), (3, 4, [0, 1])])
def test_slices_are_spread_over_the_scan(n: int, wanted: int, expected: list[int]) -> None:
    assert spread(n, wanted) == expected


@pytest.mark.parametrize(("kernel", "dose"), [("smooth", 0.25), ("sharp", 0.5)])
def test_noise_follows_the_dose_and_the_truth_has_none(kernel: str, dose: float) -> None:
    """Standard deviation in the body: that of the kernel at full dose over the root of the dose."""
    clean = dead_leaves(128, 1, np.random.default_rng(0), n_leaves=30).astype(np.float32)
    low, truth = low_dose(clean, 3.0, dose, kernel, np.random.default_rng(1))
    np.testing.assert_allclose(truth, apply_kernel(clean, KERNELS[kernel])[0], atol=1e-4)
    noise = (low[0] - truth)[None]
    assert body_deviation(noise, truth[None]) == pytest.approx(FULL_NOISE_HU[kernel] / np.sqrt(dose), rel=1e-4)


def test_lone_slices_share_their_noise() -> None:
    """A slab made of one slice repeated has one noise, as it would have on a scanner."""
    clean = np.repeat(dead_leaves(96, 1, np.random.default_rng(0), n_leaves=30).astype(np.float32), 3, axis=0)
    low, _ = low_dose(clean, 4.0, 0.25, "smooth", np.random.default_rng(1))
    np.testing.assert_array_equal(low[0], low[2])


@pytest.mark.parametrize("dose", [0.25, 0.1])
def test_full_dose_shares_its_noise_with_the_low_dose(dose: float) -> None:
    """The truth gains 10 log10(1/a - 1) dB against the full dose, and its best blend with the scan 10 log10(1/a)."""
    clean = dead_leaves(128, 1, np.random.default_rng(0), n_leaves=30).astype(np.float32)
    low, full, truth = both_doses(clean, 3.0, dose, "smooth", np.random.default_rng(1))
    body = truth > -500
    noise, shared = (low[0] - truth)[body], (full - truth)[body]
    assert noise.std() == pytest.approx(FULL_NOISE_HU["smooth"] / np.sqrt(dose), rel=0.05)

    def gain(alpha: float) -> float:
        return float(10 * np.log10(np.mean((noise - shared) ** 2) / np.mean((alpha * noise - shared) ** 2)))

    assert gain(0.0) == pytest.approx(truth_gain_db(dose, "shared"), abs=0.01)
    assert gain(dose) == pytest.approx(limit_gain_db(dose, "shared"), abs=0.25)


def test_slabs_hold_neighbours(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> None:
    """The middle slab of a scan, cleaned slice by slice, with its pixel size."""
    scan = dead_leaves(64, 5, np.random.default_rng(0), n_leaves=30)
    pair = Pair("p", "tune", write_nifti_scan(tmp_path / "a.nii", scan, (5, 0.7, 0.7)), None)
    [(slab, pixel_mm)] = cases(pair, 3, 1)
    assert slab.shape == (3, 64, 64)
    assert pixel_mm == pytest.approx(0.7)
    assert [int(np.argmin(np.mean((scan - image) ** 2, axis=(1, 2)))) for image in slab] == [1, 2, 3]
