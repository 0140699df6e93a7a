"""The exceptions a user can meet, and the exit code each one ends with.

    MedidiffError                  one sentence: what, where, expected and found, what to do
    |-- UsageError        (2)      options or settings that contradict each other or do not exist
    |-- InputError        (2)      the data given cannot be used
    |   |-- DicomError             a DICOM file or series breaks a rule it must keep
    |   |   `-- DecodeError        the pixel data cannot be decoded
    |   |-- GeometryError          positions, orientations or sizes that do not fit together
    |   `-- UnitError              HU where SUV was expected, and the like
    |-- OutputError       (2)      the result cannot be written: exists, unwritable, disk full
    |-- ModelError        (2)      weights that are corrupt, foreign, or made for other data
    `-- PartialFailure    (3)      some series were done and some failed; each failure is named

The command line prints the sentence and exits; it never shows a traceback for these. Programs catch
`MedidiffError`. Messages never contain patient identifiers.
"""

from __future__ import annotations


class MedidiffError(Exception):
    """Base class of every error that a user can cause and mend."""

    exit_code: int = 2


class UsageError(MedidiffError):
    """Options or settings that contradict each other or do not exist."""


class InputError(MedidiffError):
    """The data given cannot be used."""


class DicomError(InputError):
    """A DICOM file or series breaks a rule that it must keep to be processed."""


class DecodeError(DicomError):
    """The pixel data of a DICOM file cannot be decoded."""


class GeometryError(InputError):
    """Positions, orientations or sizes that do not fit together."""


class UnitError(InputError):
    """Values in another unit than the one that is needed."""


class OutputError(MedidiffError):
    """The result cannot be written."""


class ModelError(MedidiffError):
    """Weights that are corrupt, foreign, or made for other data."""


class PartialFailure(MedidiffError):
    """Some of the requested series failed; the others were written."""

    exit_code = 3
