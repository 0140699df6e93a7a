"""Makes `data_samples/pet`: a synthetic PET study with lesions, at full counts and at a tenth of them.

    truth       a torso phantom with six lesions, on 4 mm voxels
    full_count  what a scan of TRUES_PER_SLICE trues a slice shows of it (medidiff.simulate_pet)
    low_count   the *same* acquisition with every event kept with the probability 1 / DRF
    lesions     the lesions' numbers, ct: the CT of the same torso

Low and full counts share their events, as a shorter part of one scan does. The truth is no scan: where lesions are
small, even the full count shows less uptake than there is (partial volume). Everything is seeded, identifiers are
hashes of fixed names: a second run makes the same pixels.

    python data_samples/make_pet_study.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from medidiff.io.nifti import write_nifti
from medidiff.io.pet_dicom import PetStudy, write_pet
from medidiff.physics.pet import hu_of_mu
from medidiff.physics.pet_phantoms import Phantom, Rendered, Solid, geometry, render, torso
from medidiff.simulate_pet import Acquired, LowCount
from medidiff.volume import Geometry, Volume

STUDY = "medidiff data_samples pet"
SHAPE, SPACING_MM, LOWEST_MM = (24, 96, 96), (4.0, 4.0, 4.0), -24.0  # the middle of the image: liver and lung
RESOLUTION_MM = 4.5  # with voxels of 4 mm, recovery of EARL 1
SCAN = LowCount(drf=10, seed=20260105, resolution_mm=RESOLUTION_MM)
LESIONS = (  # LPS mm, diameter mm, SUV
    ("liver", (-85.0, -20.0, -30.0), 22.0, 8.0),
    ("liver", (-40.0, 10.0, -55.0), 13.0, 8.0),
    ("top of the liver", (-85.0, 10.0, 15.0), 17.0, 6.0),
    ("left lung", (85.0, 0.0, 14.0), 10.0, 7.0),
    ("beside the spleen", (115.0, 52.0, -40.0), 28.0, 4.0),
    ("abdomen", (10.0, -60.0, -50.0), 37.0, 5.0),
)
SERIES = {"full_count": 1, "low_count": 2, "truth": 3}


def phantom() -> Phantom:
    """The usual torso with the study's lesions."""
    bare = torso()
    lesions = [
        Solid(f"{where}, {mm:g} mm", "ellipsoid", at, (mm / 2,) * 3, suv, role="lesion")
        for where, at, mm, suv in LESIONS
    ]
    return Phantom(bare.name, (*bare.solids, *lesions), bare.length_mm)


def simulate() -> tuple[dict[str, Volume], Rendered]:
    """The three series in SUV, and the phantom behind them."""
    rendered, place = render(phantom(), SHAPE, SPACING_MM, z0_mm=LOWEST_MM), _place()
    truth, ct = Volume(rendered.suv, place, "SUV"), Volume(hu_of_mu(rendered.mu).astype(np.float32), place, "HU")
    acquired = Acquired(truth, SCAN, STUDY, ct)
    return {"full_count": acquired.image(1), "low_count": acquired.image(), "truth": truth}, rendered


def _place() -> Geometry:
    return geometry(SHAPE, SPACING_MM, z0_mm=LOWEST_MM)


def study_of(series: str) -> PetStudy:
    """What the headers of a series say."""
    return PetStudy(
        study=STUDY,
        series=series.replace("_", " "),
        series_number=SERIES[series],
        reconstruction="none" if series == "truth" else "OSEM 3i21s, Gaussian 5 mm",
        comments="Not for diagnosis.",
    )


def record(rendered: Rendered) -> dict[str, object]:
    """What made the study, and where its lesions lie, by their numbers in the mask."""
    lesions = [
        {"number": k, "where": where, "centre_mm": at, "diameter_mm": mm, "suv": suv,
         "voxels": int((rendered.lesions == k).sum())}
        for k, (where, at, mm, suv) in enumerate(LESIONS, start=1)
    ]  # fmt: skip
    return {"synthetic": True, "scan": SCAN.parameters(), "lesions": lesions}


def main(folder: Path) -> None:
    images, rendered = simulate()
    for series, volume in images.items():
        write_pet(folder / series, volume, study_of(series), compressed=True)
    write_nifti(folder / "low_count.nii.gz", images["low_count"].with_array(np.round(images["low_count"].array, 2)))
    write_nifti(folder / "lesions.nii.gz", Volume(rendered.lesions.astype(np.float32), _place(), "SUV"))
    hu = np.rint(hu_of_mu(rendered.mu)).astype(np.float32)
    write_nifti(folder / "ct.nii.gz", Volume(hu, _place(), "HU"))
    (folder / "study.json").write_text(json.dumps(record(rendered), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pet")
