"""Write a model with another anchor (medidiff/diffusion/denoiser.py), its weights as they are.

    python scripts/lay_anchor.py runs/train_ct_stage11/best.safetensors 4 runs/ct.safetensors

An anchor takes nothing but a Gaussian mean out of the network's change, so one may be laid on weights that were trained
with another. Which is better is measured (benchmarks/ct_bars.py --split tune); the card keeps what was done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff.model import load, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("anchor", type=float, help="pixels; 0: none")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = load(options.weights)
    architecture = model.architecture.model_copy(update={"anchor": options.anchor})
    card = model.card.model_copy(update={"training": {**model.card.training, "anchor_afterwards": options.anchor}})
    print(f"{options.out}: {save(options.out, model.denoiser, architecture, model.scaling, card)}")


if __name__ == "__main__":
    main()
