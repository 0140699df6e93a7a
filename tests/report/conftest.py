"""Small folders of results, written as `medidiff run` and `medidiff evaluate` write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.baselines.registry import BASELINES
from medidiff.results.names import file_stem
from medidiff.results.rows import CaseFacts, Curve, Row
from medidiff.results.tables import write_curves, write_tables

METHODS = ("identity", "nlm", "ct")
NOISE = {"identity": 1.0, "nlm": 0.6, "ct": 0.45}
REGIONS = {"all": 1.0, "lung": 1.3}
SIZE = 64


class Folder:
    """Patients x doses x methods with numbers drawn from a seed; parts are written as asked."""

    def __init__(self, path: Path, patients: int = 6, doses: Sequence[float] = (0.1, 0.25), methods: Any = METHODS):
        self.path, self.methods = path, tuple(methods)
        self.random = np.random.default_rng(1)
        self.cases = [
            CaseFacts(f"p{k}_{100 * dose:g}", f"p{k}", "B40f", dose, "shared", 5, (("kernel", "B40f"),))
            for k in range(patients)
            for dose in doses
        ]
        self.rows = [row for case in self.cases for method in self.methods for row in self._rows(case, method)]
        self.curves = [c for case in self.cases for method in self.methods for c in self._curves(case, method)]

    def _rows(self, case: CaseFacts, method: str) -> list[Row]:
        sigma = 20 * NOISE.get(method, 0.8) / np.sqrt(case.dose or 1) * self.random.uniform(0.85, 1.15)
        psnr = -20 * np.log10(sigma / 400)
        scan = -20 * np.log10(20 / np.sqrt(case.dose or 1) / 400)
        values = [
            *(Row(case.case, method, r, "RMSE", "hu", sigma * f, "HU") for r, f in REGIONS.items()),
            Row(case.case, method, "all", "PSNR", "abdomen", psnr, "dB"),
            Row(case.case, method, "all", "SSIM", "abdomen", 1 / (1 + sigma / 200), "1"),
            *(Row(case.case, method, r, "bias", "hu", self.random.normal(0, 0.5), "HU") for r in REGIONS),
        ]
        beside = {"input": scan, "truth": scan + 4, "best blend": psnr + 0.2, "limit": scan + 6}
        return values + [Row(case.case, method, "all", f"PSNR {k}", "abdomen", v, "dB") for k, v in beside.items()]

    def _curves(self, case: CaseFacts, method: str) -> list[Curve]:
        f = np.linspace(0.02, 0.7, 30)
        level = 300 * NOISE.get(method, 0.8) * self.random.uniform(0.8, 1.2)
        spectrum = level * f * np.exp(-((f / 0.3) ** 2))
        nps = [("NPS", spectrum), ("NPS reference", 150 * f * np.exp(-((f / 0.35) ** 2)))]
        made = [(name, f, y, "1/mm", "HU^2 mm^2", "all") for name, y in nps]
        made.append(("TTF rod 300", f, np.exp(-((f / 0.5) ** 2)), "1/mm", "1", "rod 300"))
        axis = np.linspace(-0.5, 0.5, 8)
        made.append(("NPS plane", axis, np.hypot(axis, axis[:, None]).ravel(), "1/mm", "HU^2 mm^2", "all"))
        if method == "ct":
            levels = np.arange(5.0, 100, 5)
            made.append(("calibration", levels, 0.95 * levels, "%", "%", "patient"))
        return [Curve(case.case, method, region, name, tuple(map(float, x)), tuple(map(float, y)), xu, yu)
                for name, x, y, xu, yu, region in made]  # fmt: skip

    def record(self) -> dict[str, Any]:
        return {
            "format": "medidiff-study-1", "medidiff": "9.9.9", "status": "finished", "created": "2026-11-21T05:00:00",
            "settings": {"name": "sample", "seed": 7, "presets": ["hu", "abdomen"], "metrics": ["rmse", "psnr"],
                         "workers": 2, "statistics": {"resamples": 500, "alpha": 0.04, "seed": 11}},
            "baseline": self.methods[0], "methods": {m: self._parameters(m) for m in self.methods},
            "cases": {case.case: {"kind": "simulated", "dose": case.dose} for case in self.cases},
            "seeds": {"study": 7},
            "software": {"python": "3.11.9", "torch": "2.9"}, "machine": {"processors": 2}, "failures": [],
            "seconds": {case.case: dict.fromkeys(self.methods, 1.5) for case in self.cases},
        }  # fmt: skip

    def _parameters(self, method: str) -> dict[str, Any]:
        if method == "ct":
            return {"mode": "quantitative", "strength": 100.0, "model": "ct", "model_sha256": "abc123def"}
        return {"method": method, "mode": "quantitative", "strength": 90.0, "smoothing": BASELINES["nlm"].smoothing}

    def picture(self, case: str, method: str, rmse: float) -> None:
        y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
        truth = np.where(x**2 + (1.3 * y) ** 2 < (0.42 * SIZE) ** 2, 40.0, -1000.0).astype(np.float32)
        noisy = truth + self.random.normal(0, rmse, truth.shape).astype(np.float32)
        path = self.path / "pictures" / f"{file_stem(case, method)}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, candidate=noisy, scan=noisy, reference=truth, index=np.array(2), rmse=np.array(rmse),
                            pixel_mm=np.array([0.8, 0.8]), sides=np.array(("R", "L")))  # fmt: skip

    def write(self, *, record: Any = True, curves: bool = True, pictures: bool = True) -> Path:
        """Write the parts; `record` may be one's own."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_tables(self.path, self.rows, self.cases)
        if curves:
            write_curves(self.path, self.curves)
        if record:
            own = record if isinstance(record, dict) else self.record()
            (self.path / "study.json").write_text(json.dumps(own), encoding="utf-8")
        if pictures:
            for row in self.rows:
                if (row.metric, row.region) == ("RMSE", "all") and np.isfinite(row.value):
                    self.picture(row.case, row.method, row.value)
        return self.path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Folder]:
    """`folder(patients=6, doses=(0.1,), methods=(...))`: a Folder that is not written yet."""
    return lambda **what: Folder(tmp_path / "results", **what)


@pytest.fixture(scope="session")
def folder_class() -> type[Folder]:
    return Folder
