"""From a prepared case to training patches, as MONAI dictionary transforms.

    RandSlabd -> RandFlipd, RandRotate90d (MONAI) -> RandLesiond -> RandDosed -> NoiseEstimated -> RandPatchesd

`RandDosed` lays the noise of one random reconstruction kernel on noise-free anatomy that went through the *same*
kernel, as in a scanner: then no frequency exists at which signal and noise could be told apart by the kernel alone,
and full-dose and low-dose noise have one colour (both are inside the one drawn level).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, Randomizable, RandRotate90d, Transform
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import gaussian_gradient_magnitude

from medidiff.config import Settings, rising
from medidiff.data.prepare import Case
from medidiff.data.spectra import (
    GRID,
    SpectrumRanges,
    apply_spectrum,
    correlate_along_z,
    filtered,
    multiplied,
    radial_frequency,
    random_spectrum,
    random_unevenness,
)
from medidiff.noise.level import noise_estimate, noise_map
from medidiff.patches import body_corner, slab_indices
from medidiff.physics.ct import Kernel

Item = dict[Hashable, Any]
TISSUE_HU = (-300.0, 250.0)  # where a lesion may lie: not in air, lung or bone
EDGE_WEIGHT = 0.1
MARGIN = 8  # pixels at a window's border that the periodic filter may have touched


class Augmentation(Settings):
    """Ranges that the random transforms draw from; they are the range a model has seen."""

    window: int = Field(default=256, ge=1)
    patch: int = Field(default=96, ge=1)
    patches: int = Field(default=4, ge=1)
    noise_hu: Annotated[tuple[float, float], rising(above=0)] = (4.0, 120.0)
    cutoff: Annotated[tuple[float, float], rising(above=0)] = (0.45, 1.5)
    order: Annotated[tuple[float, float], rising(above=0)] = (0.5, 3.0)
    boost: Annotated[tuple[float, float], rising(0)] = (0.0, 1.5)
    low_frequency: Annotated[tuple[float, float], rising(0)] = (0.0, 0.0)  # cycles a pixel; see `add_low_frequencies`
    spectrum: SpectrumRanges | None = None  # in place of the kernels above; see medidiff.data.spectra
    unevenness: float = Field(default=0.15, ge=0)  # with `spectrum`: of the logarithm of the noise level, over a window
    # with `spectrum`: up to this share of both neighbours in 60 % of the slabs
    z_share: float = Field(default=0.4, ge=0, le=1)
    lesions: float = Field(default=0.0, ge=0)  # mean number of faint blobs drawn into a window; see `RandLesiond`
    lesion_hu: Annotated[tuple[float, float], rising(above=0)] = (4.0, 60.0)
    lesion_radius: Annotated[tuple[float, float], rising(above=0)] = (2.0, 12.0)  # pixels
    lesion_edge: Annotated[tuple[float, float], rising(above=0)] = (0.5, 1.5)  # pixels over which it rises
    # of the anatomy, under the same noise: other pixel sizes
    zoom: Annotated[tuple[float, float], rising(1)] = (1.0, 1.0)
    # HU a pixel from which an edge of a cleaned scan counts less in the loss; 0: never
    edge_hu: float = Field(default=0.0, ge=0)
    # of a scan with its own noise, log-uniform; see medidiff.recorrupt
    dose: Annotated[tuple[float, float], rising(above=0, below=1)] = (0.05, 0.4)
    # such a scan, its noise as well, is averaged to pixels up to this much larger
    shrink: float = Field(default=2.0, ge=1)
    smoothed: float = Field(default=0.5, ge=0, le=1)  # share of such draws that go through a further smoothing kernel
    naive: bool = False  # for comparison only: insert noise of any colour into the scans as they are
    z_correlation: float = Field(default=0.8, ge=0, le=1)
    lone_share: float = Field(default=0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _patch_fits(self) -> Augmentation:
        if self.window < self.patch + 2 * MARGIN:
            raise ValueError(f"window {self.window} must be at least patch {self.patch} + {2 * MARGIN}")
        return self


def draw_kernel(generator: np.random.RandomState, settings: Augmentation) -> Kernel:
    """A reconstruction kernel between very smooth and edge-enhancing."""
    window = str(generator.choice(["hann", "cosine", "shepp-logan"]))
    boost = generator.uniform(*settings.boost) if generator.rand() < 0.4 else 0.0
    return Kernel(window, generator.uniform(*settings.cutoff), generator.uniform(*settings.order), boost)


def apply_kernel(stack: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float32]:
    """(..., rows, columns) filtered by the kernel's apodisation, periodic at the borders."""
    return multiplied(stack, kernel.response(radial_frequency(stack.shape[-2], stack.shape[-1])))


