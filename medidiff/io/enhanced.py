"""Enhanced multi-frame CT read as if each frame were a classic slice.

PS3.3 C.7.6.16: attributes live in the Shared and Per-frame Functional Groups. Each group is a sequence of one
item, whose attributes are lifted to the top level under their classic names (PS3.3 C.8.15.3), per-frame values
over shared ones. Legacy Converted Enhanced CT keeps the remaining classic attributes in the two "Unassigned"
groups (C.7.6.16.2.25.1), lifted likewise.
"""

from __future__ import annotations

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

CLASSIC_NAMES = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "ExposureInmAs": "Exposure",
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
}
ABOUT_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames")
ABOUT_OTHER_IMAGES = ("DerivationImageSequence", "ReferencedImageSequence", "ConversionSourceAttributesSequence")


def is_multi_frame(dataset: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" in dataset


def flatten(dataset: Dataset) -> list[Dataset]:
    """One classic header per frame; the header itself, alone, where there are no functional groups."""
    if not is_multi_frame(dataset):
        return [dataset]
    shared = copied(dataset)
    for keyword in ABOUT_FRAMES:
        shared.pop(keyword, None)
    for groups in dataset.get("SharedFunctionalGroupsSequence") or ():
        _lift(groups, shared)
    return [_frame(shared, groups) for groups in dataset.PerFrameFunctionalGroupsSequence]


def copied(dataset: Dataset) -> Dataset:
    """A header of its own with the same elements (`Dataset(dataset)` would share them)."""
    copy = Dataset({tag: dataset.get_item(tag) for tag in dataset.keys()})  # noqa: SIM118 - values() would parse all
    copy.file_meta = dataset.file_meta
    return copy


def _frame(shared: Dataset, groups: Dataset) -> Dataset:
    frame = copied(shared)
    _lift(groups, frame)
    return frame


def _lift(groups: Dataset, into: Dataset) -> None:
    for group in groups:
        if group.VR != "SQ" or group.keyword in ABOUT_OTHER_IMAGES or not group.value:
            continue
        item = group.value[0]
        for tag in list(item.keys()):
            into[tag] = item.get_item(tag)
        for modern, classic in CLASSIC_NAMES.items():
            if modern in item:
                into[classic] = _renamed(item[modern], classic)


def _renamed(element: DataElement, keyword: str) -> DataElement:
    vr = dictionary_VR(keyword)
    value = round(element.value) if vr == "IS" and element.value is not None else element.value
    tag = tag_for_keyword(keyword)
    assert tag is not None  # the names above are in the dictionary
    return DataElement(tag, vr, value)
