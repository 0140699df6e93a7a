"""Makes `data_samples/ct`: a synthetic low-dose CT study with its full-dose and noise-free counterparts.

    noise_free = phantom                                        what a scan of infinite dose would show
    full_dose  = noise_free + noise of I0 photons a ray
    low_dose   = full_dose + noise inserted by Yu et al. (2012)  the *same* acquisition with a quarter of the photons

Low and full dose therefore share part of their noise, as low-dose images simulated from clinical scans do.
Everything is seeded and the identifiers are hashes of fixed names: a second run makes the same pixels.

    python data_samples/make_ct_study.py [FOLDER]
"""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import asdict
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import nibabel as nib
import numpy as np
import phantom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless

from medidiff.physics.ct import FanGeometry, Kernel, noise_image

SEED = 20260102
DOSE_FRACTION = 0.25
I0 = 2.7e5  # photons a ray at full dose: about 12 HU of noise in the liver
ELECTRONIC_VARIANCE = 10.0
FULL_DOSE_MAS = 120
KERNEL = Kernel("hann", cutoff=0.8)  # as smooth as a standard abdomen kernel
GEOMETRY = FanGeometry()
INTERCEPT = -1024
NIFTI_SLICES = 4
SERIES = {"low_dose": 1, "full_dose": 2, "noise_free": 3}


def uid(*names: object) -> str:
    """A valid UID (PS3.5 B.2) that depends on nothing but the names."""
    return f"2.25.{uuid5(NAMESPACE_URL, '/'.join(map(str, ('medidiff', 'data_samples', 'ct', *names)))).int}"


def simulate() -> dict[str, NDArray[np.int16]]:
    """The three series in HU, (slices, rows, columns), as a scanner stores them: whole numbers from -1024 to 3071."""
    truth = phantom.render()
    images = {name: np.empty(truth.shape, np.int16) for name in SERIES}
    for index, clean in enumerate(truth):
        generator = np.random.default_rng([SEED, index])
        scan = {"i0": I0, "electronic_variance": ELECTRONIC_VARIANCE, "kernel": KERNEL, "geometry": GEOMETRY}
        full = clean + noise_image(
            clean, phantom.PIXEL_MM, dose_fraction=1.0, full_dose=True, generator=generator, **scan
        )  # fmt: skip
        low = full + noise_image(clean, phantom.PIXEL_MM, dose_fraction=DOSE_FRACTION, generator=generator, **scan)
        for name, image in (("noise_free", clean), ("full_dose", full), ("low_dose", low)):
            images[name][index] = np.clip(np.rint(image), INTERCEPT, 4095 + INTERCEPT)
    return images


def study_attributes() -> Dataset:
    """Patient, study, frame of reference and equipment: the same in every file (PS3.3 A.3.3)."""
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Synthetic^Phantom", "SYNTHETIC-CT-1", "", "O"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Synthetic data, there is no patient"
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = uid("study"), uid("frame")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDescription = "Synthetic chest and abdomen"
    ds.PositionReferenceIndicator, ds.PatientPosition = "", "HFS"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "medidiff", "Synthetic phantom", "1"
    return ds


def image_attributes(series: str, index: int) -> Dataset:
    """One slice of one series, without its pixels (CT Image Module, PS3.3 C.8.2.1)."""
    dose = DOSE_FRACTION if series == "low_dose" else 1.0
    ds = study_attributes()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid(series, index)
    ds.Modality, ds.BodyPartExamined, ds.ImageType = "CT", "ABDOMEN", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesInstanceUID, ds.SeriesNumber = uid(series), SERIES[series]
    ds.SeriesDescription = f"Synthetic, {series.replace('_', ' ')}"
    ds.ImageComments = "Synthetic phantom, no patient. Research use only, not for diagnosis."
    ds.AcquisitionNumber, ds.InstanceNumber = 1, index + 1
    edge = -(phantom.MATRIX - 1) / 2 * phantom.PIXEL_MM
    ds.ImagePositionPatient = [edge, edge, float(phantom.slice_heights()[index])]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [phantom.PIXEL_MM] * 2, phantom.SLICE_MM
    ds.SliceLocation = float(phantom.slice_heights()[index])
    ds.KVP, ds.ConvolutionKernel, ds.GantryDetectorTilt = 120, "HANN", 0
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = 500, round(2 * FULL_DOSE_MAS * dose), round(FULL_DOSE_MAS * dose)
    ds.DistanceSourceToPatient, ds.DistanceSourceToDetector = GEOMETRY.source_isocentre, GEOMETRY.source_detector
    ds.ReconstructionDiameter, ds.RotationDirection = phantom.MATRIX * phantom.PIXEL_MM, "CW"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds.WindowCenter, ds.WindowWidth, ds.BurnedInAnnotation = 40, 400, "NO"
    return ds


def write_slice(path: Path, ds: Dataset, hu: NDArray[np.int16]) -> None:
    """Store one slice, 12 bits unsigned, JPEG-LS lossless."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = uid("implementation"), "MEDIDIFF"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (hu - np.int16(INTERCEPT)).astype(np.uint16).tobytes()
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, hu: NDArray[np.int16]) -> None:
    """The lowest slices as NIfTI in HU; NIfTI's world is RAS, so x and y change sign."""
    edge = (phantom.MATRIX - 1) / 2 * phantom.PIXEL_MM
    affine = np.diag([-phantom.PIXEL_MM, -phantom.PIXEL_MM, phantom.SLICE_MM, 1.0])
    affine[:3, 3] = edge, edge, phantom.slice_heights()[0]
    image = nib.Nifti1Image(np.ascontiguousarray(hu[:NIFTI_SLICES].transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def record() -> dict[str, object]:
    """What made the study, and where its lesions and nodules lie."""
    scan = {"seed": SEED, "i0": I0, "electronic_variance": ELECTRONIC_VARIANCE, "dose_fraction": DOSE_FRACTION}
    places = [asdict(solid) for solid in phantom.LESIONS + phantom.NODULES]
    return {"synthetic": True, **scan, "kernel": asdict(KERNEL), "geometry": asdict(GEOMETRY), "lesions": places}


def main(folder: Path) -> None:
    images = simulate()
    for series, stack in images.items():
        (folder / series).mkdir(parents=True, exist_ok=True)
        for index, hu in enumerate(stack):
            write_slice(folder / series / f"{index + 1:04d}.dcm", image_attributes(series, index), hu)
    write_nifti(folder / "low_dose.nii.gz", images["low_dose"])
    (folder / "study.json").write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "ct")
