"""Pseudo-clean trials: low-dose slices of real anatomy whose noise-free truth is known.

A real slice with its neighbours is cleaned (thin slices averaged, non-local means, native matrix), sent through a
reconstruction kernel, and given the noise that a fan-beam scan through that anatomy, reconstructed with that kernel,
has at the dose (simulated directly, not by training's filtered noise bank), scaled to FULL_NOISE_HU inside the
patient at full dose. The truth is therefore noise-free and has the resolution of the kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medidiff.data.clean import average_along_z, pseudo_clean
from medidiff.data.manifest import Pair, load
from medidiff.data.prepare import AIR_HU, ELECTRONIC_VARIANCE, I0_FULL, scanner_noise
from medidiff.data.transforms import apply_kernel, body_deviation
from medidiff.data.validation import KERNELS
from medidiff.patches import slab_indices
from medidiff.physics.ct import noise_image

FULL_NOISE_HU = {"smoothest": 8.0, "smooth": 10.0, "sharp": 35.0}  # as measured in real series of such kernels


def spread(n: int, n_slices: int) -> list[int]:
    """`n_slices` indices evenly spread over n slices, without the ends."""
    return [int(k) for k in np.unique(np.linspace(0, n - 1, n_slices + 2).astype(int)[1:-1])] if n > 1 else [0]


def cases(pair: Pair, slab: int, n_slices: int) -> list[tuple[NDArray[np.float32], float]]:
    """Clean slabs (K, rows, columns) in HU, evenly spread over the scan, and the pixel size in mm."""
    volume = load(pair.full)
    n = len(volume.array)
    smooth = average_along_z(np.maximum(volume.array, AIR_HU), volume.geometry.slice_spacing_mm)
    cleaned: dict[int, NDArray[np.float32]] = {}
    slabs = []
    for index in spread(n, n_slices):
        ks = slab_indices(index, n, slab)
        for k in ks:
            if k not in cleaned:
                cleaned[k] = pseudo_clean(smooth[k])
        slabs.append((np.stack([cleaned[k] for k in ks]), volume.geometry.pixel_spacing_mm[0]))
    return slabs


def low_dose(
    clean: NDArray[np.float32], pixel_mm: float, dose: float, colour: str, generator: np.random.Generator, lone: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(slab, truth) of a clean slab through a kernel at a dose fraction; slices of a `lone` one share the noise."""
    kernel, full_noise = KERNELS[colour], FULL_NOISE_HU[colour]
    noises = [scanner_noise(image, pixel_mm, dose, kernel, generator) for image in (clean[:1] if lone else clean)]
    noise = np.stack(noises * (len(clean) if lone else 1))
    clean = apply_kernel(clean, kernel)
    level = full_noise / np.sqrt(dose)
    return clean + noise * (level / body_deviation(noise, clean)), clean[len(clean) // 2]


def both_doses(
    clean: NDArray[np.float32], pixel_mm: float, dose: float, colour: str, generator: np.random.Generator, lone: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(low-dose slab, full-dose slice, truth): `low_dose` in two steps, so that the full dose shares its noise.

    full = truth + n_full,    low = full + n_inserted,    var n_full + var n_inserted = var n_full / dose
    """
    kernel, level = KERNELS[colour], FULL_NOISE_HU[colour]
    through = apply_kernel(clean, kernel)

    def noise(fraction: float, whole: bool, deviation: float) -> NDArray[np.float32]:
        """All the noise of a scan, or what a full-dose scan lacks of it, of a given deviation inside the patient."""
        images = [
            noise_image(
                image,
                pixel_mm,
                dose_fraction=fraction,
                i0=I0_FULL,
                electronic_variance=ELECTRONIC_VARIANCE,
                kernel=kernel,
                generator=generator,
                full_dose=whole,
            )
            for image in (clean[:1] if lone else clean)
        ]
        stack = np.stack(images * (len(clean) if lone else 1))
        return stack * np.float32(deviation / body_deviation(stack, through))

    full = through + noise(1.0, True, level)
    low = full + noise(dose, False, level * np.sqrt(1 / dose - 1))
    middle = len(clean) // 2
    return low, full[middle], through[middle]
