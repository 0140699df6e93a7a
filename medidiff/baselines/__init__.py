"""Classical denoisers: what a learned one has to beat."""

from medidiff.baselines.padding import filled
from medidiff.baselines.registry import BASELINES, Baseline

__all__ = ["BASELINES", "Baseline", "filled"]
