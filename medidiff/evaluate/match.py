"""Which volume of one path belongs to which volume of another.

A path is a DICOM folder of one or more series, a folder of studies, a result of `medidiff reconstruct`, a NIfTI file
or a folder of these. Its volumes are matched to those of the reference

    by name       where both paths hold the same set: folders relative to the path, file names without .nii(.gz)
    by position   else: the same grid voxel on voxel (axes may be flipped in NIfTI), and the same
                  FrameOfReferenceUID where both have one (PS3.3 C.7.4.1)

and every volume must have exactly one partner; a doubt is never settled by a guess. Volumes are listed from headers
and opened one at a time, so that the memory of a comparison is that of one case.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medidiff.errors import InputError, UnitError
from medidiff.evaluate.images import digest
from medidiff.io.dicom import DicomSource, Folder, Series, open_series, scan
from medidiff.io.files import file_hash
from medidiff.io.nifti import grid_difference, is_nifti_name, on_grid, open_labels, open_nifti
from medidiff.io.series import SAME_PLACE_MM, folder_name, geometry
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource

RUN_RECORD = "run.json"
SHOWN = 12  # cases that an error names before it only counts


@dataclass(frozen=True, eq=False)
class Item:
    """One volume of a path.

    name         relative folder or file without ending; only ever shown to who gave the path, as it may hold a name
    case         what the volume is called in results: no identifier of a patient
    opens        opens the slices
    patient      tells patients apart; never written
    fingerprint  changes when the content does
    digest       by which whoever has the volume finds it (evaluate.images)
    fault        why the volume cannot be read, "" where it can
    lacks        what is missing of a volume that can be read
    deviation    the map of standard deviations that came with it
    """

    name: str
    case: str
    opens: Callable[[], SliceSource]
    place: Geometry | None
    is_nifti: bool
    fingerprint: str
    patient: str = field(repr=False)
    kernel: str = ""
    modality: str = "CT"
    unit: Unit = "HU"
    frame_of_reference: str | None = None
    fault: str = ""
    lacks: str = ""
    deviation: Item | None = None
    digest: str = ""

    @property
    def label(self) -> str:
        return self.case if self.name == "." else self.name

    def open(self, wanted: Item | None = None) -> SliceSource:
        """The slices, in the order of the axes of `wanted`; raises InputError for a volume that cannot be used."""
        if self.fault:
            raise InputError(self.fault)
        if wanted is None or wanted.place is None:
            return self.opens()
        if lacks := _part_of(self, wanted) or _part_of(wanted, self):
            raise InputError(lacks)
        return on_grid(self.opens(), wanted.place, even=self.is_nifti or wanted.is_nifti)


def find(path: Path, unit: Unit = "HU") -> list[Item]:
    """The volumes of a path in a unit, in order of their names: of DICOM, CT for HU and PET for SUV.

    Raises InputError where there is none, and UnitError where there are some in another unit.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    maps = _uncertainty_maps(path)
    items, others, deviations = list[Item](), list[Item](), dict[str, Item]()
    for item in (*_dicom_items(path), *_nifti_items(path, unit, maps)):
        folder = item.name.rpartition("/")[0] if item.is_nifti else item.name
        if folder in maps:
            deviations[maps[folder]] = item
        else:
            (items if item.is_nifti or item.unit == unit else others).append(item)
    if not items and others:
        found = "CT in DICOM, which is in HU" if unit == "SUV" else "PET in DICOM, which is in SUV"
        hint = "leave --unit out" if unit == "SUV" else "add --unit SUV"
        raise UnitError(f"{path}: holds {found} and not in {unit}; {hint}")
    if not items:
        kind = "CT" if unit == "HU" else "PET"
        raise InputError(
            f"{path}: holds no {kind} series and no NIfTI file that could be compared (see medidiff inspect)"
        )
    return [_numbered(item, k, deviations) for k, item in enumerate(items, start=1)]


