"""What all tests share: where real data lie, which system tools there are, and small volumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans; tests that need it skip, saying so, where it is absent."""
    folder = Path(os.environ.get("MEDIDIFF_SHARED", ROOT.parent / "shared" / "data"))
    if not (folder / "splits.csv").exists():
        pytest.skip(f"REAL SCANS NOT FOUND at {folder}: set MEDIDIFF_SHARED to the folder that holds splits.csv")
    return folder


@pytest.fixture(scope="session")
def shared_vectors(shared_data: Path) -> Path:
    """Known header sets with their answers, beside the real scans; tests that need them skip where they are absent."""
    folder = shared_data.parent / "vectors"
    if not folder.exists():
        pytest.skip(f"KNOWN HEADER SETS NOT FOUND at {folder}: they lie beside the folder of real scans")
    return folder


@pytest.fixture(scope="session")
def write_nifti_scan() -> Callable[..., Path]:
    """Writes (slices, rows, columns) of HU as a NIfTI file: `write_nifti_scan(path, array, spacing_mm=(5, 1, 1))`."""

    def write(path: Path, array: NDArray[np.floating], spacing_mm: tuple[float, float, float] = (5, 1, 1)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0).astype(np.float32), affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def system_tool() -> Callable[[str], str]:
    """Path of a system program; a missing one skips on a user's machine and fails in CI."""

    def find(name: str) -> str:
        for folder in (Path("/usr/bin"), Path("/usr/sbin")):  # not PATH: pynetdicom shadows storescu in the venv
            if (folder / name).exists():
                return str(folder / name)
        found = shutil.which(name)
        if found:
            return found
        message = f"SYSTEM PROGRAM {name} IS MISSING: install the packages of system-packages.txt"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file whose network is small, random and of visible effect."""
    return _random_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def spread_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a network that gives a standard deviation too."""
    return _random_model(tmp_path_factory.mktemp("model") / "spread.safetensors", spread=True)


@pytest.fixture(scope="session")
def pet_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of three dimensions for PET, with a standard deviation and a place for a CT."""
    blocks = {"dimensions": 3, "slab": 1, "spread": True, "guide": True}
    return _random_model(tmp_path_factory.mktemp("model") / "pet.safetensors", **blocks)


def _random_model(path: Path, **architecture: Any) -> Path:
    import torch

    from medidiff.model import Architecture, Card, build, save
    from medidiff.scaling import LinearScaling

    small = Architecture(widths=(8, 16), blocks=(1, 1), **architecture)
    denoiser = build(small)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in denoiser.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    is_pet = small.dimensions == 3
    scaling = LinearScaling("SUV", 0.0, 1.0) if is_pet else LinearScaling()
    card = Card(name=path.stem, modality="PT" if is_pet else "CT", summary="random weights, for tests")
    save(path, denoiser, small, scaling, card)
    return path


@pytest.fixture(scope="session")
def write_series() -> Callable[..., Path]:
    """Writes a synthetic CT series, a noisy disc of water in air, and returns its folder."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def write(folder: Path, *, n: int = 5, size: int = 48, kernel: str = "B40f", seed: int = 0, **tags: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        uids = {key: generate_uid(entropy_srcs=[key, kernel, str(seed)]) for key in ("series", "study", "frame")}
        random = np.random.default_rng(seed)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        for k in range(n):
            hu = np.where(x**2 + y**2 < (0.4 * size) ** 2, 40, -1000) + random.normal(0, 20, (size, size))
            image = Dataset()
            image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            image.SOPInstanceUID = generate_uid(entropy_srcs=[uids["series"], str(k)])
            image.SeriesInstanceUID, image.StudyInstanceUID = uids["series"], uids["study"]
            image.FrameOfReferenceUID = uids["frame"]
            image.Modality, image.ConvolutionKernel = "CT", kernel
            image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            image.PatientName = image.PatientID = "SYNTHETIC"
            image.SeriesNumber, image.InstanceNumber, image.SliceThickness = 2, k + 1, 2
            image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
            image.PixelSpacing, image.RescaleSlope, image.RescaleIntercept = [0.8, 0.8], 1, -1024
            image.RescaleType, image.KVP = "HU", 120
            image.Rows = image.Columns = size
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
            image.PixelData = np.clip(np.rint(hu + 1024), 0, 4095).astype(np.uint16).tobytes()
            image["PixelData"].VR = "OW"
            for keyword, value in tags.items():
                setattr(image, keyword, value)
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(folder / f"IM{k:04d}", enforce_file_format=True)
        return folder

    return write


