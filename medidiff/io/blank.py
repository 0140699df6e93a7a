"""Headers for a CT series that has none: the smallest valid CT image (PS3.3 A.3), of nobody.

For volumes that come without DICOM, such as a NIfTI file. The patient is called ANONYMOUS; what is unknown
and may be empty is empty. Stored numbers are the HU, rounded, as 16-bit signed integers.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

_EMPTY = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
    *("AccessionNumber", "PatientPosition", "PositionReferenceIndicator", "SliceThickness", "KVP"),
    *("AcquisitionNumber", "Laterality"),
)


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True, eq=False)
class BlankSource:
    """A slice source with made-up headers, for `derived.DerivedWriter`."""

    volume: SliceSource
    description: str = ""
    study_uid: str = field(default_factory=_new_uid)
    frame_of_reference: str = field(default_factory=_new_uid)

    @property
    def unit(self) -> Unit:
        return self.volume.unit

    @property
    def geometry(self) -> Geometry:
        return self.volume.geometry

    def read(self, index: int) -> NDArray[np.float32]:
        return self.volume.read(index)

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return self.volume.padding(index)

    def stored(self, index: int) -> NDArray[np.int16]:
        limits = np.iinfo(np.int16)
        return np.clip(np.rint(self.volume.read(index)), limits.min, limits.max).astype(np.int16)

    def source_reference(self, index: int) -> None:
        return None

    def header(self, index: int) -> Dataset:
        geometry = self.volume.geometry
        header = Dataset()
        header.SOPClassUID, header.Modality = CTImageStorage, "CT"
        header.PatientName, header.PatientID = "ANONYMOUS^", "ANONYMOUS"
        header.StudyInstanceUID, header.FrameOfReferenceUID = self.study_uid, self.frame_of_reference
        header.Manufacturer, header.SeriesDescription = "medidiff", self.description
        for keyword in _EMPTY:
            setattr(header, keyword, None)
        header.ImagePositionPatient = _ds(geometry.origins_mm[index])
        header.ImageOrientationPatient = _ds([*geometry.right, *geometry.down])
        header.PixelSpacing = _ds(geometry.pixel_spacing_mm)
        header.RescaleSlope, header.RescaleIntercept = "1", "0"
        header.BitsStored, header.PixelRepresentation = 16, 1
        return header


def _ds(values: object) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [format_number_as_ds(float(value)) for value in np.asarray(values, dtype=np.float64)]
