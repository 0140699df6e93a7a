"""Reconstruction of projections: a container (io/projections.py) in, slices in HU or SUV out.

    CT    line integrals P and weights 1 / var P from the counts -> fbp | sirt | cgls | pwls | tv | diffusion -> HU
    PET   counts, attenuation, scatter, randoms -> osem | map-rdp | diffusion -> SUV, on the grid of the container

Slices are written as they are finished, with their deviations in a second series where these were asked for; the same
command goes on from there.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.errors import OutputError, UsageError
from medidiff.inference import record as records
from medidiff.inference.cases import MAP_SLOPE_HU, SERIES_NUMBER_OFFSETS, of_map
from medidiff.inference.classical import Ct, Done, Pet, Reconstructor
from medidiff.inference.guided import Guided, GuidedPet
from medidiff.inference.projection_options import DIFFUSION, METHODS, ProjectionOptions
from medidiff.inference.record import RunRecord, SeriesRecord
from medidiff.inference.run import choose_device, require_apart
from medidiff.inference.sinks import UNFINISHED, DicomSink, NiftiSink, Place, Sink
from medidiff.io.blank import BlankSource
from medidiff.io.derived import Derivation, DerivedWriter
from medidiff.io.files import file_hash
from medidiff.io.projections import Header, Projections, open_projections
from medidiff.io.series import folder_name
from medidiff.progress import Progress, silent
from medidiff.units import Unit
from medidiff.volume import Geometry

Array = NDArray[np.float32]

UNLIKELY_RESIDUAL = 2.0
LEAVE_A_RESIDUAL = ("fbp", "sirt", "cgls")  # by their kernel, or as they are stopped early
CODE = ("MDIFF-RECON", "99MEDIDIFF", "Reconstruction from projections")


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
    reconstructor = _reconstructor(projections, options, device, fingerprint)
    planned = _plan(projections.header, options, reconstructor, device, fingerprint)
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
        sinks = _sinks(header, self.out, self.series, self.options, self.record.parameters, self.fingerprint)
        missing = [k for k in range(header.shape[0]) if not all(sink.has(k) for sink in sinks)]
        done = header.shape[0] - len(missing)
        residual = (self.series.data_residual or 0.0) * done
        uids = [*(sink.series_uid for sink in sinks), None]
        self._save(status="started", output_series_uid=uids[0], uncertainty_series_uid=uids[1])
        progress(done, header.shape[0])
        for block in reconstructor.slices(missing):
            try:
                _write(block, sinks)
            except OutputError as error:
                raise OutputError(f"{error}; what was finished is kept, the same command continues") from error
            done, residual = done + len(block.indices), residual + float(block.residuals.sum())
            spent = {"reconstruct": round(before + time.perf_counter() - started, 3)}
            self._save(data_residual=residual / done, operator_calls=reconstructor.calls, seconds=spent)
            progress(done, header.shape[0])
        for sink in sinks:
            sink.finish()
        said = [text for sink in sinks for text in sink.warnings]
        found = [*reconstructor.warnings, *said, *_judged(self.options.method, self.series.data_residual)]
        self._save(status="done", warnings=tuple(dict.fromkeys([*self.series.warnings, *found])))
        shutil.rmtree(self.out / UNFINISHED, ignore_errors=True)
        self.record = self.record.model_copy(update={"status": "finished"})
        records.save(self.out, self.record)

    def _save(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update={"series": (self.series.model_copy(update=changes),)})
        records.save(self.out, self.record)


def _write(block: Done, sinks: Sequence[Sink]) -> None:
    for sink, stack in zip(sinks, (block.images, block.deviations), strict=False):
        assert stack is not None  # there is a second sink where deviations were asked for
        for index, image in zip(block.indices, stack, strict=True):
            sink.write(index, image, None)


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
    if kind not in options.chosen.kinds:
        known = ", ".join(name for name, method in METHODS.items() if kind in method.kinds)
        raise UsageError(
            f"--method {options.method} is for {' and '.join(options.chosen.kinds)}, {projections.path} holds {kind}: "
            f"choose one of {known}"
        )
    if kind == "PET" and (of_ct := options.only_for_ct):
        raise UsageError(f"{of_ct} is for CT, {projections.path} holds PET: leave it out")


def _reconstructor(
    projections: Projections, options: ProjectionOptions, device: torch.device, fingerprint: str
) -> Reconstructor:
    if projections.header.kind == "PET":
        return GuidedPet(projections, options, device) if options.method == DIFFUSION else Pet(projections, options)
    if options.method == DIFFUSION:
        return Guided(projections, options, device, projections.header.source.get("source_series_uid", fingerprint))
    return Ct(projections, options, device)


def _plan(
    header: Header, options: ProjectionOptions, reconstructor: Reconstructor, device: torch.device, fingerprint: str
) -> RunRecord:
    parameters = reconstructor.parameters
    modality = "CT" if header.kind == "CT" else "PT"
    outside = {"transfer_syntax": options.transfer_syntax, "deterministic_uids": options.deterministic_uids}
    folder = folder_name(1, modality, options.method)
    series = SeriesRecord(
        index=1,
        folder=folder,
        uncertainty_folder=f"{folder}_uncertainty" if options.has_deviation else None,
        modality=modality,
        kernel=parameters.get("kernel"),
        n_slices=header.shape[0],
        input_series_uid=header.source.get("source_series_uid"),
        input_fingerprint=header.source.get("source_fingerprint", fingerprint),
        method=options.method,
        model=parameters.get("model"),
        model_sha256=parameters.get("model_sha256"),
        mode=options.mode,
        strength=100.0,
        smoothing=parameters.get("smoothing"),
        nfe=reconstructor.nfe,
        seed=parameters.get("seed"),
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

    method: str = ""

    @property
    def nature(self) -> str:
        by = "a diffusion model guided by the data" if self.is_ai else self.method
        return f"reconstructed from projections by {by}"


def _sinks(
    header: Header,
    out: Path,
    series: SeriesRecord,
    options: ProjectionOptions,
    parameters: dict[str, Any],
    fingerprint: str,
) -> list[Sink]:
    """DICOM where the scan was, else NIfTI; a scan of nobody, with the frame of reference of its source."""
    grid = _Grid(header.geometry, "HU" if header.kind == "CT" else "SUV")
    places = [Place(out, name) for name in series.folders]
    if header.kind == "PET" or header.source.get("source_format") != "dicom":
        return [NiftiSink(place, grid, is_map=k == 1) for k, place in enumerate(places)]
    derivation = _derivation(header, options, parameters)
    uids = (series.output_series_uid, series.uncertainty_series_uid)
    return [
        _dicom(place, k == 1, grid, derivation, uids[k], options, header, fingerprint) for k, place in enumerate(places)
    ]


def _derivation(header: Header, options: ProjectionOptions, parameters: dict[str, Any]) -> _Reconstructed:
    told = ", ".join(
        f"{name} {value}" for name, value in parameters.items() if name not in ("strength", "model_sha256")
    )
    views = f"{header.shape[1]} views of {header.shape[2]} bins, {header.scanner.beam} beam"
    digest = parameters.get("model_sha256")
    return _Reconstructed(
        f"medidiff {__version__} {options.chosen.title} of {views}: {told}, "
        + (f"model sha256 {digest}" if digest else "no neural network"),
        f"medidiff {options.method}",
        CODE,
        "From simulated projections" if header.parameters else "",
        is_ai=digest is not None,
        classical="" if digest else options.method,
        method=options.method,
    )


def _dicom(
    place: Place,
    is_map: bool,
    grid: _Grid,
    derivation: _Reconstructed,
    uid: str | None,
    options: ProjectionOptions,
    header: Header,
    fingerprint: str,
) -> DicomSink:
    study = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, fingerprint).int}"
    frame = (
        header.source.get("frame_of_reference") or f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'frame' + fingerprint).int}"
    )
    writer = DerivedWriter(
        BlankSource(grid, study_uid=study, frame_of_reference=frame),
        place.work,
        of_map(derivation, grid.unit) if is_map else derivation,
        series_number_offset=SERIES_NUMBER_OFFSETS[is_map],
        transfer_syntax=options.transfer_syntax,
        deterministic_uids=fingerprint if options.deterministic_uids else None,
        series_uid=uid,
        rescale=(MAP_SLOPE_HU, 0.0) if is_map else None,
    )
    return DicomSink(place, writer)
