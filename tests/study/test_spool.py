"""Slices kept in a file come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medidiff.study.inputs import middle
from medidiff.study.spool import Spool, spool
from medidiff.volume import Geometry, Volume


def test_slices_and_padding_come_back_to_the_bit(tmp_path: Path) -> None:
    """Any order of writing; slices without padding say None."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=(4, 5, 7)).astype(np.float32)
    mask = array > 1
    mask[2] = False
    geometry = Geometry.from_affine(np.eye(4), (4, 5, 7))
    kept = Spool(tmp_path / "kept", geometry, "HU")
    for k in (3, 0, 2, 1):
        kept.write(k, array[k], mask[k] if mask[k].any() else None)
    for k in range(4):
        np.testing.assert_array_equal(kept.read(k), array[k])
        found = kept.padding(k)
        np.testing.assert_array_equal(np.zeros((5, 7), bool) if found is None else found, mask[k])
    assert kept.padding(2) is None
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_the_middle_keeps_its_place(tmp_path: Path) -> None:
    """Three of seven slices: numbers 2 to 4, at their own positions in the patient."""
    geometry = Geometry.from_affine(np.diag([2.0, 1, 1, 1]), (7, 2, 2))
    volume = Volume(np.arange(7, dtype=np.float32)[:, None, None] * np.ones((7, 2, 2), np.float32), geometry, "HU")
    copied = spool(middle(volume, 3), tmp_path / "copy", lambda: None)
    assert [copied.read(k)[0, 0] for k in range(3)] == [2, 3, 4]
    np.testing.assert_array_equal(copied.geometry.origins_mm, geometry.origins_mm[2:5])
    assert middle(volume, 99) is volume
