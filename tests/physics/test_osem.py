"""The laws of EM and of maximum a posteriori reconstruction."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics.osem import log_likelihood, map_rdp, neighbours, osem, rdp, rdp_gradient
from medidiff.physics.pet import (
    Contamination,
    Means,
    ParallelBeam,
    ParallelGeometry,
    Sinograms,
    draw,
    expected,
    sinograms,
    without_noise,
)
from medidiff.physics.pet_phantoms import nema, render

N_SLICES, MATRIX, PIXEL_MM = 2, 64, 6.0
BEAM = ParallelBeam((MATRIX, MATRIX), PIXEL_MM, ParallelGeometry(n_angles=84, n_bins=MATRIX, bin_mm=PIXEL_MM))
TRUTH = render(nema(), (N_SLICES, MATRIX, MATRIX), (PIXEL_MM,) * 3)


def _project(stack: np.ndarray) -> np.ndarray:
    return (BEAM.matrix @ stack.reshape(N_SLICES, -1).T).T.reshape(N_SLICES, *BEAM.out_shape)


@pytest.fixture(scope="module")
def means() -> Means:
    """About 200,000 trues a slice."""
    integrals, attenuation = _project(TRUTH.suv), np.exp(-_project(TRUTH.mu))
    calibration = 2e5 * N_SLICES / (integrals * attenuation).sum()
    return expected(integrals, attenuation, float(calibration), Contamination(), PIXEL_MM)


@pytest.fixture(scope="module")
def data(means: Means) -> Sinograms:
    return sinograms(means, draw(means, [np.random.default_rng(k) for k in range(N_SLICES)]), 1, "time")


def test_likelihood_never_falls(data: Sinograms) -> None:
    """Over 12 iterations with all angles, in every slice, and by much at first (Shepp & Vardi 1982)."""
    image = osem(data, BEAM, iterations=1, subsets=1)
    likelihood = [log_likelihood(data, BEAM, image)]
    for _ in range(12):
        image = osem(data, BEAM, iterations=1, subsets=1, start=image)
        likelihood.append(log_likelihood(data, BEAM, image))
    rise = np.diff(likelihood, axis=0)
    assert np.all(rise > -1e-7 * np.abs(likelihood[0]))  # single precision
    assert np.all(rise[0] > 50 * rise[-1])


def test_subsets_get_there_sooner(data: Sinograms) -> None:
    """One iteration of 21 subsets is likelier than 8 with all angles (Hudson & Larkin 1994)."""
    fast, slow = osem(data, BEAM, 1, 21), osem(data, BEAM, 8, 1)
    assert np.all(log_likelihood(data, BEAM, fast) > log_likelihood(data, BEAM, slow))


def test_noise_free_counts_give_the_truth(means: Means) -> None:
    """Background within 0.5 %, total within 0.5 %, no value below zero."""
    found = osem(without_noise(means), BEAM)
    background = TRUTH.suv == 1
    assert found[background].mean() == pytest.approx(1, abs=0.005)
    assert found.sum() == pytest.approx(TRUTH.suv.sum(), rel=0.005)
    assert found.min() >= 0


def test_slices_do_not_know_of_each_other(data: Sinograms) -> None:
    """A slice by itself is reconstructed bit for bit as in a stack."""
    alone = Sinograms(data.counts[1:], data.factors[1:], data.additive[1:])
    assert np.array_equal(osem(alone, BEAM), osem(data, BEAM)[1:])


def test_gradient_of_the_prior() -> None:
    """Analytic slopes are those of finite differences; a flat image has none."""
    rng, weights = np.random.default_rng(0), neighbours(1.5)
    x = rng.uniform(0.5, 3, (3, 5, 6)).astype(np.float32)
    gradient, curvature = rdp_gradient(x, weights, 0.7)
    for at in ((0, 0, 0), (1, 2, 3), (2, 4, 5)):
        step = np.zeros_like(x)
        step[at] = 1e-2
        slope = (rdp(x + step, weights, 0.7) - rdp(x - step, weights, 0.7)) / 2e-2
        assert gradient[at] == pytest.approx(slope, rel=2e-3, abs=2e-3)
    assert curvature.min() > 0
    assert not rdp_gradient(np.full_like(x, 2.0), weights, 0.7)[0].any()


def test_neighbours_are_counted_once() -> None:
    """13 pairs of 26 neighbours, 4 of 8 without slices; weights fall with the distance."""
    assert len(neighbours(1.0)) == 13
    assert len(neighbours(None)) == 4
    assert neighbours(2.0)[(1, 0, 0)] == pytest.approx(0.5)
    assert neighbours(None)[(0, 1, 1)] == pytest.approx(2**-0.5)


def test_map_raises_what_it_maximises(data: Sinograms) -> None:
    """L - U rises from one iteration to 4 to 16 with all angles, and beats OSEM; a stronger prior is smoother."""
    weights, beta = neighbours(1.0), 0.3

    def objective(x: np.ndarray) -> float:
        return float(log_likelihood(data, BEAM, x).sum()) - rdp(x, weights, beta)

    found = [objective(map_rdp(data, BEAM, beta, slice_mm=PIXEL_MM, iterations=n, subsets=1)) for n in (1, 4, 16)]
    assert found[0] < found[1] < found[2]
    smooth = map_rdp(data, BEAM, beta, slice_mm=PIXEL_MM)
    assert objective(smooth) > max(found[2], objective(osem(data, BEAM)))
    background = TRUTH.suv == 1
    noise = [map_rdp(data, BEAM, b, slice_mm=PIXEL_MM, iterations=4)[background].std() for b in (0.03, 1.0)]
    assert noise[1] < 0.6 * noise[0]
    assert smooth[background].mean() == pytest.approx(1, abs=0.02)
