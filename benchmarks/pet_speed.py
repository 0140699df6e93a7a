"""Seconds and memory of `medidiff reconstruct` on PET, from the start of the program to its end, DICOM to DICOM.

    python benchmarks/pet_speed.py [--model pet] [--slices 75 150 300] [--with-ct]

The scan is a torso phantom in 128 x 128 pixels (`medidiff phantom`), sliced as finely as the number asks for, through
`medidiff simulate --drf 20`. Target: 300 slices in at most 60 s on 2 cores in quantitative mode; memory must not grow
with the number of slices.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from speed import CLI, STAGES, run_child

from medidiff import DISCLAIMER
from medidiff.physics.pet_phantoms import TORSO_LENGTH_MM


def made(slices: int, place: Path) -> Path:
    """A low-count PET series of so many slices in `place`, and its CT as ct.nii.gz."""
    spacing = str(TORSO_LENGTH_MM / slices)
    phantom = [*CLI, "phantom", "torso", "-o", str(place / "phantom"), "--slice", spacing, "--format", "dicom"]
    run_child(phantom, silent=True)
    truth = str(place / "phantom" / "truth")
    run_child([*CLI, "simulate", truth, "--drf", "20", "-o", str(place / "low")], silent=True)
    return place / "low"


def measured(slices: int, model: str, *, with_ct: bool) -> dict[str, float]:
    """Clock, peak memory and the parts that run.json tells."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        low, out = made(slices, place), place / "out"
        guide = ["--ct", str(place / "phantom" / "ct.nii.gz")] if with_ct else []
        command = [*CLI, "reconstruct", str(low), "-o", str(out), "--model", model, *guide]
        began = time.perf_counter()
        usage = run_child(command, silent=True)
        wall = time.perf_counter() - began
        series = json.loads((out / "run.json").read_text())["series"][0]
    parts = {stage: series["seconds"].get(stage, 0.0) for stage in STAGES}
    return {"seconds": wall, "memory_mb": usage.ru_maxrss / 1024, **parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pet")
    parser.add_argument("--slices", type=int, nargs="+", default=[75, 150, 300])
    parser.add_argument("--with-ct", action="store_true")
    options = parser.parse_args()
    print(f"{DISCLAIMER.capitalize()}. {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| slices of 128 x 128 | seconds | reading | network | writing | peak memory |\n|---|---|---|---|---|---|")
    for slices in options.slices:
        row = measured(slices, options.model, with_ct=options.with_ct)
        parts = " | ".join(f"{row[stage]:.1f}" for stage in STAGES)
        print(f"| {slices} | {row['seconds']:.1f} | {parts} | {row['memory_mb']:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
