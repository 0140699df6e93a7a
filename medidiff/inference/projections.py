"""Reconstruction of projections: a container (io/projections.py) in, slices in HU or SUV out.

    CT    line integrals P and weights 1 / var P from the counts -> fbp | sirt | cgls | pwls | tv -> HU
    PET   counts, attenuation, scatter, randoms -> osem | map-rdp -> SUV, on the grid of the container

`smoothing` of pwls and tv is the slope of the penalty in noise levels of the gradient of the data term
(physics/iterative.py), so one value serves every dose and number of views; of osem it is the FWHM of the filter in mm,
of map-rdp its beta. Slices are done BLOCK at a time and written as they are finished; the same command goes on from
there. What a slice becomes does not depend on the block that it is done in. Of line integrals that come without counts
or variance it is estimated, one for all rays of a slice.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medidiff import __version__
from medidiff.errors import GeometryError, OutputError, UsageError
from medidiff.inference import record as records
from medidiff.inference.record import RunRecord, SeriesRecord
from medidiff.inference.run import choose_device, require_apart
from medidiff.inference.sinks import UNFINISHED, DicomSink, NiftiSink, Place, Sink
from medidiff.io.blank import BlankSource
from medidiff.io.derived import TRANSFER_SYNTAXES, Derivation, DerivedWriter
from medidiff.io.files import file_hash
from medidiff.io.projections import Header, Projections, open_projections
from medidiff.io.series import folder_name
from medidiff.physics.astra_projector import AstraProjector
from medidiff.physics.backprojection import fbp
from medidiff.physics.ct import KERNELS
from medidiff.physics.iterative import (
    Steps,
    cgls,
    chi_square,
    converged,
    noise_of_gradient,
    pwls,
    sirt,
    total_variation,
)
from medidiff.physics.operators import Counted, LinearOperator
from medidiff.physics.osem import SUBSETS, map_rdp, osem
from medidiff.physics.pet import ParallelGeometry, Sinograms
from medidiff.physics.pet import beam as pet_beam
from medidiff.physics.projectors import Beam, Projector
from medidiff.physics.transmission import line_integrals_of, spread_of, weights_of
from medidiff.progress import Progress, silent
from medidiff.units import MU_WATER_PER_MM, Unit, mu_to_hu
from medidiff.volume import Geometry

Array = NDArray[np.float32]

BLOCK = 8  # slices that share a projection
DELTA_HU = 10.0  # steps above it are edges to pwls
TOLERANCE = 1e-4  # relative change of an image in one iteration that ends pwls and tv
TV_START = 16  # iterations of pwls before those of tv
FWHM = 2 * np.sqrt(2 * np.log(2))
UNLIKELY_RESIDUAL = 2.0
LEAVE_A_RESIDUAL = ("fbp", "sirt", "cgls")  # by their kernel, or as they are stopped early
CODE = ("MDIFF-RECON", "99MEDIDIFF", "Reconstruction from projections")
Projecting = Literal["torch", "astra"]


@dataclass(frozen=True)
class Classic:
    """A classical reconstruction.

    smoothing   default strength, in `unit`; None for a method that has none
    iterations  the default, the largest number where `ends` says that a small change ends them; None without
    """

    kind: Literal["CT", "PET"]
    title: str
    smoothing: float | None = None
    unit: str = ""
    iterations: int | None = None


CLASSICS: dict[str, Classic] = {
    "fbp": Classic("CT", "filtered backprojection"),
    "sirt": Classic("CT", "simultaneous iterative reconstruction", iterations=100),
    "cgls": Classic("CT", "conjugate gradients for least squares", iterations=12),
    "pwls": Classic("CT", "penalised weighted least squares", 1.0, "noise levels", 40),
    "tv": Classic("CT", "total variation", 1.0, "noise levels", 100),
    "osem": Classic("PET", "ordered subsets expectation maximisation", 5.0, "mm FWHM", 3),
    "map-rdp": Classic("PET", "maximum a posteriori, relative difference prior", 0.1, "", 8),
}


@dataclass(frozen=True)
class ProjectionOptions:
    """What was asked for; None is the method's default. `kernel` is that of fbp."""

    method: str
    smoothing: float | None = None
    iterations: int | None = None
    kernel: str | None = None
    projector: str = "torch"
    device: str = "auto"
    overwrite: bool = False
    transfer_syntax: str = "explicit"
    deterministic_uids: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what is not known or not used."""
        if self.method not in CLASSICS:
            raise UsageError(
                f"--method: '{self.method}' does not reconstruct projections: choose one of {', '.join(CLASSICS)}"
            )
        classic = CLASSICS[self.method]
        if self.kernel is not None and (self.method != "fbp" or self.kernel not in KERNELS):
            known = f"choose one of {', '.join(KERNELS)}" if self.method == "fbp" else "it is for fbp: leave it out"
            raise UsageError(f"--kernel {self.kernel}: {known}")
        for flag, given, default in (
            ("--smoothing", self.smoothing, classic.smoothing),
            ("--iterations", self.iterations, classic.iterations),
        ):
            if given is not None and default is None:
                raise UsageError(f"{flag} is not used by --method {self.method}: leave it out")
        if self.smoothing is not None and not 0 <= self.smoothing < np.inf:
            raise UsageError(f"--smoothing must be 0 or more, found {self.smoothing:g}")
        if self.iterations is not None and not 1 <= self.iterations <= 100_000:
            raise UsageError(f"--iterations must be 1 to 100000, found {self.iterations}")
        if self.projector not in ("torch", "astra"):
            raise UsageError(f"--projector: '{self.projector}' is not known: choose torch or astra")
        if self.transfer_syntax not in TRANSFER_SYNTAXES:
            known = ", ".join(TRANSFER_SYNTAXES)
            raise UsageError(f"--transfer-syntax: '{self.transfer_syntax}' is not offered: choose one of {known}")

    @property
    def classic(self) -> Classic:
        return CLASSICS[self.method]

    def parameters(self) -> dict[str, Any]:
        """Everything that decides voxels."""
        given = {
            "smoothing": self.classic.smoothing if self.smoothing is None else self.smoothing,
            "iterations": self.classic.iterations if self.iterations is None else self.iterations,
            "kernel": (self.kernel or "hann") if self.method == "fbp" else None,
            "projector": self.projector if self.classic.kind == "CT" else None,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return {"method": self.method, "mode": "quantitative", "strength": 100.0, **chosen}


@dataclass(frozen=True, eq=False)
class Done:
    """Some finished slices: their images in the output's unit and the residual of each."""

    indices: list[int]
    images: Array
    residuals: NDArray[np.floating]


