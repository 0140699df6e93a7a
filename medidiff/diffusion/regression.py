"""Regression with the denoiser's contract: it knows E[x | y] and nothing else.

    mean(cond) = F(y)        loss = |F(y) - x|^2

The published baselines (RED-CNN, CNN10) are trained and used in this way: no noise level, no colour, one slice.
There is nothing to sample from, so every mode but `quantitative` is refused before it comes here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medidiff.diffusion.denoiser import Condition


class Regression(nn.Module):
    """A plain network (B, 1, rows, columns) -> the same shape; sides below `smallest` are padded by their edge."""

    def __init__(self, network: nn.Module, smallest: int = 1) -> None:
        super().__init__()
        self.network, self.smallest = network, smallest

    def mean(self, cond: Condition) -> Tensor:
        """E[x | y] in one evaluation, (B, 1, *spatial); there must be a condition."""
        rows, columns = cond.y.shape[2:]
        missing = (max(self.smallest - columns, 0), max(self.smallest - rows, 0))
        if not any(missing):
            return self.network(cond.y)
        padded = F.pad(cond.y, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.network(padded)[..., :rows, :columns]

    def loss(self, x: Tensor, cond: Condition, sigma: Tensor, noise: Tensor) -> Tensor:
        """(B,) squared error of the mean; sigma and noise are the diffusion's and do not matter here."""
        return self.errors(x, cond, sigma, noise)[0].square().flatten(1).mean(1)

    def errors(self, x: Tensor, cond: Condition, sigma: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        """(error of the mean (B, 1, *spatial) in model units, None)."""
        return self.mean(cond) - x, None

    def forward(self, x_sigma: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """Has no meaning for a regression: raises TypeError (a mistake in the program, not in the input)."""
        raise TypeError("a regression has no answer to a noisy state: ask for its mean")
