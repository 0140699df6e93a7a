"""From a prepared PET case to training blocks, as MONAI dictionary transforms.

    RandRealisationd -> RandFlipd, RandRotate90d (MONAI) -> RandVoxelsd -> RandSmoothedd -> RandScaledd
    -> ActivityMeasured -> RandGuided -> RandBlocksd

Everything that changes the low count changes the target alike, so the pair stays what it is: one body, one scanner,
with and without noise. The guide may be absent, misplaced, or show what has taken up nothing: whoever trusts it
blindly is punished.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, Randomizable, RandRotate90d, Transform
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter, shift
from torch.nn import functional as F

from medidiff.config import Settings, rising
from medidiff.data.pet_cases import PetCase
from medidiff.noise.activity import BODY_SUV, activity_of, facts_of, guide_of

Item = dict[Hashable, Any]
Image = NDArray[np.float32]
VOLUMES = ("low", "target", "guide", "lesions")
FWHM = 2.3548
FALSE_HU = (20.0, 300.0)
FALSE_MM = (6.0, 30.0)


class PetAugmentation(Settings):
    """Ranges that the random transforms draw from.

    block          (slices, rows, columns) of a training block, of which `blocks` are cut from a realisation
    slices         of the part of a body that a draw is made from; null: all
    voxels         factor of the voxel size within slices, in half of the draws; 1 to 1: as reconstructed
    smoothing_mm   FWHM of a further filter, in `smoothing_share` of the draws
    scale          factor of the activity, log-uniform
    lesion_share   of the blocks that are cut around a lesion, where there is one
    lesion_weight  how much more a voxel of a lesion counts in the loss. Lesions are a few in ten thousand voxels: left
                   alone they are the last that a network learns, and what is uncertain is taken for background
    lesion_ml      a lesion of this volume counts half as much a voxel as a small one; null: all count alike
    activity_power the loss is weighted by this power of the local activity over its mean in the body: 0 is error in
                   units of the noise, 2 in SUV, which is what PSNR and hot organs ask for
    guide_share    of the draws that have their guide; in `misplaced` of these it lies up to `shift_mm` aside, and has
                   up to `false` structures that took up nothing
    """

    block: tuple[int, int, int] = (16, 40, 40)
    blocks: int = Field(default=4, ge=1)
    slices: int | None = Field(default=None, ge=8)
    voxels: Annotated[tuple[float, float], rising(above=0)] = (1.0, 1.0)
    smoothing_mm: Annotated[tuple[float, float], rising(0)] = (0.0, 7.0)
    smoothing_share: float = Field(default=0.5, ge=0, le=1)
    scale: Annotated[tuple[float, float], rising(above=0)] = (0.6, 1.8)
    lesion_share: float = Field(default=0.4, ge=0, le=1)
    lesion_weight: float = Field(default=0.0, ge=0)
    lesion_ml: float | None = Field(default=None, gt=0)
    activity_power: float = Field(default=0.0, ge=0, le=2)
    guide_share: float = Field(default=0.5, ge=0, le=1)
    misplaced: float = Field(default=0.5, ge=0, le=1)
    shift_mm: float = Field(default=12.0, ge=0)
    false: int = Field(default=4, ge=0)


class RandRealisationd(Randomizable, Transform):
    """Case -> `low`, `target`, `lesions` (and `guide`), each (1, slices, rows, columns), and `spacing_mm`."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        case: PetCase = data["case"]
        low = case.low[int(self.R.randint(len(case.low)))]
        images = {"low": low, "target": case.target, "lesions": case.lesions, "guide": case.guide}
        part = self._part(len(low))
        return {"spacing_mm": case.spacing_mm} | {
            key: np.array(value[part], np.float32)[None] for key, value in images.items() if value is not None
        }

    def _part(self, slices: int) -> slice:
        wanted = self.settings.slices
        if wanted is None or wanted >= slices:
            return slice(None)
        first = int(self.R.randint(slices - wanted + 1))
        return slice(first, first + wanted)


class RandVoxelsd(Randomizable, Transform):
    """The same body on larger or smaller voxels, by cubic interpolation within slices; never smaller than a block."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        low, high = self.settings.voxels
        if low == high == 1 or self.R.rand() < 0.5:
            return dict(data)
        factor = float(np.exp(self.R.uniform(np.log(low), np.log(high))))
        matrix, least = data["low"].shape[2:], self.settings.block[1:]
        rows, columns = (max(round(n / factor), b) for n, b in zip(matrix, least, strict=True))
        between, row_mm, column_mm = data["spacing_mm"]
        item = dict(data) | {"spacing_mm": (between, row_mm * matrix[0] / rows, column_mm * matrix[1] / columns)}
        for key in (key for key in VOLUMES if key in item):
            nearest = key == "lesions"
            image = torch.from_numpy(np.ascontiguousarray(item[key]))
            item[key] = F.interpolate(image, (rows, columns), mode="nearest-exact" if nearest else "bicubic").numpy()
        return item


class RandSmoothedd(Randomizable, Transform):
    """Low count and target through one more filter, as scanners differ in theirs."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        fwhm = self.R.uniform(*self.settings.smoothing_mm) if self.R.rand() < self.settings.smoothing_share else 0.0
        along = fwhm * (self.R.rand() < 0.7)  # some filter within slices only
        sigma = [0.0, *(mm / FWHM / step for mm, step in zip((along, fwhm, fwhm), data["spacing_mm"], strict=True))]
        return dict(data) | {key: gaussian_filter(data[key], sigma) for key in ("low", "target")}


