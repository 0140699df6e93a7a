"""A PET series of something that has never been in a scanner: a phantom in SUV, as DICOM in Bq/mL.

PET Image IOD, PS3.3 A.21.3: attenuation and decay corrected to the start of the series, one slope for each slice.
With the weight W in kg, the activity D in Bq at the injection and lambda = ln 2 / T,

    Bq/mL = SUV D exp(-lambda (t_series - t_injection)) / (1000 W)

The "patient" is called Synthetic^Phantom, its weight, dose and times are those of `PetStudy`; every identifier is a
hash of the names given, so that a second run writes the same files.
"""

from __future__ import annotations

import io
import math
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, PositronEmissionTomographyImageStorage
from pydicom.valuerep import format_number_as_ds

from medidiff import DISCLAIMER, __version__
from medidiff.errors import UnitError
from medidiff.io.encoding import of_range, set_rescale
from medidiff.io.files import write_whole
from medidiff.volume import Volume

_NAMESPACE = uuid.UUID("0d6c1c7f-5b7e-4a55-8a4e-2f6f6f0f4b11")  # drawn once, for synthetic PET
HALF_LIFE_S = 6586.2  # fluorine-18 (PS3.16 CID 4020; NUBASE)
FRAME_S = 120.0
FLUORINE = ("77004003", "SCT", "^18^Fluorine")
FDG = ("35321007", "SCT", "Fluorodeoxyglucose F^18^")


@dataclass(frozen=True)
class PetStudy:
    """What SUV depends on, and what a series is called.

    names  tell series apart: one study for one `study`, one series for one `series` in it
    """

    study: str
    series: str
    series_number: int = 1
    weight_kg: float = 70.0
    dose_bq: float = 350e6
    injected: datetime = datetime(2026, 1, 1, 11, 0, 0)  # DICOM's local time
    scanned: datetime = datetime(2026, 1, 1, 12, 0, 0)
    reconstruction: str = "none"
    comments: str = ""

    @property
    def bqml_per_suv(self) -> float:
        """Bq/mL at the start of the scan of a tissue with SUV 1."""
        waited = (self.scanned - self.injected).total_seconds()
        return self.dose_bq * math.exp(-math.log(2) * waited / HALF_LIFE_S) / (1000 * self.weight_kg)


def write_pet(folder: Path, volume: Volume, study: PetStudy, *, compressed: bool = False) -> list[Path]:
    """Write a volume in SUV, one file a slice from the first, and return the files; `compressed` by JPEG-LS, lossless.

    Raises UnitError for another unit, OutputError where a file cannot be written.
    """
    if volume.unit != "SUV":
        raise UnitError(f"a PET series is written from SUV, found {volume.unit}")
    files = [folder / f"{index + 1:04d}.dcm" for index in range(volume.geometry.n_slices)]
    for index, file in enumerate(files):
        buffer = io.BytesIO()
        dataset = _slice(volume, index, study)
        if compressed:
            dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(buffer, enforce_file_format=True)
        write_whole(file, buffer.getbuffer())
    return files


