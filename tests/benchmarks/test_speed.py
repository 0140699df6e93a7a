"""benchmarks/speed.py: what it counts is right, what it makes is readable, what it writes stays between its markers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from medidiff.io.dicom import scan
from medidiff.networks.unet import UNet


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("speed")


def test_a_folder_is_one_usable_series(speed: Any, tmp_path: Path) -> None:
    """More slices than the sample has, evenly spaced."""
    speed.write_folder(tmp_path, 14)
    (series,) = scan(tmp_path).series
    assert series.usable
    assert series.n_slices == 14


def test_arithmetic_of_layers_is_that_of_the_flop_counter(speed: Any) -> None:
    """Two ways of counting, but for the dense layers of the embedding, which are no convolutions."""
    network = UNet(4, features=5, widths=(8, 16), blocks=(1, 2), embedding=4)
    inputs = torch.zeros(1, 4, 32, 32), torch.zeros(1, 5)
    dense = sum(2 * part.weight.numel() for part in network.modules() if isinstance(part, torch.nn.Linear))
    counted = sum(row["gflop"] for row in speed.layer_costs(network, inputs))
    assert counted * 1e9 == pytest.approx(speed.operations(network, inputs) - dense)


def test_the_peer_has_the_published_number_of_convolutions(speed: Any) -> None:
    """CoreDiff's U-Net: 16 of 3 x 3 in the trunk, three in each of its four adjusting networks."""
    kernels = [part.kernel_size for part in speed.CoreDiffSized().modules() if isinstance(part, torch.nn.Conv2d)]
    assert kernels.count((3, 3)) == 16 + 4 * 3
    x = torch.zeros(1, 3, 16, 16)
    assert speed.CoreDiffSized()(x, torch.zeros(1, 32), x[:, :2]).shape == (1, 1, 16, 16)


def test_a_page_is_written_between_its_markers_only(speed: Any, tmp_path: Path) -> None:
    """Twice gives the same as once; a part without markers is left out."""
    row = {"slices": 4, "seconds": 8.0, "memory_mb": 600.0, "start": 2.0, "read": 1.0, "network": 5.2, "write": 1.0}
    parts = speed.texts({"folder": [row], "linear": [row]})
    page = tmp_path / "page.md"
    page.write_text(f"above\n{speed.BEGIN.format('folder')}\nold\n{speed.END}\nbelow\n")
    facts = {"processor": "x", "threads": 2, "capability": "y", "torch": "z"}
    speed.told(page, parts, facts)
    once = page.read_text()
    speed.told(page, parts, facts)
    assert page.read_text() == once
    assert once.startswith("above\n")
    assert once.endswith("below\n")
    assert "| 4 | 8.0 | 2.000 | 2.0 | 1.0 | 5.2 | 1.0 | 10% | 600 MB |" in once
