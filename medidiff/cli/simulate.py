"""`medidiff simulate`: a full-dose CT or PET scan in, the same scan with the noise of a lower dose out."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER, __version__
from medidiff.cli.bar import Bar
from medidiff.errors import InputError, MedidiffError, OutputError, PartialFailure, UnitError, UsageError

if TYPE_CHECKING:
    from medidiff.inference.cases import Case, Found
    from medidiff.io.derived import Derivation
    from medidiff.simulate import LowDoseSource
    from medidiff.simulate_pet import LowCount
    from medidiff.volume import SliceSource, Volume

RECORD = "run.json"
SERIES_NUMBER_OFFSET = 3000
LEAST_SUV, LEAST_MAXIMUM_SUV = -50.0, 1.0  # beyond these a file holds something else
plain = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Options:
    """What was asked for; None where it was not."""

    dose: float | None
    drf: float | None
    seed: int
    kernel: str | None = None
    i0: float | None = None
    counts: float | None = None
    reduction: str | None = None
    resolution: float | None = None
    ct: Path | None = None

    def of_ct(self) -> list[str]:
        """The options given that only CT has."""
        return [name for name, value in (("--kernel", self.kernel), ("--i0", self.i0)) if value is not None]

    def of_pet(self) -> list[str]:
        """The options given that only PET has."""
        named: dict[str, object] = {"--drf": self.drf, "--counts": self.counts, "--reduction": self.reduction}
        named |= {"--resolution": self.resolution, "--ct": self.ct}
        return [name for name, value in named.items() if value is not None]

    def check(self) -> None:
        """Raise UsageError unless they make one request, for CT or for PET."""
        if (self.dose is None) == (self.drf is None):
            raise UsageError("give either --dose, a fraction such as 0.25, or for PET --drf, a reduction such as 20")
        if self.of_ct() and self.of_pet():
            raise UsageError(f"{self.of_ct()[0]} is for CT and {self.of_pet()[0]} is for PET: give one of the two")

    @property
    def low_count(self) -> LowCount:
        """The PET acquisition asked for; raises UsageError."""
        from medidiff.simulate_pet import TRUES_PER_SLICE, LowCount

        if self.dose is not None and not 0 < self.dose < 1:
            raise UsageError(f"the dose must be a fraction between 0 and 1, e.g. 0.05, found {self.dose:g}")
        return LowCount(
            drf=self.drf if self.drf is not None else 1 / (self.dose or 1),
            reduction=self.reduction or "time",  # type: ignore[arg-type]  # LowCount refuses what it does not know
            trues_per_slice=TRUES_PER_SLICE if self.counts is None else self.counts,
            seed=self.seed,
            resolution_mm=self.resolution or 0.0,
        )


def simulate(
    path: Annotated[
        Path, typer.Argument(help="A DICOM folder with full-dose CT or PET, or a NIfTI file in HU or in SUV.")
    ],
    dose: Annotated[
        float | None, typer.Option(help="Fraction of the dose, e.g. 0.25 for a quarter. Give this or --drf.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; it must not exist yet.")],
    seed: Annotated[int, typer.Option(help="Another seed gives other noise of the same kind.")] = 0,
    series: Annotated[str | None, typer.Option(help="Only the series with this SeriesInstanceUID.")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="CT: noise texture, ram-lak, shepp-logan, cosine, hamming or hann (sharp to smooth). "
            "Without it the texture is measured in the scan."
        ),
    ] = None,
    i0: Annotated[
        float | None, typer.Option(help="CT: photons a ray at full dose. Without it, measured in the scan.")
    ] = None,
    drf: Annotated[
        float | None, typer.Option(help="PET: dose reduction factor, e.g. 20 for a twentieth of the counts.")
    ] = None,
    counts: Annotated[
        float | None,
        typer.Option(help="PET: true coincidences a slice, on average, that mean a full scan. Without it, 1e6."),
    ] = None,
    reduction: Annotated[
        str | None,
        typer.Option(help="PET: 'time' for a shorter scan (usual), 'dose' for less activity, with fewer randoms."),
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(
            help="PET: blur of the detectors in mm, e.g. 4.5 for a phantom. Without it none: a scan is blurred already."
        ),
    ] = None,
    ct: Annotated[
        Path | None,
        typer.Option(help="PET: the CT for attenuation. Without it, guessed from the body and lungs in the PET."),
    ] = None,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Process a series that lacks slices.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
) -> None:
    """Simulate a low-dose CT or PET scan from a full-dose one (research use only, not for diagnosis).

    The scan given is taken for the truth, with the noise and blur that it already holds: the result is a little
    noisier, and PET a little smoother, than a real scan of the lower dose. A PET scan is projected, drawn and
    reconstructed anew (OSEM 3 x 21, 5 mm filter); compare it with --drf 1, which is the full scan reconstructed alike.

    Every usable series is written to its own folder in OUT; OUT/run.json holds every parameter.
    """
    from medidiff.io.files import whole_folder

    options = Options(dose, drf, seed, kernel, i0, counts, reduction, resolution, ct)
    options.check()
    found = _find(path, options, series, allow_gaps)
    records: list[dict[str, Any]] = []
    failures: list[MedidiffError] = []
    _require_free(out, overwrite)
    with whole_folder(out) as folder:
        for case in found.cases:
            try:
                records.append(_one(case, folder, options))
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


def _find(path: Path, options: Options, series: str | None, allow_gaps: bool) -> Found:
    """The scans of the kind that the options are for; where they are for both, CT if there is any."""
    from medidiff.inference.cases import find_cases

    if options.of_pet():
        return find_cases(path, series=series, allow_gaps=allow_gaps, unit="SUV")
    try:
        return find_cases(path, series=series, allow_gaps=allow_gaps)
    except UnitError as error:
        if options.of_ct():
            raise UsageError(f"{options.of_ct()[0]} is for CT in HU, and {path} holds none: {error}") from None
        return find_cases(path, series=series, allow_gaps=allow_gaps, unit="SUV")


def _one(case: Case, folder: Path, options: Options) -> dict[str, Any]:
    """Simulate one series into `folder` and return its record."""
    source = case.open()
    work = _one_pet if source.unit == "SUV" else _one_ct
    with Bar(f"Simulating series {case.index}") as bar:
        changed, output_uid, warnings = work(source, case, folder / case.folder, options, bar)
    return {
        "input_series_uid": case.series_uid,
        "output_series_uid": output_uid,
        "folder": case.folder,
        "n_slices": case.n_slices,
        "unit": source.unit,
        "seed": options.seed,
        **changed,
        "warnings": [*case.warnings, *warnings],
    }


Done = tuple[dict[str, Any], str | None, list[str]]  # parameters and seconds, the new SeriesInstanceUID, warnings


def _one_ct(source: SliceSource, case: Case, folder: Path, options: Options, bar: Bar) -> Done:
    from medidiff.inference.cases import DicomCase
    from medidiff.io.derived import Derivation
    from medidiff.simulate import Acquisition, LowDoseSource, low_dose

    assert options.dose is not None  # --drf looks for PET alone
    started = time.perf_counter()
    acquisition = Acquisition.of(case.series) if isinstance(case, DicomCase) else Acquisition(case.identity)
    scan = low_dose(source, acquisition, options.dose, seed=options.seed, kernel=options.kernel, i0=options.i0)
    calibrated = time.perf_counter()
    derivation = Derivation(
        description=scan.description,
        series_description_suffix=f"simulated {100 * scan.dose_fraction:g} % dose",
        code=("MDIFF-LOWDOSE", "99MEDIDIFF", "Low dose simulation"),
        is_noise_added=True,
        is_ai=False,
    )
    uid, warnings = _write(LowDoseSource(source, acquisition, scan), source, folder, derivation, bar)
    seconds = {"calibrate": calibrated - started, "simulate and write": time.perf_counter() - calibrated}
    return {"parameters": scan.parameters(), "seconds": _rounded(seconds)}, uid, warnings


def _one_pet(source: SliceSource, case: Case, folder: Path, options: Options, bar: Bar) -> Done:
    from medidiff.io.derived import Derivation
    from medidiff.simulate_pet import Acquired
    from medidiff.volume import collect

    started = time.perf_counter()
    volume, scan = collect(source), options.low_count
    require_suv(volume)
    acquired = Acquired(volume, scan, case.identity, attenuation(options.ct))
    low = acquired.image(progress=bar)
    simulated = time.perf_counter()
    less = "time" if scan.reduction == "time" else "activity"
    derivation = Derivation(
        description=scan.description,
        series_description_suffix=f"simulated 1/{scan.drf:g} of the {less}",
        code=("MDIFF-LOWCOUNT", "99MEDIDIFF", "Low count simulation"),
        is_noise_added=True,
        is_ai=False,
    )
    uid, warnings = _write(low, source, folder, derivation, bar)
    seconds = {"simulate": simulated - started, "write": time.perf_counter() - simulated}
    kept = float(low.array.sum(dtype=float) / volume.array.sum(dtype=float))
    found = {"total_activity_kept": round(kept, 4), "ct": options.ct is not None}
    return {"parameters": scan.parameters(), **found, "seconds": _rounded(seconds)}, uid, warnings


def require_suv(volume: Volume) -> None:
    """Raise UnitError for values that cannot be SUV."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if low < LEAST_SUV:
        raise UnitError(f"expected PET in SUV, found values from {low:g}, as CT in HU has: for CT give --dose alone")
    if high <= LEAST_MAXIMUM_SUV:
        raise UnitError(f"expected PET in SUV, found no value above {high:g}: normalised values, convert them first")