def uid(*names: str) -> str:
    """A valid UID (PS3.5 B.2) that depends on nothing but the names."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(names)).int}"


def _slice(volume: Volume, index: int, study: PetStudy) -> Dataset:
    dataset = _of_study(study)
    _of_series(dataset, volume, study)
    _of_image(dataset, volume, index, study)
    _set_pixels(dataset, volume.array[index] * study.bqml_per_suv)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(uid("implementation"))
    dataset.file_meta.ImplementationVersionName = "MEDIDIFF"
    return dataset


def _of_study(study: PetStudy) -> Dataset:
    """Patient, study, frame of reference and equipment: the same in every file."""
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Synthetic^Phantom", "SYNTHETIC-PET", "", "O"
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "Synthetic data, there is no patient"
    ds.PatientWeight, ds.PatientSize = format_number_as_ds(study.weight_kg), "1.75"
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = uid(study.study), uid(study.study, "frame")
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDescription = "Synthetic PET phantom"
    for prefix in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{prefix}Date", study.scanned.strftime("%Y%m%d"))
        setattr(ds, f"{prefix}Time", study.scanned.strftime("%H%M%S"))
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "medidiff", "Synthetic phantom", __version__[:64]
    return ds


def _of_series(ds: Dataset, volume: Volume, study: PetStudy) -> None:
    """PET series and isotope (PS3.3 C.8.9.1, C.8.9.2)."""
    ds.SOPClassUID, ds.Modality = PositronEmissionTomographyImageStorage, "PT"
    ds.SeriesInstanceUID, ds.SeriesNumber = uid(study.study, study.series), study.series_number
    ds.SeriesDescription = f"Synthetic, {study.series}"[:64]
    ds.BodyPartExamined = "CHEST"
    ds.Units, ds.CountsSource, ds.SeriesType = "BQML", "EMISSION", ["STATIC", "IMAGE"]
    ds.NumberOfSlices = volume.geometry.n_slices
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT", "RAN", "NORM", "DTIM"]
    ds.RandomsCorrectionMethod, ds.ScatterCorrectionMethod = "DLYD", "known from the simulation"
    ds.AttenuationCorrectionMethod, ds.DecayCorrection = "known from the phantom", "START"
    ds.ReconstructionMethod, ds.CollimatorType = study.reconstruction[:64], "NONE"
    agent = Dataset()
    agent.Radiopharmaceutical, agent.RadiopharmaceuticalVolume = "FDG", ""
    agent.RadiopharmaceuticalStartTime = study.injected.strftime("%H%M%S")
    agent.RadiopharmaceuticalStartDateTime = study.injected.strftime("%Y%m%d%H%M%S")
    agent.RadionuclideTotalDose = format_number_as_ds(study.dose_bq)
    agent.RadionuclideHalfLife, agent.RadionuclidePositronFraction = str(HALF_LIFE_S), "0.9673"
    agent.RadionuclideCodeSequence, agent.RadiopharmaceuticalCodeSequence = _code(FLUORINE), _code(FDG)
    ds.RadiopharmaceuticalInformationSequence = Sequence([agent])
    ds.PatientOrientationCodeSequence = _code(("102538003", "SCT", "recumbent"))
    ds.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = _code(("40199007", "SCT", "supine"))
    ds.PatientGantryRelationshipCodeSequence = _code(("102540008", "SCT", "headfirst"))


def _of_image(ds: Dataset, volume: Volume, index: int, study: PetStudy) -> None:
    """Image plane and PET image (PS3.3 C.7.6.2, C.8.9.4)."""
    geometry = volume.geometry
    ds.SOPInstanceUID = uid(study.study, study.series, str(index))
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.InstanceNumber, ds.ImageIndex, ds.AcquisitionNumber = index + 1, index + 1, 1
    ds.ImageComments = f"Synthetic phantom, no patient. {study.comments} {DISCLAIMER}".replace("  ", " ")
    ds.ImagePositionPatient = [format_number_as_ds(float(x)) for x in geometry.origins_mm[index]]
    ds.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*geometry.right, *geometry.down)]
    ds.PixelSpacing = [format_number_as_ds(float(x)) for x in geometry.pixel_spacing_mm]
    ds.SliceThickness = ds.SpacingBetweenSlices = format_number_as_ds(geometry.slice_spacing_mm)
    ds.SliceLocation = format_number_as_ds(float(geometry.positions_mm[index]))
    # the time at which activity equals its mean over the frame: decay correction and frame agree
    ds.FrameReferenceTime = format_number_as_ds(1000 * _mean_time(FRAME_S))
    ds.ActualFrameDuration, ds.DecayFactor = str(round(1000 * FRAME_S)), "1"
    ds.ScatterFractionFactor, ds.DeadTimeFactor = "0", "1"
    ds.BurnedInAnnotation = "NO"


def _mean_time(duration_s: float) -> float:
    decayed = math.log(2) / HALF_LIFE_S * duration_s
    return math.log(decayed / (1 - math.exp(-decayed))) * duration_s / decayed


def _set_pixels(ds: Dataset, bqml: NDArray[np.floating]) -> None:
    encoding = of_range(bqml)
    set_rescale(ds, encoding)
    pixels = encoding.numbers(bqml).astype(encoding.dtype)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    top = max(float(bqml.max()), 1.0)
    ds.WindowCenter, ds.WindowWidth = format_number_as_ds(top / 2), format_number_as_ds(top)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"


def _code(of: tuple[str, str, str]) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = of
    return Sequence([item])
