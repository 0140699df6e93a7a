"""Figures of one answer to one trial, all against the full-count reconstruction with regions fixed before.

psnr, nrmse, ssim   in the body and the declared range of the trial; ssim is the mean over slices
psnr_ideal          the same against the reconstruction of expected counts, which has no noise
total, body         activity in % of the full scan's, less 100: of the whole image, and in the body
cov                 standard deviation in % of the mean of the region where uptake is even
lesions             name -> diameter, bias of SUVmean, SUVmax and SUVpeak in %, and that of SUVmean against the
                    noise-free image ("ideal"): the full scan's own noise moves small lesions by several per cent
foci                in the cylinder: multiple of the full scan's deviation -> number of foci above it
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from petbars.trials import Trial

from medidiff.metrics.image import nrmse, psnr, ssim
from medidiff.metrics.pet import bias_percent, foci_above, lesion, matched_filter

VERSION = 1  # of a row
DEVIATIONS = (3, 5)
FEWEST_BODY = 100  # voxels of a slice; SSIM of fewer means nothing
UPTAKE = ("mean", "max", "peak")  # of SUV
BANDS = {"10": (0.0, 11.5), "13": (11.5, 15.0), "17-22": (15.0, 25.0), "28-37": (25.0, np.inf)}

Image = NDArray[np.float32]
Row = dict[str, Any]


def judge(image: Image, trial: Trial) -> Row:
    """Everything that is asked of an answer."""
    full, body, preset = trial.full, trial.body, trial.preset
    row: Row = {
        "psnr": psnr(image, full, preset, body),
        "nrmse": nrmse(image, full, preset, body),
        "ssim": _ssim(image, trial),
        "psnr_ideal": psnr(image, trial.ideal, preset, body),
        "total": bias_percent(_sum(image), _sum(full)),
        "body": bias_percent(_sum(image[body]), _sum(full[body])),
        "lesions": lesions(image, trial),
    }
    if trial.case.even is not None and trial.case.even.any():
        inside = image[trial.case.even].astype(np.float64)
        row["cov"] = float(100 * inside.std(ddof=1) / inside.mean())
    return row | ({"foci": foci(image, trial)} if trial.case.kind == "uniform" else {})


def _sum(values: Image) -> float:
    return float(values.sum(dtype=np.float64))


def _ssim(image: Image, trial: Trial) -> float:
    slices = [k for k, plane in enumerate(trial.body) if plane.sum() >= FEWEST_BODY]
    return float(np.mean([ssim(image[k], trial.full[k], trial.preset, trial.body[k]) for k in slices]))


def lesions(image: Image, trial: Trial) -> dict[str, Row]:
    """Bias of every lesion."""
    found = {}
    for target in trial.case.targets:
        was, truly = (trial.reference(what, target.number) for what in ("full", "ideal"))
        now = lesion(image, trial.case.labels == target.number, trial.case.spacing_mm)
        biases = {key: bias_percent(getattr(now, key), getattr(was, key)) for key in UPTAKE}
        biases["ideal"] = bias_percent(now.mean, truly.mean)
        found[f"{target.number} {target.name}"] = {
            "diameter_mm": round(target.diameter_mm, 1), "pasted": target.is_pasted, **biases
        }  # fmt: skip
    return found


def foci(image: Image, trial: Trial) -> dict[str, int]:
    """Foci in the even part of the cylinder at each threshold, which the full scan sets."""
    assert trial.case.even is not None
    spacing, inside = trial.case.spacing_mm, trial.case.even
    deviation = float(matched_filter(trial.full, spacing)[inside].std())
    filtered = matched_filter(image, spacing)
    return {str(k): foci_above(filtered, inside, k * deviation) for k in DEVIATIONS}


def band(lesion: Row) -> str:
    """The size band of a drawn lesion, or "cut" for one that comes from a scan."""
    if lesion["pasted"]:
        return "cut"
    return next(name for name, (low, high) in BANDS.items() if low <= lesion["diameter_mm"] < high)
