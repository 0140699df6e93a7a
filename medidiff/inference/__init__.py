"""Reconstruction: a trained model applied to whole studies, one slice at a time (`reconstruct`)."""

from medidiff.inference.options import Options
from medidiff.inference.record import RunRecord, SeriesRecord
from medidiff.inference.restore import Restored, Restorer
from medidiff.inference.run import reconstruct

__all__ = ["Options", "Restored", "Restorer", "RunRecord", "SeriesRecord", "reconstruct"]
