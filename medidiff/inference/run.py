"""One run: every requested series of a path, slice by slice, into a folder that is never half a result.

    options checked -> method loaded -> input found -> OUT made ready (or refused) -> series by series:
    open -> restore the slices that are missing -> write each -> rename into place -> run.json

A series that fails leaves nothing and does not stop the others. A full or vanished disk stops the run; what is
written stays, and the same command goes on from there.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medidiff.errors import InputError, MedidiffError, OutputError, PartialFailure, UsageError
from medidiff.inference import record as records
from medidiff.inference.cases import Case, Found, Writing, find_cases
from medidiff.inference.guard import Watch, header_warnings
from medidiff.inference.guide import guide_for
from medidiff.inference.methods import Method, load_method
from medidiff.inference.options import AUTO, MODEL, Options
from medidiff.inference.record import RunRecord, SeriesRecord
from medidiff.inference.restore import AnyRestorer, Restored, restore, timed
from medidiff.inference.sinks import UNFINISHED, Place, Sink
from medidiff.model import DEFAULT_FOR, embedded
from medidiff.progress import Progress, silent
from medidiff.units import Unit
from medidiff.volume import SliceSource

PET_FIRST: tuple[Unit, ...] = ("SUV", "HU")
BYTES_PER_VOXEL = 2
HEADER_BYTES = 8192
WRITES_AT_ONCE = 2  # finished slices that may wait to be written


def reconstruct(path: Path, out: Path, options: Options, *, progress: Progress = silent) -> RunRecord:
    """Restore every requested series of `path` (DICOM folder or file, folder of studies, NIfTI) into `out`.

    `progress` counts slices. Raises UsageError, InputError, ModelError or OutputError when nothing was done,
    PartialFailure (naming each) when some series failed.
    """
    path, out = Path(path), Path(out)
    require_apart(path, out)
    records.require_ours(out)
    device = choose_device(options.device if options.method == MODEL else "cpu")
    method, found = _method_and_cases(path, options, device)
    planned = _plan(found, method, options, device)
    made = _require_room(out, planned, found.cases)
    run = _Run(out, method, options, records.begin(out, planned, overwrite=options.overwrite), progress)
    for case in found.cases:
        run.do(case)
    return run.close(made)


def _method_and_cases(path: Path, options: Options, device: torch.device) -> tuple[Method, Found]:
    """A model that was named decides which series are cases; else these decide which model is taken. Of a PET/CT study
    the PET is meant, by a model or a classical method that can do both."""
    is_open = options.method == MODEL and options.model == AUTO
    method = None if is_open else load_method(options, device)
    units = method.units if method else tuple(u for u in PET_FIRST if DEFAULT_FOR[u] in embedded())
    found = find_cases(path, series=options.series, allow_gaps=options.allow_gaps, unit=units)
    return method or load_method(options, device, found.unit), found


@dataclass
class _Run:
    out: Path
    method: Method
    options: Options
    record: RunRecord
    progress: Progress
    done: int = 0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(series.n_slices for series in self.record.series)

    def do(self, case: Case) -> None:
        """Reconstruct one case, unless an earlier run did; a failure is recorded, a full disk is raised."""
        series, before = self.record.series[case.index - 1], self.done
        if series.status != "done":
            try:
                series = self._series(case, series)
            except OutputError as error:
                raise OutputError(f"{error}; what was finished is kept, the same command continues") from error
            except MedidiffError as error:
                series = self._failed(series, str(error))
            except torch.OutOfMemoryError:
                series = self._failed(series, "the GPU has too little free memory for a slice; use --device cpu")
            self._save(series)
        self._advance(before + series.n_slices)

    def close(self, made: Sequence[Path]) -> RunRecord:
        """Write the end of run.json and remove the working folder; raise for what failed."""
        failed = [series for series in self.record.series if series.status == "failed"]
        reasons = [f"{series.folder}: {series.error}" for series in failed]
        shutil.rmtree(self.out / UNFINISHED, ignore_errors=True)
        if len(failed) == len(self.record.series):
            _discard(self.out, made)
            count = f"none of {len(failed)} series could be done: " if len(failed) > 1 else ""
            raise InputError(count + "; ".join(reasons))
        damaged = self.record.damaged
        is_whole = not failed and not damaged
        self.record = self.record.model_copy(update={"status": "finished" if is_whole else "failed"})
        records.save(self.out, self.record)
        if not is_whole:
            raise PartialFailure(_failures(len(self.record.series), reasons, damaged))
        return self.record

    def _failed(self, series: SeriesRecord, reason: str) -> SeriesRecord:
        for name in series.folders:
            Place(self.out, name).clean()
        return series.model_copy(update={"status": "failed", "error": reason})

    def _series(self, case: Case, series: SeriesRecord) -> SeriesRecord:
        self.method.require_modality(case.modality)
        seconds = dict(series.seconds)
        with timed(seconds, "open"):
            source = case.open()
            self.method.require(source.unit)
            sinks = case.sinks(source, self._writing(series))
        series = _started(series, sinks)
        self._save(series)
        watch = Watch(self.method.seen, self.method.is_guarded)
        guide = None if self.options.ct is None else guide_for(case, source.geometry, self.options.ct)
        self._slices(source, sinks, self.method.for_case(case.identity, guide), seconds, watch)
        with timed(seconds, "write"):
            for sink in sinks:
                sink.finish()
        found = [*series.warnings, *watch.warnings(), *(text for sink in sinks for text in sink.warnings)]
        rounded = {stage: round(value, 3) for stage, value in seconds.items()}
        changes = {"status": "done", "error": None, "seconds": rounded, "warnings": tuple(dict.fromkeys(found))}
        return series.model_copy(update=changes | {"change": watch.record()})

    def _slices(
        self,
        source: SliceSource,
        sinks: Sequence[Sink],
        restorer: AnyRestorer,
        seconds: dict[str, float],
        watch: Watch,
    ) -> None:
        """Restore what is missing; one thread reads and writes while this one computes."""
        n = source.geometry.n_slices
        missing = [k for k in range(n) if not all(sink.has(k) for sink in sinks)]
        self._advance(self.done + n - len(missing))

        def write(restored: Restored) -> None:
            with timed(seconds, "write"):
                for sink, values in zip(sinks, (restored.image, restored.deviation), strict=False):
                    if values is not None and not sink.has(restored.index):
                        sink.write(restored.index, values, restored.padding)

        with ThreadPoolExecutor(1, thread_name_prefix="files") as io:
            try:
                waiting: deque[Future[None]] = deque()
                for restored in restore(restorer, source, missing, io, seconds):
                    watch.add(restored.traits, restored.weight)
                    waiting.append(io.submit(write, restored))
                    self._settle(waiting, leave=WRITES_AT_ONCE)
                self._settle(waiting, leave=0)
            finally:
                io.shutdown(cancel_futures=True)

    def _settle(self, waiting: deque[Future[None]], leave: int) -> None:
        """Wait for the oldest writes; what went wrong in one is raised here."""
        while len(waiting) > leave:
            waiting.popleft().result()
            self._advance(self.done + 1)

    def _writing(self, series: SeriesRecord) -> Writing:
        places = tuple(Place(self.out, name) for name in series.folders)
        return Writing(
            places=places,
            series_uids=(series.output_series_uid, series.uncertainty_series_uid)[: len(places)],
            derivation=self.method.derivation,
            transfer_syntax=self.options.transfer_syntax,
            deterministic_uids=self.options.deterministic_uids,
        )

    def _save(self, series: SeriesRecord) -> None:
        all_series = tuple(series if s.index == series.index else s for s in self.record.series)
        self.record = self.record.model_copy(update={"series": all_series})
        records.save(self.out, self.record)

    def _advance(self, done: int) -> None:
        self.done = done
        self.progress(done, self.total)


def choose_device(name: str) -> torch.device:
    """`auto` is a CUDA GPU where there is one, else the CPU; raises UsageError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: '{name}' is not a device: choose auto, cpu, cuda or cuda:N") from None
    gpus = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= gpus):
        raise UsageError(f"--device: '{name}' is not there (this machine has {gpus} CUDA GPUs): choose auto or cpu")
    return device


