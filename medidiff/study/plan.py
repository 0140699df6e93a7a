"""A study checked as a whole before anything runs: every case found, every method ready, every fault named at once.

    settings -> cases (one a dose), methods, the files of each -> Plan, or one UsageError with all that is wrong

A pair (case, method) has a key, the hash of everything that decides its numbers: what is finished under this key need
never be computed again, and what was finished under another one does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medidiff import __version__
from medidiff.baselines import BASELINES
from medidiff.data.manifest import read_manifest
from medidiff.errors import MedidiffError, UsageError
from medidiff.evaluate.journal import work_key
from medidiff.evaluate.phantoms import PhantomCase
from medidiff.evaluate.registry import MEASURES
from medidiff.evaluate.view import Feature
from medidiff.inference.methods import load_method
from medidiff.inference.options import MODEL, Options
from medidiff.inference.tuned import found_for
from medidiff.metrics.preset import PRESETS, WHOLE_RANGE
from medidiff.physics.ellipses import Ellipse
from medidiff.results.rows import CaseFacts
from medidiff.study import external
from medidiff.study.inputs import DrawnCase, Kind, Look, PairedCase, SimulatedCase
from medidiff.study.regions import NO_REGIONS, RegionFiles, region_files
from medidiff.study.settings import Entry, Labels, Manifest, MethodEntry, Nema, Simulation, Study, read_study
from medidiff.units import Unit


@dataclass(frozen=True)
class Result:
    """What another program made of a case."""

    method: str
    path: Path
    fingerprint: str
    digest: str


@dataclass(frozen=True)
class Case:
    """One scan at one dose.

    scan          name without the dose: doses of a scan share it
    n_slices      that are used; `pixels` in each
    regions       the files of its regions
    results       of methods that are not run here
    fingerprint   of all files that the case is made of
    images        (role, digest) of those that are images (evaluate.images)
    """

    name: str
    scan: str
    patient: str
    kind: Kind
    group: str = ""
    kernel: str = ""
    unit: Unit = "HU"
    n_slices: int = 0
    pixels: int = 0
    regions: RegionFiles = NO_REGIONS
    results: tuple[Result, ...] = ()
    fingerprint: str = ""
    images: tuple[tuple[str, str], ...] = ()

    @property
    def facts(self) -> CaseFacts:
        return CaseFacts(self.name, self.patient, self.group, self.kind.dose, self.kind.reference_noise, self.n_slices)

    def result(self, method: str) -> Result | None:
        return next((result for result in self.results if result.method == method), None)


@dataclass(frozen=True)
class Method:
    """Options of our own, or a folder of results; `parameters` decide its voxels."""

    name: str
    options: Options | None
    external: Path | None
    blend: float | None
    parameters: dict[str, Any] = field(hash=False, compare=False)


@dataclass(frozen=True)
class Plan:
    """A study that can be run; `baseline` is the one method that the others are compared with."""

    study: Study
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    baseline: str

    @property
    def pairs(self) -> list[tuple[Case, Method]]:
        return [(case, method) for case in self.cases for method in self.methods]

    def key(self, case: Case, method: Method) -> str:
        """Hash of everything that decides the numbers of a pair."""
        study, result = self.study, case.result(method.name)
        outside = "" if result is None else result.fingerprint
        numbers = [study.metrics, study.presets, study.slices, study.seed, study.keep_images]
        return work_key(__version__, case.kind.decides(), case.fingerprint, method.parameters, outside, numbers)

    def identity(self) -> str:
        """Hash of the study as a whole: what its folder of results is bound to."""
        return work_key(self.study.identity())


class _Faults(list[str]):
    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """A user's error inside the block is noted under `what`, and the check goes on."""
        try:
            yield
        except MedidiffError as error:
            self.append(f"{what}: {error}")


def make_plan(path: Path, overrides: Iterable[str] = (), tick: Callable[[int, int], None] | None = None) -> Plan:
    """Read and check a study; raises UsageError that names every fault. `tick` counts the cases checked."""
    study, found = read_study(path, list(overrides))
    faults = _Faults(found)
    plan = None if study is None else _plan(study, faults, tick)
    if plan is not None and not faults and not plan.pairs:
        faults.append("cases and methods: a study needs at least one of each")
    if faults or plan is None:
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        raise UsageError(f"{path}: {count}{'; '.join(faults)}")
    return plan


