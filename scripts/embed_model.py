"""Turn the best weights of a training run into an embedded model: card filled in, file and readable card written.

    python scripts/embed_model.py runs/train_ct/best.safetensors quality.json calibration.json

Figures come from benchmarks/ct_bars.py or pet_bars.py (--split test --json FILE) and benchmarks/calibrate_ct.py or
calibrate_pet.py, of a model of projections from benchmarks/projections.py and calibrate_projections.py (--json FILE),
run on these very weights; a figure that was measured on other weights is refused. What the card says beside figures
stands in scripts/card_words.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from card_words import OF

from medidiff import DISCLAIMER
from medidiff.model import Card, Model, load, save
from medidiff.seen import card_section


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
    words = OF[kind(model.card)]
    card = Card(
        name=model.card.name,
        input=model.card.input,
        modality=model.card.modality,
        summary=model.card.summary,
        data=words.data,
        simulated=words.simulated,
        training={"stages": stages(model)},
        metrics=words.rows(quality),
        uncertainty={k: v for k, v in calibration.items() if k != "model"},
        seen=model.card.seen,
        limits=words.limits,
    )
    path = options.folder / f"{card.name}.safetensors"
    sha256 = save(path, model.denoiser, model.architecture, model.scaling, card)
    path.with_suffix(".md").write_text(page(card, sha256, path.stat().st_size))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {sha256}")


def kind(card: Card) -> str:
    """Which words are those of a model."""
    return "projections" if card.input == "projections" else card.modality


def stages(model: Model) -> list[dict[str, Any]]:
    """Recipe and length of every stage of training, the first one first; `initial` of a recipe is the stage before.

    An embedded model has them all in its card. A run that started from one must be embedded before another replaces it.
    """
    facts = model.card.training
    if "stages" in facts:
        return list(facts["stages"])
    initial = facts["recipe"]["initial"]
    return [*(stages(load(initial)) if initial else []), facts]


def page(card: Card, sha256: str, size: int) -> str:
    """The card as Markdown."""
    words = OF[kind(card)]
    columns = list(dict.fromkeys(key for row in card.metrics for key in row))
    table = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    table += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in card.metrics]
    parts = [
        f"# Model `{card.name}`: {card.summary}",
        f"{DISCLAIMER.capitalize()}. {size / 1e6:.1f} MB, float16 safetensors, SHA-256 `{sha256}`.",
        "## Data",
        *[f"- {line}" for line in card.data],
        "## What was simulated",
        card.simulated,
        "## Figures on the test split",
        words.table,
        "\n".join(table),
        "## Uncertainty",
        words.uncertainty,
        f"```json\n{json.dumps({k: v for k, v in card.uncertainty.items() if k != 'table'}, indent=1)}\n```",
        *card_section(card.seen),
        "## Limits",
        *[f"- {line}" for line in card.limits],
        "## Training",
        f"```json\n{json.dumps(card.training, indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    """A figure, or several by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {figure:+.2f}" for name, figure in value.items())
    return str(value)


if __name__ == "__main__":
    main()