def match(references: Sequence[Item], candidates: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """The partner of every reference, in their order, or what does not match, in sentences.

    A pair of which one volume is damaged is a pair: whoever opens it will be told.
    """
    by_name = _by_name(references, candidates)
    if by_name is not None:
        faults = [_difference(r, c) for r, c in zip(references, by_name, strict=True)]
        if not any(faults):
            return by_name, []
    by_place, unmatched = _by_place(references, candidates)
    if by_place:
        return by_place, []
    if by_name is not None:
        pairs = zip(references, faults, strict=True)
        return [], [f"{r.label}: {fault}" for r, fault in pairs if fault]
    names = [{item.name for item in items} for items in (references, candidates)]
    if names[0] & names[1] and _unique(references) and _unique(candidates):
        return [], _missing(names[0] - names[1], names[1] - names[0])
    return [], unmatched


def run_parameters(path: Path) -> dict[str, object]:
    """How `medidiff reconstruct` made a result, by its record; {} for anything else."""
    found = _record(path / RUN_RECORD)
    parameters = found.get("parameters", {}) if str(found.get("format", "")).startswith("medidiff-run") else {}
    return {k: v for k, v in parameters.items() if k != "series"} if isinstance(parameters, dict) else {}


def listed(texts: Sequence[str]) -> str:
    """Some of the texts, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


# --- what a path holds


def _uncertainty_maps(path: Path) -> dict[str, str]:
    """Folder of a map -> folder of its image, relative, from the records of `medidiff reconstruct`."""
    maps: dict[str, str] = {}
    for record in sorted(path.rglob(RUN_RECORD)) if path.is_dir() else ():
        parent = record.parent.relative_to(path)
        for series in _series_of(record):
            image, deviation = series.get("folder"), series.get("uncertainty_folder")
            if isinstance(image, str) and isinstance(deviation, str):
                maps[(parent / deviation).as_posix()] = (parent / image).as_posix()
    return maps


def _series_of(record: Path) -> list[dict[str, object]]:
    series = _record(record).get("series")
    return [one for one in series if isinstance(one, dict)] if isinstance(series, list) else []


def _record(path: Path) -> dict[str, object]:
    """A record of some run; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbered(item: Item, index: int, deviations: Mapping[str, Item]) -> Item:
    folder = item.name.rpartition("/")[0] if item.is_nifti else item.name
    case = item.case if item.is_nifti else folder_name(index, item.modality, item.kernel)
    return replace(item, case=case, deviation=deviations.get(folder))


def _nifti_items(path: Path, unit: Unit, maps: Mapping[str, str]) -> Iterator[Item]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.nii*") if not _is_hidden(p.relative_to(path)))
    files = [file for file in files if file.is_file() and is_nifti_name(file)]
    stems = Counter(_stem(file.name) for file in files)
    for file in files:
        name = _stem(file.name if file == path else file.relative_to(path).as_posix())
        stem = _stem(file.name)
        case = stem if stems[stem] == 1 else name.replace("/", "_")
        is_map = name.rpartition("/")[0] in maps
        yield _nifti_item(file, name, case, (lambda f: open_labels(f)) if is_map else (lambda f: open_nifti(f, unit)))


def _nifti_item(file: Path, name: str, case: str, opened: Callable[[Path], SliceSource]) -> Item:
    """Opened once, to see that it can be, and let go."""
    place, fault = None, ""
    try:
        place = opened(file).geometry
    except UnitError:  # a mistake that all files share, and not one damaged file
        raise
    except InputError as error:
        fault = str(error)
    content, patient = file_hash(file), f"file {name}"
    return Item(name, case, lambda: opened(file), place, True, content, patient, fault=fault, digest=digest(content))


def _stem(name: str) -> str:
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else name[: -len(".nii")]


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _dicom_items(path: Path) -> Iterator[Item]:
    """CT and PET series, with those that cannot be read; localizers and other modalities are none of them."""
    if path.is_file() and is_nifti_name(path):
        return
    found: Folder = scan(path)
    for series in found.series:
        if series.usable or series.reason == series.gaps or series.is_broken:
            yield _dicom_item(path, series)


def _dicom_item(path: Path, series: Series) -> Item:
    readable = series.usable or series.reason == series.gaps
    parents = {str(i.path.parent) for i in series.instances}
    return Item(
        Path(os.path.relpath(os.path.commonpath(parents), path if path.is_dir() else path.parent)).as_posix(),
        "",
        lambda: open_series(series, allow_gaps=True),
        geometry(series.instances) if readable else None,
        False,
        _fingerprint(series),
        _patient(series) if readable else series.uid,
        series.kernel,
        series.modality,
        series.unit,
        series.frame_of_reference,
        fault="" if readable else _without_hint(series.reason),
        lacks=_without_hint(series.gaps),
        digest=digest(series.uid),
    )


def _without_hint(reason: str) -> str:
    """What is wrong with a series, without the option of another command."""
    return re.sub(r" \(--allow-gaps[^)]*\)", "", reason)


def _fingerprint(series: Series) -> str:
    """Of identifiers, sizes and times of the files: reading them all would take as long as comparing."""
    facts = [(i.sop_instance_uid, i.frame, i.path.stat().st_size, i.path.stat().st_mtime_ns) for i in series.instances]
    return hashlib.sha256(repr((series.uid, facts)).encode()).hexdigest()


def _patient(series: Series) -> str:
    """Whose series it is: PatientID, or the study where it is empty."""
    header = DicomSource(series).header(0)
    return str(header.get("PatientID") or header.get("StudyInstanceUID") or series.uid)


# --- who belongs to whom


def _unique(items: Sequence[Item]) -> bool:
    return len({item.name for item in items}) == len(items)


def _by_name(references: Sequence[Item], candidates: Sequence[Item]) -> list[Item] | None:
    """Partners by name, where both sides hold the same set; a single volume needs no name."""
    if len(references) == len(candidates) == 1:
        return list(candidates)
    named = {item.name: item for item in candidates}
    if not _unique(references) or not _unique(candidates) or named.keys() != {item.name for item in references}:
        return None
    return [named[item.name] for item in references]


def _difference(reference: Item, candidate: Item) -> str:
    """What sets two grids apart; "" for the same, and for a volume that cannot be opened anyway."""
    if reference.place is None or candidate.place is None:
        return ""
    if _part_of(candidate, reference) or _part_of(reference, candidate):
        return ""
    even = reference.is_nifti or candidate.is_nifti
    return grid_difference(candidate.place, reference.place, even=even) or ""


def _by_place(references: Sequence[Item], candidates: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """Partners where every volume has exactly one, or none at all and what is wrong in sentences.

    Where series of several kernels lie at one place, the kernel decides.
    """
    fitting = [
        (r, c)
        for r, reference in enumerate(references)
        for c, candidate in enumerate(candidates)
        if _at_one_place(reference, candidate)
    ]
    same_kernel = [(r, c) for r, c in fitting if references[r].kernel == candidates[c].kernel]
    for pairs in (fitting, same_kernel):
        if len(pairs) == len(references) == len(candidates) == len({r for r, _ in pairs}) == len({c for _, c in pairs}):
            return [candidates[c] for _, c in sorted(pairs)], []
    faults = [*_lonely(references, candidates, fitting, "in the reference")]
    return [], [*faults, *_lonely(candidates, references, [(c, r) for r, c in fitting], "in the candidate")]


def _lonely(
    items: Sequence[Item], others: Sequence[Item], pairs: Sequence[tuple[int, int]], side: str
) -> Iterator[str]:
    for k, item in enumerate(items):
        partners = [others[other].label for one, other in pairs if one == k]
        if not partners:
            yield f"{item.label} {side} has no partner{f' ({item.fault})' if item.fault else ''}"
        elif len(partners) > 1:
            yield f"{item.label} {side} lies where {', '.join(partners[:3])} all lie"


def _missing(only_reference: set[str], only_candidate: set[str]) -> list[str]:
    return [
        *(f"{name} is only in the reference" for name in sorted(only_reference)),
        *(f"{name} is only in the candidate" for name in sorted(only_candidate)),
    ]


def _at_one_place(reference: Item, candidate: Item) -> bool:
    frames = {reference.frame_of_reference, candidate.frame_of_reference} - {None}
    known = reference.place is not None and candidate.place is not None
    return known and len(frames) < 2 and not _difference(reference, candidate)


def _part_of(candidate: Item, reference: Item) -> str:
    """What is missing of a series that has only some slices of the other, as files of it are lost; else ""."""
    some, whole = candidate.place, reference.place
    if some is None or whole is None or not candidate.lacks or some.n_slices >= whole.n_slices:
        return ""
    distances = np.linalg.norm(some.origins_mm[:, None] - whole.origins_mm[None], axis=-1)
    there = whole.select(0, 1)
    same_plane = replace(some.select(0, 1), origins_mm=there.origins_mm).difference(there) is None
    return candidate.lacks if same_plane and bool(np.all(distances.min(axis=1) < SAME_PLACE_MM)) else ""