def _plan(study: Study, faults: _Faults, tick: Callable[[int, int], None] | None) -> Plan:
    _check_names(study, faults)
    cases = _cases(study, faults)
    methods = tuple(method for entry in study.methods for method in _method(entry, study.seed, faults))
    _check_twice("cases", [case.name for case in cases], faults)
    looked: dict[str, Case] = {}
    for done, case in enumerate(cases, start=1):
        looked[case.name] = _looked_at(case, looked, study, methods, faults)
        if tick is not None:
            tick(done, len(cases))
    units = sorted({case.unit for case in looked.values() if case.n_slices})
    if "presets" not in study.model_fields_set and units and "HU" not in units:
        study = study.model_copy(update={"presets": tuple(WHOLE_RANGE[unit] for unit in units)})
    if units and "HU" not in units:
        study = study.model_copy(update={"statistics": study.statistics.in_range(WHOLE_RANGE[units[0]])})
    _check_units(study, units, methods, faults)
    _check_regions(study, looked.values(), faults)
    return Plan(study, tuple(looked.values()), methods, _baseline(study, methods, faults))


def _check_names(study: Study, faults: _Faults) -> None:
    for what, given, known in (("presets", study.presets, PRESETS), ("metrics", study.metrics, MEASURES)):
        if unknown := [name for name in given if name not in known]:
            faults.append(f"{what}: {', '.join(unknown)} unknown; choose from {', '.join(known)}")
        _check_twice(what, given, faults)
    _check_twice("methods", [method.name for method in study.methods], faults)
    if study.database is not None:
        from medidiff.results.database import open_database

        with faults.of("database"):
            open_database(study.database).dispose()


def _check_twice(what: str, names: Iterable[str], faults: _Faults) -> None:
    twice = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if twice:
        faults.append(f"{what}: {', '.join(twice)} is there more than once; give each a name of its own")


def _baseline(study: Study, methods: tuple[Method, ...], faults: _Faults) -> str:
    names = [method.name for method in study.methods]
    wanted = study.statistics.baseline
    if wanted is None:
        unchanged = [method.name for method in methods if method.parameters.get("method") == "identity"]
        return [*unchanged, *names, ""][0]
    dropped = any(fault.startswith("methods.") for fault in faults)  # it may be the one that was meant
    if names and wanted not in names and not dropped:
        faults.append(f"statistics.baseline: {wanted} is none of the methods; choose from {', '.join(names)}")
    return wanted


# ---------------------------------------------------------------- cases


def _cases(study: Study, faults: _Faults) -> list[Case]:
    """Every case of every entry, not yet looked at."""
    cases: list[Case] = []
    number = 0
    for place, entry in enumerate(study.cases):
        with faults.of(f"cases.{place}"):
            for labels, kinds in _expanded(entry, study):
                number += 1
                name = labels.name or f"case{number:03d}"
                for kind in kinds:
                    full = name if entry.paired or isinstance(kind, PairedCase) else f"{name}@{kind.dose:g}"
                    group = labels.group or (kind.phantom.kind if isinstance(kind, DrawnCase) else "")
                    cases.append(Case(full, name, labels.patient or name, kind, group))
    return cases


def _expanded(entry: Entry, study: Study) -> Iterator[tuple[Labels, list[Kind]]]:
    """(labels, one kind a dose) of each scan that an entry stands for."""
    root = study.data_root
    if (paired := entry.paired) is not None:
        truth = None if paired.truth is None else root / paired.truth
        chosen = paired.model_dump(include={"dose", "reference_noise", "allow_gaps", "unit"})
        known = () if paired.nema is None else _features(paired.nema)
        yield paired, [PairedCase(root / paired.scan, root / paired.reference, truth, features=known, **chosen)]
    if (full := entry.simulate) is not None:
        yield full, _simulated(root / full.full, full.doses, full, study.seed, full.allow_gaps)
    if (drawn := entry.phantom) is not None:
        settings = drawn.model_dump(exclude={"doses", *Labels.model_fields})
        yield drawn, [DrawnCase(PhantomCase(dose=dose, seed=study.seed, **settings)) for dose in drawn.doses]
    if entry.manifest is not None:
        yield from _listed(entry.manifest, study)


def _features(nema: Nema) -> tuple[Feature, ...]:
    """Spheres and background places as measures know them; the size of a background disc is each sphere's."""
    spheres = [
        Feature(Ellipse(s.diameter_mm / 2, s.diameter_mm / 2, s.ratio, s.x_mm, s.y_mm), "sphere", s.name, (s.slice,))
        for s in nema.spheres
    ]
    places = [
        Feature(Ellipse(0.0, 0.0, 1.0, x, y), "background", f"background {k}", nema.background_slices)
        for k, (x, y) in enumerate(nema.background, 1)
    ]
    return (*spheres, *places)


def _simulated(full: Path, doses: Iterable[float], how: Simulation, seed: int, allow_gaps: bool = False) -> list[Kind]:
    last = how.fallback
    fallback = None if last is None else (str(last.kernel), float(last.i0 or 0))
    return [SimulatedCase(full, dose, seed, how.kernel, how.i0, fallback, allow_gaps) for dose in doses]


