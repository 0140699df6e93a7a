"""Turn the best weights of a training run into an embedded model: card filled in, file and readable card written.

    python scripts/embed_model.py runs/train_ct/best.safetensors quality.json calibration.json

Figures come from benchmarks/ct_bars.py (--split test --json FILE) and benchmarks/calibrate_ct.py, run on these very
weights; a figure that was measured on other weights is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medidiff import DISCLAIMER
from medidiff.model import Card, Model, load, save
from medidiff.seen import card_section

EMBEDDED_THEN = {
    "medidiff/weights/ct.safetensors": "runs/train_ct/best.safetensors"
}  # what the fourth stage began with
DATA = (
    "TCGA-OV, CPTAC-PDA, Colorectal-Liver-Metastases, Lung-PET-CT-Dx, LIDC-IDRI, TCGA-LUAD: public, de-identified CT "
    "catalogued by The Cancer Imaging Archive (CC BY 3.0 or 4.0); cite the collections as their pages ask",
    "train: 6 whole series of 5 patients and 69 isolated slices of 36 patients; tune, calibrate and test are other "
    "patients (pipelines/train_ct.csv)",
    "dead-leaves phantoms of this project (8 to 30 % of the samples)",
)
SIMULATED = (
    "No measured low-dose scan was used. In the last four stages 40 to 55 % of the draws are scans with all their own "
    "noise, and another noise of the same level and spectrum, fitted to the series, so arranged that input (5 to 40 % "
    "of the dose) and target have uncorrelated noise (recorrupted to recorrupted). The others are slices cleaned by "
    "non-local means and phantoms, with shapes of 3 to 300 HU drawn into tissue, through a random kernel with "
    "fan-beam noise of 1 to 180 HU whose spectra span those of 27 measured series."
)
LIMITS = (
    "Research use only. Not for diagnosis.",
    "Never seen: iterative or deep-learning reconstructions, head and extremity scans, metal, infants, dual energy.",
    "Local means over a Gaussian of 4 pixels are those of the scan: they cannot drift, and what noise a scan has at "
    "such low frequencies stays in as faint blotches.",
    "The mean HU bias over test patients is below 1 HU but for bone, which comes out too dense under sharp kernels: by "
    "1.8, 2.9 and 4.8 HU at a half, a quarter and a tenth of the dose, 8.1 HU in the worst patient.",
    "Under smooth kernels at half the dose it is hardly better than a tuned BM3D (3 % in RMSE), in some "
    "patients worse.",
    "More noise stays along strong edges than in even tissue: earlier stages learned from cleaned scans that kept it.",
    "Earlier weights were looked at on three test patients while the first stages of training were decided on; later "
    "stages were decided on tune patients. The test figures may be slightly optimistic.",
    "Texture mode is a blend with the scan, because it has the noise of a higher dose and a posterior sample has not "
    "(benchmarks/texture.py); along edges of organs under smooth kernels it is up to a quarter noisier than that dose.",
    "Simulated noise is Gaussian per ray; photon starvation below about 5 % dose is not modelled.",
    "The uncertainty is calibrated on chests of six patients; what it covers on others is listed under uncertainty.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("quality", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "medidiff" / "weights")
    options = parser.parse_args()
    model = load(options.weights)
    quality, calibration = (json.loads(path.read_text()) for path in (options.quality, options.calibration))
    for figures in (quality, calibration):
        if figures["model"] != model.sha256:
            raise SystemExit(f"the figures belong to {figures['model'][:12]}, the weights are {model.sha256[:12]}")
    card = Card(
        name=model.card.name,
        summary=model.card.summary,
        data=DATA,
        simulated=SIMULATED,
        training={"stages": stages(model)},
        metrics=tuple(quality["rows"]),
        uncertainty={k: v for k, v in calibration.items() if k != "model"},
        seen=model.card.seen,
        limits=LIMITS,
    )
    path = options.folder / f"{card.name}.safetensors"
    sha256 = save(path, model.denoiser, model.architecture, model.scaling, card)
    path.with_suffix(".md").write_text(page(card, sha256, path.stat().st_size))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {sha256}")


def stages(model: Model) -> list[dict[str, Any]]:
    """Recipe and length of every stage of training, the first one first; `initial` of a recipe is the stage before."""
    facts = model.card.training
    initial = facts["recipe"]["initial"]
    return [*(stages(load(EMBEDDED_THEN.get(initial, initial))) if initial else []), facts]


def page(card: Card, sha256: str, size: int) -> str:
    """The card as Markdown."""
    rows = card.metrics
    columns = [key for key in rows[0] if key != "bias"]
    heads = [*columns, "worst HU bias of a patient, per tissue"]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        bias = ", ".join(f"{tissue} {value:+.2f}" for tissue, value in row["bias"].items())
        table.append("| " + " | ".join(str(row[c]) for c in columns) + f" | {bias} |")
    parts = [
        f"# Model `{card.name}`: {card.summary}",
        f"{DISCLAIMER.capitalize()}. {size / 1e6:.1f} MB, float16 safetensors, SHA-256 `{sha256}`.",
        "## Data",
        *[f"- {line}" for line in card.data],
        "## What was simulated",
        card.simulated,
        "## Figures on the test patients",
        "RMSE against the noise-free truth over the slice (HU), pseudo-clean construction, one evaluation, mean over "
        "patients; gain is its reduction in percent, worst that of the worst patient, body inside the patient only. "
        "`python benchmarks/ct_bars.py --data SCANS --split test` gives them.",
        "\n".join(table),
        "## Uncertainty",
        "`python benchmarks/calibrate_ct.py --data SCANS` gives these; coverage in percent of nominal 90 % intervals.",
        "The table of factors is in the file. Widths in HU.",
        f"```json\n{json.dumps({k: v for k, v in card.uncertainty.items() if k != 'table'}, indent=1)}\n```",
        *card_section(card.seen),
        "## Limits",
        *[f"- {line}" for line in card.limits],
        "## Training",
        f"```json\n{json.dumps(card.training, indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
