"""Statistics over patients: intervals, tests, agreement."""

from medidiff.statistics.analyse import Analysis, analyse
from medidiff.statistics.settings import BETTER, Outcome, StatisticsSettings

__all__ = ["BETTER", "Analysis", "Outcome", "StatisticsSettings", "analyse"]
