"""Neighbouring slices and the null space: flicker of a reconstructed volume, and where its uncertainty is.

    python benchmarks/projections_volume.py --data SCANS [--picture FILE.png]

Flicker: slices of the `tune` patient with thin ones, 60 views each. rms(d_z (x - truth)) / (sqrt 2 rms(x - truth)) in
the body: 1 where the errors of neighbours have nothing to do with each other, less where they are alike. Of the
quantitative image with several weights of --z-smoothing, and of samples with noise that neighbours share (as medidiff
draws it) and with noise of their own.

Null space: slices of `test` patients, 120 views of an arc of 120 degrees. Samples' deviation and error of the image by
direction in the Fourier plane (frequencies of 0.02 to 0.25 cycles a pixel), in the measured and in the missing ones;
what the calibrated deviation covers, and how it ranks the error over patches of 16 x 16 pixels. The picture shows one
of them. benchmarks/calibrate_projections.py has the coverage of more conditions and patients.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from projections import CONDITIONS, PIPELINES, Trial, body_of, trial
from scipy.stats import spearmanr

from medidiff import DISCLAIMER
from medidiff.data.manifest import load_pair, read_manifest
from medidiff.diffusion.schedule import CaseNoise
from medidiff.inference import guided
from medidiff.inference.guided import Guided
from medidiff.inference.projection_options import ProjectionOptions
from medidiff.io.projections import Header, Projections, Scanner, open_projections, write_projections
from medidiff.physics.projectors import evenly
from medidiff.physics.scanner import ELECTRONIC_VARIANCE, I0, scanner_beam
from medidiff.physics.transmission import counts, transmission
from medidiff.units import hu_to_mu

Image = NDArray[np.float32]

VOLUME, SLICES, VIEWS = "acrin-042", range(28, 36), 60
WEIGHTS = (0.0, 0.003, 0.03)
ARC_PATIENTS, COPIES = 1, 8
PATCH = 16
MODEL: dict[str, object] = {}  # set by --model


def container(truth: Image, geometry: object, pixel_mm: float, path: Path) -> Projections:
    beam = scanner_beam(evenly(VIEWS, 360.0), truth.shape[1] * pixel_mm / 2)
    air = np.full(beam.n_bins, I0, np.float32)
    drawn = (
        counts(
            air * transmission(np.maximum(hu_to_mu(hu), 0).astype(np.float32), pixel_mm, beam),
            ELECTRONIC_VARIANCE,
            np.random.default_rng(k),
        )
        for k, hu in enumerate(truth)
    )
    scanner = Scanner(
        "fan", "curved", beam.angles, beam.n_bins, beam.bin_mm, beam.source_isocentre_mm, beam.source_detector_mm
    )
    header = Header("CT", scanner, geometry, electronic_variance=ELECTRONIC_VARIANCE)  # type: ignore[arg-type]
    write_projections(path, header, ({"counts": one[None], "air": air} for one in drawn))
    return open_projections(path)


def method(projections: Projections, **options: object) -> Guided:
    chosen = {**MODEL, **options}
    return Guided(projections, ProjectionOptions("diffusion", **chosen), torch.device("cpu"), "volume")  # type: ignore[arg-type]


def images(made: Guided) -> Image:
    return np.concatenate([done.images for done in made.slices(list(range(made.projections.header.shape[0])))])


def flicker(image: Image, truth: Image, body: NDArray[np.bool_]) -> tuple[float, float]:
    """(RMSE in HU, flicker)."""
    error = image - truth
    inside = np.sqrt(np.mean(error[body] ** 2))
    return float(inside), float(np.sqrt(np.mean(np.diff(error, axis=0)[body[1:] & body[:-1]] ** 2) / 2) / inside)


def volume(data: Path, folder: Path) -> None:
    pair = next(p for p in read_manifest(PIPELINES / "train_ct.csv", data) if p.patient == VOLUME)
    scan, _ = load_pair(pair)
    truth = np.maximum(scan.array[SLICES.start : SLICES.stop], -1000).astype(np.float32)
    geometry = scan.geometry.select(SLICES.start, SLICES.stop)
    projections = container(truth, geometry, geometry.pixel_spacing_mm[0], folder / "volume.h5")
    body = np.stack([body_of(one) for one in truth])
    print(f"{len(truth)} slices of {geometry.slice_spacing_mm:.2f} mm, {VIEWS} views")
    print("                              RMSE HU  flicker")
    for weight in WEIGHTS:
        found = flicker(images(method(projections, z_smoothing=weight)), truth, body)
        print(f"quantitative, z {weight:<5g}        {found[0]:8.1f} {found[1]:8.3f}", flush=True)
    shared = flicker(images(method(projections, mode="sample")), truth, body)
    print(f"sample, noise shared         {shared[0]:8.1f} {shared[1]:8.3f}")
    with patch.object(guided, "CaseNoise", partial(CaseNoise, weights=(1.0,))):
        own = flicker(images(method(projections, mode="sample")), truth, body)
    print(f"sample, noise of their own   {own[0]:8.1f} {own[1]:8.3f}", flush=True)


def null_space(data: Path, folder: Path, picture: Path | None) -> None:
    pairs = [p for p in read_manifest(PIPELINES / "train_ct.csv", data) if p.split == "test"]
    pairs = list({pair.patient: pair for pair in pairs}.values())[:ARC_PATIENTS]
    print("\n120 views over 120 degrees: deviation and error, HU a Fourier coefficient, by direction")
    for number, pair in enumerate(pairs):
        one = trial(pair, "arc_120", number, folder)
        found = sampled(one, folder)
        image, samples, deviation = found.image, found.samples, found.samples.std(0, ddof=1)
        table = method(open_projections(one.container), mode="uncertainty").table
        if table:
            deviation = table(deviation, image, found.level, found.colour)
        seen = _measured(found.usual)
        spread = _power(samples - samples.mean(0)) * COPIES / (COPIES - 1)
        error = _power((image - one.truth)[None])
        ratio = [float(np.sqrt(power[~seen].mean() / power[seen].mean())) for power in (spread, error)]
        error_hu = np.abs(image - one.truth)
        rank = spearmanr(_blocks(deviation, one.body), _blocks(error_hu, one.body)).statistic
        covered = float(np.mean(error_hu[one.body] < 1.645 * deviation[one.body]))
        print(
            f"{one.patient}: missing over measured directions, deviation {ratio[0]:.2f}, error {ratio[1]:.2f}; "
            f"rank correlation of the two over patches {rank:.2f}; within 1.645 deviations {100 * covered:.0f} % "
            "(90 if calibrated)",
            flush=True,
        )
        if picture is not None and number == 0:
            _draw(picture, one.truth, image, samples, deviation)


@dataclass(frozen=True, eq=False)
class Sampled:
    """A slice by the default options, and COPIES samples without a condition; level in HU and colour of its noise."""

    usual: Guided
    image: Image
    samples: Image
    level: float
    colour: float


def sampled(one: Trial, folder: Path) -> Sampled:
    usual = method(open_projections(one.container))
    copies = _copies(open_projections(one.container), folder / "copies.h5")
    with patch.object(guided, "CaseNoise", partial(CaseNoise, weights=(1.0,))):  # copies have nothing in common
        samples = images(method(copies, mode="sample", unconditional=True))
    (cond,) = usual._conditions([0], usual.data([0])[0])
    level = float(cond.r[0]) * usual.model.scaling.factor
    return Sampled(usual, images(usual)[0], samples, level, float(cond.colour[0, 0]))


def _copies(one: Projections, path: Path) -> Projections:
    """The same slice COPIES times, 10 mm apart: samples of it in one go, the projector working for all of them."""
    header = one.header
    origins = header.geometry.origins_mm[0] + np.outer(10.0 * np.arange(COPIES), [0, 0, 1])
    content = {name: one.read(name, [0]) for name in one.names}
    place = replace(header, geometry=replace(header.geometry, origins_mm=origins))
    write_projections(path, place, ({**content, "air": content["air"][0]} for _ in range(COPIES)))
    return open_projections(path)


RING = (0.02, 0.25)


def _frequencies(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n), indexing="ij")  # type: ignore[return-value]


def _power(stack: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean power of the coefficients in the ring, flat."""
    fy, fx = _frequencies(stack.shape[1])
    ring = (np.hypot(fx, fy) > RING[0]) & (np.hypot(fx, fy) < RING[1])
    return np.asarray((np.abs(np.fft.fft2(stack)) ** 2).mean(0)[ring] / stack[0].size)


