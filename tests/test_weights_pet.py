"""The embedded PET model on the bundled study, a phantom that it never saw: less noise, the same activity, and nothing
that only a CT shows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import shift

from medidiff.io.dicom import load_volume
from medidiff.io.nifti import open_labels, open_nifti
from medidiff.metrics.pet import lesion
from medidiff.model import DEFAULT_FOR, Model, load
from medidiff.noise.activity import BODY_SUV, activity_of
from medidiff.volume import collect

STUDY = Path(__file__).resolve().parents[1] / "data_samples" / "pet"
SPACING = (4.0, 4.0, 4.0)
Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(DEFAULT_FOR["SUV"])


@cache
def study(name: str) -> Image:
    if name == "ct":
        return collect(open_nifti(STUDY / "ct.nii.gz", "HU")).array
    if name == "lesions":
        return collect(open_labels(STUDY / "lesions.nii.gz", "SUV")).array
    volume = load_volume(STUDY / name)
    assert (volume.geometry.slice_spacing_mm, *volume.geometry.pixel_spacing_mm) == pytest.approx(SPACING)
    return volume.array


@pytest.fixture(scope="module")
def answer(model: Model) -> Image:
    """A tenth of the counts, without a CT."""
    return model.block_mean(study("low_count"), SPACING, None)


def body() -> NDArray[np.bool_]:
    return study("full_count") > BODY_SUV


def rmse(a: Image, b: Image) -> float:
    return float(np.sqrt(np.mean((a - b)[body()] ** 2)))


def test_error_against_the_full_count_halves(answer: Image) -> None:
    assert rmse(answer, study("full_count")) < 0.5 * rmse(study("low_count"), study("full_count"))


def test_activity_stays(answer: Image) -> None:
    """The sum over the image, within 1 %."""
    assert answer.sum() == pytest.approx(study("low_count").sum(), rel=0.01)


def test_a_large_lesion_keeps_its_uptake(answer: Image) -> None:
    """SUVmean of the lesion of 22 mm, against the full count."""
    inside = study("lesions") == 1
    now, was = (lesion(image, inside, SPACING).mean for image in (answer, study("full_count")))
    assert now == pytest.approx(was, rel=0.2)


def test_a_misplaced_ct_puts_no_uptake_into_the_image(model: Model, answer: Image) -> None:
    """A CT 12 mm aside changes less than a fifth of the noise, root mean square, and no voxel by more than twice it."""
    moved = shift(study("ct"), [3, 3, 0], order=1, mode="nearest")
    change = model.block_mean(study("low_count"), SPACING, moved) - answer
    level = activity_of(study("low_count"), SPACING).level
    relative = (change / level)[body()]
    assert np.sqrt(np.mean(relative**2)) < 0.2
    assert np.abs(relative).max() < 2


def test_structure_that_only_the_ct_shows_takes_up_nothing(model: Model, answer: Image) -> None:
    """Balls of 20 mm, soft tissue in the lungs and bone in the liver: mean SUV there changes by less than 5 %."""
    hu, balls = study("ct").copy(), np.zeros(study("ct").shape, bool)
    grid = np.indices(hu.shape)
    for kind, seen in ((body() & (hu < -600), 40.0), (body() & (study("truth") > 2) & (study("lesions") == 0), 350.0)):
        for place in np.argwhere(kind)[:: int(kind.sum()) // 3][:3]:
            ball = sum((g - at) ** 2 for g, at in zip(grid, place, strict=True)) <= (10 / SPACING[0]) ** 2
            hu[ball & body()] = seen
            balls |= ball & body()
    change = model.block_mean(study("low_count"), SPACING, hu) - answer
    assert balls.sum() > 150
    assert abs(change[balls].mean()) < 0.05 * answer[balls].mean()
