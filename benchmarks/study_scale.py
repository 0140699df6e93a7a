"""Does a study grow? Peak memory of `medidiff run` for more slices and more cases, and what measuring costs.

    python benchmarks/study_scale.py [--matrix 512] [--workers 1]

Each line of the first table is a process of its own (peak resident memory as the operating system counts it), on
synthetic scans: memory-mapped NIfTI files of a noisy disc. The second table has the seconds a slice that methods take,
and all measures of pipelines/study_ct.yaml beside them; the last line is the time for 100 cases of 100 slices.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from medidiff.study.estimate import estimate
from medidiff.study.plan import make_plan

ROOT = Path(__file__).resolve().parents[1]
METHODS = [
    {"name": "identity", "method": "identity"},
    {"name": "gaussian", "method": "gaussian"},
    {"name": "medidiff", "model": "ct"},
]
SIZES = ((1, 5), (1, 20), (1, 60), (4, 5), (12, 5))  # cases, slices


def write_scan(path: Path, slices: int, matrix: int, noise: float) -> None:
    """A disc of water in air with noise, slice by slice."""
    y, x = np.mgrid[:matrix, :matrix] - (matrix - 1) / 2
    body = np.where(x**2 + y**2 < (0.4 * matrix) ** 2, 40, -1000).astype(np.float32)
    rng = np.random.default_rng(0)
    header = nib.Nifti1Header()
    header.set_data_shape((matrix, matrix, slices))
    header.set_data_dtype(np.float32)
    header.set_sform(np.diag([-0.7, -0.7, 3, 1]), code="scanner")
    with path.open("wb") as file:
        header["magic"], header["vox_offset"] = b"n+1", 352
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for _ in range(slices):
            file.write((body + rng.normal(0, noise, body.shape).astype(np.float32)).tobytes())


def write_study(folder: Path, cases: int, slices: int, matrix: int, methods: list[dict[str, str]]) -> Path:
    for name, noise in (("low", 40.0), ("full", 20.0)):
        write_scan(folder / f"{name}.nii", slices, matrix, noise)
    recipe = yaml.safe_load((ROOT / "pipelines" / "study_ct.yaml").read_text())
    pair = {"scan": str(folder / "low.nii"), "reference": str(folder / "full.nii"), "dose": 0.25}
    settings = {
        "name": "scale",
        "output": str(folder / "out"),
        "cases": [{"paired": {"name": f"case{k:03d}", **pair}} for k in range(cases)],
        "methods": methods,
        "metrics": recipe["metrics"],
        "report": False,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def measured(cases: int, slices: int, matrix: int, workers: int) -> tuple[float, float]:
    """(peak resident memory in MB, seconds) of a whole study."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder), cases, slices, matrix, METHODS[:2])
        began = time.perf_counter()
        program = [sys.executable, "-c", "from medidiff.cli import main; main()", "run", str(study)]
        silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        process = os.posix_spawn(sys.executable, [*program, "--workers", str(workers)], os.environ, file_actions=silent)
        _, status, usage = os.wait4(process, 0)
        if status:
            sys.exit(f"the study of {cases} cases of {slices} slices failed")
        return usage.ru_maxrss / 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    print("cases  slices  peak MB  seconds")
    for cases, slices in SIZES:
        peak, seconds = measured(cases, slices, asked.matrix, asked.workers)
        print(f"{cases:5d} {slices:7d} {peak:8.0f} {seconds:8.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        methods = [*METHODS, {"name": "nlm", "method": "nlm"}, {"name": "tv", "method": "tv"}]
        found = estimate(make_plan(write_study(Path(folder), 1, 3, asked.matrix, methods)))
    print("\nmethod      restore s/slice  measures s/slice")
    for line in found.lines:
        print(f"{line.method:10s} {line.restore:16.3f} {line.judge:17.3f}")
    ours = {line.method: line.restore + line.judge for line in found.lines}
    three = ours["medidiff"] + ours["nlm"] + ours["identity"]
    print(f"100 cases x (medidiff, nlm, identity) x 100 slices: {three * 1e4 / 3600:.1f} h of processor time")


if __name__ == "__main__":
    main()
