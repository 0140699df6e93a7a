"""Which noise a recipe shows the network, beside the noise of every real series: the figure of docs/training.md.

    python benchmarks/noise_spectra.py --data SCANS [--recipe pipelines/train_ct.yaml] [--figure FILE.png] [--json FILE]

Real noise is measured in the flattest soft tissue (`medidiff.noise.spectrum`), a training draw in all of the patient,
where it is known exactly: low-dose slab less noise-free target, from the dataset's own transforms. Spectra are divided
by the variance, so white noise is 0 dB at every frequency, in cycles a pixel (what a network sees).

    distance of two spectra = root mean square over rings of the difference in dB

over the rings from 0.09 cycles a pixel on (below, anatomy counts too much), both floored at FLOOR_DB. A series is
covered if none of these rings up to 0.5 lies outside the 5-95 % envelope of the draws by more than two
standard errors (bootstrap over regions), and a draw lies within NEAR_DB of it, its own error taken off. `rank` is the
share of the draws that have their nearest fellow closer. A folder is a series; isolated slices are put together by
kernel, by pixel size to 0.1 mm, and by whether settings may be chosen from them (train, tune) or are judged by them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from medidiff.config import load_settings
from medidiff.data.dataset import prepare_splits
from medidiff.data.manifest import Pair, read_manifest
from medidiff.data.transforms import MARGIN
from medidiff.io.dicom import open_series, scan
from medidiff.noise.spectrum import (
    ROI,
    SMOOTHING,
    cut,
    detrend,
    hann_taper,
    homogeneous_regions,
    power_spectra,
    region_powers,
    robust_spectrum,
)
from medidiff.training import TrainSettings, samples

FLOOR_DB = -25.0  # of white noise; whole HU alone put -20 to -30 dB below the noise of a smooth kernel
LOW, BAND = 0.1, (0.12, 0.5)  # cycles a pixel: "low" frequencies; where correlation and direction are measured
SLICES = 8  # of a folder
FLAT_HU = 30.0  # the smoothed image varies by no more within a region that is measured
FEWEST = 5  # regions of a series that is judged
NEAR_DB = 1.5
Z_FROM_HU = 20.0  # correlation along z is measured in whole slabs: in quieter draws it would be that of the anatomy
TISSUE_HU = (-20.0, 150.0)
SHARP = 0.33  # cycles a pixel: series of a higher mean frequency are drawn as sharp
DIRECTIONS = np.exp(2j * np.arctan2(np.fft.fftfreq(ROI)[:, None], np.fft.fftfreq(ROI)[None, :]))
RADIUS = np.hypot(np.fft.fftfreq(ROI)[:, None], np.fft.fftfreq(ROI)[None, :])
COUNTS = np.bincount(np.rint(RADIUS * ROI).astype(int).ravel())[2:]  # of each ring that region_powers keeps
FREQUENCY = region_powers(np.zeros((1, ROI, ROI)), 1.0)[0]
JUDGED = FREQUENCY > 0.08  # below, a fifth of the power is anatomy even in slices of 1 mm with 25 HU of noise
INSIDE = JUDGED & (FREQUENCY <= 0.5)


@dataclass(frozen=True, eq=False)
class Noise:
    """What was measured of one series or one draw; frequencies in cycles a pixel, nan where nothing can be said.

    spectrum   (rings,) dB above white noise of the same variance, and its standard error
    low_share  of the power between MIN_FREQUENCY and the corners, below LOW
    direction  0 for noise without a direction, 1 for noise along one line
    z          correlation with the next slice and the one after, in BAND
    ratio      90th over 10th percentile of the local level in soft tissue
    edge       local level near the skin over that of the deepest tissue
    """

    level: float
    mean_frequency: float
    low_share: float
    direction: float
    z: tuple[float, float]
    ratio: float
    edge: float
    regions: int
    spectrum: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Real:
    """A measured series and where it is from; `held_out` says that no setting may be chosen from it."""

    name: str
    kernel: str
    held_out: bool
    pixel_mm: float
    noise: Noise


def noise_of(rois: NDArray[np.floating], z: tuple[float, float], ratio: float, edge: float) -> Noise:
    """Level, colour and direction of the noise in regions (n, ROI, ROI)."""
    frequency, power, variance = region_powers(rois, 1.0)
    found = robust_spectrum(frequency, power, variance)
    relative = found.power / found.level**2
    share = float((COUNTS * relative)[frequency < LOW].sum() / (COUNTS * relative).sum())
    plane = power_spectra(rois, 1.0, hann_taper(ROI))
    band = (BAND[0] < RADIUS) & (BAND[1] > RADIUS)
    mean = (plane / np.maximum(plane[:, band].sum(1), 1e-12)[:, None, None]).mean(0)
    return Noise(
        found.level,
        found.mean_frequency,
        share,
        float(abs((mean * DIRECTIONS)[band].sum()) / mean[band].sum()),
        z,
        ratio,
        edge,
        len(rois),
        decibel(relative),
        standard_error(power / variance[:, None]),
    )


def decibel(power: NDArray[np.floating]) -> NDArray[np.float64]:
    return 10 * np.log10(np.maximum(power, 1e-9))


def standard_error(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rings,) in dB, of the median over regions (n, rings), by drawing regions with replacement."""
    generator = np.random.default_rng(0)
    again = generator.integers(0, len(power), (100, len(power)))
    return np.asarray(decibel(np.median(power[again], axis=1)).std(0))


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Median over regions (n, ROI, ROI) of the correlation within BAND, where little anatomy is left."""
    if not len(a):
        return float("nan")
    band = (BAND[0] < RADIUS) & (BAND[1] > RADIUS)
    f, g = (np.fft.fft2(detrend(rois) * hann_taper(ROI))[:, band] for rois in (a, b))
    return float(np.median((f * g.conj()).real.sum(1) / np.sqrt((abs(f) ** 2).sum(1) * (abs(g) ** 2).sum(1) + 1e-12)))


def along_z(slabs: Sequence[NDArray[np.floating]], corners: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    """Correlation of the first slice of each slab with its second and third, in the regions of the first."""

    def lag(n: int) -> float:
        pairs = [(slab, found) for slab, found in zip(slabs, corners, strict=True) if len(slab) > n and len(found)]
        if not pairs:
            return float("nan")
        return correlation(*(np.concatenate([cut(s[k : k + 1], c) for s, c in pairs]) for k in (0, n)))

    return lag(1), lag(2)


def unevenness(noise: NDArray[np.floating], anatomy: NDArray[np.floating]) -> tuple[float, float] | None:
    """(ratio, edge) of the local level of high-passed noise in the soft tissue of one slice; None where it has none.

    Local: a Gaussian of 8 pixels over the squares, which are themselves cleared of what is slower than 2 pixels.
    """
    smooth = gaussian_filter(anatomy, 3.0)
    steep = gaussian_filter(np.hypot(*np.gradient(smooth)), 2.0)
    tissue = binary_erosion((smooth > TISSUE_HU[0]) & (smooth < TISSUE_HU[1]) & (steep < 4.0), iterations=2)
    if tissue.sum() < 4000:
        return None
    squares = (noise - gaussian_filter(noise, 2.0)) ** 2
    weight = gaussian_filter(tissue.astype(np.float32), 8.0)
    local = np.sqrt(gaussian_filter(squares * tissue, 8.0) / np.maximum(weight, 1e-6))[tissue & (weight > 0.3)]
    depth = distance_transform_edt(smooth > -300)[tissue & (weight > 0.3)]
    if len(depth) < 2000:
        return None
    shallow, deep = depth <= np.quantile(depth, 0.2), depth >= np.quantile(depth, 0.8)
    low, high = np.percentile(local, [10, 90])
    return float(high / low), float(np.median(local[shallow]) / np.median(local[deep]))


def _middle(found: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    """Median of each over the slices that had one."""
    known = [pair for pair in found if pair is not None] or [(float("nan"), float("nan"))]
    ratio, edge = np.median(known, axis=0)
    return float(ratio), float(edge)


# ---------------------------------------------------------------- real series


def slabs_of(path: Path) -> Iterator[tuple[NDArray[np.float32], Any]]:
    """(1 to 3 neighbouring slices, header) evenly spread over the one series of a folder or file."""
    series = scan(path).usable[0]
    source = open_series(series, allow_gaps=True)
    n = source.geometry.n_slices
    for index in np.unique(np.linspace(0, n - 1, SLICES + 2).astype(int)[1:-1] if n > 2 else [0]):
        stop = min(index + 3, n)
        yield np.stack([source.read(int(k)) for k in range(index, stop)]), source.header(int(index))


def flat_regions(image: NDArray[np.floating]) -> NDArray[np.intp]:
    """(n, 3) corners of homogeneous regions of one slice with little anatomy."""
    corners = homogeneous_regions(image[None], tissue_hu=TISSUE_HU)
    if not len(corners):
        return corners
    smooth = cut(gaussian_filter(image, SMOOTHING)[None], corners)
    return corners[np.ptp(smooth, axis=(1, 2)) < FLAT_HU]


def measured(slabs: Sequence[NDArray[np.float32]]) -> Noise | None:
    """The noise of one series from some slabs: of the first slice of each, the others are for z. None: too little."""
    corners = [flat_regions(slab[0]) for slab in slabs]
    found = [cut(s[:1], c) for s, c in zip(slabs, corners, strict=True) if len(c)]
    if sum(map(len, found)) < FEWEST:
        return None
    return noise_of(np.concatenate(found), along_z(slabs, corners), *_middle([unevenness(s[0], s[0]) for s in slabs]))


def real_series(pairs: Sequence[Pair]) -> Iterator[Real]:
    """Every series of the manifest that has enough homogeneous soft tissue; the others are named."""
    found: dict[tuple[str, str, bool, float], list[tuple[NDArray[np.float32], float]]] = {}
    for pair in pairs:
        for slab, header in slabs_of(pair.full):
            maker = str(header.get("Manufacturer", "")).split(" ")[0].capitalize().replace("Ge", "GE")
            kernel = str(header.get("ConvolutionKernel", "") or "unnamed").split(".")[-1]
            pixel_mm = float(header.PixelSpacing[0])
            where = (pair.full.parent.name + "/ct", pixel_mm) if pair.full.name == "ct" else (pair.full.name, pixel_mm)
            name, size = where if pair.full.is_dir() else ("single slices", round(pixel_mm, 1))
            held_out = pair.split in ("test", "calibrate")
            found.setdefault((name, f"{maker} {kernel}", held_out, size), []).append((slab, pixel_mm))
    for (name, kernel, held_out, size), slabs in found.items():
        noise = measured([slab for slab, _ in slabs])
        pixel_mm = float(np.mean([mm for _, mm in slabs]))
        if noise is None:
            print(f"too little homogeneous soft tissue: {kernel}, {name}, {size:.1f} mm, {len(slabs)} slices")
        else:
            yield Real(name, kernel, held_out, pixel_mm, noise)


# ---------------------------------------------------------------- training draws


def draws(settings: TrainSettings, pairs: Sequence[Pair], n: int) -> list[Noise]:
    """The noise of `n` training samples, a whole window each instead of patches; scans with their own noise are not
    among them, as theirs is known together with the target's only."""
    window = settings.augmentation.window
    whole = settings.augmentation.model_copy(update={"patch": window - 2 * MARGIN, "patches": 1})
    cases = prepare_splits(pairs, settings.factors, settings.cache, cleaning=settings.cleaning)["train"]
    large = [case for case in cases if min(case.clean.shape[1:]) >= window]
    few = {"augmentation": whole, "phantoms": min(settings.phantoms, 8)}
    dataset = samples(settings.model_copy(update=few), large)
    found = []
    for index in range(n):
        item = dataset[index]
        found.append(drawn(item["slab"][0].numpy(), item["target"][0, 0].numpy()))
    return [noise for noise in found if noise is not None]


