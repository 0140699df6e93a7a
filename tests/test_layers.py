"""Imports point down: the contracts of pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_import_contracts_hold() -> None:
    """Layers are exhaustive, numerics import no file, page or network library, only the command line draws."""
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_is_in_a_layer_and_in_the_architecture_page() -> None:
    """A new module is given its place in the layers and a line in docs/architecture.md."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    placed = {name.strip() for line in contract["layers"] for name in line.split("|")} | set(
        contract["exhaustive_ignores"]
    )
    rooms = {
        path.stem
        for path in (ROOT / "medidiff").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert rooms == placed
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert not {room for room in rooms if room not in page}
