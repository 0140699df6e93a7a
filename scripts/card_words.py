"""What the cards of the embedded models say beside figures: data, what was simulated, limits, what the tables mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Words:
    """Of one kind of model.

    rows         figures of its benchmark (--json) -> lines of the card's table
    table        what the table shows, and the command that gives it
    uncertainty  the same of its calibration
    """

    data: tuple[str, ...]
    simulated: str
    limits: tuple[str, ...]
    table: str
    uncertainty: str
    rows: Callable[[dict[str, Any]], tuple[Row, ...]]


CT_DATA = (
    "TCGA-OV, CPTAC-PDA, Colorectal-Liver-Metastases, Lung-PET-CT-Dx, LIDC-IDRI, TCGA-LUAD: public, de-identified CT "
    "catalogued by The Cancer Imaging Archive (CC BY 3.0 or 4.0); cite the collections as their pages ask",
    "train: 6 whole series of 5 patients and 69 isolated slices of 36 patients; tune, calibrate and test are other "
    "patients (pipelines/train_ct.csv)",
    "dead-leaves phantoms of this project (8 to 30 % of the samples)",
)
CT_SIMULATED = (
    "No measured low-dose scan was used. In the last five stages 35 to 55 % of the draws are scans with all their own "
    "noise, and another noise of the same level and spectrum, fitted to the series, so arranged that input (5 to 40 % "
    "of the dose) and target have uncorrelated noise (recorrupted to recorrupted). The others are slices cleaned by "
    "non-local means and phantoms, with shapes of 3 to 300 HU drawn into tissue, through a random kernel with "
    "fan-beam noise of 1 to 180 HU whose spectra span those of 27 measured series."
)
CT_LIMITS = (
    "Research use only. Not for diagnosis.",
    "Never seen: iterative or deep-learning reconstructions, head and extremity scans, metal, infants, dual energy.",
    "Local means over a Gaussian of 4 pixels are those of the scan: they cannot drift, and what noise a scan has at "
    "such low frequencies stays in as faint blotches.",
    "The mean HU bias over test patients is below 1 HU but for bone, which comes out too dense under sharp kernels: by "
    "1.5, 2.3 and 3.7 HU at a half, a quarter and a tenth of the dose, 6.4 HU in the worst patient.",
    "Under smooth kernels at half the dose it is hardly better than a tuned BM3D (4 % in RMSE), in some "
    "patients worse.",
    "More noise stays along strong edges than in even tissue: earlier stages learned from cleaned scans that kept it.",
    "Earlier weights were looked at on three test patients while the first stages of training were decided on; later "
    "stages were decided on tune patients. The test figures may be slightly optimistic.",
    "Texture mode is a blend with the scan, because it has the noise of a higher dose and a posterior sample has not "
    "(benchmarks/texture.py); under smooth kernels it is 10 to 30 % noisier than that dose, most along edges.",
    "Simulated noise is Gaussian per ray; photon starvation below about 5 % dose is not modelled.",
    "The uncertainty is calibrated on chests of six patients; what it covers on others is listed under uncertainty.",
)

CT = Words(
    data=CT_DATA,
    simulated=CT_SIMULATED,
    limits=CT_LIMITS,
    table=(
        "RMSE against the noise-free truth over the slice (HU), pseudo-clean construction, one evaluation, mean over "
        "patients; gain is its reduction in percent, worst that of the worst patient, body inside the patient only; "
        "bias is that of the worst patient, per tissue. `python benchmarks/ct_bars.py --data SCANS --split test` gives "
        "them."
    ),
    uncertainty="`python benchmarks/calibrate_ct.py --data SCANS` gives these; coverage in percent of nominal 90 % "
    "intervals. The table of factors is in the file. Widths in HU.",
    rows=lambda figures: tuple(figures["rows"]),
)


def _pet_rows(figures: dict[str, Any]) -> tuple[Row, ...]:
    """One line a kind of body and reduction factor: ours beside the best classical filter by PSNR."""
    rows = []
    for group, methods in figures.items():
        kind, _, drf = group.rpartition(" ")
        if not isinstance(methods, dict) or "model" not in methods or not drf.replace(".", "").isdigit():
            continue
        best = max(
            (name for name in ("gaussian", "nlm", "map_rdp") if name in methods), key=lambda n: methods[n]["psnr"]
        )
        row: Row = {"body": kind, "drf": float(drf), "best_classical": best}
        for name in ("input", best, "model", "model + CT"):
            if name in methods:
                row[f"psnr_{'classical' if name == best else name.replace(' + ', '_').lower()}"] = round(
                    methods[name]["psnr"], 2
                )
        row["total_percent"] = round(methods["model"]["total"], 2)
        for size, (mean, _) in methods["model"].get("SUVmean", {}).items():
            row[f"suvmean_bias_{size}"] = round(mean, 1)
        rows.append(row)
    return tuple(rows)


PET_DATA = (
    "torso phantoms of this project: 128, each reconstructed at 5 reduction factors, with a CT of the same body",
    "Soft-tissue-Sarcoma (TCIA; CC BY 3.0): FDG uptake of the tumours of 19 patients (IBSI validation set), pasted "
    "into the phantoms, and one whole-body scan of another patient (GE Discovery ST), a fifth of the draws; cite the "
    "collection as its page asks",
    "tune, calibrate and test are other patients and other phantoms (pipelines/train_pet.csv, benchmarks/petbars)",
)
PET_SIMULATED = (
    "No measured low-count scan was used. Bodies of known uptake are projected with attenuation, scatter and randoms; "
    "counts are Poisson, 4e5 to 2e6 trues a slice for a full scan, thinned by 1.5 to 100; OSEM of 3 iterations and 21 "
    "subsets without PSF, detectors of 3.5 to 6 mm, a 3 mm filter and up to 7 mm more. The answer that was learned is "
    "the reconstruction of the expected counts of the same scanner; of the whole-body scan it holds that scan's own "
    "noise. Lesions are 6 to 37 mm, 2.5 to 8 times as hot as what surrounds them."
)
PET_LIMITS = (
    "Research use only. Not for diagnosis.",
    "Phantoms and simulated counts only: no measured low-count scan has judged it.",
    "Never seen: brain, infants, other tracers than FDG, reconstructions with time of flight or PSF, gated scans.",
    "Local means over a Gaussian of 6 voxels are those of the scan: noise of such low frequencies stays in.",
    "Partial volume is not corrected.",
    "Lesions of 10 and 13 mm lose some 40 % of their SUVmean at a twentieth of the counts, no less than with a "
    "Gaussian or MAP filter: small lesions cannot be judged in such an image, where most are fainter than the foci of "
    "chance (benchmarks/pet_visible.py). Of 22 of 17 mm and more one lost 38 %.",
    "At a quarter of the counts it is hardly better than MAP with the relative difference prior (0.2 dB), in the "
    "measured scan no better.",
    "A CT gains nothing in phantoms and costs up to 0.7 dB of PSNR in the measured scan.",
    "At a fiftieth of the counts single torsos are off by up to 1.4 % in total activity, and even uptake shows false "
    "foci: 4 above 5 standard deviations of a full scan, which has none; 1 or 2 at less reduction.",
    "The activity itself is shown to the network, as a mean over 10 mm in SUV: scans of other scales of uptake than "
    "FDG's are outside of what it knows.",
    "The intervals of 90 % cover 84 % in lesions.",
)
PET = Words(
    data=PET_DATA,
    simulated=PET_SIMULATED,
    limits=PET_LIMITS,
    table=(
        "Against the full-count reconstruction of the same events, in the body: PSNR in dB (range: 0 to the 99.9th "
        "percentile of the full scan's body), ours beside the low count and the best classical filter, total activity "
        "off in %, and the mean bias of SUVmean in % of lesions by their diameter in mm (cut: from scans). `python "
        "benchmarks/pet_bars.py --data SCANS --split test` gives them."
    ),
    uncertainty="`python benchmarks/calibrate_pet.py --data SCANS` gives these; coverage in percent of nominal 90 % "
    "intervals of the noise-free reconstruction. The table of factors is in the file. Widths in SUV.",
    rows=_pet_rows,
)
PROJECTIONS = Words(
    data=(
        CT_DATA[0],
        "train: 6 whole series of 5 patients (at most 64 slices each) and 69 isolated slices of 36 "
        "patients; tune, calibrate and test are other patients (pipelines/train_ct.csv)",
    ),
    simulated=(
        "No measured projections were used. Slices are taken for the truth, their noise and blur included, and "
        "projected as `medidiff project` does it: one fan, a curved detector, monochromatic, without scatter; 24 to "
        "400 views of a turn, in a fifth of the draws an arc of 80 to 240 degrees, half of them at full dose (2e5 "
        "photons a ray), the others down to 5 %."
    ),
    limits=(
        "Research use only. Not for diagnosis.",
        "It invents what no ray measured: docs/invention.md says when not to use it.",
        "Never seen: measured projections, other geometries, beam hardening, scatter, motion, metal; heads, limbs, "
        "children.",
        "With arcs of 120 degrees its own estimate is hardly better than the backprojection: smooth pwls and tv are "
        "nearer to the slice there, with the data in the loop too.",
        "Uncertainty is calibrated at 60 views, at 10 % of the dose and for an arc of 120 degrees, on few patients; "
        "it says how far an image may be off on the whole, and hardly where.",
        "The kernel of the condition is hann; other kernels were not trained on.",
    ),
    table=(
        "PSNR in dB (`hu`: range 4096 HU, in the body) against the slice itself, mean over test patients; `twin` is a "
        "network of the same size, data and steps that learned the mean alone, on the backprojection; pwls and tv at "
        "strengths tuned on tune patients. `python benchmarks/projections.py --data SCANS --split test` gives them."
    ),
    uncertainty="`python benchmarks/calibrate_projections.py --data SCANS --keep FOLDER` gives these; coverage in "
    "percent of nominal 90 % intervals on test patients; half widths are the median of the interval's and what would "
    "have held 90 % of the errors, in HU.",
    rows=lambda figures: tuple(figures["rows"]),
)
OF = {"CT": CT, "PT": PET, "projections": PROJECTIONS}
