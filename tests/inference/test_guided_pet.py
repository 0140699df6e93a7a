"""Laws of PET that is guided by a network: between the network's image and the likeliest one, activity kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.inference import guided_pet
from medidiff.inference.guided_pet import doubt, guided_osem, network_mean, pulled, smoothed
from medidiff.model import Architecture, Card, Model, build, load
from medidiff.noise.activity import activity_of
from medidiff.physics.osem import log_likelihood, osem
from medidiff.physics.pet import (
    Contamination,
    ParallelBeam,
    ParallelGeometry,
    Sinograms,
    draw,
    expected,
    sinograms,
    thin,
)
from medidiff.physics.pet_phantoms import nema, render
from medidiff.scaling import LinearScaling

N_SLICES, MATRIX, PIXEL_MM, SUBSETS = 6, 64, 6.0, 21
SPACING = (PIXEL_MM,) * 3
BEAM = ParallelBeam((MATRIX, MATRIX), PIXEL_MM, ParallelGeometry(n_angles=84, n_bins=MATRIX, bin_mm=PIXEL_MM))
TRUTH = render(nema(), (N_SLICES, MATRIX, MATRIX), SPACING)
SMALL = Architecture(dimensions=3, slab=1, widths=(4, 4, 8), blocks=(1, 1, 1), embedding=8, spread=True)


def _project(stack: np.ndarray) -> np.ndarray:
    return (BEAM.matrix @ stack.reshape(N_SLICES, -1).T).T.reshape(N_SLICES, *BEAM.out_shape)


@pytest.fixture(scope="module")
def data() -> Sinograms:
    """A twentieth of about 500,000 trues a slice."""
    integrals, attenuation = _project(TRUTH.suv), np.exp(-_project(TRUTH.mu))
    calibration = 5e5 * N_SLICES / (integrals * attenuation).sum()
    means = expected(integrals, attenuation, float(calibration), Contamination(), PIXEL_MM)
    generators = [np.random.default_rng(k) for k in range(N_SLICES)]
    return sinograms(means, thin(draw(means, generators), 20, "time", generators), 20, "time")


@pytest.fixture(scope="module")
def filtered(data: Sinograms) -> np.ndarray:
    return smoothed(osem(data, BEAM), SPACING, 5.0)


@pytest.fixture(scope="module")
def flat(filtered: np.ndarray) -> np.ndarray:
    """An estimate that lost its spheres, as a careless network does."""
    return np.minimum(smoothed(filtered, SPACING, 20.0), np.float32(1.0))


def restless() -> Model:
    """A network whose answer is not its input."""
    torch.manual_seed(0)
    denoiser = build(SMALL)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Model(denoiser.eval().requires_grad_(False), LinearScaling("SUV", 0.0, 1.0), SMALL, Card(name="tiny"))


def test_no_trust_leaves_the_estimate(data: Sinograms, flat: np.ndarray) -> None:
    """Nothing moves it in a variance of next to nothing, wherever the scanner sees."""
    image = pulled(data, BEAM, flat, np.full_like(flat, 1e-9), 2, SUBSETS)
    seen = (BEAM.matrix.T @ np.ones(BEAM.matrix.shape[0])).reshape(MATRIX, MATRIX) > 0
    assert np.abs(image - flat)[:, seen].max() < 1e-3
    assert np.all(image[:, ~seen] == 0)


def test_all_trust_is_osem(data: Sinograms, flat: np.ndarray) -> None:
    """The penalty fades, so EM remains: the same image, pixel by pixel, as OSEM that starts from the estimate."""
    image = pulled(data, BEAM, flat, np.full_like(flat, 1e6), 2, SUBSETS)
    start = np.maximum(flat, 1e-4 * flat.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(image, osem(data, BEAM, 2, SUBSETS, start), rtol=2e-3, atol=1e-4)


def test_penalised_likelihood_never_falls(data: Sinograms, flat: np.ndarray) -> None:
    """Over iterations with all angles at once (De Pierro 1995), in every slice."""
    variance = np.float32(0.3) * doubt(flat, activity_of(flat, SPACING).level, SPACING)
    found = [pulled(data, BEAM, flat, variance, n, 1) for n in range(1, 6)]
    objective = [
        log_likelihood(data, BEAM, x) - ((x - flat).astype(np.float64) ** 2 / (2 * variance)).sum((1, 2)) for x in found
    ]
    assert np.all(np.diff(objective, axis=0) > -1e-7 * np.abs(objective[0]))  # single precision
    assert np.all(objective[-1] > objective[0] + 1)


def test_one_pixel_has_the_root_in_closed_form() -> None:
    """Where one bin sees one pixel, L is y ln x - x: the maximum solves x^2 - (x0 - t) x - t y = 0."""
    beam = ParallelBeam((1, 1), 1.0, ParallelGeometry(n_angles=1, n_bins=3, bin_mm=1.0))
    counts = np.array([[[0, 7, 0]]], np.float32)
    factors = np.ones_like(counts)
    assert beam.matrix.sum() == pytest.approx(1)
    x0, t = 3.0, 2.0
    image = pulled(Sinograms(counts, factors, 0 * counts), beam, *(np.full((1, 1, 1), v, np.float32) for v in (x0, t)),
                   iterations=50, subsets=1)  # fmt: skip
    assert image.item() == pytest.approx(max(np.roots([1, -(x0 - t), -t * 7])), rel=1e-5)


def test_counts_bring_back_what_was_lost(data: Sinograms, flat: np.ndarray) -> None:
    """The spheres of an estimate that lost part of them rise, the more the greater the trust; the even part stays."""
    sphere, even = TRUTH.lesions == 1, (TRUTH.suv == 1) & (smoothed(TRUTH.suv, SPACING, 40.0) < 1.05)
    v = doubt(flat, activity_of(flat, SPACING).level, SPACING)
    images = [flat, *(pulled(data, BEAM, flat, np.float32(t) * v, 2, SUBSETS) for t in (0.3, 3.0))]
    assert np.all(np.diff([x[sphere].mean() for x in images]) > 0)
    assert images[1][even].mean() == pytest.approx(flat[even].mean(), rel=0.05)


def test_doubt_is_where_there_is_structure() -> None:
    """Even uptake has the share of its noise alone; a share of the contrast of a hot voxel comes on top."""
    x0, level = np.ones((5, 41, 41), np.float32), np.full((5, 41, 41), 0.2, np.float32)
    even = doubt(x0, level, SPACING)
    np.testing.assert_allclose(even, (guided_pet.SHARE * 0.2) ** 2, rtol=1e-4)
    x0[2, 20, 20] = 5
    v = doubt(x0, level, SPACING)
    assert v[2, 20, 20] > 10
    np.testing.assert_allclose(v[:, :5, :5], even[:, :5, :5], rtol=1e-3)


def test_embedded_network(data: Sinograms) -> None:
    """Likelier than post-processing, in every slice after one step, and with as much activity as was counted."""
    told: list[tuple[int, int]] = []
    found = guided_osem(
        data, BEAM, load("pet"), SPACING, steps=2, progress=lambda done, total: told.append((done, total))
    )
    network = log_likelihood(data, BEAM, found.network)
    v = doubt(found.network, activity_of(found.filtered, SPACING).level, SPACING)
    once = pulled(data, BEAM, found.network, np.float32(guided_pet.TRUST) * v, 2, SUBSETS)
    assert np.all(log_likelihood(data, BEAM, once) > network)
    assert log_likelihood(data, BEAM, found.images).sum() > network.sum()
    for image in (once, found.images):
        assert image.min() >= 0
        assert image.sum() == pytest.approx(found.filtered.sum(), rel=0.01)
    assert told == [(1, 2), (2, 2)]
    assert (found.nfe, found.calls) == (2, {"apply": 7, "adjoint": 10})


def test_same_every_time(data: Sinograms) -> None:
    """To the last bit."""
    one, two = (guided_osem(data, BEAM, restless(), SPACING, steps=2).images for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_no_trust_is_the_network(data: Sinograms) -> None:
    """One step without trust is post-processing, where the scanner sees."""
    found = guided_osem(data, BEAM, restless(), SPACING, trust=1e-9, steps=1)
    assert np.abs(found.network - found.filtered).max() > 0.1
    middle = (slice(None), slice(16, 48), slice(16, 48))  # off the rim of the circle that the scanner sees
    np.testing.assert_allclose(found.images[middle], found.network[middle], rtol=1e-2, atol=1e-3)


def test_slices_depend_on_their_block_alone(filtered: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond a block's halo has no say, and a volume of one block is the model's own answer."""
    model = restless()
    whole, level, weight = network_mean(model, filtered, SPACING)
    np.testing.assert_allclose(whole, np.maximum(model.block_mean(filtered, SPACING, None), 0), atol=1e-5)
    np.testing.assert_array_equal(level, activity_of(filtered, SPACING).level)
    assert np.all(weight == 1)
    monkeypatch.setattr(guided_pet, "CORE", 2)
    monkeypatch.setattr(guided_pet, "HALO", 1)
    before, *_ = network_mean(model, filtered, SPACING)
    changed = filtered.copy()
    changed[5] *= 2
    after, *_ = network_mean(model, changed, SPACING)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert not np.array_equal(before[4], after[4])


def test_one_slice_and_a_guide(data: Sinograms) -> None:
    """A scan of one slice has no spacing; a guide that the model does not take changes nothing."""
    one = Sinograms(*(part[:1] for part in (data.counts, data.factors, data.additive)))
    spacing, model = (0.0, PIXEL_MM, PIXEL_MM), restless()
    found = guided_osem(one, BEAM, model, spacing, steps=1)
    told = guided_osem(one, BEAM, model, spacing, steps=1, guide=np.zeros((1, MATRIX, MATRIX), np.float32))
    assert np.isfinite(found.images).all()
    np.testing.assert_array_equal(found.images, told.images)
