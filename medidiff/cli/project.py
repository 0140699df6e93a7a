"""`medidiff project`: a scan in, the projections that a scanner would have measured of it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import GeometryError, InputError, OutputError, UnitError, UsageError

if TYPE_CHECKING:
    from medidiff.inference.cases import Case
    from medidiff.io.projections import Header
    from medidiff.simulate_pet import Acquired
    from medidiff.volume import SliceSource

VIEWS = 720
SQUARE = 1e-3  # relative
PET_BLOCK = 16
CT_OPTIONS, PET_OPTIONS = ("beam", "detector", "views", "arc", "i0", "electronic"), ("counts", "resolution", "ct")
plain = Console(highlight=False, soft_wrap=True)


class Shape(StrEnum):
    """Of the beam."""

    FAN = "fan"
    PARALLEL = "parallel"


class Detector(StrEnum):
    """Of a fan."""

    CURVED = "curved"
    FLAT = "flat"


@dataclass(frozen=True)
class Options:
    """What was asked for; None where it was not."""

    views: int | None
    arc: float | None
    dose: float
    slices: str | None
    beam: Shape | None
    detector: Detector | None
    i0: float | None
    electronic: float | None
    seed: int
    counts: float | None
    resolution: float | None
    ct: Path | None
    uids: bool

    def given(self, names: tuple[str, ...]) -> list[str]:
        """Which of some options were asked for, as the command line writes them."""
        return [f"--{name}" for name in names if getattr(self, name) is not None]

    def check(self) -> None:
        """Raise UsageError for numbers that cannot be."""
        limits = {"views": (1, 20_000), "arc": (1, 360), "i0": (10, 1e12), "electronic": (0, 1e6)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"--{name} must be {low:g} to {high:g}, found {value:g}")
        if not 0 < self.dose <= 1:
            raise UsageError(f"--dose must be a fraction above 0 and at most 1, e.g. 0.25, found {self.dose:g}")
        if self.seed < 0:
            raise UsageError(f"the seed must be 0 or more, found {self.seed}")
        if self.beam is Shape.PARALLEL and self.detector is not None:
            raise UsageError("--detector is for a fan, a parallel beam has none to choose: leave it out")


def project(
    path: Annotated[Path, typer.Argument(help="A DICOM folder with one CT or PET series, or a NIfTI file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write, FILE.h5.")],
    views: Annotated[int | None, typer.Option(help="CT: views over the arc. Without it, 720.")] = None,
    arc: Annotated[float | None, typer.Option(help="CT: degrees that the views cover. Without it, 360.")] = None,
    dose: Annotated[
        float, typer.Option(help="Fraction of the dose, e.g. 0.25: photons of CT, time (counts) of PET.")
    ] = 1.0,
    slices: Annotated[str | None, typer.Option(help="Only slices i to j - 1, as i:j, counted from 0.")] = None,
    beam: Annotated[Shape | None, typer.Option(help="CT: Without it, fan.")] = None,
    detector: Annotated[Detector | None, typer.Option(help="CT, of a fan. Without it, curved.")] = None,
    i0: Annotated[float | None, typer.Option(help="CT: photons a ray at full dose. Without it, 2e5.")] = None,
    electronic: Annotated[
        float | None, typer.Option(help="CT: variance of the electronic noise in counts. Without it, 10.")
    ] = None,
    counts: Annotated[
        float | None, typer.Option(help="PET: true coincidences a slice, on average, of a full scan. Without it, 1e6.")
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="PET: blur of the detectors in mm, e.g. 4.5 for a phantom. Without it none.")
    ] = None,
    ct: Annotated[
        Path | None, typer.Option(help="PET: the CT for attenuation. Without it, guessed from the PET.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other noise of the same kind.")] = 0,
    series: Annotated[str | None, typer.Option(help="Only the series with this SeriesInstanceUID.")] = None,
    no_uids: Annotated[
        bool,
        typer.Option(
            "--no-uids",
            help="Keep no identifier of the scan, not even its frame of reference and series UID. Results then do not "
            "know which scan they lie on.",
        ),
    ] = False,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Process a series that lacks slices.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Simulate the sinograms of a CT or PET scan, with their geometry and noise (research use only, not for diagnosis).

    The scan is taken for the truth. CT: slices are projected from a finer grid by several rays a bin, photons are drawn
    and electronic noise is added; fewer --views are a sparse scan, a smaller --arc a limited one. PET: counts with
    attenuation, scatter and randoms, as medidiff simulate draws them. FILE.h5 (HDF5, docs/projections.md) holds no
    name, date or path; medidiff reconstruct FILE.h5 -o OUT --method fbp makes images of it.
    """
    from medidiff.io.projections import SUFFIXES, is_projections_name, write_projections

    wanted = Options(
        views, arc, dose, slices, beam, detector, i0, electronic, seed, counts, resolution, ct, not no_uids
    )
    wanted.check()
    if not is_projections_name(out):
        raise UsageError(f"-o {out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; name a new file, or replace it with --overwrite")
    case = _find(path, series, allow_gaps, wanted)
    source = case.open()
    chosen = _chosen(slices, source.geometry.n_slices)
    with Bar("Projecting") as bar:
        header, blocks = (_pet if source.unit == "SUV" else _ct)(case, source, chosen, wanted, bar)
        write_projections(out, header, blocks)
    plain.print(f"{out}: {_said(header)} ({DISCLAIMER})", markup=False)


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(project)


