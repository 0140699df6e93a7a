"""Everything that answers a PET trial: a model with its CT or without, classical filters, MAP from the counts, and
two that need nothing: the low-count image itself and the noise-free one.

    gaussian   3-D Gaussian of a full width at half maximum in mm
    nlm        3-D non-local means, its strength in units of the image's median noise (medidiff.noise.activity); in
               units of the *local* noise it is as good in NRMSE and loses more activity
    map_rdp    maximum a posteriori with the relative difference prior (medidiff.physics.osem), from the same counts

Their strengths are tuned for each reduction factor (petbars.tuned).
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from petbars.trials import Case, Trial
from petbars.tuned import Strength
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means

from medidiff.inference.methods import Learned, load_method
from medidiff.inference.options import Options
from medidiff.metrics.pet import FWHM
from medidiff.noise.activity import activity_of
from medidiff.physics.osem import map_rdp
from medidiff.physics.pet_phantoms import geometry
from medidiff.volume import Volume

INPUT, IDEAL = "input", "noise-free"
PATCH, DISTANCE = 3, 3  # voxels: side of a patch, and how far others are looked for
PROBE = (16, 32, 32)

Image = NDArray[np.float32]


class Answers(Protocol):
    """`name` heads a line; `key` says everything that decides an answer to a trial."""

    @property
    def name(self) -> str: ...
    def key(self, trial: Trial) -> str: ...
    def answer(self, trial: Trial) -> Image: ...


@dataclass(frozen=True)
class Given:
    """An image that the trial holds: the low-count one, or the limit of what a denoiser can do."""

    name: str

    def key(self, trial: Trial) -> str:
        return self.name

    def answer(self, trial: Trial) -> Image:
        return trial.low if self.name == INPUT else trial.ideal


@dataclass(frozen=True, eq=False)
class Filter:
    """A classical method at the strengths of its reduction factors."""

    name: str
    strengths: dict[float, Strength]

    def key(self, trial: Trial) -> str:
        best = self.strengths[trial.drf]
        return f"{self.name} {best.value:.6g} {best.filter_mm}"

    def answer(self, trial: Trial) -> Image:
        return CLASSICAL[self.name](trial, self.strengths[trial.drf])


def gaussian(trial: Trial, strength: Strength) -> Image:
    """`strength.value` is the full width at half maximum in mm."""
    sigmas = [strength.value / FWHM / step for step in trial.case.spacing_mm]
    return np.asarray(gaussian_filter(trial.low, sigmas, mode="nearest"), np.float32)


def nlm(trial: Trial, strength: Strength) -> Image:
    """`strength.value` is in median noise levels of the body."""
    level = activity_of(trial.low, trial.case.spacing_mm).level
    h = strength.value * float(np.median(level[trial.body]))
    return np.asarray(denoise_nl_means(trial.low, PATCH, DISTANCE, h=h, fast_mode=True), np.float32)


def map_estimate(trial: Trial, strength: Strength) -> Image:
    """`strength.value` is beta; the Gaussian of `strength.filter_mm` follows."""
    n = len(trial.low)
    return placed(trial.case, map_unfiltered(trial.case, trial.drf, strength.value, (0, n)), strength.filter_mm or 0.0)


def map_unfiltered(case: Case, drf: float, beta: float, slices: tuple[int, int]) -> Image:
    """(slices, n, n) of MAP on the scanner's grid, from the counts of these slices."""
    data = case.acquired.counts(*slices, drf)
    return map_rdp(data, case.acquired.coarse, beta, slice_mm=case.spacing_mm[0])


def placed(case: Case, images: Image, filter_mm: float) -> Image:
    """Filtered and on the grid of the case; fewer slices than it has are taken from its middle."""
    missing = case.acquired.n_slices - len(images)
    before = missing // 2
    whole = np.pad(images, ((before, missing - before), (0, 0), (0, 0)), mode="edge")
    scan = replace(case.acquired.scan, filter_mm=filter_mm)
    return replace(case.acquired, scan=scan).placed(whole).array[before : before + len(images)]


CLASSICAL = {"gaussian": gaussian, "nlm": nlm, "map_rdp": map_estimate}


@dataclass(frozen=True, eq=False)
class Network:
    """A model in quantitative mode as users run it, block by block; `with_ct` shows it the CT of the case."""

    name: str
    method: Learned
    with_ct: bool = False

    @classmethod
    def of(cls, file: str, name: str, device: str) -> list[Network]:
        """The model without its CT, and with it where it takes one."""
        method = load_method(Options.of(model=file), torch.device(device))
        assert isinstance(method, Learned)
        method.require("SUV")
        takes = method.model.architecture.guide
        return [cls(name, method), *([cls(f"{name} + CT", method, with_ct=True)] if takes else [])]

    @cached_property
    def identity(self) -> str:
        """Weights, and what the code makes of them: the answer to a small fixed question."""
        values = np.random.default_rng(0).gamma(4, 0.5, PROBE).astype(np.float32)
        place = geometry(PROBE, (4.0, 4.0, 4.0))
        guide = Volume(np.where(values > 2, 40, -800).astype(np.float32), place, "HU") if self.with_ct else None
        blocks = self.run(Volume(values, place, "SUV"), guide, "").reshape(4, 4, 4, 8, 4, 8).mean((1, 3, 5))
        digest = zlib.crc32(np.round(200 * blocks).astype(np.int32).tobytes())
        return f"model {self.method.sha256} {'CT ' if self.with_ct else ''}{digest:08x}"

    def key(self, trial: Trial) -> str:
        return self.identity

    def answer(self, trial: Trial) -> Image:
        guide = trial.case.ct if self.with_ct else None
        return self.run(trial.case.suv.with_array(trial.low), guide, trial.key)

    def run(self, low: Volume, guide: Volume | None, identity: str) -> Image:
        """All slices of a scan restored."""
        restorer = self.method.for_case(identity, guide)
        with ThreadPoolExecutor(1) as io:
            return np.stack([r.image for r in restorer.blocks(low, range(low.geometry.n_slices), io, {})])
