"""A derived CT or PET series: the source's headers, new pixels, and an honest account of what was done to them.

DICOM PS3.3 C.7.6.1 (general image, derivation), C.8.2.1 (CT image), C.8.9 (PET), C.7.5.2 (contributing equipment).
One file a slice, written one at a time, in any order and as often as wanted: the identifiers of slice k
depend on the series UID and k alone, so an interrupted run goes on in the same series.

    stored = round((HU - RescaleIntercept) / RescaleSlope)     slope and intercept as in the source

clipped to the source's bits. A slice whose values no longer fit is widened to 16 bits, with a warning;
values below -1000 HU do not count as such (the scanner clipped them as well).

PET is written in the unit of its source, which need not be SUV, with a slope of its own for each slice (encoding.py),
and keeps what its SUV depends on (kinds.py). Values below zero stay where any slice of the source has some.
"""

from __future__ import annotations

import copy
import io
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from medidiff import DISCLAIMER, __version__
from medidiff.errors import OutputError, UsageError
from medidiff.io.encoding import Encoding, of_header, of_range, set_rescale
from medidiff.io.files import whole_folder, write_whole
from medidiff.io.headers import number, quiet_parsing, read_header, text, texts
from medidiff.io.kinds import KINDS, STALE
from medidiff.volume import SliceSource

TRANSFER_SYNTAXES = {"explicit": ExplicitVRLittleEndian, "jpegls": JPEGLSLossless, "j2k": JPEG2000Lossless}
AIR_HU = -1000.0  # nothing in a patient attenuates less; what is below is noise

_NAMESPACE = uuid.UUID("6b2b1d6e-3c77-4d0b-9d3e-5f0f7c1e9a41")  # drawn once, for medidiff
_IMPLEMENTATION_UID = UID(f"2.25.{_NAMESPACE.int}")
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)

# Body parts of which there is one (PS3.16 Annex L): Laterality, type 2C, is not wanted for them.
_UNPAIRED = "HEAD SKULL BRAIN NECK CHEST ABDOMEN PELVIS CSPINE TSPINE LSPINE HEART LIVER PANCREAS WHOLEBODY".split()  # noqa: SIM905


@dataclass(frozen=True)
class Derivation:
    """What was done to a series, in the words that its header will carry.

    description                DerivationDescription: model and hash, mode, sampler, evaluations, seed ...
    series_description_suffix  appended to the source's SeriesDescription, e.g. "medidiff quantitative"
    code                       (value, scheme, meaning) of DerivationCodeSequence; CID 7203 has no denoising code
    comments                   first words of ImageComments
    is_noise_added             True for a simulated low dose: the series says so instead of "AI-processed"
    is_ai                      False for a conversion that changed no values
    classical                  name of the classical filter that was used instead of a network
    window                     (centre, width) that replaces the source's, e.g. for an uncertainty map
    """

    description: str
    series_description_suffix: str = "medidiff"
    code: tuple[str, str, str] = ("MDIFF-DENOISE", "99MEDIDIFF", "Diffusion model denoising")
    comments: str = ""
    is_noise_added: bool = False
    is_ai: bool = True
    window: tuple[float, float] | None = None
    classical: str = ""

    @property
    def nature(self) -> str:
        if self.is_noise_added:
            return "simulated low dose"
        if self.classical:
            return f"denoised by the classical method {self.classical}"
        return "AI-processed" if self.is_ai else "converted"


class HeaderSource(SliceSource, Protocol):
    """A slice source that knows the DICOM header and the stored numbers of each slice."""

    def header(self, index: int) -> Dataset:
        """Attributes of one slice as a classic CT image has them, without pixel data; `file_meta` attached."""

    def stored(self, index: int) -> NDArray[np.integer]:
        """(rows, columns) numbers as they are in the file, before rescale."""

    def source_reference(self, index: int) -> tuple[str, str, int | None] | None:
        """(SOPClassUID, SOPInstanceUID, frame number or None); None where there is no source instance."""


class PetSource(HeaderSource, Protocol):
    """A header source in SUV, whose files are in another unit."""

    def suv_factor(self, index: int) -> float:
        """SUV = factor * stored number * RescaleSlope, for slice `index`."""


