"""`medidiff demo`: the main job on the bundled studies of CT and PET, with tables and pictures of what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli.demo import ct, pet


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="CT study: folder with low_dose, full_dose and noise_free; default: the bundled one."),
    ] = None,
    pet_data: Annotated[
        Path | None,
        typer.Option(help="PET study: a folder like data_samples/pet; default: the bundled one."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; an earlier demo is replaced.")] = (
        Path("demo_output")
    ),
    model: Annotated[
        str, typer.Option(help="For CT: name of an embedded model (see medidiff models), or a file.")
    ] = "ct",
    pet_model: Annotated[str, typer.Option(help="For PET: name of an embedded model, or a file.")] = pet.MODEL,
) -> None:
    """Reconstruct the bundled synthetic CT and PET studies and show what was gained.

    Writes a DICOM series of each, a side-by-side picture and a table of metrics, and says where they are.

    Whoever names one study, with --data or --pet-data, is shown that one alone.
    """
    wants_ct, wants_pet = data is not None or pet_data is None, pet_data is not None or data is None
    of_ct = ct.STUDY.find(data) if wants_ct else {}
    of_pet = pet.STUDY.find(pet_data) if wants_pet else {}
    if wants_ct:
        ct.show(of_ct, out, model)
    if wants_pet and (pet_data is not None or pet.has_model(pet_model)):
        pet.show(of_pet, out / "pet", pet_model)


def register(app: typer.Typer) -> None:
    app.command()(demo)
