"""medidiff: denoise and reconstruct CT and PET with conditional diffusion models.

Research use only, not for diagnosis.
"""

from importlib.metadata import PackageNotFoundError, version

DISCLAIMER = "research use only, not for diagnosis"

try:
    __version__ = version("medidiff")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
