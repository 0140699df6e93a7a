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

from medidiff.metrics.moments import gaussian, moments
from medidiff.metrics.preset import PRESETS, Array, Double, Mask, Preset
from medidiff.metrics.windows import weighted

SIGMA_N_SQ = 2.0
EYE_LEVELS = 255.0
SMALLEST = 41  # pixels a side, so that the window fits at the last scale
SIZES = (17, 9, 5, 3)
EPS = 1e-10


def vif(image: Array, reference: Array, preset: Preset = PRESETS["hu"], mask: Mask | None = None) -> float:
    """Visual information fidelity of two slices; nan for less than 41 pixels on a side or a flat reference.

    Pixels outside the mask influence nothing.
    """
    if min(reference.shape) < SMALLEST:
        return float("nan")
    if preset.conventions.vif == "ldct-benchmark":
        return _as_ldct_benchmark(image, reference, preset.error_range)
    return fidelity(*(values * EYE_LEVELS for values in preset.error_range.pair(image, reference, mask)))


def _as_ldct_benchmark(image: Array, reference: Array, limits: Preset) -> float:
    """Their call to the digit; squares of thousands of HU in single precision leave it some 3e-5 of rounding."""
    import torch
    from torchmetrics.functional.image import visual_information_fidelity  # two seconds that few runs need

    shifted = [np.asarray(values, np.float32) - np.float32(limits.low) for values in (reference, image)]
    target, prediction = (torch.from_numpy(values.clip(0, limits.range))[None, None] for values in shifted)
    return float(visual_information_fidelity(target, prediction, sigma_n_sq=SIGMA_N_SQ))


def fidelity(distorted: Double, whole: Double) -> float:
    """VIF of an image whose grey levels are those of the eye's noise, against the whole of the information."""
    kept = total = 0.0
    for scale, size in enumerate(SIZES):
        window = gaussian(size, size / 5)
        if scale > 0:
            distorted, whole = (weighted(values, window, window, (2, 2)) for values in (distorted, whole))
        gain, noise, signal = _channel(distorted, whole, window)
        kept += float(np.log1p(gain * gain * signal / (noise + SIGMA_N_SQ)).sum())
        total += float(np.log1p(signal / SIGMA_N_SQ).sum())
    return kept / total if total > 0 else float("nan")


def _channel(distorted: Double, whole: Double, window: Double) -> tuple[Double, Double, Double]:
    """Gain, noise variance and signal variance where the window fits; a negative gain counts as noise."""
    _, _, received, signal, covariance = moments(distorted, whole, window)
    signal[signal < EPS] = 0
    gain = covariance / (signal + EPS)
    gain[(signal == 0) | (received < EPS) | (gain < 0)] = 0
    covariance *= gain
    received -= covariance
    return gain, np.maximum(received, EPS, out=received), signal
