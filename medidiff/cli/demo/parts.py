"""What the demos of CT and PET share: finding a study, reconstructing it, and telling what came of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import medidiff
from medidiff.cli.bar import Bar
from medidiff.errors import InputError

if TYPE_CHECKING:
    from medidiff.evaluate import Row

console = Console(highlight=False)
Cells = Sequence[str]
Sections = Mapping[tuple[str, ...], Mapping[str, Cells]]


@dataclass(frozen=True)
class Study:
    """A kind of study: where the bundled one lies, the option that names another, what it holds by what that shows."""

    folder: Path
    option: str
    series: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)

    def find(self, given: Path | None) -> dict[str, Path]:
        """The folders and files by name; raises InputError with one sentence when the study is not there."""
        beside = Path(medidiff.__file__).resolve().parents[1] / self.folder
        study = given or (self.folder if self.folder.is_dir() else beside)
        if given is None and not study.is_dir():
            raise InputError(
                f"{self.folder}: the sample study comes with the source repository, not with the installed package; "
                f"run the demo in a copy of the repository, or name the folder with {self.option}"
            )
        parts = {**self.series, **self.files}
        missing = [name for name in self.series.values() if not (study / name).is_dir()]
        missing += [name for name in self.files.values() if not (study / name).is_file()]
        if missing:
            raise InputError(
                f"{study}: expected {', '.join(parts.values())}, missing {', '.join(missing)}; "
                f"name the folder that holds them with {self.option}"
            )
        return {name: study / part for name, part in parts.items()}


def reconstructed(scan: Path, out: Path, model: str) -> Path:
    """Reconstruct the one series of a folder into `out`, an earlier result replaced; returns the new series' folder."""
    from medidiff.inference import Options, reconstruct

    with Bar("Reconstructing") as bar:
        record = reconstruct(scan, out, Options.of(model=model, overwrite=True), progress=bar)
    return out / record.series[0].folder


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """All rows as CSV, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(vars(rows[0])))
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)
    return partial.replace(path)


def tell(title: str, headings: Cells, sections: Sections) -> None:
    """Print a table: each section has a label of one or several lines, and named rows of one cell a method."""
    table = Table(title=title, title_style="bold")
    for k, heading in enumerate(headings):
        table.add_column(heading, justify="left" if k < 2 else "right", no_wrap=True)
    for label, rows in sections.items():
        for k, (name, cells) in enumerate(rows.items()):
            table.add_row(label[k] if k < len(label) else "", name, *cells, end_section=k == len(rows) - 1)
    console.print(table)


def tell_places(series: Path, picture: Path, table: Path) -> None:
    """Say where everything is."""
    places = {"DICOM series": series, "picture": picture, "table": table, "record": series.parent / "run.json"}
    for name, place in places.items():
        console.print(f"{name}: {place}", soft_wrap=True, markup=False)


def cell(value: float | None, digits: int) -> str:
    """A number, or "-" where there is none."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0
