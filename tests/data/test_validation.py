"""The figure that picks the best model: 1 for the low dose itself, 0 for the truth."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.dataset import phantom_cases
from medidiff.data.prepare import Case
from medidiff.data.validation import KERNELS, LEVELS_HU, MEASURED, Answer, probes, validate
from medidiff.model import Architecture, Card, Model, build
from medidiff.scaling import LinearScaling

TINY = Architecture(widths=(4, 8), blocks=(1, 1), embedding=8)


def untrained() -> Answer:
    return Model(build(TINY), LinearScaling(), TINY, Card(name="untrained")).mean


def fixed(answers: list[np.ndarray]) -> Answer:
    """Answers with given images, one after the other."""
    images = iter(answers)
    return lambda _: next(images)


def test_every_case_is_asked_at_every_colour_and_level() -> None:
    """Noise of that level inside the body, on anatomy through the same kernel."""
    questions = probes(phantom_cases(2, 64, 0), 3)
    assert len(questions) == 2 * len(KERNELS) * len(LEVELS_HU)
    for question in questions:
        body = question.target > -500
        assert (question.slab[1] - question.target)[body].std() == pytest.approx(question.level, rel=0.25)


def test_an_untrained_network_scores_one_and_the_truth_zero() -> None:
    """RMSE relative to the low-dose image's, per colour and over all."""
    questions = probes(phantom_cases(1, 64, 0), 3)
    figures, pictures = validate(untrained(), questions)
    assert figures == pytest.approx(dict.fromkeys([*KERNELS, "all"], 1.0), abs=1e-4)
    np.testing.assert_allclose(pictures[1], pictures[0], atol=1e-3)
    perfect, _ = validate(fixed([q.target for q in questions]), questions)
    assert perfect["all"] == pytest.approx(0, abs=1e-5)
    half = [(q.slab[1] + q.target) / 2 for q in questions]
    assert validate(fixed(half), questions)[0]["all"] == pytest.approx(0.5, abs=1e-4)


def test_measured_pairs_are_judged_against_their_full_dose() -> None:
    """Any size: a model pads it to its stride and crops the answer back."""
    full = np.random.default_rng(0).normal(40, 10, (5, 61, 50)).astype(np.float32)
    low = full + np.random.default_rng(1).normal(0, 20, full.shape).astype(np.float32)
    questions = probes([Case("pair", full, None, low)], 3)
    assert [question.colour for question in questions] == [MEASURED]
    np.testing.assert_array_equal(questions[0].slab, low[1:4])
    np.testing.assert_array_equal(questions[0].target, full[2])
    figures, _ = validate(untrained(), questions)
    assert figures == pytest.approx({MEASURED: 1.0, "all": 1.0}, abs=1e-4)
    assert validate(fixed([full[2]]), questions)[0]["all"] == pytest.approx(0, abs=1e-5)
