"""What is asked of the statistics, and which way each metric is better.

Declared before anything is measured: the primary outcomes (their comparisons are the family of Holm's correction) and
the direction of every metric that is tested at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from medidiff.config import Settings

Direction = Literal["lower", "higher"] | float  # a number: the closer to it the better

CELL = ("metric", "preset", "region", "unit", "dose", "group", "reference_noise")  # what one comparison is within
BETTER: dict[str, Direction] = {
    "RMSE": "lower",
    "NRMSE": "lower",
    "GMSD": "lower",
    "PSNR": "higher",
    "SSIM": "higher",
    "MS-SSIM": "higher",
    "VIF": "higher",
    "HaarPSI": "higher",
    "bias": 0.0,
    "NPS shift": 0.0,
    "CNR": "higher",
    "TTF f50": "higher",
    "TTF f10": "higher",
    "NPWE d'": "higher",
    "CHO AUC": "higher",
    "SUVmean bias": 0.0,
    "SUVmax bias": 0.0,
    "SUVpeak bias": 0.0,
    "MTV bias": 0.0,
    "TLG bias": 0.0,
    "total activity bias": 0.0,
    "contrast recovery": 100.0,
    "background variability": "lower",
    "COV": "lower",
    "added structure": "lower",
    "removed structure": "lower",
    "strongest added": "lower",
    "strongest removed": "lower",
    "unsupported frequencies": "lower",
    "calibration error": "lower",
    "calibration error of reference": "lower",
}


class Outcome(Settings):
    """What a study is about: one metric; None means every preset that it was measured in, and every dose.

    Few patients allow few comparisons: with 8, no more than 6 can all be significant after Holm's correction. One
    dose declared beforehand is worth more than three that can show nothing.
    """

    metric: str
    preset: str | None = None
    region: str = "all"
    dose: float | None = None

    def names(self, facts: Mapping[str, Any]) -> bool:
        """Whether a line of results is of this outcome."""
        return self.measures(facts["metric"], facts["preset"], facts["region"]) and self.dose in (None, facts["dose"])

    def measures(self, metric: str, preset: str, region: str) -> bool:
        """Whether it is of this outcome at one dose or another."""
        return (self.metric, self.preset or preset, self.region) == (metric, preset, region)


class StatisticsSettings(Settings):
    """Settings of `analyse`; a primary outcome may be written as the bare name of its metric.

    baseline   the method that every other one is compared with; None leaves the choice to the study
    resamples  bootstrap samples, and sign flips where the exact test would need more than 2^14
    """

    baseline: str | None = None
    primary: tuple[Outcome, ...] = (Outcome(metric="RMSE", preset="hu"),)
    alpha: float = Field(0.05, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(10_000, ge=100)
    seed: int = Field(0, ge=0)

    def in_range(self, preset: str) -> StatisticsSettings:
        """The same, with the primary outcome in this intensity range where none was declared."""
        if "primary" in self.model_fields_set:
            return self
        return self.model_copy(update={"primary": (Outcome(metric="RMSE", preset=preset),)})

    @field_validator("primary", mode="before")
    @classmethod
    def _bare_names(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple({"metric": item} if isinstance(item, str) else item for item in value)