class Reconstructor(Protocol):
    """Reconstructs the slices of one container; `calls` says how often each slice met the projector and its adjoint."""

    warnings: list[str]

    @property
    def calls(self) -> dict[str, int]: ...

    def slices(self, missing: list[int]) -> Iterator[Done]: ...


def reconstruct_projections(
    path: Path, out: Path, options: ProjectionOptions, *, progress: Progress = silent
) -> RunRecord:
    """Reconstruct the slices of a container into `out`; `progress` counts them.

    Raises UsageError, InputError or OutputError when nothing was done.
    """
    path, out = Path(path), Path(out)
    require_apart(path, out)
    records.require_ours(out)
    device = choose_device(options.device)
    projections = open_projections(path)
    _require_kind(projections, options)
    fingerprint = file_hash(path)
    reconstructor = _reconstructor(projections, options, device)
    planned = _plan(projections.header, options, device, fingerprint)
    record = records.begin(out, planned, overwrite=options.overwrite)
    run = _Run(out, record, options, fingerprint)
    run.reconstruct(projections.header, reconstructor, progress)
    return run.record


@dataclass
class _Run:
    out: Path
    record: RunRecord
    options: ProjectionOptions
    fingerprint: str

    @property
    def series(self) -> SeriesRecord:
        return self.record.series[0]

    def reconstruct(self, header: Header, reconstructor: Reconstructor, progress: Progress) -> None:
        """Do the slices that are missing, block by block; a full disk is raised, what is finished stays."""
        started, before = time.perf_counter(), dict(self.series.seconds).get("reconstruct", 0.0)
        sink = _sink(header, Place(self.out, self.series.folder), self.series, self.options, self.fingerprint)
        missing = [k for k in range(header.shape[0]) if not sink.has(k)]
        done = header.shape[0] - len(missing)
        residual = (self.series.data_residual or 0.0) * done
        self._save(status="started", output_series_uid=sink.series_uid)
        progress(done, header.shape[0])
        for block in reconstructor.slices(missing):
            try:
                for index, image in zip(block.indices, block.images, strict=True):
                    sink.write(index, image, None)
            except OutputError as error:
                raise OutputError(f"{error}; what was finished is kept, the same command continues") from error
            done, residual = done + len(block.indices), residual + float(block.residuals.sum())
            spent = {"reconstruct": round(before + time.perf_counter() - started, 3)}
            self._save(data_residual=residual / done, operator_calls=reconstructor.calls, seconds=spent)
            progress(done, header.shape[0])
        sink.finish()
        found = [*reconstructor.warnings, *sink.warnings, *_judged(self.options.method, self.series.data_residual)]
        self._save(status="done", warnings=tuple(dict.fromkeys([*self.series.warnings, *found])))
        shutil.rmtree(self.out / UNFINISHED, ignore_errors=True)
        self.record = self.record.model_copy(update={"status": "finished"})
        records.save(self.out, self.record)

    def _save(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update={"series": (self.series.model_copy(update=changes),)})
        records.save(self.out, self.record)


