"""What all tests share: where real data lie, which system tools there are, and small volumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans; tests that need it skip, saying so, where it is absent."""
    folder = Path(os.environ.get("MEDIDIFF_SHARED", ROOT.parent / "shared" / "data"))
    if not (folder / "splits.csv").exists():
        pytest.skip(f"REAL SCANS NOT FOUND at {folder}: set MEDIDIFF_SHARED to the folder that holds splits.csv")
    return folder


@pytest.fixture(scope="session")
def system_tool() -> Callable[[str], str]:
    """Path of a system program; a missing one skips on a user's machine and fails in CI."""

    def find(name: str) -> str:
        for folder in (Path("/usr/bin"), Path("/usr/sbin")):  # not PATH: pynetdicom shadows storescu in the venv
            if (folder / name).exists():
                return str(folder / name)
        found = shutil.which(name)
        if found:
            return found
        message = f"SYSTEM PROGRAM {name} IS MISSING: install the packages of system-packages.txt"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find