def add_low_frequencies(noise: NDArray[np.float32], corner: float) -> NDArray[np.float32]:
    """Raise the power of ramp-filtered noise (..., rows, columns) from ~f to ~f + `corner`, in cycles a pixel.

    An ideal ramp leaves no noise at low frequencies; in real series helical interpolation, beam hardening correction
    and adaptive filters do, and their measured spectra stay flat towards zero.
    """
    rows, columns = noise.shape[-2:]
    gain = np.sqrt(1 + corner / np.maximum(radial_frequency(rows, columns), 2 / max(rows, columns)))
    gain[0, 0] = 1.0  # a constant is a bias, not noise
    return multiplied(noise, gain)


def edge_weight(gradient: NDArray[np.float32], edge_hu: float, level: float) -> NDArray[np.float32]:
    """Weight of a gradient in HU a pixel: 1 in even tissue, down to EDGE_WEIGHT well above `edge_hu`; the same shape.

    At strong edges there are no similar patches: non-local means leaves 90 % of the noise there, which a network would
    learn to leave as well. Gradients below twice the noise `level` in HU keep their weight: there the target's noise is
    small beside the input's, and a weight that knew of an edge which the image does not show would bend the answer
    towards the phantoms' plateaus (bone came out 6 HU too dense at a tenth of the dose).
    """
    return np.maximum(1 / (1 + (gradient / max(edge_hu, 2 * level)) ** 4), EDGE_WEIGHT).astype(np.float32)


