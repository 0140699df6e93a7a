"""Measure what a model has seen, and store it in the model's card.

    python benchmarks/model_range.py --recipe pipelines/train_ct_stage8.yaml --data SCANS --model FILE --store

Slices are drawn from the training recipe, through the same cache, transforms and phantoms, and measured as `medidiff
reconstruct` measures a scan; pixel size, thickness and kernels come from headers of the train split. Of a recipe for
PET parts of bodies are drawn instead of slices (200: about two minutes), voxel sizes with them. Nothing of the
model is computed, so a range can be measured for any model whose recipe is known. With --store the card of FILE gains
the range (or has it replaced), and so does the readable card beside it; the weights stay as they are, the SHA-256
changes. Figures belong to a SHA-256: before scripts/embed_model.py, store the range first and measure them then.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from medidiff.config import load_settings
from medidiff.data.dataset import prepare_splits
from medidiff.data.manifest import read_manifest
from medidiff.data.pet_cases import lesions_and_scans, scan_cases, torso_cases
from medidiff.data.pet_seen import DRAWS, pet_seen_of
from medidiff.data.seen import SLICES, pixel_factors, seen_of
from medidiff.io.files import write_whole
from medidiff.model import load, rewrite_card
from medidiff.recorrupt import recorrupted_cases
from medidiff.seen import HEADING, Seen, card_section
from medidiff.training import TrainSettings, pet_samples, samples

LIMITS = "## Limits"


def range_of(settings: TrainSettings, slices: int) -> Seen:
    """What `slices` draws of a recipe and the headers of its train split show."""
    pairs = tuple(p for p in read_manifest(settings.manifest, settings.data_root) if p.split == "train")
    cases = prepare_splits(pairs, settings.factors, settings.cache, cleaning=settings.cleaning)["train"]
    noisy = recorrupted_cases(pairs, settings.cache) if settings.recorrupted_share else []
    factors = pixel_factors(settings.factors, settings.augmentation)
    return seen_of(samples(settings, cases, noisy), pairs, factors, slices)


def pet_range_of(settings: TrainSettings, draws: int) -> Seen:
    """The same of a recipe for PET; bodies that are not in the cache are acquired first."""
    assert settings.pet is not None
    bodies = settings.pet.bodies
    lesions, scans = lesions_and_scans(read_manifest(settings.manifest, settings.data_root), "train")
    torsos = torso_cases(bodies, lesions, settings.cache)
    return pet_seen_of(pet_samples(settings, torsos, scan_cases(bodies, scans, settings.cache)), draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's manifest starts from")
    parser.add_argument("--model", type=Path, help="model file")
    parser.add_argument("--store", action="store_true", help="write the range into the model's card")
    parser.add_argument("--slices", type=int, help=f"drawn from the recipe; {SLICES}, of PET {DRAWS} parts of bodies")
    options = parser.parse_args()
    if options.store and options.model is None:
        parser.error("--store needs --model FILE")
    if options.store:
        load(options.model)  # a wrong file is told before the scans are prepared
    settings = load_settings(TrainSettings, options.recipe, [f"data_root={options.data}"])
    if settings.pet:
        seen = pet_range_of(settings, options.slices or DRAWS)
    else:
        seen = range_of(settings, options.slices or SLICES)
    print(seen.model_dump_json(indent=1))
    if options.store:
        print(f"{options.model}: range stored, SHA-256 now {store(options.model, seen)}")


def store(path: Path, seen: Seen) -> str:
    """Write the range into a model's card, and into the Markdown beside it; returns the new SHA-256."""
    before, digest = load(path).sha256, rewrite_card(path, seen=seen)
    page = path.with_suffix(".md")
    if page.exists() and before in (text := page.read_text()):
        write_whole(page, with_range(text.replace(before, digest), seen).encode())
    return digest


def with_range(text: str, seen: Seen) -> str:
    """A Markdown card with this range in place of an earlier one."""
    without = re.sub(rf"{HEADING}\n.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    return without.replace(LIMITS, "\n\n".join([*card_section(seen), LIMITS]), 1)


if __name__ == "__main__":
    main()