def _judged(method: str, residual: float | None) -> list[str]:
    """What is told of a residual that noise does not explain; some methods are meant to leave one."""
    if method in LEAVE_A_RESIDUAL or residual is None or residual <= UNLIKELY_RESIDUAL:
        return []
    return [
        f"the image differs from the data by {residual:.3g} times the variance of the rays: too few iterations, too "
        "much smoothing, an object beyond the detector, or a geometry or noise model that is not that of the data"
    ]


def _require_kind(projections: Projections, options: ProjectionOptions) -> None:
    kind = projections.header.kind
    if options.classic.kind != kind:
        known = ", ".join(name for name, classic in CLASSICS.items() if classic.kind == kind)
        raise UsageError(
            f"--method {options.method} is for {options.classic.kind}, {projections.path} holds {kind}: "
            f"choose one of {known}"
        )


def _plan(header: Header, options: ProjectionOptions, device: torch.device, fingerprint: str) -> RunRecord:
    parameters = options.parameters()
    modality = "CT" if header.kind == "CT" else "PT"
    outside = {"transfer_syntax": options.transfer_syntax, "deterministic_uids": options.deterministic_uids}
    series = SeriesRecord(
        index=1,
        folder=folder_name(1, modality, options.method),
        modality=modality,
        kernel=parameters.get("kernel"),
        n_slices=header.shape[0],
        input_series_uid=header.source.get("source_series_uid"),
        input_fingerprint=header.source.get("source_fingerprint", fingerprint),
        method=options.method,
        model=None,
        model_sha256=None,
        mode="quantitative",
        strength=100.0,
        smoothing=parameters.get("smoothing"),
        warnings=tuple(_simulated(header)),
    )
    return RunRecord(
        parameters={**parameters, "projections": fingerprint, **outside},
        device=device.type,
        threads=torch.get_num_threads(),
        series=(series,),
    )


def _simulated(header: Header) -> Iterator[str]:
    if header.parameters:
        yield "made from simulated projections of a scan"


# ---------------------------------------------------------------- CT


def _reconstructor(projections: Projections, options: ProjectionOptions, device: torch.device) -> Reconstructor:
    if projections.header.kind == "PET":
        return _Pet(projections, options)
    header = projections.header
    scanner = header.scanner
    beam = Beam(
        scanner.beam,
        scanner.angles_rad,
        scanner.n_bins,
        scanner.bin_mm,
        scanner.detector,
        scanner.source_isocentre_mm,
        scanner.source_detector_mm,
    )
    operator: LinearOperator
    if options.projector == "astra":
        operator = AstraProjector(header.geometry.matrix, header.pixel_mm, beam)
    else:
        operator = Projector(header.geometry.matrix, header.pixel_mm, beam, device)
    return _Ct(projections, options, beam, Counted(operator))