def _listed(settings: Manifest, study: Study) -> Iterator[tuple[Labels, list[Kind]]]:
    pairs = [pair for pair in read_manifest(settings.manifest, study.data_root) if pair.split == settings.split]
    if not pairs:
        raise UsageError(f"{settings.manifest}: has no scans of the split {settings.split}")
    if not settings.doses and any(pair.low is None for pair in pairs):
        raise UsageError(f"{settings.manifest}: lists scans without a low dose: give doses to simulate, e.g. [0.25]")
    for pair in pairs:
        kinds = _simulated(pair.full, settings.doses, settings, study.seed)
        yield Labels(patient=pair.patient), kinds if pair.low is None else [PairedCase(pair.low, pair.full)]


def _looked_at(case: Case, looked: dict[str, Case], study: Study, methods: tuple[Method, ...], faults: _Faults) -> Case:
    """The case with what its files tell; the doses of a scan are looked at once, but for results made elsewhere."""
    before = next((other for other in reversed(looked.values()) if other.scan == case.scan), None)
    outside = [method for method in methods if method.external is not None]
    if before is not None and not outside:
        same = ("kernel", "unit", "n_slices", "pixels", "regions", "fingerprint", "images")
        return replace(case, **{key: getattr(before, key) for key in same})
    with faults.of(case.name):
        look = case.kind.look()
        regions, seen = NO_REGIONS, [[("", look.fingerprint)]]
        with faults.of(f"{case.name}: regions"):
            regions = region_files(study.regions, case.scan, study.data_root)
            regions.open(look.scan, None)
            seen.append(regions.fingerprint())
        n = look.scan.geometry.n_slices
        return replace(
            case,
            kernel=look.kernel,
            unit=look.scan.unit,
            n_slices=n if study.slices is None or isinstance(case.kind, DrawnCase) else min(n, study.slices),
            pixels=int(np.prod(look.scan.geometry.matrix)),
            regions=regions,
            results=tuple(_results(case.name, look, outside, faults)),
            fingerprint=work_key(seen),
            images=look.images,
        )
    return case


def _results(case: str, look: Look, methods: list[Method], faults: _Faults) -> Iterator[Result]:
    for method in methods:
        assert method.external is not None
        with faults.of(f"{case}: {method.name}"):
            path = external.find_result(method.external, case)
            external.open_result(path, look.scan)
            yield Result(method.name, path, *external.prints(path, look.scan.unit))


# ---------------------------------------------------------------- methods and regions


def _method(entry: MethodEntry, seed: int, faults: _Faults) -> Iterator[Method]:
    """The method of an entry; none, with a fault, where it cannot be used."""
    if entry.external is not None:
        share = None if entry.blend is None else float(entry.blend)
        yield Method(entry.name, None, entry.external, share, {"external": True, "blend": share})
        return
    with faults.of(f"methods: {entry.name}"):
        ready = load_method(entry.options(seed))
        if entry.tuned is None:
            yield Method(entry.name, entry.options(seed), None, None, ready.parameters)
            return
        found = found_for(entry.tuned, ready.name, entry.tuned_group)
        if found.model_sha256 != ready.sha256:
            raise UsageError(f"{entry.tuned}: was made with another version of model {ready.name}: tune it again")
        if found.smoothing is None and not entry.is_model:
            raise UsageError(f"{entry.tuned}: holds no strength for {ready.name}: give smoothing instead")
        options = entry.options(seed, found)
        source = found.source | {"what": " and ".join(entry.from_tuned)}
        yield Method(entry.name, options, None, None, load_method(options).parameters | {"tuned": source})


def _check_units(study: Study, units: list[Unit], methods: tuple[Method, ...], faults: _Faults) -> None:
    """Every preset is for a unit of the scans and every unit has one; methods work on all units."""
    found = " and ".join(units)
    if foreign := [name for name in study.presets if name in PRESETS and PRESETS[name].unit not in units and units]:
        faults.append(f"presets: {', '.join(foreign)} is not for {found}, the unit of the scans")
    for unit in units:
        if not any(PRESETS[name].unit == unit for name in study.presets if name in PRESETS):
            faults.append(f"presets: none is for {unit}, the unit of some scans: add {WHOLE_RANGE[unit]}")
        for method in methods:
            if method.options is not None:
                with faults.of(f"methods: {method.name}"):
                    load_method(method.options).require(unit)
                    _require_strength(method.options, unit)


def _require_strength(options: Options, unit: Unit) -> None:
    """Raise UsageError where a strength would be that of another modality."""
    default = None if options.method == MODEL else BASELINES[options.method].smoothing
    if unit != "HU" and options.smoothing is None and default is not None:
        raise UsageError(f"its default strength was found on CT: give smoothing for {unit}")


def _check_regions(study: Study, cases: Iterable[Case], faults: _Faults) -> None:
    wanted = {*study.regions.masks, *(["lesions"] if study.regions.lesions else [])}
    found = {name for case in cases for name in case.regions.names}
    if missing := sorted(wanted - found):
        faults.append(f"regions: {', '.join(missing)} has no file for any case (CASE.nii.gz in its folder)")
