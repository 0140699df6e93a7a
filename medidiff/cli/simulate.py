"""`medidiff simulate`: a full-dose scan in, the same scan with the noise of a lower dose out."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER, __version__
from medidiff.cli.bar import Bar
from medidiff.errors import MedidiffError, OutputError, PartialFailure

if TYPE_CHECKING:
    from medidiff.inference.cases import Case
    from medidiff.simulate import LowDoseSource

RECORD = "run.json"
SERIES_NUMBER_OFFSET = 3000
plain = Console(highlight=False, soft_wrap=True)


def simulate(
    path: Annotated[Path, typer.Argument(help="A DICOM folder with full-dose CT, or a NIfTI file in HU.")],
    dose: Annotated[float, typer.Option(help="Fraction of the dose, e.g. 0.25 for a quarter.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; it must not exist yet.")],
    seed: Annotated[int, typer.Option(help="Another seed gives other noise of the same kind.")] = 0,
    series: Annotated[str | None, typer.Option(help="Only the series with this SeriesInstanceUID.")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Noise texture: ram-lak, shepp-logan, cosine, hamming or hann (sharp to smooth). "
            "Without it the texture is measured in the scan."
        ),
    ] = None,
    i0: Annotated[
        float | None, typer.Option(help="Photons a ray at full dose. Without it, measured in the scan.")
    ] = None,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Process a series that lacks slices.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
) -> None:
    """Simulate a low-dose CT scan from a full-dose one (research use only, not for diagnosis).

    Every usable series is written to its own folder in OUT; OUT/run.json holds every parameter.
    """
    from medidiff.inference.cases import find_cases
    from medidiff.io.files import whole_folder

    found = find_cases(path, series=series, allow_gaps=allow_gaps)
    records: list[dict[str, Any]] = []
    failures: list[MedidiffError] = []
    _require_free(out, overwrite)
    with whole_folder(out) as folder:
        for case in found.cases:
            try:
                records.append(_one(case, folder, dose, seed, kernel, i0))
            except OutputError:
                raise
            except MedidiffError as error:
                shutil.rmtree(folder / case.folder, ignore_errors=True)
                failures.append(error)
        if not records:
            raise failures[0]
        _record(folder, records, found.set_aside)
    _summarise(out, records, found.set_aside)
    if failures:
        what = "; ".join(str(error) for error in failures)
        raise PartialFailure(f"{len(failures)} of {len(found.cases)} series failed: {what}")


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(simulate)


def _one(case: Case, folder: Path, dose: float, seed: int, kernel: str | None, i0: float | None) -> dict[str, Any]:
    """Simulate one series into `folder` and return its record."""
    from medidiff.inference.cases import DicomCase
    from medidiff.simulate import Acquisition, LowDoseSource, low_dose

    started = time.perf_counter()
    source = case.open()
    acquisition = Acquisition.of(case.series) if isinstance(case, DicomCase) else Acquisition(case.identity)
    scan = low_dose(source, acquisition, dose, seed=seed, kernel=kernel, i0=i0)
    calibrated = time.perf_counter()
    with Bar(f"Simulating series {case.index}") as bar:
        output_uid, warnings = _write(LowDoseSource(source, acquisition, scan), case, folder / case.folder, bar)
    seconds = {"calibrate": calibrated - started, "simulate and write": time.perf_counter() - calibrated}
    return {
        "input_series_uid": case.series_uid,
        "output_series_uid": output_uid,
        "folder": case.folder,
        "n_slices": case.n_slices,
        "seed": seed,
        "parameters": scan.parameters(),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "warnings": [*case.warnings, *warnings],
    }


def _write(source: LowDoseSource, case: Case, folder: Path, bar: Bar) -> tuple[str | None, list[str]]:
    """Write all slices; the new SeriesInstanceUID (None for NIfTI) and warnings."""
    from medidiff.io.derived import Derivation, DerivedWriter
    from medidiff.io.dicom import DicomSource
    from medidiff.io.nifti import NiftiSource, write_nifti

    if isinstance(source.source, NiftiSource):
        name = source.source.path.name
        return None, write_nifti(folder / name, source, source.source, allow_uneven=True)
    assert isinstance(source.source, DicomSource)
    derivation = Derivation(
        description=source.scan.description,
        series_description_suffix=f"simulated {100 * source.scan.dose_fraction:g} % dose",
        code=("MDIFF-LOWDOSE", "99MEDIDIFF", "Low dose simulation"),
        is_noise_added=True,
        is_ai=False,
    )
    writer = DerivedWriter(source.source, folder, derivation, series_number_offset=SERIES_NUMBER_OFFSET)
    for index, hu in source.slices():
        writer.write(index, hu)
        bar(index + 1, case.n_slices)
    return writer.series_uid, writer.warnings


def _require_free(out: Path, overwrite: bool) -> None:
    """Raise OutputError unless `out` is absent or empty, or a simulation that may be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not _is_simulation(out):
        raise OutputError(f"{out}: already holds something that medidiff simulate did not write; name a new folder")
    if not overwrite:
        raise OutputError(f"{out}: holds an earlier simulation; name a new folder, or replace it with --overwrite")


def _is_simulation(out: Path) -> bool:
    """True when run.json is a simulation's and names everything else that `out` holds."""
    try:
        record = json.loads((out / RECORD).read_bytes())
        folders = {series["folder"] for series in record["series"]} if record["command"] == "simulate" else set()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return {path.name for path in out.iterdir()} <= {RECORD, *folders}


def _record(folder: Path, records: list[dict[str, Any]], set_aside: tuple[str, ...]) -> None:
    whole = {
        "command": "simulate",
        "medidiff": __version__,
        "note": DISCLAIMER,
        "series": records,
        "set_aside": list(set_aside),
    }
    (folder / RECORD).write_text(json.dumps(whole, indent=2))


def _summarise(out: Path, records: list[dict[str, Any]], set_aside: tuple[str, ...]) -> None:
    for record in records:
        found = record["parameters"]["calibration"]
        line = f"{out / record['folder']}: {record['n_slices']} slices, I0 {found['i0']:.3g}"
        if found["level_hu"]:
            line += ", full-dose noise measured {:.1f} HU, simulated {:.1f} HU".format(*found["level_hu"])
        plain.print(line, markup=False)
        for warning in record["warnings"]:
            plain.print(f"  warning: {warning}", markup=False)
    for reason in set_aside:
        plain.print(f"set aside: {reason}", markup=False)
    plain.print(f"{out / RECORD}: every parameter ({DISCLAIMER})", markup=False)
