"""Phantom cases: deterministic slices, the right noise, and refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from medidiff.errors import UsageError
from medidiff.evaluate.phantoms import PhantomCase

SMALL = {"matrix": 128, "pixel_mm": 1.8}


def test_slices_depend_on_seed_and_index_alone() -> None:
    """Any order, a copy through pickle, or more realisations: slice 3 is slice 3; another seed or slice is not."""
    case = PhantomCase("rods", realisations=8, **SMALL)
    third = case.scan.read(3)
    case.scan.read(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(case)).scan.read(3), third)  # noqa: S301 (our own bytes)
    np.testing.assert_array_equal(PhantomCase("rods", realisations=4, **SMALL).scan.read(3), third)
    assert np.std(PhantomCase("rods", realisations=8, seed=1, **SMALL).scan.read(3) - third) > 1
    assert np.std(case.scan.read(2) - third) > 1


@pytest.mark.parametrize(("noise", "ratio"), [("independent", 4.0), ("shared", 4.0)])
def test_a_quarter_dose_has_four_times_the_variance(noise: str, ratio: float) -> None:
    """Scan minus truth has 4 times the variance of full dose minus truth, however the scan was made."""
    case = PhantomCase("uniform", dose=0.25, realisations=12, reference_noise=noise, **SMALL)
    middle = np.s_[44:84, 44:84]
    low = np.mean([np.var((case.scan.read(k) - case.truth.read(k))[middle]) for k in range(12)])
    full = np.mean([np.var((case.reference.read(k) - case.truth.read(k))[middle]) for k in range(12)])
    assert low / full == pytest.approx(ratio, rel=0.1)


def test_shared_noise_is_shared() -> None:
    """Scan and reference correlate by sqrt(dose) where noise was inserted, and not at all where it is independent."""
    middle = np.s_[44:84, 44:84]
    for noise, expected in (("shared", 0.5), ("independent", 0.0)):
        case = PhantomCase("uniform", dose=0.25, realisations=12, reference_noise=noise, **SMALL)
        pairs = [[(s.read(k) - case.truth.read(k))[middle].ravel() for k in range(12)] for s in (case.scan, case.full)]
        assert np.corrcoef(*(np.concatenate(p) for p in pairs))[0, 1] == pytest.approx(expected, abs=0.05)


def test_signals_are_there_in_half_of_the_slices() -> None:
    """The truth has a disc's contrast at its place in the first half; features say so, and pair the places."""
    case = PhantomCase("signals", realisations=6)
    assert case.features[0].slices == (0, 1, 2)
    assert case.features[1].slices == (3, 4, 5)
    assert case.features[0].pair == case.features[1].pair
    e = case.features[0].ellipse
    row, column = round(e.y0 / 0.9 + 127.5), round(e.x0 / 0.9 + 127.5)
    assert case.truth.read(2)[row, column] - case.truth.read(3)[row, column] == pytest.approx(e.value, rel=0.1)
    assert case.reference.read(0) is case.truth.read(0)


def test_geometry_is_centred() -> None:
    """The middle of the stack is the origin, pixels and slices have their size."""
    geometry = PhantomCase(realisations=3).geometry
    assert geometry.pixel_spacing_mm == (0.9, 0.9)
    assert geometry.slice_spacing_mm == pytest.approx(3)
    np.testing.assert_allclose(geometry.origins_mm[1], [-127.5 * 0.9, -127.5 * 0.9, 0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "head"}, "phantom 'head' is not known: choose one of uniform, rods, signals"),
        ({"kernel": "B40"}, "kernel 'B40' is not known"),
        ({"dose": 25}, "fraction above 0 and at most 1, found 25"),
        ({"realisations": 0}, "at least 1 realisation"),
        ({"seed": -1}, "a seed of 0 or more and I0 above 0 photons, found -1 and 100000"),
        ({"i0": 0}, "found 0 and 0"),
        ({"matrix": 128}, "needs a field of view of 210 mm, found 128 pixels of 0.9 mm"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, message: str) -> None:
    """One sentence says what was expected and found."""
    with pytest.raises(UsageError, match=message):
        PhantomCase(**wrong)