def _plan(found: Found, method: Method, options: Options, device: torch.device) -> RunRecord:
    outside = {key: getattr(options, key) for key in ("series", "allow_gaps", "transfer_syntax", "deterministic_uids")}
    return RunRecord(
        parameters={**method.parameters, **outside},
        device=str(device.type),
        threads=torch.get_num_threads(),
        series=tuple(_planned(case, method, options.method) for case in found.cases),
        set_aside=found.set_aside,
        damaged=found.damaged,
    )


def _planned(case: Case, method: Method, kind: str) -> SeriesRecord:
    parameters = method.parameters
    return SeriesRecord(
        index=case.index,
        folder=case.folder,
        modality=case.modality,
        kernel=case.kernel,
        n_slices=case.n_slices,
        input_series_uid=case.series_uid,
        input_fingerprint=case.fingerprint,
        uncertainty_folder=f"{case.folder}_uncertainty" if method.has_deviation else None,
        method=kind,
        model=parameters.get("model"),
        model_sha256=method.sha256,
        mode=parameters["mode"],
        strength=parameters["strength"],
        dose=parameters.get("dose"),
        smoothing=parameters.get("smoothing"),
        sampler=parameters.get("sampler"),
        nfe=method.nfe,
        seed=parameters.get("seed"),
        warnings=(*case.warnings, *header_warnings(method.seen, case.facts), *method.warnings),
    )


def _started(series: SeriesRecord, sinks: Sequence[Sink]) -> SeriesRecord:
    uids = [sink.series_uid for sink in sinks]
    changes = {"status": "started", "output_series_uid": uids[0], "uncertainty_series_uid": [*uids, None][1]}
    return series.model_copy(update=changes)


def require_apart(path: Path, out: Path) -> None:
    here, there = path.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(f"-o {out}: lies inside the input, or the input inside it; choose a separate folder")


def _require_room(out: Path, record: RunRecord, cases: Sequence[Case]) -> list[Path]:
    """The folders that the run will make, innermost first; raises OutputError when the disk is too full."""
    made = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
    existing = made[-1].absolute().parent if made else out
    images = 2 if record.parameters["mode"] == "uncertainty" else 1
    needed = sum(case.n_slices * (case.voxels_per_slice * BYTES_PER_VOXEL + HEADER_BYTES) for case in cases) * images
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if not made else 0
    try:
        free = shutil.disk_usage(existing).free + written
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror}); choose another folder with -o") from None
    if needed > free:
        raise OutputError(
            f"{out}: about {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; "
            "make room or choose another disk with -o"
        )
    return made


def _failures(total: int, reasons: Sequence[str], damaged: Sequence[str]) -> str:
    """One sentence that names every failed series, and the first of the damaged files."""
    told = [f"{len(reasons)} of {total} series failed: {'; '.join(reasons)}"] if reasons else []
    if damaged:
        told.append(f"{len(damaged)} files that belong to none of the {total} series are damaged: {damaged[0]}")
    return "; ".join(told)


def _discard(out: Path, made: Sequence[Path]) -> None:
    """After total failure: leave the disk as it was found."""
    (out / records.NAME).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else put a file there meanwhile: then the folder is theirs
        for folder in made:
            folder.rmdir()
