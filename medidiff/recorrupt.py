"""Training pairs from noisy scans as they are, with nothing cleaned: recorrupted to recorrupted.

Let a scan be `f = x + n` and `m` noise of the same distribution as `n`, drawn anew. For any dose fraction `a`

    y = f + sqrt((1 - a) / a) m        is a scan of dose `a`,
    t = f - sqrt(a / (1 - a)) m        has noise that is uncorrelated with that of y: var n - var m = 0,

so the network that predicts `t` from `y` with least squares learns E[x | y], though `x` was never seen (Pang et al.
2021, CVPR, "Recorrupted-to-Recorrupted"; Moran et al. 2020, "Noisier2Noise"). No filter decides what anatomy is, and
edges are as free of noise as the rest. It rests on `m` having the level, the spectrum and the place of `n`: it is what
`medidiff simulate` inserts at half the dose, fitted to the series. An error of 10 % in its variance at a = 0.25 leaves
3 % of the noise in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medidiff.data.manifest import Pair
from medidiff.data.prepare import AIR_HU, Case, case_folder, store
from medidiff.errors import InputError
from medidiff.io.dicom import open_series, scan
from medidiff.progress import Progress, silent
from medidiff.simulate import Acquisition, LowDoseSource, low_dose

HALF = 0.5  # of the dose: the noise that is inserted then is another one like the scan's own
LEAST_SLICES = 8  # of a series to which the simulation is fitted


def recorrupted_cases(pairs: Sequence[Pair], cache: Path, progress: Progress = silent) -> list[Case]:
    """The `train` series of full-dose DICOM scans that have enough even tissue, each with a second noise of its own."""
    folders = [p for p in pairs if p.split == "train" and p.low is None and p.full.is_dir()]
    cases = []
    for done, pair in enumerate(folders, start=1):
        cases += _case(pair, cache)
        progress(done, len(folders))
    return cases


def _case(pair: Pair, cache: Path) -> list[Case]:
    """One case, or none where the scan's noise cannot be measured."""
    folder = case_folder(cache, pair, 1.0)
    if not (folder / "full.npy").exists():
        series = scan(pair.full).usable[0]
        if series.n_slices < LEAST_SLICES:
            return []
        source, acquisition = open_series(series), Acquisition.of(series)
        try:
            simulated = LowDoseSource(source, acquisition, low_dose(source, acquisition, HALF))
        except InputError:
            return []
        half = dict(simulated.slices())
        full = np.stack([source.read(k) for k in range(len(half))])
        folder.mkdir(parents=True, exist_ok=True)
        store(folder / "own.npy", np.stack([half[k] for k in range(len(half))]) - full)
        store(folder / "full.npy", np.maximum(full, AIR_HU))  # last: its presence says that the case is whole
    full, own = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("full", "own"))
    return [Case(pair.full.name, full, own, None, is_exact=True, has_own_noise=True)]
