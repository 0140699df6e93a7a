"""Write the licence table of docs/licences.md from the metadata of what is installed.

    python scripts/licences.py

Rows are the transitive closure of medidiff's requirements, with markers evaluated on this machine. A licence is the
SPDX expression where a package states one (PEP 639), else its one-line licence field, else its classifiers.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
BEGIN, END = "<!-- begin: scripts/licences.py -->", "<!-- end -->"
READ_FROM_THEIR_FILES = {"dcm2niix": "BSD-2-Clause, parts MIT and public domain"}


def closure(name: str, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """All installed packages that `name[extras]` needs, by canonical name, without itself."""
    found: dict[str, Distribution] = {}
    visited: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), extras)]
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in visited:
            continue
        visited.add((package, wanted))
        found[package] = distribution(package)
        for text in found[package].requires or []:
            requirement = Requirement(text)
            if _applies(requirement, wanted):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    found.pop(canonicalize_name(name))
    return found


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def licence(package: Distribution) -> str:
    """What the package says of its licence, in one line."""
    metadata = package.metadata
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    if stated and len(stated.splitlines()) == 1:
        return stated
    classifiers = [
        line.split("::")[-1].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("DFSG approved")
    ]
    return "; ".join(classifiers) or READ_FROM_THEIR_FILES.get(canonicalize_name(metadata["Name"]), "not stated")


def table() -> list[str]:
    """The lines of the table, sorted by name."""
    core = closure("medidiff")
    everything = core | closure("medidiff", frozenset({"dev"}))
    rows = [
        f"| {package.metadata['Name']} | {licence(package)} | {'runtime' if name in core else 'development'} |"
        for name, package in sorted(everything.items())
    ]
    return ["| package | licence | needed for |", "|---|---|---|", *rows]


def main() -> None:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text("\n".join([head + BEGIN, *table(), END + tail]), encoding="utf-8")


if __name__ == "__main__":
    main()
