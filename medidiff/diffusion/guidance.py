"""Guidance wraps a denoiser and returns a denoiser; the sampler never learns of it.

    D_w = D_null + w * (D_cond - D_null)        Ho & Salimans 2022, in terms of x0_hat

w = 1 is off, w = 0 ignores the condition, w > 1 exaggerates what the condition says. A negative
condition is the same call with a denoiser bound to that condition in place of `denoise_null`.
"""

from __future__ import annotations

from torch import Tensor

from medidiff.diffusion.denoiser import Denoise


def classifier_free(denoise: Denoise, denoise_null: Denoise, w: float) -> Denoise:
    """A denoiser guided with weight `w`, at two evaluations a call; w = 1 gives `denoise` itself back."""
    if w == 1:
        return denoise

    def guided(x_sigma: Tensor, sigma: Tensor) -> Tensor:
        null = denoise_null(x_sigma, sigma)
        return null + w * (denoise(x_sigma, sigma) - null)

    return guided
