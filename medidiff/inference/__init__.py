"""Reconstruction: a method (a trained model, a classical denoiser) applied to whole studies, slice by slice."""

from medidiff.inference.methods import Method, load_method
from medidiff.inference.options import Options
from medidiff.inference.record import RunRecord, SeriesRecord
from medidiff.inference.restore import Restored, Restorer, SliceRestorer, restore
from medidiff.inference.run import reconstruct

__all__ = [
    "Method",
    "Options",
    "Restored",
    "Restorer",
    "RunRecord",
    "SeriesRecord",
    "SliceRestorer",
    "load_method",
    "reconstruct",
    "restore",
]
