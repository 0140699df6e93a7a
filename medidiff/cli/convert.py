"""`medidiff convert`: DICOM series to NIfTI and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from medidiff import DISCLAIMER
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.progress import Progress

if TYPE_CHECKING:
    from medidiff.io.derived import HeaderSource
    from medidiff.io.dicom import DicomSource
    from medidiff.io.nifti import NiftiSource
    from medidiff.volume import SliceSource

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def convert(
    source: Annotated[
        Path, typer.Argument(help="A DICOM folder, or a NIfTI file (.nii, .nii.gz) in HU, or in SUV with a PET --like.")
    ],
    target: Annotated[Path, typer.Argument(help="The NIfTI file to write, or the folder for the DICOM series.")],
    series: Annotated[
        str | None, typer.Option(help="SeriesInstanceUID of the series to take, where the folder holds several.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="DICOM folder whose patient, study and position the new series gets (NIfTI to DICOM)."),
    ] = None,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Accept missing or uneven slices; NIfTI then misplaces some of them.")
    ] = False,
    transfer_syntax: Annotated[
        str | None, typer.Option(help="How DICOM pixels are packed, without loss: explicit, jpegls or j2k.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
) -> None:
    """Convert CT (HU) or PET (SUV) from DICOM to NIfTI, or from NIfTI to DICOM (research use only, not for diagnosis).

    medidiff convert FOLDER scan.nii.gz
    medidiff convert scan.nii.gz NEW_FOLDER --like FOLDER
    """
    from medidiff.io.nifti import is_nifti_name

    if is_nifti_name(source):
        if is_nifti_name(target):
            raise UsageError(f"{target}: both names are NIfTI; give a folder for the DICOM series")
        n_slices = _to_dicom(source, target, like, series, allow_gaps, transfer_syntax or "explicit", overwrite)
    elif like is not None or transfer_syntax is not None:
        raise UsageError("--like and --transfer-syntax are for NIfTI to DICOM; this is DICOM to NIfTI")
    else:
        n_slices = _to_nifti(source, target, series, allow_gaps, overwrite)
    typer.echo(f"{target}: {n_slices} slices written ({DISCLAIMER})")


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(convert)


def _to_nifti(source: Path, target: Path, series: str | None, allow_gaps: bool, overwrite: bool) -> int:
    from medidiff.io.nifti import is_nifti_name, write_nifti

    if not is_nifti_name(target):
        raise UsageError(f"{target}: expected a NIfTI file name that ends in .nii or .nii.gz")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; add --overwrite to replace it")
    scan_ = _open_one(source, series, allow_gaps)
    with _bar("Writing NIfTI") as progress:
        _warn(write_nifti(target, scan_, allow_uneven=allow_gaps, progress=progress))
    return scan_.geometry.n_slices


def _to_dicom(
    source: Path, target: Path, like: Path | None, series: str | None, allow_gaps: bool, syntax: str, overwrite: bool
) -> int:
    from medidiff.io.derived import Derivation, DerivedWriter, replacing_folder
    from medidiff.io.nifti import open_nifti

    if like is None and (series is not None or allow_gaps):
        raise UsageError("--series and --allow-gaps choose from the folder given with --like, which is missing")
    if like is not None and _is_inside(like, target):
        raise UsageError(f"{target}: this folder holds the series given with --like; choose another")
    model = None if like is None else _open_one(like, series, allow_gaps)
    nifti = open_nifti(source, "HU" if model is None else model.unit)
    headers, values = _blank(nifti) if model is None else _like(nifti, model)
    derivation = Derivation(
        description="Converted from NIfTI, rounded to the stored numbers",
        series_description_suffix="medidiff from NIfTI",
        code=("MDIFF-CONVERT", "99MEDIDIFF", "Conversion from NIfTI"),
        is_ai=False,
    )
    with replacing_folder(target, overwrite) as folder, _bar("Writing DICOM") as progress:
        writer = DerivedWriter(headers, folder, derivation, transfer_syntax=syntax)
        for index in range(values.geometry.n_slices):
            writer.write(index, values.read(index))
            progress(index + 1, values.geometry.n_slices)
    _warn(writer.warnings)
    return values.geometry.n_slices


def _blank(nifti: NiftiSource) -> tuple[HeaderSource, SliceSource]:
    """Headers of nobody, slices ordered along their normal as DICOM readers expect."""
    from medidiff.io.blank import BlankSource
    from medidiff.io.nifti import Flipped

    if not nifti.is_oriented:
        raise InputError(
            f"{nifti.path}: sform_code and qform_code are both 0, so left and right are unknown; give --like"
        )
    backwards = nifti.geometry.n_slices > 1 and nifti.geometry.steps_mm[0] < 0
    values = Flipped(nifti, (bool(backwards), False, False))
    return BlankSource(values), values


def _like(nifti: NiftiSource, scan_: DicomSource) -> tuple[HeaderSource, SliceSource]:
    from medidiff.io.nifti import match_grid

    return scan_, match_grid(nifti, scan_.geometry)


def _open_one(path: Path, uid: str | None, allow_gaps: bool) -> DicomSource:
    """The one usable series of a folder, or the one that is named; never a guess."""
    from medidiff.io.dicom import open_series, scan

    folder = scan(path)
    found = [one for one in folder.series if uid in (None, one.uid)]
    ready = [one for one in found if one.usable or (allow_gaps and one.reason == one.gaps)]
    if len(ready) > 1:
        raise UsageError(f"{path}: holds {len(ready)} series; choose one with --series UID (see `medidiff inspect`)")
    if len(ready) == 1 or len(found) == 1:
        return open_series((ready or found)[0], allow_gaps=allow_gaps)
    what = "no series with the UID given" if uid else "no usable CT or PET series"
    reasons = [reason for _, reason in folder.damaged] + [one.reason for one in found]
    first = f", the first fault: {reasons[0]}" if reasons else f" among {folder.ignored} files"
    raise InputError(f"{path}: {what}{first} (`medidiff inspect` lists what it holds)")


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _warn(warnings: list[str]) -> None:
    for text in warnings:
        errors.print(f"warning: {text}", markup=False)


@contextmanager
def _bar(text: str) -> Iterator[Progress]:
    with Bar(console=errors, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
