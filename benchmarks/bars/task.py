"""What a model does to phantoms: resolution of edges, detection of faint discs, and to images almost without noise.

    edges      rods of -200 to 900 HU: TTF of the answer at the frequency where the input's is a half, over a half;
               the mean of EDGES noise realisations (medidiff.metrics.resolution)
    signals    discs of 5 mm 10 HU, 7 mm 6 HU, 10 mm 5 HU, and nearer to the middle 7 mm 8 HU: AUC of a channelised
               Hotelling observer over SIGNALS slices, half of them with four discs of each kind, so that there are
               2 SIGNALS pairs a kind, in the input and in the answer (medidiff.metrics.detectability)

A phantom of medidiff/physics/phantoms.py in a 200 mm water cylinder, 256 x 256 pixels of 0.9 mm, seen through the
kernels of the trials, with the noise of 1e5 photons a ray at full dose; neighbouring slices have their own noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from bars.judge import Notebook, Row
from bars.methods import Network, Run
from bars.trials import Store
from numpy.typing import NDArray

from medidiff.data.validation import KERNELS
from medidiff.evaluate.measures.noise import Cnr
from medidiff.evaluate.measures.task import Cho, Ttf
from medidiff.evaluate.phantoms import ELECTRONIC_VARIANCE, I0, PhantomCase
from medidiff.evaluate.view import Context, View
from medidiff.patches import slab_indices
from medidiff.physics.ct import noise_image
from medidiff.physics.phantoms import PHANTOMS

EDGES, SIGNALS = 60, 200
LEAST_CNR = 3.0  # of an edge in the input
VERSION = 1

Image = NDArray[np.float32]


def case_of(kind: str) -> PhantomCase:
    return PhantomCase(kind=kind, realisations=EDGES if kind == "rods" else SIGNALS)


def clean(case: PhantomCase, kernel: str, index: int) -> Image:
    """Slice `index` of the noise-free phantom through a kernel; signals are in the first half."""
    return case.phantom.image(KERNELS[kernel], signals=index < case.n_present)


def scans(case: PhantomCase, kernel: str, dose: float, store: Store) -> Image:
    """(realisations, rows, columns) of the phantom with noise."""
    name = f"phantom_{case.kind}_{kernel}_{dose:g}_v{VERSION}"

    def make() -> Iterator[tuple[str, Image]]:
        yield name, np.stack([_scan(case, kernel, dose, k) for k in range(case.realisations)])

    return next(store.stacks([name], make()))[1]


def _scan(case: PhantomCase, kernel: str, dose: float, index: int) -> Image:
    truth = clean(case, kernel, index)
    return truth + noise_image(
        truth,
        case.pixel_mm,
        dose_fraction=dose,
        i0=I0,
        electronic_variance=ELECTRONIC_VARIANCE,
        kernel=KERNELS[kernel],
        generator=np.random.default_rng([case.seed, index]),
        full_dose=True,
    )


def answers(case: PhantomCase, stack: Image, run: Run, height: int) -> Iterator[Image]:
    """Every slice restored; neighbours are those that show the same object."""
    bounds = (0, case.n_present, len(stack)) if case.kind == "signals" else (0, len(stack))
    for first, last in pairwise(bounds):
        for k in range(last - first):
            yield run(stack[first:last][slab_indices(k, last - first, height)])


def edges(kernel: str, dose: float, network: Network, store: Store, notebook: Notebook) -> dict[str, Row]:
    """Rod -> CNR in the input, share of the input's TTF that is kept at its f50, ratio of the f50s."""

    def make() -> Row:
        case = case_of("rods")
        stack = scans(case, kernel, dose, store)
        context = Context(pixel_mm=(case.pixel_mm, case.pixel_mm), features=case.features)
        transfer, noise = Ttf(context), Cnr(context)
        for k, image in enumerate(answers(case, stack, network.run, network.model.slab)):
            transfer.add(_view(k, image, stack[k]))
            noise.add(_view(k, stack[k], stack[k]))
        cnr = {v.region: v.value for v in noise.values() if v.metric == "CNR"}
        found = {(v.region, v.metric): v.value for v in transfer.values()}
        return {
            rod: {
                "cnr": value,
                "kept": 2 * found.get((rod, "TTF at input f50"), float("nan")),
                "f50_ratio": found.get((rod, "TTF f50 ratio"), float("nan")),
            }
            for rod, value in cnr.items()
        }

    return notebook.get(f"edges {kernel} {dose:g} v{VERSION}", network.identity, make)


def detection(kernel: str, dose: float, network: Network | None, store: Store, notebook: Notebook) -> Row:
    """Signal -> AUC (and its interval), in the answers, or in the scans where no network is given."""

    def make() -> Row:
        case = case_of("signals")
        stack = scans(case, kernel, dose, store)
        images = stack if network is None else answers(case, stack, network.run, network.model.slab)
        observer = Cho(Context(pixel_mm=(case.pixel_mm, case.pixel_mm), features=case.features))
        for k, image in enumerate(images):
            observer.add(_view(k, image, image))
        found: Row = {}
        for value in observer.values():
            found.setdefault(value.region, {})[value.metric] = value.value
        return found

    method = "input" if network is None else network.identity
    return notebook.get(f"signals {kernel} {dose:g} v{VERSION}", method, make)


def _view(index: int, candidate: Image, scan: Image) -> View:
    return View(index, candidate, candidate, np.ones(candidate.shape, bool), scan=scan)


def quiet_phantoms(kernel: str, network: Network, notebook: Notebook) -> dict[str, float]:
    """Phantom -> RMS change of its noise-free image, HU."""

    def make() -> Row:
        return {kind: change(network, clean(PhantomCase(kind=kind), kernel, 0)) for kind in PHANTOMS}

    return notebook.get(f"quiet phantoms {kernel} v{VERSION}", network.identity, make)


def change(network: Network, image: Image) -> float:
    """RMS change of an image that is its own neighbour, HU."""
    answer = network.run(np.repeat(image[None], network.model.slab, axis=0))
    return float(np.sqrt(np.mean((answer - image) ** 2, dtype=np.float64)))
