"""Diffusion with the data in the loop: what holds whatever the network has learned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medidiff.inference.guided import Guided
from medidiff.inference.methods import NOT_CALIBRATED
from medidiff.inference.projection_options import DEFAULT_STEPS, ProjectionOptions
from medidiff.io.projections import Header, Projections, Scanner, open_projections, write_projections
from medidiff.model import FOR_PROJECTIONS, embedded, rewrite_card
from medidiff.physics.projectors import evenly
from medidiff.physics.scanner import scanner_beam
from medidiff.physics.transmission import counts, transmission
from medidiff.units import hu_to_mu
from medidiff.volume import Geometry

SIZE, SLICES, MM = 64, 10, 4.0
STEPS = 4


def scan() -> NDArray[np.float32]:
    """A body with lungs, spine and vessels that move a little from slice to slice."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    slices = []
    for k in range(SLICES):
        hu = np.where((x / 26) ** 2 + (y / 20) ** 2 < 1, 40.0, -1000.0)
        hu[((x + 12) / 8) ** 2 + ((y + 2) / 11) ** 2 < 1] = -800
        hu[((x - 12) / 8) ** 2 + ((y + 2) / 11) ** 2 < 1] = -800
        hu[np.hypot(x, y - 13) < 4] = 500
        hu[np.hypot(x + 12 - k / 4, y) < 2] = 60
        slices.append(hu)
    return np.array(slices, np.float32)


def container(path: Path, views: int = 40, arc: float = 360.0, chosen: slice = slice(None)) -> Projections:
    beam = scanner_beam(evenly(views, arc), SIZE * MM / 2)
    air = np.full(beam.n_bins, 2e5, np.float32)

    def blocks() -> Iterator[dict[str, Any]]:
        for k in range(SLICES)[chosen]:
            expected = air * transmission(np.maximum(hu_to_mu(scan()[k]), 0).astype(np.float32), MM, beam)
            yield {"counts": counts(expected, 10.0, np.random.default_rng(k))[None], "air": air}

    origins = np.array([[0.0, 0.0, 3.0 * k] for k in range(SLICES)])
    geometry = Geometry(origins[chosen], np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (MM, MM), (SIZE, SIZE))
    scanner = Scanner(
        "fan", "curved", beam.angles, beam.n_bins, beam.bin_mm, beam.source_isocentre_mm, beam.source_detector_mm
    )
    write_projections(path, Header("CT", scanner, geometry, electronic_variance=10.0), blocks())
    return open_projections(path)


@pytest.fixture(scope="module")
def projections(tmp_path_factory: pytest.TempPathFactory) -> Projections:
    return container(tmp_path_factory.mktemp("guided") / "ct.h5")


def guided(projections: Projections, **options: Any) -> Guided:
    return Guided(
        projections, ProjectionOptions("diffusion", **{"steps": STEPS, **options}), torch.device("cpu"), "case"
    )


def images(method: Guided, missing: list[int]) -> NDArray[np.float32]:
    return np.concatenate([done.images for done in method.slices(missing)])


def test_a_slice_does_not_depend_on_its_block(projections: Projections) -> None:
    """Alone, or with others: the same to the last bit, samples as well."""
    for options in ({}, {"mode": "sample", "seed": 3}, {"data_guidance": "dds"}):
        alone, together = (images(guided(projections, **options), chosen) for chosen in ([5], [3, 5, 6]))
        np.testing.assert_array_equal(alone[0], together[1])


def test_nor_does_it_with_a_penalty_across_slices(projections: Projections) -> None:
    """What was written before an interruption changes nothing: blocks have their fixed place."""
    whole = images(guided(projections, z_smoothing=0.5), list(range(SLICES)))
    rest = images(guided(projections, z_smoothing=0.5), [7, 9])
    np.testing.assert_array_equal(rest, whole[[7, 9]])


@pytest.mark.parametrize("guidance", ["diffpir", "dds", "pigdm", "dps"])
def test_the_data_are_explained(projections: Projections, guidance: str) -> None:
    """Nearer to the data, and to the scan, than the network on its own."""
    method = guided(projections, data_guidance=guidance)
    line, weights = method.data([4])
    alone = method.model.mean(np.repeat(method._backprojected(line), 3, axis=0))
    (done,) = method.slices([4])
    mu = torch.from_numpy(np.asarray(hu_to_mu(alone), np.float32))[None]
    before = float((weights * (line - method.operator.apply(mu)) ** 2).mean())
    assert done.residuals[0] < 0.5 * before
    assert np.std(done.images[0] - scan()[4]) < 0.9 * np.std(alone - scan()[4])


def test_evaluations_and_calls_are_those_that_were_made(projections: Projections) -> None:
    """`nfe` by counting the network's calls; a data step costs two calls and two more for each step of CG."""
    for options in ({}, {"unconditional": True}, {"mode": "uncertainty", "draws": 2}):
        method, made = guided(projections, **options), []
        method.model.denoiser.network.register_forward_pre_hook(lambda _, inputs, made=made: made.append(1))
        list(method.slices([4]))
        assert method.nfe == len(made)
        walks = 1 + options.get("draws", 0)
        once, extra = {"apply": 11, "adjoint": 11}, {"apply": 3 + 2 * method.is_conditional, "adjoint": 3}
        assert method.calls == {name: walks * STEPS * n + extra[name] for name, n in once.items()}


