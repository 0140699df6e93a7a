"""Search of the classical methods' strengths on trials of split `tune`; what was tried is in the notebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bars.judge import Notebook
from petbars.methods import CLASSICAL, map_unfiltered, placed
from petbars.trials import Trial, span
from petbars.tuned import Strength, TunedPet, climb

from medidiff.metrics.image import nrmse
from medidiff.simulate_pet import FILTER_MM

STARTS = {"gaussian": (4.0, 1.35), "nlm": (3.0, 1.4), "map_rdp": (0.1, 3.0)}  # and the factor of a step
SLICES = 16  # of a torso, in the middle
TORSOS = {"gaussian": None, "nlm": 2, "map_rdp": 2}  # None: all; what is slow is searched on the first ones
MAP_FILTERS_MM = (0.0, FILTER_MM)
VERSION = 1


def search(names: Sequence[str], torsos: Sequence[Sequence[Trial]], notebook: Notebook) -> TunedPet:
    """The best strength of each method at each reduction factor; `torsos` are the trials of one body each."""
    methods: dict[str, dict[float, Strength]] = {}
    for name in names:
        start = STARTS[name][0]
        for of_one_drf in zip(*torsos, strict=True):
            found = best(name, of_one_drf[: TORSOS[name]], start, notebook)
            methods.setdefault(name, {})[of_one_drf[0].drf] = found
            start = found.value
            print(f"tuned {name} at DRF {of_one_drf[0].drf:g}: {found.value:.3g}, NRMSE {found.nrmse:.4f}", flush=True)
    return TunedPet(torsos=len(torsos), slices=min(SLICES, len(torsos[0][0].low)), methods=methods)


def best(name: str, trials: Sequence[Trial], start: float, notebook: Notebook) -> Strength:
    """Of a method over trials of one reduction factor."""
    middles = [trial.middle(SLICES) for trial in trials]
    seen: dict[float, dict[str, float]] = {}

    def objective(value: float) -> float:
        rows = [_row(name, *both, value, notebook) for both in zip(trials, middles, strict=True)]
        seen[value] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        return min(seen[value].values())

    value, least, at_end = climb(objective, start, STARTS[name][1])
    _, filter_mm = min((error, key) for errors in seen.values() for key, error in errors.items())
    untouched = float(np.mean([nrmse(m.low, m.full, m.preset, m.body) for m in middles]))
    return Strength(
        value=value, filter_mm=float(filter_mm) if filter_mm else None, nrmse=least, nrmse_input=untouched,
        at_end=at_end,
    )  # fmt: skip


def _row(name: str, trial: Trial, middle: Trial, value: float, notebook: Notebook) -> dict[str, float]:
    """Filter in mm ("" where a method has none) -> NRMSE of the slices in the middle."""

    def make() -> dict[str, float]:
        if name != "map_rdp":
            image = CLASSICAL[name](middle, Strength(value=value, nrmse=0, nrmse_input=0))
            return {"": nrmse(image, middle.full, middle.preset, middle.body)}
        images = map_unfiltered(trial.case, trial.drf, value, span(len(trial.low), SLICES))
        made = {mm: placed(trial.case, images, mm) for mm in MAP_FILTERS_MM}
        return {f"{mm:g}": nrmse(one, middle.full, middle.preset, middle.body) for mm, one in made.items()}

    return notebook.get(f"tune {trial.key} {SLICES} v{VERSION}", f"{name} {value:.6g}", make)
