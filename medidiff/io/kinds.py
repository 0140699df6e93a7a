"""What a derived series of CT or of PET keeps of its source, must have, and must not have.

PS3.3 A.3.3 (CT Image IOD) and A.21.3 (PET Image IOD). A PET series keeps what uptake values depend on: SeriesDate and
SeriesTime, which decay was corrected to, and the private blocks that hold scan times and scale factors.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID, CTImageStorage, PositronEmissionTomographyImageStorage

from medidiff.units import Unit

# Type 2 of the modules that CT and PET share: must be there, may be empty.
_SHARED_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "PatientPosition", "PositionReferenceIndicator", "Manufacturer", "SliceThickness"),
)

# What describes other pixels, other files or other signatures than those written here.
STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "PixelPaddingRangeLimit",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelDataProviderURL",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "DataSetTrailingPadding",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "SOPInstanceUIDOfConcatenationSource",
    "ConversionSourceAttributesSequence",
)


@dataclass(frozen=True)
class Kind:
    """One kind of derived image.

    dated            prefixes of the dates and times that are those of the writing
    type_2           attributes that must be there and may be empty
    kept_private     groups of private elements that stay
    image_type       values after DERIVED\\PRIMARY where the source has none
    rescale_type     RescaleType, "" where the kind has none
    """

    sop_class: UID
    dated: tuple[str, ...]
    type_2: tuple[str, ...]
    kept_private: tuple[int, ...] = ()
    image_type: tuple[str, ...] = ()
    rescale_type: str = ""


KINDS: dict[Unit, Kind] = {
    "HU": Kind(
        sop_class=CTImageStorage,
        dated=("Series", "Content", "InstanceCreation"),
        type_2=(*_SHARED_TYPE_2, "KVP", "AcquisitionNumber"),
        image_type=("AXIAL",),
        rescale_type="HU",
    ),
    "SUV": Kind(
        sop_class=PositronEmissionTomographyImageStorage,
        dated=("Content", "InstanceCreation"),
        type_2=(
            *(*_SHARED_TYPE_2, "CorrectedImage", "CollimatorType", "RadiopharmaceuticalInformationSequence"),
            *("PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence", "AcquisitionDate"),
            *("AcquisitionTime", "ActualFrameDuration"),
        ),
        kept_private=(0x0009, 0x0071, 0x7053),
    ),
}
