"""Visual information fidelity in the pixel domain: Sheikh and Bovik (2006), IEEE TIP 15:430.

At each of four scales y is modelled locally as the reference seen through a gain g and noise of variance v, and both
as seen by an eye that adds noise of variance sigma_n^2 = 2 (grey levels squared, images on 0 to 255):

    VIF = sum log(1 + g^2 s / (v + sigma_n^2)) / sum log(1 + s / sigma_n^2)         s = local variance of the reference
    g = cov / s        v = s_y - g cov

1 for equal images, 0 without any of the reference's structure; more than 1 where contrast is enhanced. Windows are
Gaussians of 17, 9, 5 and 3 pixels with sigma a fifth of that; each scale is every second pixel of the last, smoothed.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset

SIGMA_N_SQ = 2.0
EYE_LEVELS = 255.0
SMALLEST = 41  # pixels a side, so that the window fits at the last scale
RADII = (8, 4, 2, 1)
EPS = 1e-10


def vif(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Visual information fidelity of two slices; nan for less than 41 pixels on a side or a flat reference.

    Pixels outside the mask influence nothing.
    """
    if min(reference.shape) < SMALLEST:
        return float("nan")
    seen, conventions = preset.error_range, preset.conventions
    levels = EYE_LEVELS if conventions.limits is None else seen.range
    distorted, whole = (values * levels for values in seen.pair(image, reference, mask))
    if conventions.vif_of == "candidate":
        distorted, whole = whole, distorted
    return fidelity(distorted, whole)


def fidelity(distorted: Double, whole: Double) -> float:
    """VIF of an image whose grey levels are those of the eye's noise, against the whole of the information."""
    kept = total = 0.0
    for scale, radius in enumerate(RADII):
        if scale > 0:
            distorted, whole = (_mean(values, radius)[::2, ::2] for values in (distorted, whole))
        gain, noise, signal = _channel(distorted, whole, radius)
        kept += float(np.log1p(gain * gain * signal / (noise + SIGMA_N_SQ)).sum())
        total += float(np.log1p(signal / SIGMA_N_SQ).sum())
    return kept / total if total > 0 else float("nan")


def _channel(distorted: Double, whole: Double, radius: int) -> tuple[Double, Double, Double]:
    """Gain, noise variance and signal variance where the window fits; a negative gain counts as noise."""
    m_whole, m_distorted = _mean(whole, radius), _mean(distorted, radius)
    signal = np.maximum(_mean(whole * whole, radius) - m_whole**2, 0)
    received = np.maximum(_mean(distorted * distorted, radius) - m_distorted**2, 0)
    covariance = _mean(whole * distorted, radius) - m_whole * m_distorted
    gain = covariance / (signal + EPS)
    gain[(signal < EPS) | (received < EPS) | (gain < 0)] = 0
    signal[signal < EPS] = 0
    noise = np.where(gain > 0, np.maximum(received - gain * covariance, EPS), np.maximum(received, EPS))
    return gain, noise, signal


def _mean(values: Double, radius: int) -> Double:
    smooth = gaussian_filter(values, (2 * radius + 1) / 5, radius=radius)
    return smooth[radius:-radius, radius:-radius]