def enlarged(stack: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """The middle of (K, rows, columns), 1 / zoom of each side, interpolated (bicubic) to the whole size."""
    size = [round(n / zoom) for n in stack.shape[1:]]
    first = [(n - m) // 2 for n, m in zip(stack.shape[1:], size, strict=True)]
    part = np.ascontiguousarray(stack[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]])
    tensor = torch.from_numpy(part)[:, None]
    large = torch.nn.functional.interpolate(tensor, size=stack.shape[1:], mode="bicubic", align_corners=False)
    return large[:, 0].numpy()


class RandSlabd(Randomizable, Transform):
    """Case -> a window of neighbouring slices: `clean` and `noise` (or `low`), each (K, window, window)."""

    def __init__(self, slab: int, settings: Augmentation) -> None:
        self.slab, self.settings = slab, settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        case: Case = data["case"]
        n = len(case.clean)
        index, lone = int(self.R.randint(n)), n == 1 or self.R.rand() < self.settings.lone_share
        slices = [index] * self.slab if lone else slab_indices(index, n, self.slab)
        size = min(self.settings.window, *case.clean.shape[1:])
        if case.has_own_noise:
            return self._recorrupted(case, slices, size)
        window = body_corner(case.clean[index], size, np.random.default_rng(self.R.randint(2**31)))
        item: Item = {"clean": case.clean[slices][:, *window]}
        if self.settings.zoom[1] > 1 and case.low is None:
            item["clean"] = enlarged(item["clean"], self.R.uniform(*self.settings.zoom))
        if self.settings.edge_hu:
            middle = item["clean"][self.slab // 2]
            is_true = case.is_exact or case.low is not None
            item["gradient"] = (np.zeros_like(middle) if is_true else gaussian_gradient_magnitude(middle, 1.0))[None]
        if case.low is not None:
            return item | {"low": case.low[slices][:, *window]}
        assert case.noise is not None
        if self.settings.spectrum is not None:
            return item | {"noise": self._correlated(case.noise, index, lone, window)}
        noise = case.noise[slices][:, *window]
        if not lone and self.R.rand() < 0.5:  # overlapping or interpolated slices share noise
            share = np.float32(self.R.uniform(0, self.settings.z_correlation))
            common = case.noise[int(self.R.randint(n))][window]
            noise = np.sqrt(1 - share**2) * noise + share * common
        return item | {"noise": noise}

    def _recorrupted(self, case: Case, slices: list[int], size: int) -> Item:
        """A larger window of a scan and of its second noise, averaged to the window's size: both stay alike."""
        assert case.noise is not None
        largest = min(self.settings.shrink, min(case.clean.shape[1:]) / size)
        wide = round(size * self.R.uniform(1, max(largest, 1)))
        middle = case.clean[slices[self.slab // 2]]
        window = body_corner(middle, wide, np.random.default_rng(self.R.randint(2**31)))
        stack = torch.from_numpy(np.stack([case.clean[slices][:, *window], case.noise[slices][:, *window]]))
        small = torch.nn.functional.interpolate(stack, size=(size, size), mode="bilinear", antialias=True).numpy()
        item: Item = {"clean": small[0], "noise": small[1], "has_own_noise": True}
        return item | ({"gradient": np.zeros((1, size, size), np.float32)} if self.settings.edge_hu else {})

    def _correlated(
        self, noise: NDArray[np.float32], index: int, lone: bool, window: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """The noise of a slab, correlated along z as in real series."""
        if lone:
            return noise[[index] * self.slab][:, *window]
        share = self.R.uniform(0, self.settings.z_share) if self.R.rand() < 0.6 else 0.0
        return correlate_along_z(noise[slab_indices(index, len(noise), self.slab + 2)][:, *window], share)


class RandLesiond(Randomizable, Transform):
    """Draws faint ellipses with soft edges into the tissue of `clean`, where the noise is simulated.

    Cleaned anatomy has lost its own faint structures. A network that never saw any learns that there are none, and
    takes them for noise: of discs of 8 HU the first embedded model kept a quarter of the contrast at a quarter of
    the dose. Contrasts are log-uniform, of either sign, weaker in the neighbouring slices.
    """

    def __init__(self, settings: Augmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        if "noise" not in data:
            return dict(data)
        clean = np.array(data["clean"], np.float32)
        middle, tissue = len(clean) // 2, (clean > TISSUE_HU[0]) & (clean < TISSUE_HU[1])
        places = np.argwhere(tissue[middle])
        for _ in range(self.R.poisson(self.settings.lesions) if len(places) else 0):
            box, blob = self._blob(clean.shape[1:], places[self.R.randint(len(places))])
            fading = self.R.uniform(0.3, 1.0) ** np.abs(np.arange(len(clean)) - middle)
            clean[:, *box] += tissue[:, *box] * blob * fading[:, None, None].astype(np.float32)
        return dict(data) | {"clean": clean}

    def _blob(
        self, matrix: tuple[int, ...], centre: NDArray[np.integer]
    ) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
        """Where one ellipse lies, and its HU there; its edge is a few pixels wide at most."""
        radius = np.exp(self.R.uniform(*np.log(self.settings.lesion_radius)))
        contrast = np.exp(self.R.uniform(*np.log(self.settings.lesion_hu))) * self.R.choice([-1, 1])
        ratio, turn, edge = (
            self.R.uniform(0.6, 1.0),
            self.R.uniform(0, np.pi),
            self.R.uniform(*self.settings.lesion_edge),
        )
        reach = int(radius + 8 * edge) + 1
        box = tuple(slice(max(c - reach, 0), min(c + reach + 1, n)) for c, n in zip(centre, matrix, strict=True))
        y, x = np.ogrid[box]
        dy, dx = y - centre[0], x - centre[1]
        along, across = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / ratio
        depth = np.clip((np.hypot(along, across) - radius) / edge, -30, 30)
        return (box[0], box[1]), (np.float32(contrast) / (1 + np.exp(depth))).astype(np.float32)


class RandDosed(Randomizable, Transform):
    """`clean` + `noise` -> `target` (1, rows, columns) and `slab` (K, rows, columns), through one random kernel."""

    def __init__(self, settings: Augmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        middle = len(data["clean"]) // 2
        if "low" in data:
            item: Item = {"target": np.asarray(data["clean"])[middle : middle + 1], "slab": np.asarray(data["low"])}
            return item | self._weight(data, 0.0)
        if data.get("has_own_noise"):
            return self._recorrupted(data)
        clean, noise = self._coloured(np.asarray(data["clean"]), np.asarray(data["noise"]))
        if self.settings.naive:
            clean = np.asarray(data["clean"])
        level = np.float32(np.exp(self.R.uniform(*np.log(self.settings.noise_hu))))
        slab = clean + noise * (level / body_deviation(noise, clean))
        if self.settings.spectrum is not None:
            slab = np.rint(slab)  # scanners write whole HU
        return {"target": clean[middle : middle + 1], "slab": slab, **self._weight(data, float(level))}

    def _weight(self, data: Mapping[Hashable, Any], level: float) -> Item:
        """What each pixel counts in the loss, where the recipe asks for it."""
        if "gradient" not in data:
            return {}
        return {"weight": edge_weight(np.asarray(data["gradient"]), self.settings.edge_hu, level)}

    def _recorrupted(self, data: Mapping[Hashable, Any]) -> Item:
        """A scan of dose `a` and a target whose noise is uncorrelated with it; lesions are in both."""
        scan, noise = np.asarray(data["clean"]), np.asarray(data["noise"])
        if self.R.rand() < self.settings.smoothed:
            low, high = (self.settings.spectrum or SpectrumRanges()).width
            kernel = np.exp(-((GRID / self.R.uniform(low, 1.5 * high)) ** self.R.uniform(1.5, 4)))
            scan, noise = filtered(scan, kernel), filtered(noise, kernel)
        a, middle = float(np.exp(self.R.uniform(*np.log(self.settings.dose)))), len(scan) // 2
        slab = np.rint(scan + np.float32(np.sqrt((1 - a) / a)) * noise)
        target = (scan - np.float32(np.sqrt(a / (1 - a))) * noise)[middle : middle + 1]
        return {"target": target, "slab": slab, **self._weight(data, 0.0)}

    def _coloured(
        self, clean: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both through one random kernel."""
        if self.settings.spectrum is not None:
            clean, noise = apply_spectrum(clean, noise, random_spectrum(self.R, self.settings.spectrum))
            shape = (clean.shape[-2], clean.shape[-1])
            return clean, noise * random_unevenness(self.R, shape, self.settings.unevenness)
        kernel = draw_kernel(self.R, self.settings)
        clean, noise = apply_kernel(np.stack([clean, noise]), kernel)
        if self.settings.low_frequency[1] > 0:
            noise = add_low_frequencies(noise, self.R.uniform(*self.settings.low_frequency))
        return clean, noise


def body_deviation(noise: NDArray[np.float32], clean: NDArray[np.float32]) -> np.float32:
    """Standard deviation of the noise inside the patient."""
    body = clean > -500
    return np.float32((noise[body] if body.mean() > 0.05 else noise).std() + 1e-6)


class NoiseEstimated(Transform):
    """Adds `level` (HU), `colour` (and `noise_map`) of the slab's middle slice, as inference estimates them."""

    def __init__(self, with_map: bool = False) -> None:
        self.with_map = with_map

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        middle = data["slab"][len(data["slab"]) // 2]
        estimate = noise_estimate(middle)
        item = dict(data) | {"level": np.float32(estimate.level), "colour": np.array(estimate.colour, np.float32)}
        return item | ({"noise_map": noise_map(middle, estimate.level)[None]} if self.with_map else {})


class RandPatchesd(Randomizable, Transform):
    """`target`, `slab` (`noise_map`, `weight`) -> `patches` random patches of each, (N, C, patch, patch)."""

    def __init__(self, settings: Augmentation) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        inner = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        images = {key: data[key][inner] for key in ("target", "slab", "noise_map", "weight") if key in data}
        generator = np.random.default_rng(self.R.randint(2**31))
        corners = [
            body_corner(images["target"][0], self.settings.patch, generator) for _ in range(self.settings.patches)
        ]
        return dict(data) | {key: np.stack([image[:, *c] for c in corners]) for key, image in images.items()}


def training_transforms(slab: int, settings: Augmentation, with_map: bool = False) -> Compose:
    """The whole chain."""
    keys = ["clean", "noise", "low", "gradient"]
    lesions = [RandLesiond(settings)] if settings.lesions else []  # absent, random numbers are as they were without it
    return Compose(
        [
            RandSlabd(slab, settings),
            RandFlipd(keys, prob=0.5, spatial_axis=0, allow_missing_keys=True),
            RandFlipd(keys, prob=0.5, spatial_axis=1, allow_missing_keys=True),
            RandRotate90d(keys, prob=0.5, max_k=3, allow_missing_keys=True),
            *lesions,
            RandDosed(settings),
            NoiseEstimated(with_map),
            RandPatchesd(settings),
        ]
    )
