"""What the server keeps when one study is opened after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dashboard.library import Library

ROOT = Path(__file__).resolve().parents[2]
STUDIES, SHAPE = 20, (512, 512, 40)  # of 20 MiB each
SETTLED = 4  # studies after which caches of code are full
GROWTH_MIB = 100  # of 320 that are opened after that
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    values = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    for k in range(STUDIES):
        image = nib.Nifti1Image(values + np.int16(k), np.diag([-0.7, -0.7, 2.0, 1.0]))
        image.header.set_sform(image.affine, code=1)
        nib.save(image, folder / f"{k:02d}.nii")
    return folder


@pytest.fixture
def server(studies: Path, reviewing: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """The address of a dashboard over the studies, and the number of the process that serves it."""
    started = reviewing(str(studies))
    address, command = started.start(), started.process.pid
    children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
    yield address.rstrip("/"), int(children[0])
    started.stop()


def resident_mib(process: int) -> float:
    line = next(row for row in Path(f"/proc/{process}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="THE MEMORY OF A PROCESS IS READ FROM /proc: Linux")
def test_memory_stays_bounded_over_twenty_studies(browser: Any, server: tuple[str, int], studies: Path) -> None:
    """Each is opened in the viewer until all of it is there; what was opened before is not kept."""
    address, process = server
    listed = Library([studies])
    listed.add(studies)
    keys = [case.key for case in listed.cases()]
    assert len(keys) == STUDIES
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    used = []
    for key in keys:
        page.goto(f"{address}/viewer?case={key}")
        page.wait_for_selector('[data-state="ready"][data-plane="axial"]')
        used.append(resident_mib(process))
    page.close()
    assert used[-1] - used[SETTLED - 1] < GROWTH_MIB, used
