"""`medidiff suv`: how the uptake values of PET series follow from their headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import DicomError, InputError

if TYPE_CHECKING:
    from medidiff.io.dicom import Folder, Series
    from medidiff.io.suv import Suv


@dataclass(frozen=True)
class Answer:
    """What was found for one series, or one file of headers: its uptake values, or why there are none."""

    label: str
    slices: tuple[str | None, ...]
    suv: Suv | None
    error: str = ""
    warnings: tuple[str, ...] = ()

    def as_json(self) -> list[dict[str, Any]]:
        """An entry per slice, or one that says why there are none."""
        if self.suv is None:
            return [{"series": self.label, "sop_instance_uid": None, "error": self.error}]
        found = {"rule": self.suv.rule, "warnings": list(self.warnings)}
        return [
            {"series": self.label, "sop_instance_uid": uid, "factor": factor, **found}
            for uid, factor in zip(self.slices, self.suv.factors, strict=True)
        ]

    def as_text(self) -> str:
        if self.suv is None:
            return f"{self.label}: no SUV: {self.error}"
        low, high = min(self.suv.factors), max(self.suv.factors)
        factor = f"{low:.7g}" if high - low <= 1e-9 * high else f"{low:.7g} to {high:.7g}, by slice"
        told = [f"{self.label}: SUVbw = {factor} x stored value x RescaleSlope", f"  rule: {self.suv.rule}"]
        return "\n".join([*told, *(f"  warning: {warning}" for warning in self.warnings)])


def suv(
    path: Annotated[
        Path, typer.Argument(help="A folder of scans, one DICOM file, or JSON files of headers (lists of keywords).")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for scripts: an entry per slice, or why a series has no SUV.")
    ] = False,
) -> None:
    """Tell how SUV by body weight follows from the headers of PET series: factor, rule, and what is doubtful.

    Times, injected activity, weight and units are read as docs/suv.md says. No pixel is read and nothing is changed.
    """
    files = _header_files(path)
    answers = [_of_headers(file) for file in files] or list(_of_folder(path))
    if as_json:
        typer.echo(json.dumps([entry for answer in answers for entry in answer.as_json()], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True, markup=False)
        for answer in answers:
            console.print(answer.as_text())
        console.print(f"({DISCLAIMER})")
    if all(answer.suv is None for answer in answers):
        raise InputError(f"{path}: no SUV of {len(answers)} PET series: {answers[0].error}")


def register(app: typer.Typer) -> None:
    app.command()(suv)


def _header_files(path: Path) -> list[Path]:
    """The path itself, or the files NAME-instances.json of a folder that holds such files."""
    if path.is_file() and path.suffix.lower() == ".json":
        return [path]
    return sorted(path.glob("*-instances.json")) if path.is_dir() else []


def _of_headers(path: Path) -> Answer:
    """One series, given as a list of dictionaries of DICOM keywords, one per slice."""
    from medidiff.io.petheader import from_keywords
    from medidiff.io.suv import suv as suv_of_series

    try:
        slices = json.loads(path.read_bytes())
    except ValueError:
        raise InputError(f"{path}: not readable as JSON; give a list of headers, or a DICOM folder") from None
    slices = [slices] if isinstance(slices, dict) else slices
    if not isinstance(slices, list) or not slices or not all(isinstance(one, dict) for one in slices):
        raise InputError(f"{path}: expected a list of headers, each a dictionary of DICOM keywords")
    try:
        found = suv_of_series([from_keywords(one) for one in slices])
    except DicomError as error:
        return Answer(path.name, (None,), None, str(error))
    return Answer(path.name, (None,) * len(slices), found, warnings=found.warnings)


def _of_folder(path: Path) -> Iterator[Answer]:
    from medidiff.io.dicom import scan

    with Bar("reading headers") as bar:
        folder = scan(path, progress=bar)
    listed = [(k, s) for k, s in enumerate(folder.series, start=1) if s.unit == "SUV" or s.modality == "PT"]
    if not listed:
        raise InputError(_nothing(path, folder))
    for index, series in listed:
        yield _answer(index, series)


def _answer(index: int, series: Series) -> Answer:
    """Pixels or places that cannot be used are no reason against a factor."""
    label = f"series {index}, {series.n_slices} slices"
    is_known = series.suv is not None and (series.reason == series.gaps or series.is_broken)
    if not is_known:
        return Answer(label, (None,), None, series.reason)
    uids = tuple(i.sop_instance_uid for i in series.instances)
    assert series.suv is not None
    doubts = (f"the series is not usable: {series.reason}",) if series.reason else ()
    return Answer(label, uids, series.suv, warnings=(*series.suv.warnings, *doubts))


def _nothing(path: Path, folder: Folder) -> str:
    fault = f" ({folder.damaged[0][1]})" if folder.damaged else ""
    return f"{path}: no PET among {len(folder.series)} series{fault}; give a folder that holds a PET scan"