def _measured(made: Guided) -> NDArray[np.bool_]:
    """Which coefficients of the ring a view measures: lines across the rays, of the middle of the fan."""
    n = made.projections.header.geometry.matrix[0]
    fy, fx = _frequencies(n)
    ring = (np.hypot(fx, fy) > RING[0]) & (np.hypot(fx, fy) < RING[1])
    angles = np.arctan2(fy, fx)[ring] % np.pi  # of the frequency; the ray x cos + y sin = s measures that of theta
    views = made.beam.angles % np.pi
    return np.asarray(np.abs((angles[:, None] - views + np.pi / 2) % np.pi - np.pi / 2).min(1) < np.radians(2))


def _blocks(values: NDArray[np.floating], body: NDArray[np.bool_]) -> NDArray[np.float64]:
    n = values.shape[0] // PATCH
    cut = lambda a: a[: n * PATCH, : n * PATCH].reshape(n, PATCH, n, PATCH).swapaxes(1, 2).reshape(n * n, -1)  # noqa: E731
    inside = cut(body).mean(1) > 0.9
    return np.asarray(cut(values).mean(1)[inside], np.float64)


def _draw(path: Path, truth: Image, image: Image, samples: Image, deviation: Image) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = [
        ("the scan", truth, (-160, 240)),
        ("reconstruction, 120 of 360 degrees", image, (-160, 240)),
        ("a sample without the condition", samples[0], (-160, 240)),
        ("reconstruction - scan", image - truth, (-200, 200)),
        ("two samples, difference", samples[1] - samples[0], (-200, 200)),
        ("standard deviation", deviation, (0, 300)),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(12, 8.4), facecolor="black")
    for axis, (title, shown, (low, high)) in zip(axes.flat, columns, strict=True):
        axis.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        axis.set_title(f"{title} ({low} to {high} HU)", color="white", fontsize=9)
        axis.axis("off")
    figure.text(0.5, 0.01, DISCLAIMER, color="white", ha="center", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90, facecolor="black")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--model", type=Path, help="weights; without it the embedded ones")
    arguments = parser.parse_args()
    assert CONDITIONS["arc_120"][:2] == (120, 120.0)
    if arguments.model:
        MODEL["model"] = str(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        null_space(arguments.data, Path(name), arguments.picture)
        volume(arguments.data, Path(name))
    print(f"\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