def attenuation(path: Path | None) -> Volume | None:
    """The CT of --ct; raises InputError where there is not just one."""
    from medidiff.inference.cases import find_cases
    from medidiff.volume import collect

    if path is None:
        return None
    cases = find_cases(path).cases
    if len(cases) != 1:
        raise InputError(f"{path}: holds {len(cases)} CT series, expected one for --ct: give its own folder")
    return collect(cases[0].open())


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 2) for stage, value in seconds.items()}


def _write(
    result: LowDoseSource | Volume, source: SliceSource, folder: Path, derivation: Derivation, bar: Bar
) -> tuple[str | None, list[str]]:
    """Write all slices; the new SeriesInstanceUID (None for NIfTI) and warnings."""
    from medidiff.io.derived import DerivedWriter
    from medidiff.io.dicom import DicomSource
    from medidiff.io.nifti import NiftiSource, write_nifti
    from medidiff.volume import Volume

    n_slices = source.geometry.n_slices
    if isinstance(source, NiftiSource):
        return None, write_nifti(folder / source.path.name, result, source, allow_uneven=True)
    assert isinstance(source, DicomSource)
    writer = DerivedWriter(source, folder, derivation, series_number_offset=SERIES_NUMBER_OFFSET)
    for index, values in enumerate(result.array) if isinstance(result, Volume) else result.slices():
        writer.write(index, values)
        bar(index + 1, n_slices)
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
        plain.print(f"{out / record['folder']}: {record['n_slices']} slices, {_said(record)}", markup=False)
        for warning in record["warnings"]:
            plain.print(f"  warning: {warning}", markup=False)
    for reason in set_aside:
        plain.print(f"set aside: {reason}", markup=False)
    plain.print(f"{out / RECORD}: every parameter ({DISCLAIMER})", markup=False)


def _said(record: dict[str, Any]) -> str:
    """What a user wants to know of one simulated series."""
    used = record["parameters"]
    if record["unit"] == "SUV":
        attenuation = "the CT" if record["ct"] else "body and lungs as seen in the PET"
        return (
            f"1/{used['drf']:g} of the {'time' if used['reduction'] == 'time' else 'activity'}, full meaning "
            f"{used['trues_per_slice']:.3g} trues a slice, attenuation from {attenuation}, total activity "
            f"{100 * record['total_activity_kept']:.1f} % of the input (taken as the truth, with its noise)"
        )
    found = used["calibration"]
    line = f"I0 {found['i0']:.3g}"
    if found["level_hu"]:
        line += ", full-dose noise measured {:.1f} HU, simulated {:.1f} HU".format(*found["level_hu"])
    return line