class RandScaledd(Randomizable, Transform):
    """More or less activity in all of the body."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        factor = np.float32(np.exp(self.R.uniform(*np.log(self.settings.scale))))
        return dict(data) | {key: data[key] * factor for key in ("low", "target")}


class ActivityMeasured(Transform):
    """Adds `activity` of the low count, as inference measures it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        return dict(data) | {"activity": activity_of(data["low"][0], data["spacing_mm"])}


class RandGuided(Randomizable, Transform):
    """Takes the guide away, or moves it, or paints into it what took up nothing."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        item = dict(data)
        guide = item.pop("guide", None)
        if guide is None or self.R.rand() >= self.settings.guide_share:
            return item
        hu = guide[0]
        for _ in range(self.R.randint(self.settings.false + 1)):
            hu = self._with_structure(hu, data["spacing_mm"])
        if self.R.rand() < self.settings.misplaced:
            reach = self.settings.shift_mm * self.R.uniform(-1, 1, 3)
            hu = shift(hu, reach / np.array(data["spacing_mm"]), order=1, mode="nearest")
        return item | {"guide": hu.astype(np.float32)[None]}

    def _with_structure(self, hu: Image, spacing: tuple[float, float, float]) -> Image:
        """An ellipsoid of other HU anywhere in the body."""
        places = np.argwhere(hu[:, ::4, ::4] > -300)
        if not len(places):
            return hu
        centre = places[self.R.randint(len(places))] * (1, 4, 4)
        radii = np.exp(self.R.uniform(*np.log(FALSE_MM))) / 2 * self.R.uniform(0.7, 1.3, 3) / spacing
        grid = np.ogrid[tuple(slice(n) for n in hu.shape)]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1
        step = np.exp(self.R.uniform(*np.log(FALSE_HU))) * self.R.choice([-1, 1])
        return np.where(inside, hu + np.float32(step), hu)


class RandBlocksd(Randomizable, Transform):
    """Whole volumes -> `blocks` random blocks in units of the local noise: `slab`, `target`, `noise_map` (`guide`),
    each (N, 1, slices, rows, columns); `facts` (N, F), `colour` (N, 2); `weight` like `slab` where lesions count
    more."""

    def __init__(self, settings: PetAugmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        activity, spacing = data["activity"], data["spacing_mm"]
        images = {"slab": data["low"][0] / activity.level, "target": data["target"][0] / activity.level}
        images["noise_map"] = activity.map
        if "guide" in data:
            images["guide"] = guide_of(data["guide"][0])
        if self.settings.lesion_weight or self.settings.activity_power:
            images["weight"] = self._weight(data)
        corners = [self._corner(data) for _ in range(self.settings.blocks)]
        cut = {key: np.stack([image[corner][None] for corner in corners]) for key, image in images.items()}
        cut.setdefault("guide", np.zeros_like(cut["slab"]))
        facts = facts_of(activity, spacing, has_guide="guide" in data)
        told = {"facts": facts, "colour": np.array(activity.colour, np.float32)}
        item: Item = {key: np.tile(value, (self.settings.blocks, 1)) for key, value in told.items()}
        item.update(cut)
        return item

    def _weight(self, data: Mapping[Hashable, Any]) -> Image:
        """(slices, rows, columns) by what a voxel counts in the loss."""
        numbers, level = data["lesions"][0].astype(int), data["activity"].level
        counts = np.full(numbers.max() + 1, self.settings.lesion_weight)
        if self.settings.lesion_ml is not None:
            ml = np.bincount(numbers.ravel()) * float(np.prod(data["spacing_mm"])) / 1000
            counts = counts * self.settings.lesion_ml / (self.settings.lesion_ml + ml)
        counts[0] = 0
        body = data["target"][0] > BODY_SUV
        usual = level[body].mean() if body.any() else 1.0
        return np.asarray((1 + counts[numbers]) * (level / usual) ** self.settings.activity_power, np.float32)

    def _corner(self, data: Mapping[Hashable, Any]) -> tuple[slice, ...]:
        """Around a lesion, or where there is a body."""
        at_lesion = self.R.rand() < self.settings.lesion_share
        places = np.argwhere(data["lesions"][0] > 0) if at_lesion else np.empty((0, 3), int)
        if not len(places):
            places = np.argwhere(data["target"][0][::2, ::4, ::4] > BODY_SUV) * (2, 4, 4)
        shape = np.array(data["low"][0].shape)
        size = np.minimum(self.settings.block, shape)
        middle = places[self.R.randint(len(places))] if len(places) else shape // 2
        first = np.clip(middle - (self.R.rand(3) * size).astype(int), 0, shape - size)
        return tuple(slice(int(f), int(f + n)) for f, n in zip(first, size, strict=True))


def pet_transforms(settings: PetAugmentation) -> Compose:
    """The whole chain."""
    keys = list(VOLUMES)
    flips = [RandFlipd(keys, prob=0.5, spatial_axis=axis, allow_missing_keys=True) for axis in range(3)]
    return Compose(
        [
            RandRealisationd(settings),
            *flips,
            RandRotate90d(keys, prob=0.5, max_k=3, spatial_axes=(1, 2), allow_missing_keys=True),
            RandVoxelsd(settings),
            RandSmoothedd(settings),
            RandScaledd(settings),
            ActivityMeasured(),
            RandGuided(settings),
            RandBlocksd(settings),
        ]
    )
