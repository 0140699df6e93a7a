"""Nearly noise-free anatomy from ordinary scans: the ground that both noises of a training pair are laid on.

Noise inserted into an already noisy target has to be told from the target's own, and a network does that by
colour, which fails on real scans, where both have one colour. So the target is cleaned first: thin slices are
averaged along z to about 3 mm, the slice is shrunk (area average), and non-local means (Buades et al. 2005)
takes what noise is left, at a strength set by the noise level measured in that slice. Shrinking makes edges
sharper per pixel than the scanner's, so that the kernel applied later sets the resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means

from medidiff.baselines.tv import total_variation
from medidiff.noise.level import noise_estimate

TARGET_THICKNESS_MM = 3.0
STRENGTH = 0.9  # of the noise level; vessels of a noisy liver survive, the noise does not (looked at, all series)

TV_STRENGTH = 0.95  # noise levels


def average_along_z(stack: NDArray[np.float32], step_mm: float) -> NDArray[np.float32]:
    """Moving average over as many slices as make about 3 mm; (slices, rows, columns), same shape."""
    width = max(1, round(TARGET_THICKNESS_MM / step_mm)) if step_mm > 0 else 1
    if width == 1 or len(stack) == 1:
        return stack
    padded = np.pad(stack, ((width // 2, (width - 1) // 2), (0, 0), (0, 0)), mode="edge")
    return np.mean([padded[k : k + len(stack)] for k in range(width)], axis=0, dtype=np.float32)


def shrink(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Area average of (rows, columns) to 1 / factor of its size, a multiple of 16."""
    size = [max(16, round(n / factor / 16) * 16) for n in image.shape]
    if size == list(image.shape):
        return image
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size=size, mode="area")[0, 0].numpy()


def pseudo_clean(image: NDArray[np.float32], factor: float = 1.0) -> NDArray[np.float32]:
    """One slice in HU, shrunk by `factor` and with its noise removed."""
    small = shrink(image, factor)
    level = noise_estimate(small).level
    clean = denoise_nl_means(
        small, patch_size=5, patch_distance=6, h=STRENGTH * level, sigma=level, fast_mode=True, preserve_range=True
    )
    return clean.astype(np.float32)


def piecewise_clean(image: NDArray[np.float32], factor: float = 1.0) -> NDArray[np.float32]:
    """One slice in HU, shrunk by `factor`, its noise removed by total variation.

    At strong edges it leaves 67 % of the noise where non-local means leaves 91 % (measured on phantoms at factor 2),
    in even tissue 4 % and not 10 %; fine texture goes with it.
    """
    small = shrink(image, factor)
    return total_variation(small, noise_estimate(small).level, TV_STRENGTH)
