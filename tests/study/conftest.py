"""A small study: two patients, a paired scan and a full dose, and two methods that take no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml


@pytest.fixture
def study_file(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> Callable[..., Path]:
    """Writes study.yaml in a folder with scans a, b (low, full) and c (full), and returns its path."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] - 23.5
    body = np.where(x**2 + y**2 < 400, 40.0, -1000.0)
    for name, noise in {"a": 5, "b": 15, "c": 10}.items():
        full = body + rng.normal(0, noise, (3, 48, 48))
        write_nifti_scan(tmp_path / f"{name}_full.nii", full)
        write_nifti_scan(tmp_path / f"{name}_low.nii", full + rng.normal(0, 2 * noise, (3, 48, 48)))

    def write(**changes: Any) -> Path:
        settings: dict[str, Any] = {
            "name": "small",
            "output": str(tmp_path / "out"),
            "data_root": str(tmp_path),
            "cases": [
                {"paired": {"name": "a", "scan": "a_low.nii", "reference": "a_full.nii", "dose": 0.2}},
                {"paired": {"name": "b", "scan": "b_low.nii", "reference": "b_full.nii", "dose": 0.2}},
            ],
            "methods": [{"name": "identity", "method": "identity"}, {"name": "gaussian", "method": "gaussian"}],
            "metrics": ["rmse", "psnr"],
            "presets": ["hu"],
            "report": False,
            "statistics": {"resamples": 100},
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return write
