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
from medidiff.data.prepare import AIR_HU, scanner_noise
from medidiff.data.transforms import apply_kernel, body_deviation
from medidiff.data.validation import KERNELS
from medidiff.patches import slab_indices

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
    clean: NDArray[np.float32], pixel_mm: float, dose: float, colour: str, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(slab, truth) of a clean slab (K, rows, columns) in HU through a kernel at a dose fraction."""
    through = apply_kernel(clean, KERNELS[colour])
    level = FULL_NOISE_HU[colour] / float(np.sqrt(dose))
    noise = _noise(clean, pixel_mm, dose, colour, generator)
    return through + _at(noise, level, through), through[len(clean) // 2]


def both_doses(
    clean: NDArray[np.float32], pixel_mm: float, dose: float, colour: str, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(low-dose slab, full-dose slice, truth): `low_dose` in two steps, so that the full dose shares its noise.

    full = truth + n_full,    low = full + n_inserted,    var n_full + var n_inserted = var n_full / dose
    """
    through, level = apply_kernel(clean, KERNELS[colour]), FULL_NOISE_HU[colour]
    full = through + _at(_noise(clean, pixel_mm, 1.0, colour, generator), level, through)
    inserted = _noise(clean, pixel_mm, dose, colour, generator, full_dose=False)
    low = full + _at(inserted, level * float(np.sqrt(1 / dose - 1)), through)
    middle = len(clean) // 2
    return low, full[middle], through[middle]


def is_lone(clean: NDArray[np.float32]) -> bool:
    """Whether a slab is one isolated slice that is its own neighbour: it has one noise, as on a scanner."""
    return bool(np.array_equal(clean[0], clean[-1]))


def _noise(
    clean: NDArray[np.float32],
    pixel_mm: float,
    dose: float,
    colour: str,
    generator: np.random.Generator,
    *,
    full_dose: bool = True,
) -> NDArray[np.float32]:
    """(K, rows, columns) all the noise of a scan, or what a full-dose scan lacks of it."""
    n = 1 if is_lone(clean) else len(clean)
    made = [scanner_noise(c, pixel_mm, dose, KERNELS[colour], generator, full_dose=full_dose) for c in clean[:n]]
    return np.stack(made * (len(clean) // n))


def _at(noise: NDArray[np.float32], level: float, clean: NDArray[np.float32]) -> NDArray[np.float32]:
    """The noise with a standard deviation of `level` HU inside the patient."""
    return noise * np.float32(level / float(body_deviation(noise, clean)))
