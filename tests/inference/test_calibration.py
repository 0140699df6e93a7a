"""A calibrated deviation covers what it claims, wherever one looks, and keeps the order of what was predicted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medidiff.inference.calibration import (
    NODES,
    TISSUES,
    Calibration,
    Pixels,
    fit,
    fit_by_level,
    of_card,
    tissue_position,
)
from medidiff.metrics.uncertainty import coverage


def claimed_wrongly(n: int, seed: int) -> Pixels:
    """Errors of three tissues and colours whose claimed deviation is off by each and by level: 2 to 8 HU at r = 16."""
    random = np.random.default_rng(seed)
    position = random.choice([1, 3, 4], n).astype(np.float32)
    colour = random.choice([-1.1, 0.1, 0.4], n)
    true = random.uniform(2, 8, n)
    claimed = true**1.3 * np.choose(position.astype(int), [0, 0.5, 0, 0.8, 0.6]) * np.exp(-0.4 * colour)
    return Pixels(
        error=(true * random.standard_normal(n)).astype(np.float32),
        sd=claimed.astype(np.float32),
        level=np.log2(claimed / 16).astype(np.float32),
        colour=colour.astype(np.float32),
        position=position,
        patient=random.integers(0, 40, n),
    )


def test_every_tenth_tissue_and_colour_is_covered() -> None:
    """Claims that are wrong by up to threefold, differently in each tissue and colour, cover 90 % in each part."""
    calibration, fresh = fit(claimed_wrongly(200_000, 0)), claimed_wrongly(200_000, 1)
    sd = fresh.sd * calibration.factor(fresh.position, fresh.level, fresh.colour)
    assert coverage(fresh.error, sd) == pytest.approx(0.9, abs=0.01)
    tenth = np.searchsorted(np.quantile(sd, np.arange(0.1, 1, 0.1)), sd)
    parts = [tenth == k for k in range(10)] + [fresh.position == t for t in (1, 3, 4)]
    parts += [np.isclose(fresh.colour, c) for c in (-1.1, 0.1, 0.4)]
    raw = [coverage(fresh.error[part], fresh.sd[part]) for part in parts]
    covered = [coverage(fresh.error[part], sd[part]) for part in parts]
    assert min(raw) < 0.85
    np.testing.assert_allclose(covered, 0.9, atol=0.03)


def test_every_tenth_of_a_block_is_covered_by_level_alone() -> None:
    """Claims too small at low levels and too large at high ones, in bodies of one kind, cover 90 % in each tenth."""

    def drawn(seed: int) -> tuple[Pixels, np.ndarray]:
        random = np.random.default_rng(seed)
        level = random.uniform(0.1, 2, 100_000).astype(np.float32)  # local noise, SUV
        u = random.uniform(-4, 0, level.size).astype(np.float32)
        sd, nothing = level * np.exp2(u), np.zeros_like(level)
        error = sd * np.exp2(-0.3 * (u + 2)) * random.standard_normal(level.size)
        body = random.integers(0, 20, level.size)
        return Pixels(error.astype(np.float32), sd, u, nothing, nothing, body), level

    calibration, (fresh, level) = fit_by_level(drawn(0)[0]), drawn(1)
    sd = calibration.by_level(fresh.sd, level)
    tenth = np.searchsorted(np.quantile(sd, np.arange(0.1, 1, 0.1)), sd)
    raw = [coverage(fresh.error[tenth == k], fresh.sd[tenth == k]) for k in range(10)]
    assert min(raw) < 0.85
    found = [coverage(fresh.error[tenth == k], sd[tenth == k]) for k in range(10)]
    np.testing.assert_allclose(found, 0.9, atol=0.02)
    kept = of_card({"source": "spread", "table": calibration.to_dict()}, "spread")
    assert kept is not None
    np.testing.assert_allclose(kept.by_level(fresh.sd, level), sd, rtol=1e-3)


def test_the_order_of_predictions_is_kept() -> None:
    """A larger predicted deviation never becomes a smaller calibrated one, of few and noisy pixels too."""
    calibration = fit(claimed_wrongly(3000, 2))
    levels = np.linspace(-8, 4, 500, dtype=np.float32)
    for position in np.arange(0, len(TISSUES) - 0.5, 0.5, dtype=np.float32):
        sd = np.exp2(levels) * calibration.factor(np.full_like(levels, position), levels, np.zeros_like(levels))
        assert (np.diff(sd) >= -1e-6 * sd[1:]).all()


def test_a_cell_without_pixels_takes_what_tissue_and_level_say() -> None:
    """Claims that are half of the truth everywhere get the factor 2 in tissues that were never seen as well."""
    random = np.random.default_rng(0)
    n = 50_000
    sd = random.uniform(1, 4, n).astype(np.float32)
    error = 2 * sd * random.standard_normal(n).astype(np.float32)
    seen = Pixels(error, sd, np.log2(sd / 8), np.zeros_like(sd), np.full(n, 4, np.float32), random.integers(0, 9, n))
    nowhere = np.linspace(-6, 2, 5, dtype=np.float32)
    unseen = fit(seen).factor(np.zeros_like(nowhere), nowhere, nowhere)
    np.testing.assert_allclose(unseen, 2, rtol=0.1)


def test_a_card_gives_back_what_was_stored() -> None:
    """Through JSON and back, for deviations of its source only."""
    calibration = fit(claimed_wrongly(2000, 3))
    card = json.loads(json.dumps({"source": "spread", "table": calibration.to_dict()}))
    stored = of_card(card, "spread")
    assert stored is not None
    np.testing.assert_allclose(stored.factors, calibration.factors, rtol=1e-3)
    np.testing.assert_allclose(stored.colour_factors, calibration.colour_factors, rtol=1e-3)
    assert of_card(card, "draws") is None


def test_a_card_of_old_holds_one_factor_for_samples() -> None:
    """`factor` multiplies everywhere; a card that holds nothing changes nothing."""
    sd = np.random.default_rng(0).uniform(0.1, 50, (40, 50)).astype(np.float32)
    x_hat = np.linspace(-1000, 1000, 2000, dtype=np.float32).reshape(40, 50)
    old = of_card({"factor": 1.5, "draws": 8}, "draws")
    assert old is not None
    np.testing.assert_allclose(old(sd, x_hat, 10.0, -1.0), 1.5 * sd, rtol=1e-6)
    assert of_card({"factor": 1.5}, "spread") is None
    assert of_card({}, "draws") is None


def test_tissues_are_told_by_the_smoothed_estimate() -> None:
    """Noise does not choose the class, and between two plateaus the position lies between them."""
    noise = np.random.default_rng(0).normal(0, 15, (64, 64))
    for name, hu in {"air": -1000, "lung": -800, "fat": -100, "soft": 50, "bone": 600}.items():
        np.testing.assert_array_equal(tissue_position((hu + noise).astype(np.float32)), TISSUES.index(name))
    between = tissue_position(np.full((64, 64), -35, np.float32))
    assert (between > TISSUES.index("fat")).all()
    assert (between < TISSUES.index("soft")).all()


def test_between_nodes_the_factor_is_between() -> None:
    """Piecewise linear in the logarithm, the same beyond the ends."""
    rows = tuple(tuple(2.0**k for k in range(len(NODES))) for _ in TISSUES)
    levels = np.array([NODES[0] - 5, NODES[0], (NODES[0] + NODES[1]) / 2, NODES[-1] + 5], np.float32)
    expected = [1, 1, np.sqrt(2), 2.0 ** (len(NODES) - 1)]
    zero = np.zeros_like(levels)
    np.testing.assert_allclose(Calibration(rows).factor(zero, levels, zero), expected, rtol=1e-5)