def drawn(slab: NDArray[np.float32], target: NDArray[np.float32]) -> Noise | None:
    """The noise of one draw; None in a window that is hardly patient."""
    middle, starts = len(slab) // 2, range(0, len(target) - ROI + 1, ROI // 2)
    noise = slab[middle] - target
    corners = np.array([(0, row, column) for row in starts for column in starts])
    body = (cut(target[None], corners) > -500).mean((1, 2)) > 0.8
    if body.sum() < FEWEST:
        return None
    flat, z = flat_regions(target), (float("nan"), float("nan"))
    if (
        middle
        and len(flat)
        and noise.std() > Z_FROM_HU
        and not any(np.array_equal(slab[middle], slab[middle + k]) for k in (-1, 1))
    ):
        z = along_z([slab[middle - 1 : middle + 2]], [flat])
    return noise_of(cut(noise[None], corners[body]), z, *(unevenness(noise, target) or (float("nan"), float("nan"))))


# ---------------------------------------------------------------- coverage


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(a), len(b)) root mean square differences in dB of spectra (n, rings), floored."""
    a, b = (np.maximum(x, FLOOR_DB)[:, JUDGED] for x in (a, b))
    return np.sqrt(((a[:, None] - b[None]) ** 2).mean(-1))


@dataclass(frozen=True, eq=False)
class Coverage:
    """How a recipe's draws surround a real series.

    outside  rings up to 0.5 cycles a pixel beyond the 5-95 % envelope and two standard errors
    beyond   by how many dB at most
    nearest  distance to the nearest draw in dB, less the series' own error in quadrature
    rank     share of draws that have their own nearest neighbour closer than that
    """

    outside: int
    beyond: float
    nearest: float
    rank: float

    @property
    def covered(self) -> bool:
        return self.outside == 0 and self.nearest <= NEAR_DB


def coverage(real: Sequence[Real], training: Sequence[Noise]) -> list[Coverage]:
    spectra = np.maximum([noise.spectrum for noise in training], FLOOR_DB)
    low, high = np.percentile(spectra, [5, 95], axis=0)
    own = distances(spectra, spectra)
    np.fill_diagonal(own, np.inf)
    own_nearest, found = own.min(1), []
    for one in real:
        spectrum = np.maximum(one.noise.spectrum, FLOOR_DB)
        error = np.where(one.noise.spectrum > FLOOR_DB, one.noise.error, 0)
        off = (np.maximum(low - spectrum, spectrum - high) - 2 * error)[INSIDE]
        squared = float(distances(spectrum[None], spectra).min()) ** 2 - float((error[JUDGED] ** 2).mean())
        nearest = float(np.sqrt(max(squared, 0)))
        found.append(
            Coverage(int((off > 0).sum()), float(max(off.max(), 0)), nearest, float((own_nearest < nearest).mean()))
        )
    return found


# ---------------------------------------------------------------- tables and figure

COLUMNS = {  # of the table, and their formats
    "HU": ".1f", "f,/px": ".3f", "f,/mm": ".2f", "low,%": ".0f", "direct.": ".2f", "z 1": ".2f", "z 2": ".2f",
    "ratio": ".2f", "edge": ".2f", "n": "d", "outside": "d", "by,dB": ".1f", "near,dB": ".2f", "rank": ".2f",
}  # fmt: skip
FIGURES = ("level", "mean_frequency", "low_share", "direction", "ratio", "edge")


def row(one: Real, cover: Coverage) -> str:
    noise = one.noise
    name = f"{one.kernel}, {one.name}, {one.pixel_mm:.2f} mm{', held out' if one.held_out else ''}"
    known = [noise.level, noise.mean_frequency, noise.mean_frequency / one.pixel_mm, 100 * noise.low_share]
    known += [noise.direction, *noise.z, noise.ratio, noise.edge, noise.regions]
    known += [cover.outside, cover.beyond, cover.nearest, cover.rank]
    cells = [f"{value:{form}}" for value, form in zip(known, COLUMNS.values(), strict=True)]
    return f"{name:64}" + "".join(f"{cell:>8}" for cell in cells) + ("" if cover.covered else "  NOT COVERED")


def percentiles(training: Sequence[Noise]) -> dict[str, list[float]]:
    """5th, 50th and 95th percentile of every figure over the draws."""
    values = {name: [getattr(noise, name) for noise in training] for name in FIGURES}
    values |= {f"z {lag + 1}": [noise.z[lag] for noise in training] for lag in (0, 1)}
    return {name: np.round(np.nanpercentile(column, [5, 50, 95]), 3).tolist() for name, column in values.items()}


def print_report(real: Sequence[Real], training: Sequence[Noise], found: Sequence[Coverage]) -> None:
    print(f"{'':64}" + "".join(f"{name:>8}" for name in COLUMNS))
    for one, cover in zip(real, found, strict=True):
        print(row(one, cover))
    print(f"\n{len(training)} training draws: 5th, 50th, 95th percentile")
    for name, values in percentiles(training).items():
        print(f"{name:16}" + "".join(f"{value:9.3f}" for value in values))
    for held_out in (False, True):
        covers = [cover.covered for one, cover in zip(real, found, strict=True) if one.held_out == held_out]
        print(f"{'held out' if held_out else 'train and tune'}: {sum(covers)} of {len(covers)} series covered")


def draw_figure(real: Sequence[Real], training: Sequence[Noise], path: Path) -> None:
    """Smooth kernels in one panel, sharp ones in the other, over what the training draws span."""
    spectra = np.maximum([noise.spectrum for noise in training], FLOOR_DB)
    low, median, high = np.percentile(spectra, [5, 50, 95], axis=0)
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, sharp in zip(axes, (False, True), strict=True):
        axis.fill_between(FREQUENCY, low, high, color="0.87", label=f"{len(training)} training draws, 5 to 95 %")
        axis.plot(FREQUENCY, median, color="0.45", lw=1.5, ls="--", label="their median")
        chosen = [one for one in real if (one.noise.mean_frequency > SHARP) == sharp]
        for held_out, (colour, label) in enumerate((("tab:blue", "real: train, tune"), ("tab:red", "real: held out"))):
            part = [np.maximum(one.noise.spectrum, FLOOR_DB) for one in chosen if one.held_out == held_out]
            lines = axis.plot(FREQUENCY, np.transpose(part), color=colour, lw=1.1, alpha=0.8) if part else []
            for line in lines[:1]:
                line.set_label(f"{label} ({len(part)})")
        kernels = "\n".join(wrap(", ".join(sorted({one.kernel for one in chosen})), 58))
        axis.set_title(f"{'Sharp' if sharp else 'Smooth'} kernels: {kernels}", fontsize=8, loc="left")
        axis.set(xlabel="spatial frequency, cycles / pixel", xlim=(FREQUENCY[0], FREQUENCY[-1]), ylim=(FLOOR_DB, 14))
        axis.axvline(0.5, color="0.6", lw=0.8, ls=":")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="lower left", framealpha=0.9)
    axes[0].set_ylabel("noise power, dB above white noise\nof the same variance")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})


def as_json(real: Sequence[Real], training: Sequence[Noise], found: Sequence[Coverage]) -> str:
    """All figures, and the spectra at their frequencies in cycles a pixel."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, tuple | list | np.ndarray):
            return [plain(part) for part in value]
        return (None if np.isnan(value) else round(float(value), 3)) if isinstance(value, float) else value

    spectra = np.percentile([noise.spectrum for noise in training], [5, 50, 95], axis=0)
    series = [asdict(one) | asdict(cover) | {"covered": cover.covered} for one, cover in zip(real, found, strict=True)]
    draws = {"n": len(training), "percentiles": percentiles(training), "spectrum": spectra}
    return json.dumps(plain({"frequency": FREQUENCY, "series": series, "draws": draws}), indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parents[1] / "pipelines" / "train_ct.yaml")
    parser.add_argument("overrides", nargs="*", help="of the recipe, as in `medidiff train`: augmentation.window=320")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = load_settings(TrainSettings, options.recipe, options.overrides)
    pairs = read_manifest(settings.manifest, options.data)
    real = sorted(real_series(pairs), key=lambda one: one.noise.mean_frequency)
    training = draws(settings, [pair for pair in pairs if pair.split == "train"], options.draws)
    found = coverage(real, training)
    print_report(real, training, found)
    if options.figure:
        draw_figure(real, training, options.figure)
    if options.json:
        options.json.write_text(as_json(real, training, found))


if __name__ == "__main__":
    main()
