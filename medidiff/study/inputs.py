"""What a case is made of: the noisy scan that methods see, the reference, and the truth where there is one.

A `Kind` names where these come from. `look` reads headers only, so that a whole study can be checked before work;
`open` gives lazy slices. Neither keeps anything in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from medidiff.errors import GeometryError, InputError, UnitError
from medidiff.evaluate.images import digest
from medidiff.evaluate.phantoms import PhantomCase
from medidiff.evaluate.view import Feature, ReferenceNoise
from medidiff.inference.cases import Case, DicomCase, find_cases
from medidiff.io.files import write_whole
from medidiff.io.nifti import NiftiSource, on_grid
from medidiff.physics.ct import KERNELS
from medidiff.seen import Facts
from medidiff.simulate import Acquisition, Calibration, LowDose, LowDoseSource, calibrate, z_weights
from medidiff.units import Unit
from medidiff.volume import Geometry, SliceSource


@dataclass(frozen=True, eq=False)
class Look:
    """What headers tell of a case.

    scan          slices on the grid of the case; to be read only when the case is opened
    fingerprint   changes when the input does
    kernel        of the reconstruction, "" where unknown
    images        (role, digest) of the files that are images of the case (evaluate.images)
    """

    scan: SliceSource
    fingerprint: str
    kernel: str = ""
    images: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Inputs:
    """One case, open.

    identity     what random numbers are seeded by, together with the seed
    facts        what headers say of the scan
    parameters   of the simulation, where there is one
    """

    scan: SliceSource
    reference: SliceSource
    truth: SliceSource | None
    identity: str
    facts: Facts
    features: tuple[Feature, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """Where the images of a case come from; immutable, and small enough to be sent to another process."""

    @property
    def dose(self) -> float | None: ...
    @property
    def reference_noise(self) -> ReferenceNoise: ...

    def decides(self) -> dict[str, Any]:
        """What decides the voxels beside the content of the files."""

    def look(self) -> Look:
        """Check what can be checked from headers; raises what `open` would raise for these."""

    def open(self, cache: Path) -> Inputs:
        """Open for reading; `cache` is a folder for what is worth computing once."""


@dataclass(frozen=True)
class PairedCase:
    """Two acquisitions, or an acquisition and the truth; `features` are the known objects of a phantom."""

    scan: Path
    reference: Path
    truth: Path | None = None
    dose: float | None = None
    reference_noise: ReferenceNoise = "independent"
    allow_gaps: bool = False
    unit: Unit = "HU"
    features: tuple[Feature, ...] = ()

    def decides(self) -> dict[str, Any]:
        known = [asdict(feature) for feature in self.features]
        facts = {"truth": self.truth is not None, "reference_noise": self.reference_noise, "unit": self.unit}
        return {"kind": "paired", **facts, **({"features": known} if known else {})}

    def look(self) -> Look:
        inputs, cases = self._open()
        prints = "\n".join(case.fingerprint for case in cases)
        images = tuple(zip(("scan", "reference", "truth"), map(digest_of, cases), strict=False))
        return Look(inputs.scan, _sha256(prints), kernel_of(cases[0]), images)

    def open(self, cache: Path) -> Inputs:
        return self._open()[0]

    def _open(self) -> tuple[Inputs, list[Case]]:
        paths = [self.scan, self.reference, *([self.truth] if self.truth else [])]
        cases = [one_scan(path, self.allow_gaps, self.unit) for path in paths]
        scan, *others = (case.open() for case in cases)
        others = [aligned(other, scan, path) for other, path in zip(others, paths[1:], strict=True)]
        truth = others[0] if self.reference_noise == "none" else None
        truth = others[1] if self.truth else truth
        return Inputs(scan, others[0], truth, cases[0].identity, cases[0].facts, self.features), cases


@dataclass(frozen=True)
class SimulatedCase:
    """A full dose, and a lower one simulated from it.

    kernel, i0   as for `simulate.calibrate`
    fallback     both, for a scan that shows no noise to fit them to
    """

    full: Path
    dose: float
    seed: int
    kernel: str | None = None
    i0: float | None = None
    fallback: tuple[str, float] | None = None
    allow_gaps: bool = False
    reference_noise: ReferenceNoise = "shared"

    def decides(self) -> dict[str, Any]:
        chosen = {"kernel": self.kernel, "i0": self.i0, "fallback": self.fallback}
        return {"kind": "simulated", "dose": self.dose, "seed": self.seed, **chosen}

    def look(self) -> Look:
        case = one_scan(self.full, self.allow_gaps)
        return Look(case.open(), case.fingerprint, kernel_of(case), (("reference", digest_of(case)),))

    def open(self, cache: Path) -> Inputs:
        case = one_scan(self.full, self.allow_gaps)
        source = case.open()
        acquisition = Acquisition.of(case.series) if isinstance(case, DicomCase) else Acquisition(case.identity)
        weights = z_weights(acquisition.thickness_mm, source.geometry.slice_spacing_mm)
        scan = LowDose(self.dose, self.seed, self._calibration(source, acquisition, case, cache), weights)
        low = LowDoseSource(source, acquisition, scan)
        return Inputs(low, source, None, case.identity, case.facts, parameters=scan.parameters())

    def _calibration(self, source: SliceSource, acquisition: Acquisition, case: Case, cache: Path) -> Calibration:
        """One for all doses of a scan, kept in the cache: it takes as long as many slices."""
        key = _sha256(json.dumps([case.fingerprint, self.kernel, self.i0, self.fallback]))
        kept, adapter = cache / f"calibration-{key[:16]}.json", TypeAdapter(Calibration)
        if kept.exists():
            return adapter.validate_json(kept.read_bytes())
        try:
            kernel = KERNELS[self.kernel] if self.kernel else None
            found = calibrate(source, acquisition, kernel=kernel, i0=self.i0)
        except InputError:
            if self.fallback is None:
                raise
            found = Calibration(self.fallback[1], KERNELS[self.fallback[0]])
        write_whole(kept, json.dumps(asdict(found)).encode())
        return found


@dataclass(frozen=True)
class DrawnCase:
    """A phantom."""

    phantom: PhantomCase

    @property
    def dose(self) -> float:
        return self.phantom.dose

    @property
    def reference_noise(self) -> ReferenceNoise:
        return self.phantom.reference_noise

    def decides(self) -> dict[str, Any]:
        return {"kind": "phantom", **asdict(self.phantom)}

    def look(self) -> Look:
        return Look(self.phantom.scan, "", self.phantom.kernel)

    def open(self, cache: Path) -> Inputs:
        drawn = self.phantom
        identity, truth = f"phantom {drawn.kind} {drawn.kernel} {drawn.seed}", drawn.truth
        reference = truth if drawn.reference_noise == "none" else drawn.reference
        geometry = drawn.scan.geometry
        facts = Facts(geometry.pixel_spacing_mm[1], geometry.slice_spacing_mm)
        return Inputs(drawn.scan, reference, truth, identity, facts, drawn.features, asdict(drawn))


def one_scan(path: Path, allow_gaps: bool = False, unit: Unit = "HU") -> Case:
    """The only scan of a path in a unit; raises InputError where there is none, or more than one."""
    found = find_cases(path, allow_gaps=allow_gaps, unit=unit)
    if len(found.cases) != 1:
        kind = "CT" if unit == "HU" else "PET"
        raise InputError(f"{path}: holds {len(found.cases)} {kind} series, expected one; name the folder of one series")
    if found.damaged:
        raise InputError(found.damaged[0])
    return found.cases[0]


def kernel_of(case: Case) -> str:
    """The reconstruction kernel that the headers name."""
    return case.kernel if isinstance(case, DicomCase) else ""


def digest_of(case: Case) -> str:
    """By which whoever has the scan finds it."""
    return digest(case.series_uid or case.fingerprint)


def aligned(source: SliceSource, like: SliceSource, path: Path) -> SliceSource:
    """`source` on the grid of `like`, with its axes turned where they are stored the other way round.

    Raises GeometryError or UnitError, naming the path, where the two do not belong together.
    """
    if source.unit != like.unit:
        raise UnitError(f"{path}: in {source.unit}, the scan is in {like.unit}: convert it first")
    try:
        return on_grid(source, like.geometry, even=any(isinstance(s, NiftiSource) for s in (source, like)))
    except GeometryError as error:
        raise GeometryError(f"{path}: not the grid of the scan: {error}; resample it first") from None


@dataclass(frozen=True, eq=False)
class Middle:
    """The middle slices of a source, at most `wanted` of them (a `SliceSource`)."""

    source: SliceSource
    wanted: int

    @property
    def first(self) -> int:
        return (self.source.geometry.n_slices - self.wanted) // 2

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry.select(self.first, self.first + self.wanted)

    @property
    def unit(self) -> Unit:
        return self.source.unit

    def read(self, index: int) -> NDArray[np.float32]:
        return self.source.read(index + self.first)

    def padding(self, index: int) -> NDArray[np.bool_] | None:
        return self.source.padding(index + self.first)


def middle(source: SliceSource, wanted: int | None) -> SliceSource:
    """The source, or its middle slices where it has more than are wanted."""
    if wanted is None or wanted >= source.geometry.n_slices:
        return source
    return Middle(source, wanted)


def middle_of(inputs: Inputs, wanted: int) -> Inputs:
    """`middle` of every source of a case; its features keep their places."""
    truth = None if inputs.truth is None else middle(inputs.truth, wanted)
    scan = middle(inputs.scan, wanted)
    first = scan.first if isinstance(scan, Middle) else 0
    features = tuple(
        f if f.slices is None else replace(f, slices=tuple(k - first for k in f.slices)) for f in inputs.features
    )
    return replace(inputs, scan=scan, reference=middle(inputs.reference, wanted), truth=truth, features=features)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
