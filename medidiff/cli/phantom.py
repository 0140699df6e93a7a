"""`medidiff phantom`: PET phantoms whose true uptake is known, as NIfTI or as a DICOM series."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medidiff import DISCLAIMER, __version__
from medidiff.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from medidiff.physics.pet_phantoms import Paintable, Phantom, Rendered
    from medidiff.volume import Geometry

FIELD_MM = 512.0
LESIONS = 6  # drawn into a torso
RECORD, TRUTH, MASKS, CT = "phantom.json", "truth", "lesions.nii.gz", "ct.nii.gz"
IMAGE_NAME, MASK_NAME = "PET_image.nii.gz", "PET_mask.nii.gz"
plain = Console(highlight=False, soft_wrap=True)


class Kind(StrEnum):
    """The phantoms there are."""

    NEMA = "nema"
    UNIFORM = "uniform"
    DERENZO = "derenzo"
    TORSO = "torso"


class Format(StrEnum):
    """How the truth is written."""

    NIFTI = "nifti"
    DICOM = "dicom"


def phantom(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="nema: six spheres of 10 to 37 mm and a lung insert; uniform: a cylinder; derenzo: hot rods of 4.8 to "
            "12.7 mm; torso: a trunk with organs and lesions."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the phantom; it must not exist yet.")],
    lesions: Annotated[
        Path | None,
        typer.Option(
            help=f"Torso: paste real lesions from this folder's folders, each with {IMAGE_NAME} in SUV and {MASK_NAME}."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Torso: how many lesions. Without it 6 drawn ones, or all of --lesions up to 6."),
    ] = None,
    contrast: Annotated[
        float | None, typer.Option(help="Nema: uptake of the spheres over the background. Without it, 4.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Torso: another seed gives another patient with other lesions.")] = 0,
    pixel: Annotated[float, typer.Option(help="Pixel size in mm; the image is 512 mm wide.")] = 4.0,
    thickness: Annotated[float, typer.Option("--slice", help="Distance of the slices in mm.")] = 4.0,
    format_: Annotated[Format, typer.Option("--format", help="How the true uptake is written.")] = Format.NIFTI,
) -> None:
    """Make a PET phantom with known uptake and lesion masks (research use only, not for diagnosis).

    OUT holds the true uptake in SUV, the lesions' numbers (NIfTI), the CT of the same object in HU (NIfTI), and
    phantom.json, which says what everything is. There is no noise in it: medidiff simulate OUT/truth.nii.gz
    --drf 20 --resolution 4.5 --ct OUT/ct.nii.gz scans it.
    """
    from medidiff.io.files import whole_folder
    from medidiff.physics.pet_phantoms import geometry, render

    _check(kind, lesions, count, contrast, seed, (pixel, thickness))
    if out.exists():
        raise OutputError(f"{out}: exists already; name a new folder")
    made = _make(kind, lesions, count, contrast, seed)
    n = round(FIELD_MM / pixel)
    shape, spacing = (max(round(made.length_mm / thickness), 1), n, n), (thickness, pixel, pixel)
    rendered, place = render(made, shape, spacing), geometry(shape, spacing)
    with whole_folder(out) as folder:
        _write(folder, made, rendered, place, format_, seed)
        record = _record(made, rendered, place, seed)
        (folder / RECORD).write_text(json.dumps(record, indent=2))
    plain.print(f"{out}: {made.name}, {shape[0]} slices of {n} x {n}, {len(made.lesions)} lesions", markup=False)
    plain.print(f"{out / RECORD}: what it is ({DISCLAIMER})", markup=False)


def register(app: typer.Typer) -> None:
    app.command(no_args_is_help=True)(phantom)


def _check(
    kind: Kind, lesions: Path | None, count: int | None, contrast: float | None, seed: int, sizes: tuple[float, float]
) -> None:
    """Raise UsageError for options that do not belong to the phantom."""
    if kind is not Kind.TORSO and (lesions is not None or count is not None):
        raise UsageError(f"--lesions and --count are for the torso, the phantom {kind} has its own: leave them out")
    if kind is not Kind.NEMA and contrast is not None:
        raise UsageError(f"--contrast is for the phantom nema, found {kind}: leave it out")
    if contrast is not None and not 1 < contrast <= 100:
        raise UsageError(f"--contrast must be above 1 and at most 100, e.g. 4, found {contrast:g}")
    if count is not None and not 0 <= count <= 40:
        raise UsageError(f"--count must be 0 to 40, found {count}")
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, found {seed}")
    for name, mm in zip(("--pixel", "--slice"), sizes, strict=True):
        if not 1 <= mm <= 10:
            raise UsageError(f"{name} must be 1 to 10 mm, found {mm:g}")


def _make(kind: Kind, lesions: Path | None, count: int | None, contrast: float | None, seed: int) -> Phantom:
    import numpy as np

    from medidiff.data.pet_cases import pasted
    from medidiff.physics.pet_phantoms import PHANTOMS, nema, torso, with_pasted

    if kind is Kind.NEMA:
        return nema() if contrast is None else nema(contrast)
    if kind is not Kind.TORSO:
        return PHANTOMS[kind]()
    generator = np.random.default_rng(seed)
    wanted = LESIONS if count is None else count
    try:
        if lesions is None:
            return torso(generator, wanted)
        chosen = _chosen(lesions, wanted, generator)
        return with_pasted(torso(generator), [pasted(folder) for folder in chosen], generator)
    except ValueError as error:
        raise UsageError(f"{error}: ask for fewer with --count") from None


def _chosen(folder: Path, count: int, generator: Any) -> list[Path]:
    """Some of the lesions of a folder, in their own order."""
    found = sorted(path.parent for path in folder.glob(f"*/{IMAGE_NAME}"))
    if not found:
        raise InputError(f"{folder}: holds no folder with {IMAGE_NAME} and {MASK_NAME}; give one that does")
    picked = generator.permutation(len(found))[:count]
    return [found[k] for k in sorted(picked)]


def _write(folder: Path, made: Phantom, rendered: Rendered, place: Geometry, format_: Format, seed: int) -> None:
    import numpy as np

    from medidiff.io.nifti import write_nifti
    from medidiff.io.pet_dicom import PetStudy, write_pet
    from medidiff.physics.pet import hu_of_mu
    from medidiff.volume import Volume

    truth = Volume(rendered.suv, place, "SUV")
    if format_ is Format.DICOM:
        names = f"{made.name} {json.dumps(_record(made, rendered, place, seed), sort_keys=True)}"
        write_pet(folder / TRUTH, truth, PetStudy(names, f"{made.name}, true uptake", comments="Noise-free truth."))
    else:
        write_nifti(folder / f"{TRUTH}.nii.gz", truth)
    write_nifti(folder / MASKS, Volume(rendered.lesions.astype(np.float32), place, "SUV"))
    hu = np.rint(hu_of_mu(rendered.mu)).astype(np.float32)
    write_nifti(folder / CT, Volume(hu, place, "HU"))


def _record(made: Phantom, rendered: Rendered, place: Geometry, seed: int) -> dict[str, Any]:
    """What the phantom is; `lesions` by their numbers in the mask."""
    numbered = enumerate(made.lesions, start=1)
    return {
        "command": "phantom",
        "medidiff": __version__,
        "note": f"synthetic, there is no patient; {DISCLAIMER}",
        "phantom": made.name,
        "seed": seed,
        "unit": "SUV",
        "shape": list(place.shape),
        "spacing_mm": [place.slice_spacing_mm, *place.pixel_spacing_mm],
        "lesions": {k: _described(lesion, rendered.lesions == k, rendered) for k, lesion in numbered},
        "solids": [_described(solid) for solid in made.solids if solid.role != "lesion"],
    }


def _described(solid: Paintable, mask: Any = None, rendered: Rendered | None = None) -> dict[str, Any]:
    from medidiff.physics.pet_phantoms import Solid

    what: dict[str, Any] = {
        "name": solid.name,
        "role": solid.role,
        "centre_mm": [round(float(x), 3) for x in solid.centre],
        "volume_ml": round(solid.volume_ml, 4),
    }
    if isinstance(solid, Solid):
        what |= {"shape": solid.shape, "half_axes_mm": [round(float(a), 3) for a in solid.axes], "suv": solid.suv}
        what |= {"turn": solid.turn, "mu_per_mm": solid.mu}
    if rendered is not None:
        what |= {"voxels": int(mask.sum())}
        what |= {"suv_mean": float(rendered.suv[mask].mean()) if mask.any() else None}
    return what