def _find(path: Path, series: str | None, allow_gaps: bool, options: Options) -> Case:
    """The one scan of a path, CT before PET; raises UsageError for options of the other kind."""
    from medidiff.inference.cases import find_cases

    of_ct, of_pet = options.given(CT_OPTIONS), options.given(PET_OPTIONS)
    if of_ct and of_pet:
        raise UsageError(f"{of_ct[0]} is for CT and {of_pet[0]} is for PET: give one of the two")
    try:
        found = find_cases(path, series=series, allow_gaps=allow_gaps, unit="SUV" if of_pet else "HU")
    except UnitError as error:
        if of_ct:
            raise UsageError(f"{of_ct[0]} is for CT in HU, and {path} holds none: {error}") from None
        found = find_cases(path, series=series, allow_gaps=allow_gaps, unit="SUV")
    if len(found.cases) != 1:
        raise InputError(f"{path}: holds {len(found.cases)} series, expected one; name one with --series")
    return found.cases[0]


def _chosen(text: str | None, n_slices: int) -> range:
    """The slices of `i:j`."""
    if text is None:
        return range(n_slices)
    try:
        start, stop = (
            int(part) if part else default for part, default in zip(text.split(":"), (0, n_slices), strict=True)
        )
    except ValueError:
        raise UsageError(f"--slices {text}: expected i:j, e.g. 10:20") from None
    if not 0 <= start < stop <= n_slices:
        raise UsageError(f"--slices {text}: the scan has slices 0:{n_slices}, and i must be below j")
    return range(start, stop)


def _source(case: Case, source: SliceSource, options: Options) -> dict[str, str]:
    """What of the scan's identity goes into the file."""
    from medidiff.inference.cases import DicomCase

    if not isinstance(case, DicomCase):
        return {"source_format": "nifti"} | ({"source_fingerprint": case.fingerprint} if options.uids else {})
    if not options.uids:
        return {"source_format": "dicom"}
    frame = case.series.frame_of_reference
    return {"source_format": "dicom", "source_series_uid": case.series.uid} | (
        {"frame_of_reference": frame} if frame else {}
    )


Blocks = Iterator[Mapping[str, Any]]