class _Ct:
    def __init__(self, projections: Projections, options: ProjectionOptions, beam: Beam, operator: Counted) -> None:
        self.projections, self.beam, self.operator = projections, beam, operator
        self.parameters, self.method = options.parameters(), options.method
        self.warnings: list[str] = []
        self.calls: dict[str, int] = {}

    def slices(self, missing: list[int]) -> Iterator[Done]:
        for start in range(0, len(missing), BLOCK):
            indices = missing[start : start + BLOCK]
            line, weights = self._data(indices)
            self.operator.applied = self.operator.adjoined = 0
            x = self._image(line, weights)
            residuals = chi_square(self.operator, line, weights, x).cpu().numpy()
            here = {"apply": self.operator.applied, "adjoint": self.operator.adjoined}
            self.calls = {name: max(n, self.calls.get(name, 0)) for name, n in here.items()}
            yield Done(indices, np.asarray(mu_to_hu(x.cpu().numpy()), np.float32), residuals)

    def _data(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Line integrals and their weights (slices, views, bins), on the operator's device."""
        read, names = self.projections.read, self.projections.names
        if names[0] == "counts":
            counts = read("counts", indices)
            line = line_integrals_of(counts, read("air", indices))
            weights = weights_of(counts, self.projections.header.electronic_variance)
        else:
            line = read("line_integrals", indices)
            weights = np.asarray(1 / read("variance", indices)) if "variance" in names else self._estimated(line)
        device = self.operator.device
        return torch.from_numpy(line).to(device), torch.from_numpy(weights).to(device)

    def _estimated(self, line: Array) -> Array:
        text = "the projections have no counts and no variance: it was estimated from them, one for all rays of a slice"
        self.warnings = [text]
        return np.stack([np.full(one.shape, 1 / spread_of(one), np.float32) for one in line])

    def _image(self, line: Tensor, weights: Tensor) -> Tensor:
        """(slices, rows, columns) attenuation in 1/mm."""
        if self.method == "fbp":
            return self._fbp(line, self.parameters["kernel"])
        iterations = self.parameters["iterations"]
        plain: dict[str, Callable[[], Steps]] = {
            "sirt": lambda: sirt(self.operator, line),
            "cgls": lambda: cgls(self.operator, line),
        }
        if self.method in plain:
            return converged(plain[self.method](), iterations)[0]
        start = self._fbp(line, "hann")
        body = start > MU_WATER_PER_MM / 2
        noise = noise_of_gradient(self.operator, weights, self.projections.header.pixel_mm, body)
        lam, delta = self.parameters["smoothing"] * noise, DELTA_HU * MU_WATER_PER_MM / 1000
        steps = pwls(self.operator, line, weights, lam, delta, start)
        if self.method == "pwls":
            return converged(steps, iterations, TOLERANCE)[0]
        start = converged(steps, TV_START)[0]
        return converged(total_variation(self.operator, line, weights, lam, start), iterations, TOLERANCE)[0]

    def _fbp(self, line: Tensor, kernel: str) -> Tensor:
        header = self.projections.header
        images = fbp(line.cpu().numpy(), self.beam, header.geometry.matrix, header.pixel_mm, KERNELS[kernel])
        return torch.from_numpy(images).to(line.device)


# ---------------------------------------------------------------- PET


class _Pet:
    """All slices in one go: they are quick, and the prior and the filter reach from slice to slice."""

    def __init__(self, projections: Projections, options: ProjectionOptions) -> None:
        header = projections.header
        scanner = header.scanner
        geometry = ParallelGeometry(len(scanner.angles_rad), scanner.n_bins, scanner.bin_mm)
        if not np.allclose(scanner.angles_rad, geometry.angles, atol=1e-4):
            raise GeometryError(
                f"{projections.path}: /geometry/angles_rad of PET are expected evenly over half a turn, from 0"
            )
        self.projections, self.parameters, self.method = projections, options.parameters(), options.method
        self.beam = pet_beam(header.geometry.matrix, header.pixel_mm, geometry)
        self.subsets = max(n for n in range(1, SUBSETS + 1) if geometry.n_angles % n == 0)
        self.warnings: list[str] = []

    @property
    def calls(self) -> dict[str, int]:
        """Whole passes over the angles; map-rdp starts from one of osem."""
        passes = self.parameters["iterations"] + (self.method == "map-rdp")
        return {"apply": passes + 1, "adjoint": passes + 1}

    def slices(self, missing: list[int]) -> Iterator[Done]:
        if not missing:
            return
        header, everything = self.projections.header, list(range(self.projections.header.shape[0]))
        data = self._data(everything)
        iterations, smoothing = self.parameters["iterations"], self.parameters["smoothing"]
        step = header.geometry.slice_spacing_mm
        if self.method == "osem":
            images = osem(data, self.beam, iterations, self.subsets)
            residuals = self._residuals(data, images)
            steps = (step, header.pixel_mm, header.pixel_mm)
            images = np.asarray(gaussian_filter(images, [smoothing / FWHM / mm if mm else 0 for mm in steps]))
        else:
            images = map_rdp(
                data, self.beam, smoothing, slice_mm=step or None, iterations=iterations, subsets=self.subsets
            )
            residuals = self._residuals(data, images)
        for k in missing:
            yield Done([k], images[k : k + 1], residuals[k : k + 1])

    def _data(self, indices: list[int]) -> Sinograms:
        read = self.projections.read
        factors = read("attenuation", indices) * np.float32(self.projections.header.calibration)
        return Sinograms(read("counts", indices), factors, read("scatter", indices) + read("randoms", indices))

    def _residuals(self, data: Sinograms, images: Array) -> NDArray[np.floating]:
        """(slices,) mean over the bins of (counts - mean)^2 / mean."""
        projected = self.beam.apply(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        means = data.factors * projected + data.additive
        seen = means > 0
        terms = np.where(seen, (data.counts - means) ** 2 / np.where(seen, means, 1), 0)
        return np.asarray(terms.sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1))


# ---------------------------------------------------------------- results


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where slices will lie, without any; a `SliceSource` for headers."""

    geometry: Geometry
    unit: Unit

    def read(self, index: int) -> Array:
        return np.zeros(self.geometry.matrix, np.float32)

    def padding(self, index: int) -> None:
        return None


@dataclass(frozen=True)
class _Reconstructed(Derivation):
    """What headers say: made from projections, not denoised."""

    @property
    def nature(self) -> str:
        return f"reconstructed from projections by {self.classical}"


def _sink(header: Header, place: Place, series: SeriesRecord, options: ProjectionOptions, fingerprint: str) -> Sink:
    """DICOM where the scan was, else NIfTI; a scan of nobody, with the frame of reference of its source."""
    grid = _Grid(header.geometry, "HU" if header.kind == "CT" else "SUV")
    if header.kind == "PET" or header.source.get("source_format") != "dicom":
        return NiftiSink(place, grid)
    study = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, fingerprint).int}"
    frame = (
        header.source.get("frame_of_reference") or f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'frame' + fingerprint).int}"
    )
    parameters = ", ".join(f"{name} {value}" for name, value in options.parameters().items())
    views = f"{header.shape[1]} views of {header.shape[2]} bins, {header.scanner.beam} beam"
    derivation = _Reconstructed(
        f"medidiff {__version__} {options.classic.title} of {views}: {parameters}, no neural network",
        f"medidiff {options.method}",
        CODE,
        "From simulated projections" if header.parameters else "",
        is_ai=False,
        classical=options.method,
    )
    writer = DerivedWriter(
        BlankSource(grid, study_uid=study, frame_of_reference=frame),
        place.work,
        derivation,
        transfer_syntax=options.transfer_syntax,
        deterministic_uids=fingerprint if options.deterministic_uids else None,
        series_uid=series.output_series_uid,
    )
    return DicomSink(place, writer)
