"""Makes pair.npz and golden.json: what the published programs say of two images of HU.

    pip download --no-deps ldct-benchmark==0.0.15 piq==0.8.0
    python tests/metrics/golden/make.py ldct_benchmark-0.0.15-py3-none-any.whl piq-0.8.0-py3-none-any.whl

Both packages import torchvision, which these functions never use: the modules are loaded one by one, with empty
modules in place of what is missing.
"""

import json
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

HERE = Path(__file__).parent
EXAMS = {"chest": "C", "abdomen": "L", "neuro": "N"}


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A body with a lung and a bone; full dose as a scanner stores it, and a smoothed low dose."""
    random = np.random.RandomState(0)  # its stream is frozen
    y, x = np.mgrid[:97, :110] / 110 - 0.45
    body = np.full(x.shape, -1000.0)
    body[(x / 0.45) ** 2 + (y / 0.38) ** 2 < 1] = 40
    body[((x - 0.2) / 0.12) ** 2 + (y / 0.2) ** 2 < 1] = -850
    body[(x + 0.2) ** 2 + y**2 < 0.005] = 900
    body = gaussian_filter(body, 1)
    full = np.rint(body + gaussian_filter(random.normal(0, 40, x.shape), 0.7))
    low = body + gaussian_filter(random.normal(0, 60, x.shape), 1.5)
    return low.astype(np.float32), full.astype(np.float32)


def package(name: str, folder: Path) -> types.ModuleType:
    """The package without what its __init__ imports."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__, module.__file__ = [str(folder)], str(folder / "__init__.py")
    return module


def ldct_benchmark(folder: Path, low: np.ndarray, full: np.ndarray) -> dict[str, dict[str, float]]:
    """`compute_metric` per exam type, of HU + 1024 in single precision."""
    import importlib

    for name in ("ldctbench", "ldctbench.evaluate", "ldctbench.hub", "ldctbench.utils"):
        package(name, folder.joinpath(*name.split(".")))
    sys.modules["ldctbench.evaluate.ldct_iqa"] = types.ModuleType("ldct_iqa")
    sys.modules["ldctbench.evaluate.ldct_iqa"].LDCTIQA = None
    sys.modules["ldctbench.hub.methods"] = types.ModuleType("methods")
    names = ("RESNET", "CNN10", "DUGAN", "QAE", "REDCNN", "TRANSCT", "WGANVGG", "BILATERAL")
    sys.modules["ldctbench.hub.methods"].Methods = types.SimpleNamespace(**dict.fromkeys(names, "-"))
    auxiliaries = importlib.import_module("ldctbench.utils.auxiliaries")
    for name in ("apply_center_width", "load_json", "load_yaml"):
        setattr(sys.modules["ldctbench.utils"], name, getattr(auxiliaries, name))
    utils = importlib.import_module("ldctbench.evaluate.utils")
    images = [(image + 1024)[None, None] for image in (full, low)]
    metrics = ["PSNR", "SSIM", "RMSE", "VIF"]
    found = {exam: utils.compute_metric(*images, metrics, exam_type=letter) for exam, letter in EXAMS.items()}
    return {exam: {name: values[0] for name, values in each.items()} for exam, each in found.items()}


def piq(folder: Path, low: np.ndarray, full: np.ndarray) -> dict[str, float]:
    """GMSD and HaarPSI in the window -160 to 240 HU, in double precision; MS-SSIM of 192 x 208 pixels tiled from it."""
    import importlib

    package("piq", folder / "piq")
    pair = [np.clip((image.astype(float) + 160) / 400, 0, 1) for image in (low, full)]
    tiled = [np.tile(image, (2, 2))[:192, :208] for image in pair]
    chosen = {"gmsd": ("gmsd", pair), "haarpsi": ("haarpsi", pair), "multi_scale_ssim": ("ms_ssim", tiled)}
    return {
        name: float(
            getattr(importlib.import_module(f"piq.{module}"), name)(*(torch.from_numpy(i)[None, None] for i in images))
        )
        for name, (module, images) in chosen.items()
    }


def main(ldct_wheel: str, piq_wheel: str) -> None:
    low, full = scene()
    np.savez_compressed(HERE / "pair.npz", low=low, full=full)
    with tempfile.TemporaryDirectory() as folder:
        for wheel in (ldct_wheel, piq_wheel):
            zipfile.ZipFile(wheel).extractall(folder)
        golden = {"ldct-benchmark": ldct_benchmark(Path(folder), low, full), "piq": piq(Path(folder), low, full)}
    (HERE / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