def _ct(case: Case, source: SliceSource, chosen: range, options: Options, bar: Bar) -> tuple[Header, Blocks]:
    """Slices are independent and drawn with the generator of their own place in the scan."""
    import numpy as np

    from medidiff.io.projections import Header, Scanner
    from medidiff.physics.projectors import evenly
    from medidiff.physics.scanner import ELECTRONIC_VARIANCE, I0, scanner_beam
    from medidiff.physics.transmission import counts, transmission
    from medidiff.simulate import generator_for
    from medidiff.units import hu_to_mu

    row_mm, column_mm = source.geometry.pixel_spacing_mm
    if abs(row_mm / column_mm - 1) > SQUARE:
        raise GeometryError(f"pixels of {row_mm:g} x {column_mm:g} mm are not square: resample the scan first")
    geometry = source.geometry.select(chosen.start, chosen.stop)
    kind: Any = options.beam.value if options.beam else "fan"
    shape: Any = options.detector.value if options.detector else "curved" if kind == "fan" else "flat"
    angles = evenly(options.views or VIEWS, options.arc or 360.0)
    beam = scanner_beam(angles, max(source.geometry.matrix) * row_mm / 2, kind, shape)
    distances = (beam.source_isocentre_mm, beam.source_detector_mm)
    scanner = Scanner(kind, shape, angles, beam.n_bins, beam.bin_mm, *distances)
    i0, electronic = options.i0 or I0, ELECTRONIC_VARIANCE if options.electronic is None else options.electronic
    parameters = {"simulation": "transmission", "dose": options.dose, "i0": i0, "seed": options.seed}
    photons = np.float32(options.dose * i0)

    def blocks() -> Blocks:
        for done, index in enumerate(chosen, start=1):
            hu, padding = source.read(index), source.padding(index)
            mu = np.maximum(hu_to_mu(hu if padding is None else np.where(padding, -1000, hu)), 0)
            expected = photons * transmission(mu.astype(np.float32), row_mm, beam)
            drawn = counts(expected, electronic, generator_for(case.identity, options.seed, index))
            yield {"counts": drawn[None], "air": np.full(beam.n_bins, photons)}
            bar(done, len(chosen))

    header = Header(
        "CT",
        scanner,
        geometry,
        electronic_variance=electronic,
        source=_source(case, source, options),
        parameters=parameters,
    )
    return header, blocks()


def _pet(case: Case, source: SliceSource, chosen: range, options: Options, bar: Bar) -> tuple[Header, Blocks]:
    """Counts as `medidiff simulate` draws them, on its grid: 4 mm pixels around the middle of the slices."""
    from medidiff.cli.simulate import Options as Simulated
    from medidiff.cli.simulate import attenuation, require_suv
    from medidiff.io.projections import Header, Scanner
    from medidiff.simulate_pet import Acquired
    from medidiff.volume import collect

    if options.given(CT_OPTIONS):
        raise UsageError(f"{options.given(CT_OPTIONS)[0]} is for CT: leave it out")
    scan = Simulated(
        None, 1 / options.dose, options.seed, counts=options.counts, resolution=options.resolution
    ).low_count
    volume = collect(source)
    require_suv(volume)
    acquired = Acquired(volume, scan, case.identity, attenuation(options.ct))
    bins = acquired.coarse.geometry
    scanner = Scanner("parallel", "flat", bins.angles, bins.n_bins, bins.bin_mm)
    header = Header(
        "PET",
        scanner,
        acquired.grid.select(chosen.start, chosen.stop),
        calibration=acquired.calibration / scan.drf,
        source=_source(case, source, options),
        parameters={"simulation": "pet", **scan.parameters()},
    )
    return header, _pet_blocks(acquired, chosen, bar)


def _pet_blocks(acquired: Acquired, chosen: range, bar: Bar) -> Blocks:
    import numpy as np

    keep = np.float32(1 / acquired.scan.drf)
    for start in range(chosen.start, chosen.stop, PET_BLOCK):
        stop = min(start + PET_BLOCK, chosen.stop)
        data, means = acquired.counts(start, stop), acquired.means(start, stop)
        yield {
            "counts": data.counts,
            "attenuation": means.factors / np.float32(acquired.calibration),
            "scatter": means.scatter * keep,
            "randoms": means.randoms * keep,
        }
        bar(stop - chosen.start, len(chosen))


def _said(header: Header) -> str:
    n_slices, views, bins = header.shape
    used = header.parameters
    beam = header.scanner.beam if header.scanner.beam == "parallel" else f"fan, {header.scanner.detector} detector"
    dose = used["dose"] if header.kind == "CT" else 1 / used["drf"]
    return f"{header.kind}, {n_slices} slices, {views} views of {bins} bins, {beam}, {100 * dose:g} % of the dose"
