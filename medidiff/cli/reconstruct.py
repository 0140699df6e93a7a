"""`medidiff reconstruct`: a scan in, a restored scan out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from medidiff import DISCLAIMER
from medidiff.cli.bar import Bar
from medidiff.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medidiff.inference import RunRecord, SeriesRecord

CLASSICAL = "Classical methods (for comparison)"
SAMPLING = "Sampling (sample mode, and uncertainty from draws)"
INPUT = "Input and output"
COMPUTING = "Computing"
PROJECTIONS = "Projections (FILE.h5 of medidiff project)"
SUFFIXES = (".h5", ".hdf5")  # as in io/projections.py, which is too heavy for --help
OF_PROJECTIONS = ("iterations", "kernel", "projector", "data_guidance", "unconditional", "z_smoothing")
WITH_PROJECTIONS = (
    *("path", "out", "method", "smoothing", "overwrite", "transfer_syntax", "deterministic_uids", "device"),
    *("mode", "model", "steps", "draws", "seed", "precision"),
    *OF_PROJECTIONS,
)  # fmt: skip


def reconstruct(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A DICOM folder, a folder of studies, a NIfTI file, or projections.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; made if absent.")],
    mode: Annotated[
        str,
        typer.Option(
            help="[b]quantitative[/b]: best estimate of every voxel. [b]texture[/b]: with the noise, grain and all, of "
            "a scan at a higher dose (see --dose). [b]uncertainty[/b]: the best estimate and a second series that says "
            "how far each voxel may be off (standard deviation in HU). [b]sample[/b], for research: one of the clean "
            "images that fit, its finest detail invented."
        ),
    ] = "quantitative",
    strength: Annotated[float, typer.Option(help="0 (the scan as it is) to 100 (fully processed).")] = 100.0,
    dose: Annotated[
        float | None,
        typer.Option(
            help="Of --mode texture: the scan's dose as a fraction of the dose whose noise you want to see. 0.25 "
            "(default): of a quarter-dose scan, the noise of the full dose; like --strength 50. 1: the scan itself."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of an embedded model (see medidiff models), or a file. Default: the one for the scans; of a "
            "PET/CT study that for PET (--model ct does the CT)."
        ),
    ] = None,
    ct: Annotated[
        str | None,
        typer.Option(
            help="PET: show the model a CT as well. [b]study[/b]: the one in the same folder and frame of reference; "
            "or the path of one."
        ),
    ] = None,
    no_guard: Annotated[
        bool,
        typer.Option(
            "--no-guard",
            help="Change slices in full whose noise lies outside of what the model has seen. Without it they are "
            "changed less the further off they are, down to not at all.",
        ),
    ] = False,
    series: Annotated[str | None, typer.Option(help="Only the series with this SeriesInstanceUID.")] = None,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Process a series that lacks slices.", rich_help_panel=INPUT)
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier result in the same folder.", rich_help_panel=INPUT),
    ] = False,
    transfer_syntax: Annotated[
        str, typer.Option(help="explicit (uncompressed), jpegls or j2k (both lossless).", rich_help_panel=INPUT)
    ] = "explicit",
    deterministic_uids: Annotated[
        bool,
        typer.Option(
            "--deterministic-uids",
            help="The same input and options give the same new UIDs.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            help="[b]model[/b], or instead of one: identity, gaussian, bilateral, nlm (non-local means), tv (total "
            "variation), bm3d (a separate package, for non-commercial use only). Of projections: [b]diffusion[/b], "
            "fbp, sirt, cgls, pwls, tv; of PET osem, map-rdp.",
            rich_help_panel=CLASSICAL,
        ),
    ] = "model",
    smoothing: Annotated[
        float | None,
        typer.Option(
            help="Its strength, in noise levels of the scan (gaussian: in pixels). Default: what medidiff tune found. "
            "Of projections: in noise levels of the data (pwls, tv; more for few views), mm (osem), beta (map-rdp), "
            "trust in the network against the data (diffusion).",
            rich_help_panel=CLASSICAL,
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(help="Take the strength from a file of medidiff tune.", rich_help_panel=CLASSICAL),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="At most so many. Default: sirt 100, cgls 12, pwls 40, tv 100, osem 3, map-rdp 8.",
            rich_help_panel=PROJECTIONS,
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Of fbp: ram-lak, shepp-logan, cosine, hamming or hann (default), sharp to smooth.",
            rich_help_panel=PROJECTIONS,
        ),
    ] = None,
    projector: Annotated[
        str,
        typer.Option(help="[b]torch[/b], or astra (a separate package; flat detectors).", rich_help_panel=PROJECTIONS),
    ] = "torch",
    data_guidance: Annotated[
        str | None,
        typer.Option(
            help="Of diffusion, how the data pull at its estimates: diffpir (default), dds, pigdm or dps.",
            rich_help_panel=PROJECTIONS,
        ),
    ] = None,
    unconditional: Annotated[
        bool,
        typer.Option(
            "--unconditional",
            help="Of diffusion: do not show the network the backprojection of the data.",
            rich_help_panel=PROJECTIONS,
        ),
    ] = False,
    z_smoothing: Annotated[
        float | None,
        typer.Option(
            help="Of diffusion: weight of the total variation across slices, against flicker, in 1/HU. Default 0.",
            rich_help_panel=PROJECTIONS,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=COMPUTING)] = "auto",
    engine: Annotated[
        str,
        typer.Option(help="[b]torch[/b], or openvino (a separate package, for processors).", rich_help_panel=COMPUTING),
    ] = "torch",
    precision: Annotated[
        str,
        typer.Option(
            help="[b]32[/b] bits; bf16: 16 bits, off by 1 to 2 % of the noise; auto: bf16 where that is faster here.",
            rich_help_panel=COMPUTING,
        ),
    ] = "32",
    steps: Annotated[
        int | None,
        typer.Option(
            help="Sampler steps. Default 6; of diffusion from projections 16 (PET 1).", rich_help_panel=SAMPLING
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="ddpm, ddim, plms, euler, euler_a, heun or dpmpp_2m (default).", rich_help_panel=SAMPLING),
    ] = None,
    cfg_scale: Annotated[
        float | None,
        typer.Option(help="Guidance weight; 1 is off (default), more exaggerates.", rich_help_panel=SAMPLING),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Take the uncertainty map from so many samples. Default: the model's own where it gives one for "
            "images, else 8.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise. Default 0.", rich_help_panel=SAMPLING)] = None,
) -> None:
    """Denoise a low-dose CT or low-count PET scan: DICOM in, a new DICOM series out (NIfTI in, NIfTI out).

    Or reconstruct projections, FILE.h5 of medidiff project or your own, with --method fbp and others.

    Every usable series is written to its own folder in OUT; OUT/run.json says what was done.

    The same command continues an interrupted run.
    """
    given = [name for name in context.params if _is_given(context, name)]
    if path.name.lower().endswith(SUFFIXES):
        _reconstruct_projections(path, out, given, context.params)
        return
    if unused := [name for name in given if name in OF_PROJECTIONS]:
        raise UsageError(f"{_flag(unused[0])} is for projections (FILE.h5 of medidiff project): leave it out")
    from medidiff.inference import Options
    from medidiff.inference import reconstruct as run

    options = Options.of(
        **({} if model is None else {"model": model}),
        method=method,
        mode=mode,
        strength=strength,
        dose=dose,
        guard=not no_guard,
        ct=ct,
        smoothing=smoothing if tuned is None else _strength(tuned, method, smoothing),
        series=series,
        allow_gaps=allow_gaps,
        overwrite=overwrite,
        transfer_syntax=transfer_syntax,
        deterministic_uids=deterministic_uids,
        device=device,
        engine=engine,
        precision=precision,
        steps=steps,
        sampler=sampler,
        cfg_scale=cfg_scale,
        draws=draws,
        seed=seed,
    )
    with Bar("Reconstructing") as bar:
        record = run(path, out, options, progress=bar)
    _summarise(record, out)


def _reconstruct_projections(path: Path, out: Path, given: list[str], values: Mapping[str, Any]) -> None:
    """The branch for a container; raises UsageError for options that are for images."""
    if unused := [name for name in given if name not in WITH_PROJECTIONS]:
        raise UsageError(f"{_flag(unused[0])} is for images, {path} holds projections: leave it out")
    if "method" not in given:
        raise UsageError(f"{path} holds projections: say how to reconstruct them with --method, e.g. --method fbp")
    from medidiff.inference.projection_options import ProjectionOptions
    from medidiff.inference.projections import reconstruct_projections

    names = [name for name in WITH_PROJECTIONS if name not in ("path", "out")]
    options = ProjectionOptions(**{name: values[name] for name in names})
    with Bar("Reconstructing") as bar:
        record = reconstruct_projections(path, out, options, progress=bar)
    _summarise(record, out)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _strength(tuned: Path, method: str, smoothing: float | None) -> float:
    """The strength of a method in a file of `medidiff tune`; raises UsageError where it holds none."""
    from medidiff.inference.tuned import load_tuned

    if smoothing is not None:
        raise UsageError("give --smoothing or --tuned, not both")
    found = {name: one.overall.smoothing for name, one in load_tuned(tuned).items()}
    strength = found.get(method)
    if strength is None:
        names = ", ".join(name for name, value in found.items() if value is not None) or "none"
        raise UsageError(f"--tuned {tuned}: holds no strength for {method}, only for {names}")
    return strength


def _summarise(record: RunRecord, out: Path) -> None:
    plain = Console(highlight=False, soft_wrap=True)
    for series in record.series:
        plain.print(escape(f"{out / series.folder}: {series.n_slices} slices, {_how(series)}"))
        if series.uncertainty_folder:
            unit = "HU" if series.modality == "CT" else "SUV"
            plain.print(escape(f"{out / series.uncertainty_folder}: standard deviation in {unit}"))
        for warning in series.warnings:
            plain.print(escape(f"  warning: {warning}"))
    for reason in record.set_aside:
        plain.print(escape(f"set aside: {reason}"))
    plain.print(escape(f"{out / 'run.json'}: what was done ({DISCLAIMER})"))


def _how(series: SeriesRecord) -> str:
    if series.method == "model":
        held = "" if series.change is None or series.change["min"] > 0.95 else ", more where slices were held back"
        texture = f" (noise of {1 / series.dose:.3g} times the dose{held})" if series.dose is not None else ""
        return f"{series.mode}{texture}, model {series.model}"
    smoothing = f", smoothing {series.smoothing:g}" if series.smoothing is not None else ""
    residual = f", {series.data_residual:.3g} times the noise left" if series.data_residual is not None else ""
    return f"method {series.method}{smoothing}{residual}"


def register(app: typer.Typer) -> None:
    app.command()(reconstruct)