TRACER = {
    "Radiopharmaceutical": "FDG",
    "RadionuclideTotalDose": 370e6,
    "RadionuclideHalfLife": 6588,
    "RadiopharmaceuticalStartTime": "090000",
    "RadiopharmaceuticalStartDateTime": "20240301090000",
}


@pytest.fixture(scope="session")
def pet_slice() -> Callable[..., Any]:
    """One PET slice of 16 x 16, BQML START, acquired an hour after injection; `pet_slice(k, **tags)`.

    Tags of the tracer go to its sequence; a value of None removes the tag; `stored` gives the pixels. The slope is
    0.5 + k, so that every slice has its own.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def make(k: int = 0, *, stored: NDArray[np.integer] | None = None, **tags: object) -> Dataset:
        uids = {key: generate_uid(entropy_srcs=[key, "PET"]) for key in ("series", "study", "frame")}
        pixels = np.random.default_rng(k).integers(0, 30000, (16, 16)) if stored is None else stored
        image, tracer = Dataset(), Dataset()
        image.SOPClassUID, image.Modality = "1.2.840.10008.5.1.4.1.1.128", "PT"
        image.SOPInstanceUID = generate_uid(entropy_srcs=[uids["series"], str(k)])
        image.SeriesInstanceUID, image.StudyInstanceUID = uids["series"], uids["study"]
        image.FrameOfReferenceUID, image.ImageType = uids["frame"], ["ORIGINAL", "PRIMARY"]
        image.PatientName = image.PatientID = "SYNTHETIC"
        image.PatientWeight, image.PatientSize, image.PatientSex = 70, 1.75, "M"
        image.SeriesDate = image.AcquisitionDate = image.StudyDate = "20240301"
        image.SeriesTime = image.AcquisitionTime = image.StudyTime = "100000"
        image.FrameReferenceTime, image.ActualFrameDuration = 0, 120000
        image.SeriesNumber, image.InstanceNumber, image.SliceThickness = 4, k + 1, 3
        image.SeriesType, image.Units, image.DecayCorrection = ["WHOLE BODY", "IMAGE"], "BQML", "START"
        image.CorrectedImage, image.CountsSource = ["DECY", "ATTN", "SCAT", "NORM"], "EMISSION"
        image.NumberOfSlices, image.ImageIndex, image.DecayFactor = 5, k + 1, 1.01
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.RescaleSlope, image.RescaleIntercept = [4, 4], 0.5 + k, 0
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = pixels.astype(np.int16).tobytes()
        image["PixelData"].VR = "OW"
        image.RadiopharmaceuticalInformationSequence = Sequence([tracer])
        for keyword, value in (TRACER | tags).items():
            holder = tracer if keyword in TRACER or keyword.endswith("CodeSequence") else image
            if value is None:
                holder.pop(keyword, None)
            else:
                setattr(holder, keyword, value)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        return image

    return make


@pytest.fixture(scope="session")
def write_pet(pet_slice: Callable[..., Any]) -> Callable[..., Path]:
    """Writes n slices of `pet_slice` and returns their folder; `change(image, k)` may edit each."""

    def write(folder: Path, n: int = 5, *, change: Callable[..., None] | None = None, **tags: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(n):
            image = pet_slice(k, **tags)
            if change is not None:
                change(image, k)
            image.save_as(folder / f"PT{k:04d}", enforce_file_format=True)
        return folder

    return write
