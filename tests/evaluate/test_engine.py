"""The loop that shows slices to measures: order, padding, and memory that does not grow with the scan."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

from medidiff.errors import GeometryError
from medidiff.evaluate.engine import context_of, judge, look
from medidiff.evaluate.registry import measures
from medidiff.volume import Geometry, Volume


@dataclass(frozen=True)
class Drawn:
    """Slices drawn from a seed when asked for: a scan of any length without its memory."""

    n: int
    seed: int
    size: int = 128
    unit = "HU"

    @property
    def geometry(self):
        return Geometry.from_affine(np.diag([2.0, 1, 1, 1]), (self.n, self.size, self.size))

    def read(self, index):
        return np.random.default_rng((self.seed, index)).normal(40, 20, (self.size,) * 2).astype(np.float32)

    def padding(self, index):
        return None


def small(offset: float = 0.0, mask=None) -> Volume:
    array = np.arange(3 * 12 * 12, dtype=np.float32).reshape(3, 12, 12) + offset
    return Volume(array, Geometry.from_affine(np.diag([2.0, 1, 1, 1]), array.shape), "HU", mask=mask)


def test_views_hold_what_the_sources_hold():
    """Every slice comes once, in order, with all that is known of it, and no pixel counts that either calls padding."""
    mask = np.zeros((3, 12, 12), bool)
    mask[1] = mask[2, 0] = True
    inside = np.ones((12, 12), bool)
    views = list(
        look(
            small(1),
            small(0, mask),
            scan=small(2),
            truth=small(3),
            deviation=small(4),
            regions=lambda k: {f"r{k}": inside},
        )
    )
    assert [view.index for view in views] == [0, 2]
    last = views[-1]
    assert np.array_equal(last.measured, ~mask[2])
    for image, offset in (
        (last.candidate, 1),
        (last.reference, 0),
        (last.scan, 2),
        (last.truth, 3),
        (last.deviation, 4),
    ):
        assert np.array_equal(image, small(offset).array[2])
    assert set(last.regions) == {"r2"}


def test_a_source_of_another_grid_is_refused():
    """Not only the candidate: scan, truth and deviation as well must lie voxel on voxel."""
    with pytest.raises(GeometryError, match="different geometry"):
        next(look(small(), small(), truth=Drawn(3, 0)))


def test_progress_is_told_in_slices():
    """(done, total) after every slice."""
    told = []
    judge(look(small(1), small()), (), lambda *seen: told.append(seen), 3)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_memory_does_not_grow_with_the_scan():
    """Ten times the slices cost no more than a slice more at the peak, measured by the allocator."""
    names = ("rmse", "psnr", "ssim", "bias")

    def peak(n: int) -> int:
        reference = Drawn(n, 0)
        tracemalloc.start()
        judge(look(Drawn(n, 1), reference), measures(names, context_of(reference, ("hu", "abdomen"))))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(4)  # imports and caches
    assert peak(60) < peak(6) + 128 * 128 * 4