class DerivedWriter:
    """Writes the slices of one derived series into a folder; `warnings` fills up on the way.

    source               headers, geometry and stored numbers of the series that was processed
    folder               made when the first slice is written; files are 0001.dcm ... in geometric order
    series_number_offset added to the source's SeriesNumber
    transfer_syntax      a key of TRANSFER_SYNTAXES
    deterministic_uids   a salt: the same salt, source and derivation give the same UIDs again
    series_uid           continues that series (an interrupted run); overrides `deterministic_uids`
    created              date and time of the series; by default that of a slice already there, else now
    rescale              (slope, intercept) in place of the source's, for maps of another range; padding is
                         then not restored, its tag is dropped (PET: that alone, its slopes follow the values)
    """

    def __init__(
        self,
        source: HeaderSource,
        folder: Path,
        derivation: Derivation,
        *,
        series_number_offset: int = 1000,
        transfer_syntax: str = "explicit",
        deterministic_uids: str | None = None,
        series_uid: str | None = None,
        created: datetime | None = None,
        rescale: tuple[float, float] | None = None,
    ) -> None:
        if transfer_syntax not in TRANSFER_SYNTAXES:
            known = ", ".join(TRANSFER_SYNTAXES)
            raise UsageError(f"transfer syntax '{transfer_syntax}' is not known: choose one of {known}")
        self.source, self.folder, self.derivation = source, Path(folder), derivation
        self.rescale, self.kind = rescale, KINDS[source.unit]
        self.transfer_syntax = TRANSFER_SYNTAXES[transfer_syntax]
        self.warnings: list[str] = []
        self._number_offset = series_number_offset
        first = source.header(0)
        self._source_series = text(first, "SeriesInstanceUID") or text(first, "StudyInstanceUID")
        self.series_uid = series_uid or self._new_series_uid(deterministic_uids)
        self.created = created or self._started_at() or datetime.now(UTC).astimezone()

    def write(self, index: int, values: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> Path:
        """Write slice `index` (rows, columns), in HU or SUV, and return its file; `mask` is True where the source's
        number is kept (its padding, unless given).

        Raises OutputError, leaving no partial file, when the file cannot be written.
        """
        target = self.folder / f"{index + 1:04d}.dcm"
        with quiet_parsing():  # odd values of the source are passed on as they are
            dataset = self._header(index)
            self._set_pixels(dataset, index, values, mask)
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
        write_whole(target, buffer.getbuffer())
        return target

    # -- identifiers -------------------------------------------------------------------------------------

    def _new_series_uid(self, salt: str | None) -> str:
        if salt is None:
            return f"2.25.{uuid.uuid4().int}"
        return _uid("series", salt, self._source_series, self.derivation.description, repr(self.rescale))

    def _started_at(self) -> datetime | None:
        """When an interrupted run of this very series began, read from a slice that it left."""
        for path in sorted(self.folder.glob("[0-9]*.dcm"))[:1]:
            left = read_header(path)
            if left is not None and text(left.dataset, "SeriesInstanceUID") == self.series_uid:
                started = text(left.dataset, "ContentDate") + text(left.dataset, "ContentTime")
                return datetime.strptime(started, "%Y%m%d%H%M%S").replace(tzinfo=_time_zone(left.dataset)).astimezone()
        return None

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    # -- the header --------------------------------------------------------------------------------------

    def _header(self, index: int) -> Dataset:
        source = self.source.header(index)
        dataset = copy.deepcopy(source)
        _drop_stale(dataset, self.kind.kept_private)
        self._identify(dataset, index)
        self._complete(dataset)
        self._keep_lossy_history(dataset, source)
        self._describe(dataset)
        self._reference(dataset, index)
        dataset.file_meta = self._file_meta(dataset)
        return dataset

    def _identify(self, dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID = self.kind.sop_class
        dataset.SOPInstanceUID = _uid("instance", self.series_uid, str(index))
        dataset.SeriesInstanceUID = self.series_uid
        series_number = int(number(dataset, "SeriesNumber") or 0) + self._number_offset
        dataset.SeriesNumber = series_number if abs(series_number) < 2**31 else self._number_offset
        dataset.InstanceNumber = index + 1
        created = self.created.astimezone(_time_zone(dataset))
        date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
        for prefix in self.kind.dated:
            setattr(dataset, f"{prefix}Date", date)
            setattr(dataset, f"{prefix}Time", time)

    def _complete(self, dataset: Dataset) -> None:
        missing = [keyword for keyword in self.kind.type_2 if keyword not in dataset]
        if text(dataset, "BodyPartExamined") not in _UNPAIRED and not {"Laterality", "ImageLaterality"} & set(
            dataset.dir()
        ):
            missing.append("Laterality")  # type 2C: the body part may be one of a pair
        for keyword in missing:
            setattr(dataset, keyword, Sequence() if dictionary_VR(keyword) == "SQ" else None)
        if missing:
            self._warn(f"the source lacks {', '.join(missing)}: written empty")
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            if not dataset.get(keyword):
                setattr(dataset, keyword, _uid(keyword, self._source_series))
                self._warn(f"the source lacks {keyword}: one was made from its SeriesInstanceUID")

    def _keep_lossy_history(self, dataset: Dataset, source: Dataset) -> None:
        meta = getattr(source, "file_meta", None)
        if meta is not None and meta.get("TransferSyntaxUID") in _LOSSY:
            dataset.LossyImageCompression = "01"  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)

    def _describe(self, dataset: Dataset) -> None:
        what = self.derivation
        kept = texts(dataset, "ImageType")[2:]
        if not kept or kept[0] == "VOLUME":  # enhanced CT's word, not allowed here
            kept = self.kind.image_type
        dataset.ImageType = ["DERIVED", "PRIMARY", *kept]
        label = " AI, research use only" if what.nature == "AI-processed" else " research use only"
        tail = (_ascii(what.series_description_suffix)[: 63 - len(label)] + label).replace("\\", "/")
        dataset.SeriesDescription = f"{str(dataset.get('SeriesDescription') or '')[: 63 - len(tail)]} {tail}".strip()
        before = str(dataset.get("DerivationDescription") or "")
        dataset.DerivationDescription = _joined(_ascii(what.description), before)[:1024]
        codes = [*(dataset.get("DerivationCodeSequence") or []), _code(*what.code)]
        dataset.DerivationCodeSequence = Sequence(codes)
        dataset.ImageComments = _joined(_ascii(what.comments), f"{what.nature} by medidiff {__version__}: {DISCLAIMER}")
        if dataset.get("BurnedInAnnotation") != "YES":
            dataset.BurnedInAnnotation = "NO"
        self._contribute(dataset)

    def _contribute(self, dataset: Dataset) -> None:
        """Name the scanner, once, and medidiff (PS3.3 C.7.5.2, CID 7005)."""
        items = list(dataset.get("ContributingEquipmentSequence") or [])
        if not any(_is_acquisition(item) for item in items) and dataset.get("Manufacturer"):
            items.append(_scanner(dataset))
        processor = Dataset()
        processor.PurposeOfReferenceCodeSequence = Sequence([_code("109102", "DCM", "Processing Equipment")])
        processor.Manufacturer = processor.ManufacturerModelName = "medidiff"
        processor.SoftwareVersions = __version__
        processor.ContributionDateTime = self.created.strftime("%Y%m%d%H%M%S%z")
        processor.ContributionDescription = f"{self.derivation.nature}: {DISCLAIMER}"
        dataset.ContributingEquipmentSequence = Sequence([*items, processor])

    def _reference(self, dataset: Dataset, index: int) -> None:
        reference = self.source.source_reference(index)
        if reference is None:
            return
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, frame = reference
        if frame is not None:
            item.ReferencedFrameNumber = frame
        item.SpatialLocationsPreserved = "YES"
        purpose = _code("121322", "DCM", "Source image for image processing operation")
        item.PurposeOfReferenceCodeSequence = Sequence([purpose])
        dataset.SourceImageSequence = Sequence([item])

    def _file_meta(self, dataset: Dataset) -> FileMetaDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = _IMPLEMENTATION_UID
        meta.ImplementationVersionName = f"MEDIDIFF {__version__}"[:16]
        return meta

    # -- the pixels --------------------------------------------------------------------------------------

    def _set_pixels(
        self, dataset: Dataset, index: int, values: NDArray[np.floating], mask: NDArray[np.bool_] | None
    ) -> None:
        mask = self.source.padding(index) if mask is None else mask
        keep = self._kept(index, mask)
        if self.source.unit == "SUV":
            encoding, numbers = self._activity(index, values, mask)
            set_rescale(dataset, encoding)
        else:
            encoding, numbers = self._hounsfield(dataset, values)
        if keep is not None:
            numbers[mask] = keep[mask]
        if self.source.unit == "HU":
            encoding = self._fitting(encoding, numbers, index)
        pixels = np.clip(numbers, *encoding.limits).astype(encoding.dtype)
        self._set_padding(dataset, encoding, pixels, mask)
        _set_format(dataset, encoding, pixels, self.kind.rescale_type)
        self._set_window(dataset)
        if self.transfer_syntax == ExplicitVRLittleEndian:
            dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
            dataset["PixelData"].VR = "OB" if encoding.bits <= 8 else "OW"
        else:
            self._compress(dataset, pixels)

    def _kept(self, index: int, mask: NDArray[np.bool_] | None) -> NDArray[np.integer] | None:
        """The source's numbers, where its padding is to stay; that of PET only as far as 16 signed bits hold it."""
        if self.rescale is not None or mask is None or not mask.any():
            return None
        stored = self.source.stored(index)
        limits = np.iinfo(np.int16)
        holds = limits.min <= stored[mask].min() and stored[mask].max() <= limits.max
        return stored if holds or self.source.unit == "HU" else None

    def _hounsfield(self, dataset: Dataset, values: NDArray[np.floating]) -> tuple[Encoding, NDArray[np.float64]]:
        encoding = of_header(dataset)
        if self.rescale is not None:
            encoding = Encoding(*self.rescale, 16, encoding.is_signed)
            set_rescale(dataset, encoding)
        return encoding, encoding.numbers(values)

    def _activity(
        self, index: int, values: NDArray[np.floating], mask: NDArray[np.bool_] | None
    ) -> tuple[Encoding, NDArray[np.float64]]:
        """SUV in the unit of the source, whose own factor is undone; padding does not widen the range."""
        activity = values.astype(np.float64) / cast("PetSource", self.source).suv_factor(index)
        if not self._has_negative:
            activity = np.maximum(activity, 0)
        if mask is not None:
            activity = np.where(mask, 0, activity)
        encoding = of_range(activity)
        return encoding, encoding.numbers(activity)

    @cached_property
    def _has_negative(self) -> bool:
        """True where any slice of the source has numbers below zero, as filtered back-projection leaves."""
        n = self.source.geometry.n_slices
        return any(_measured(self.source, k).min(initial=0) < 0 for k in range(n))

    def _compress(self, dataset: Dataset, pixels: NDArray[np.integer]) -> None:
        try:
            dataset.compress(self.transfer_syntax, pixels, generate_instance_uid=False)
        except RuntimeError:  # OpenJPEG refuses images below 32 pixels
            raise OutputError(
                f"{pixels.shape[1]} x {pixels.shape[0]} pixels cannot be written as {self.transfer_syntax.name}: "
                "use the transfer syntax explicit"
            ) from None

    def _fitting(self, source: Encoding, numbers: NDArray[np.float64], index: int) -> Encoding:
        """The source's encoding, or 16 bits where the numbers of this slice need them."""
        low, high = float(numbers.min()), float(numbers.max())
        if source.limits[0] * source.slope + source.intercept <= AIR_HU:
            low = max(low, source.limits[0])
        if source.fits(low, high):
            return source
        wide = Encoding(source.slope, source.intercept, 16, source.is_signed or low < 0)
        range_hu = [stored * source.slope + source.intercept for stored in (low, high)]
        clipped = "" if wide.fits(low, high) else ", and still clipped"
        self._warn(
            f"slice {index + 1}: values of {range_hu[0]:g} to {range_hu[1]:g} HU do not fit the source's "
            f"{source.bits} bits, widened to 16 bits{clipped}"
        )
        return wide

    def _set_padding(
        self, dataset: Dataset, encoding: Encoding, pixels: NDArray[np.integer], mask: NDArray[np.bool_] | None
    ) -> None:
        """Carry PixelPaddingValue over, and keep measured pixels off it."""
        if "PixelPaddingValue" not in dataset:
            return
        padding = dataset.PixelPaddingValue
        del dataset.PixelPaddingValue
        lowest, highest = encoding.limits
        if isinstance(padding, int) and encoding.is_signed and padding >= 0x8000:  # sent as unsigned
            padding -= 0x10000
        if self.rescale is not None or not isinstance(padding, int) or not lowest <= padding <= highest:
            return
        dataset.add_new("PixelPaddingValue", "SS" if encoding.is_signed else "US", padding)
        measured = pixels == padding if mask is None else (pixels == padding) & ~mask
        pixels[measured] = padding + 1 if padding < highest else padding - 1

    def _set_window(self, dataset: Dataset) -> None:
        if self.derivation.window is None:
            return
        for keyword in ("VOILUTSequence", "WindowCenterWidthExplanation"):
            dataset.pop(keyword, None)
        dataset.WindowCenter, dataset.WindowWidth = (f"{value:.6g}" for value in self.derivation.window)


@contextmanager
def replacing_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that takes its place when the block succeeds, and vanishes otherwise.

    Raises OutputError where `target` holds something and `overwrite` is False, or holds other things than
    slices as DerivedWriter names them: a folder of the user's is never emptied by mistake.
    """
    require_free(target, overwrite)
    with whole_folder(target) as temporary:
        yield temporary


def require_free(target: Path, overwrite: bool) -> None:
    """Raise OutputError unless `target` is absent, empty, or a derived series that may be overwritten."""
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: a folder is to be written here, but this is a file; choose another name")
    names = [path.name for path in target.iterdir()]
    if others := [name for name in names if not re.fullmatch(r"\d{4,}\.dcm|\.\d{4,}\.dcm\.tmp", name)]:
        raise OutputError(f"{target}: the folder holds other files ({others[0]} ...); choose a new folder")
    if names and not overwrite:
        raise OutputError(f"{target}: exists already with {len(names)} slices; add --overwrite to replace it")


def _uid(*parts: str) -> str:
    """A UID of the UUID kind (PS3.5 B.2) that is a function of `parts`."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def _time_zone(dataset: Dataset) -> tzinfo | None:
    """The zone of all dates and times of a file (PS3.3 C.12.1.1), which are the source's; None: this machine's."""
    offset = text(dataset, "TimezoneOffsetFromUTC")
    return datetime.strptime(offset, "%z").tzinfo if re.fullmatch(r"[+-]\d{4}", offset) else None


def _measured(source: HeaderSource, index: int) -> NDArray[np.integer]:
    """The stored numbers of a slice that are no padding."""
    stored, padding = source.stored(index), source.padding(index)
    return stored if padding is None else stored[~padding]


def _drop_stale(dataset: Dataset, kept_private: tuple[int, ...]) -> None:
    for keyword in STALE:
        dataset.pop(keyword, None)
    _drop_private(dataset, kept_private)
    for tag in list(dataset.keys()):
        if tag.element == 0 or 0x5000 <= tag.group <= 0x50FF or _is_embedded_overlay(dataset, tag.group):
            del dataset[tag]


def _drop_private(dataset: Dataset, kept: tuple[int, ...] = ()) -> None:
    """Remove private elements at every depth but for the groups `kept`, decoding sequences only: other values may be
    too odd to parse."""
    for tag in list(dataset.keys()):
        if tag.group in kept:
            continue
        if tag.is_private:
            del dataset[tag]
        elif dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ":
            for item in dataset[tag].value or []:
                _drop_private(item)


def _is_embedded_overlay(dataset: Dataset, group: int) -> bool:
    """True for an overlay that lived in unused bits of the old pixels (retired, PS3.3-2004)."""
    return 0x6000 <= group <= 0x60FF and (group, 0x3000) not in dataset


def _set_format(dataset: Dataset, encoding: Encoding, pixels: NDArray[np.integer], rescale_type: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = encoding.bits, encoding.bits - 1
    dataset.PixelRepresentation = int(encoding.is_signed)
    for keyword, value in (("RescaleSlope", encoding.slope), ("RescaleIntercept", encoding.intercept)):
        if not (sent := text(dataset, keyword)) or "," in sent:
            setattr(dataset, keyword, f"{value:g}")
    if rescale_type:
        dataset.RescaleType = rescale_type


def _is_acquisition(item: Dataset) -> bool:
    return any(code.get("CodeValue") == "109101" for code in item.get("PurposeOfReferenceCodeSequence") or [])


def _scanner(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([_code("109101", "DCM", "Acquisition Equipment")])
    for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName"):
        if dataset.get(keyword):
            setattr(item, keyword, dataset.get(keyword))
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _ascii(text: str) -> str:
    """Our own words in the one repertoire that every SpecificCharacterSet contains."""
    return text.encode("ascii", "replace").decode()


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
