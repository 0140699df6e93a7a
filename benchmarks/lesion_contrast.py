"""What is left of faint lesions: contrast in the bundled study before and after, beside the truth.

    medidiff demo && python benchmarks/lesion_contrast.py [demo_output]

Contrast is the mean inside 0.6 radii less the median of a ring from 1.5 to 2.2 radii, in the slice nearest the lesion's
centre. One realisation of the noise: a single lesion says little, all of them say which way it goes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.io.dicom import load_volume
from medidiff.volume import Volume

STUDY = Path(__file__).parents[1] / "data_samples" / "ct"


def contrast(volume: Volume, lesion: dict[str, Any]) -> float:
    """HU by which a lesion differs from its surroundings."""
    geometry = volume.geometry
    x, y, z = lesion["centre"]
    nearest = int(np.argmin(np.abs(geometry.origins_mm[:, 2] - z)))
    rows, columns = (np.arange(n) * s for n, s in zip(geometry.matrix, geometry.pixel_spacing_mm, strict=True))
    origin = geometry.origins_mm[nearest]
    radii = np.hypot(origin[1] + rows[:, None] - y, origin[0] + columns - x) / min(lesion["radii"][:2])
    image, ring = volume.array[nearest], (radii > 1.5) & (radii < 2.2)
    return float(np.mean(image[radii < 0.6]) - np.median(image[ring]))


def main() -> None:
    result = next((Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output") / "reconstruction").glob("0*"))
    volumes = [load_volume(folder) for folder in (STUDY / "low_dose", result, STUDY / "noise_free")]
    print("lesion          low dose  reconstructed  truth  kept")
    kept = []
    for lesion in json.loads((STUDY / "study.json").read_text())["lesions"]:
        if lesion["inside"] != "liver" or not lesion["tissue"].startswith("lesion"):
            continue
        low, after, truth = (contrast(volume, lesion) for volume in volumes)
        kept.append(after / truth)
        print(f"{lesion['tissue']:14}  {low:8.1f}  {after:13.1f}  {truth:5.1f}  {100 * after / truth:3.0f} %")
    print(f"median kept: {100 * np.median(kept):.0f} %")


if __name__ == "__main__":
    main()