def test_without_a_condition_the_network_is_shown_nothing(projections: Projections) -> None:
    """The slab does not reach it: another one gives the same answer for the same state."""
    method = guided(projections, unconditional=True)
    line, _ = method.data([4])
    (cond,) = method._conditions([4], line)
    other = replace(cond, slab=cond.slab + 1)
    x, sigma = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1])
    answers = [method._denoiser(x, sigma, one.as_null()) for one in (cond, other)]
    torch.testing.assert_close(*answers)


def test_samples_differ_by_seed_and_spread_about_the_estimate(projections: Projections) -> None:
    first, again, other = (images(guided(projections, mode="sample", seed=seed), [4]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.std(first - other) > 1
    (done,) = guided(projections, mode="uncertainty", draws=3).slices([4])
    assert done.deviations is not None
    np.testing.assert_array_equal(done.images, images(guided(projections), [4]))
    assert 0 < np.median(done.deviations) < 100


def test_uncertainty_is_large_where_nothing_was_measured(tmp_path: Path) -> None:
    """Of an arc of 90 degrees: the spread of samples in the missing directions of the Fourier plane over that in the
    others; and the deviation of the pixels over that of a whole turn."""
    method = guided(container(tmp_path / "arc.h5", 40, 90.0, slice(0, 1)))
    asked = {"mode": "sample", "unconditional": True}
    samples = np.stack([images(guided(method.projections, **asked, seed=k), [0])[0] for k in range(5)])
    power = (np.abs(np.fft.fft2(samples - samples.mean(0))) ** 2).mean(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    ring = (np.hypot(fx, fy) > 0.05) & (np.hypot(fx, fy) < 0.25)
    # The source stands above the image at 0 and turns by 90 degrees: a view measures the frequencies across its rays
    seen = np.abs(np.fft.fft2(method.operator.adjoint(method.operator.apply(torch.randn(
        1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))).numpy()[0])) ** 2  # fmt: skip
    measured = ring & (seen > np.quantile(seen[ring], 0.7))
    missing = ring & (seen < np.quantile(seen[ring], 0.3))
    assert power[missing].mean() > 2 * power[measured].mean()
    whole = container(tmp_path / "whole.h5", 160, 360.0, slice(0, 1))
    wide, narrow = (next(guided(one, mode="uncertainty", draws=3).slices([0])) for one in (method.projections, whole))
    assert wide.deviations is not None
    assert narrow.deviations is not None
    assert np.median(wide.deviations) > 3 * np.median(narrow.deviations)


def test_a_card_that_knows_factors_multiplies_the_deviations(projections: Projections, tmp_path: Path) -> None:
    """Those of the options that its factors were fitted with; of others the raw ones come, and a warning."""
    path = tmp_path / "known.safetensors"
    shutil.copy(embedded()[FOR_PROJECTIONS], path)
    made = []
    for factor in (1.0, 1.5):
        rewrite_card(path, uncertainty={"source": "draws", "factor": factor})
        asked = {"mode": "uncertainty", "draws": 2, "steps": DEFAULT_STEPS, "model": str(path)}
        method = guided(projections, **asked)
        made.append(next(method.slices([4])).deviations)
        assert NOT_CALIBRATED.format("samples") not in method.warnings
    np.testing.assert_allclose(made[1], 1.5 * made[0], rtol=1e-5)
    for other in ({"steps": STEPS}, {"smoothing": 2.0}, {"data_guidance": "dds"}, {"unconditional": True}):
        method = guided(projections, **{**asked, **other})
        assert method.table is None
        assert method.warnings == [NOT_CALIBRATED.format("samples")]


def test_noise_is_told_as_the_nearest_that_is_known(projections: Projections) -> None:
    """A phantom has hardly any, of a colour that no patient has."""
    method = guided(projections)
    seen = method.model.card.seen
    assert seen is not None
    assert seen.colour_half is not None
    conditions = method._conditions([4], method.data([4])[0])
    assert seen.colour_half.low - 1e-4 <= float(conditions[0].colour[0, 0]) <= seen.colour_half.high + 1e-4


def test_an_estimate_that_the_data_contradict_is_not_used(
    projections: Projections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that answers nonsense is asked without its condition, and the user is told which slice it was."""
    method, without = guided(projections), guided(projections, unconditional=True)
    wild = torch.full((1, 1, SIZE, SIZE), 3.0)
    monkeypatch.setattr(type(method.model.denoiser), "mean", lambda self, cond: wild)
    np.testing.assert_array_equal(images(method, [4]), images(without, [4]))
    assert any("slice 5: unlike all that model 'ct-projections' has seen" in text for text in method.warnings)
    assert not any("slice 5" in text for text in without.warnings)
