"""One search for all: it finds the minimum, its figures are the errors themselves, and only the tune split is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medidiff.baselines import BASELINES
from medidiff.data.phantoms import dead_leaves
from medidiff.errors import InputError, OutputError, UsageError
from medidiff.inference.tuned import Tuned, load_tuned
from medidiff.tune import INVERSE_PHI, Search, Trial, TuneSettings, golden, moments_of, tune

QUICK: dict[str, Any] = {"kernels": ("smooth",), "doses": (0.25,), "slices": 1, "size": 64, "evaluations": 4}


@pytest.fixture
def manifest(tmp_path: Path, write_nifti_scan: Callable[..., Path]) -> Path:
    """Two tune patients, one with a measured pair; a train and a test patient whose scans are no scans."""
    rng = np.random.default_rng(0)
    for name, noise in (("a", 0), ("b", 5), ("b_low", 40)):
        image = dead_leaves(96, 2, np.random.default_rng(ord(name[0])), n_leaves=30)
        write_nifti_scan(tmp_path / f"{name}.nii", image + rng.normal(0, noise, image.shape))
    (tmp_path / "never.nii").write_text("not to be opened")
    (tmp_path / "also.nii").write_text("not to be opened")
    path = tmp_path / "pairs.csv"
    path.write_text(
        "patient,split,full,low\n1,tune,a.nii,\n2,tune,b.nii,b_low.nii\n3,train,never.nii,\n4,test,also.nii,\n"
    )
    return path


def run(manifest: Path, **more: Any) -> Tuned:
    progress = more.pop("progress", lambda done, total: None)
    settings = TuneSettings.model_validate({**QUICK, "methods": ("gaussian",), **more})
    return tune(manifest, manifest.parent, manifest.parent / "tuned.yaml", settings, progress=progress)


@pytest.mark.parametrize("minimum", [0.11, 0.5, 1.7, 4.9])
@pytest.mark.parametrize("evaluations", [3, 6, 12])
def test_golden_section_closes_in_on_the_minimum(minimum: float, evaluations: int) -> None:
    """Exactly n evaluations; what is found lies within 0.618^(n - 1) of the (logarithmic) range."""
    tried: list[float] = []

    def objective(strength: float) -> float:
        tried.append(strength)
        return float(np.log(strength / minimum) ** 2)

    found = golden(objective, 0.1, 5.0, evaluations)
    assert len(tried) == evaluations
    assert found in tried
    assert abs(np.log(found / minimum)) <= np.log(50) * INVERSE_PHI ** (evaluations - 1) + 1e-3


def test_moments_give_the_error_of_every_blend() -> None:
    """RMSE of x_hat + alpha (y - x_hat) without making it."""
    rng = np.random.default_rng(1)
    truth, y, x_hat = (rng.normal(0, s, (20, 20)).astype(np.float32) for s in (100, 130, 110))
    a, b, c = moments_of(x_hat, y, truth)
    for alpha in (0.0, 0.3, 1.0):
        blend = x_hat + alpha * (y - x_hat)
        assert np.sqrt(a + 2 * alpha * b + alpha**2 * c) == pytest.approx(np.sqrt(np.mean((blend - truth) ** 2)), 1e-5)


def trials(tmp_path: Path) -> Search:
    """White noise on smooth structure; patient q has one slice to p's two."""
    rng = np.random.default_rng(2)
    found = []
    for patient, level in (("p", 10.0), ("p", 30.0), ("q", 20.0)):
        truth = gaussian_filter(rng.normal(0, 400, (64, 64)), 3).astype(np.float32)
        found.append(Trial(patient, "g", truth + rng.normal(0, level, truth.shape).astype(np.float32), truth, level))
    return Search(found, tmp_path / "notes", "identity")


def test_the_objective_is_a_mean_over_patients(tmp_path: Path) -> None:
    """Not over slices: a patient with many does not count for more."""
    search = trials(tmp_path)
    errors = [
        np.sqrt(np.mean((BASELINES["gaussian"].function(t.y, t.level, 1.0) - t.truth) ** 2)) for t in search.trials
    ]
    expected = np.mean([np.mean(errors[:2]), errors[2]])
    assert search.objective("gaussian", 1.0, range(3)) == pytest.approx(expected, rel=1e-6)


def test_a_filter_that_is_too_strong_is_blended_back(tmp_path: Path) -> None:
    """The blend is the best of a scan of alphas; at the best strength it helps less than at twice that."""
    search = trials(tmp_path)
    best = search.best("gaussian", 4.0, range(3))
    scan = [search.objective("gaussian", 4.0, range(3), alpha) for alpha in np.linspace(0, 1, 101)]
    assert best.rmse_blend == pytest.approx(min(scan), abs=2e-3)
    assert best.alpha > 0.1
    assert best.rmse_blend < best.rmse
    assert best.rmse_input == pytest.approx(scan[-1], abs=1e-3)


def test_what_is_found_is_written_and_read_back(manifest: Path) -> None:
    """The file holds figures, settings and provenance, but no path of this machine."""
    tuned = run(manifest)
    path = manifest.parent / "tuned.yaml"
    found = load_tuned(path)["gaussian"]
    assert found == tuned.methods["gaussian"]
    assert BASELINES["gaussian"].low < found.overall.smoothing < BASELINES["gaussian"].high
    assert found.overall.rmse < found.overall.rmse_input
    assert (found.overall.patients, found.overall.slices, list(found.groups)) == (2, 2, ["smooth 0.25"])
    assert found.groups["smooth 0.25"].rmse_at_overall == found.overall.rmse
    assert str(manifest.parent) not in path.read_text()
    assert len(tuned.manifest_sha256) == 64
    assert sorted(p.name for p in manifest.parent.glob("*tuned*")) == ["tuned.yaml"]


@pytest.mark.parametrize(("low", "high", "expected"), [(0.2, 5.0, False), (3.0, 5.0, True), (0.01, 0.2, True)])
def test_a_best_at_the_end_of_the_range_is_said(
    low: float, high: float, expected: bool, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the error still falls at an end, the minimum lies beyond it."""
    monkeypatch.setitem(BASELINES, "gaussian", replace(BASELINES["gaussian"], low=low, high=high))
    assert run(manifest, evaluations=6).methods["gaussian"].overall.at_end is expected


def test_the_same_search_finds_the_same(manifest: Path) -> None:
    one, two = run(manifest), run(manifest)
    assert one.model_copy(update={"created": ""}) == two.model_copy(update={"created": ""})


def test_a_stopped_search_goes_on(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no result; the same command finds the same without filtering anything twice."""
    never = run(manifest)
    (manifest.parent / "tuned.yaml").unlink()
    calls: list[float] = []
    plain = BASELINES["gaussian"].function

    def counted(image: Any, noise: float, smoothing: float) -> Any:
        calls.append(smoothing)
        return plain(image, noise, smoothing)

    def stop(done: int, total: int) -> None:
        if total > 2 and done == 3:
            raise KeyboardInterrupt

    monkeypatch.setitem(BASELINES, "gaussian", replace(BASELINES["gaussian"], function=counted))
    with pytest.raises(KeyboardInterrupt):
        run(manifest, progress=stop)
    assert not (manifest.parent / "tuned.yaml").exists()
    with (manifest.parent / ".tuned.yaml.partial").open("a") as file:
        file.write('["gaussian", 0.7')  # killed while it wrote
    resumed = run(manifest)
    assert resumed.methods == never.methods
    assert len(calls) == 2 * len(set(calls))  # both trials once at each strength


def test_another_search_does_not_believe_the_notes(tmp_path: Path) -> None:
    first = trials(tmp_path)
    first.recall()
    first.objective("gaussian", 1.0, range(3))
    again, other = trials(tmp_path), trials(tmp_path)
    again.recall()
    assert again.moments == first.moments
    other.identity = "other"
    other.recall()
    assert other.moments == {}


def test_measured_pairs_are_taken_as_they_are(manifest: Path) -> None:
    """Against the reference only the patient with a low-dose scan counts, with the noise that it has."""
    found = run(manifest, against="reference").methods["gaussian"].overall
    assert (found.patients, found.slices) == (1, 1)
    assert found.rmse_input == pytest.approx(np.hypot(40, 5), rel=0.05)


def test_only_the_blend_of_a_model_is_searched(manifest: Path, tiny_model: Path) -> None:
    """A random network is best not used: nearly all of the blend is the scan."""
    found = run(manifest, methods=(), models=(str(tiny_model),)).methods["tiny"]
    assert load_tuned(manifest.parent / "tuned.yaml")["tiny"] == found
    assert found.overall.smoothing is None
    assert found.overall.rmse_blend <= min(found.overall.rmse, found.overall.rmse_input) + 1e-3
    assert len(found.model_sha256 or "") == 64


def test_no_tune_patients_is_an_error(manifest: Path) -> None:
    manifest.write_text("patient,split,full,low\n4,test,also.nii,\n")
    with pytest.raises(InputError, match="its 'tune' split has no scan; strengths are never searched on another split"):
        run(manifest)


def test_a_file_that_is_something_else_is_not_replaced(manifest: Path) -> None:
    """Told before the search begins; an earlier result is replaced."""
    (manifest.parent / "tuned.yaml").write_text("name: a recipe\n")
    with pytest.raises(OutputError, match="is not a result of medidiff tune"):
        run(manifest)
    assert (manifest.parent / "tuned.yaml").read_text() == "name: a recipe\n"
    (manifest.parent / "tuned.yaml").unlink()
    assert run(manifest).methods == run(manifest).methods


def test_methods_without_a_strength_are_refused(manifest: Path) -> None:
    with pytest.raises(UsageError, match="identity, median: has no strength to find"):
        run(manifest, methods=("identity", "median"))


def test_a_foreign_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("format: other\n")
    with pytest.raises(UsageError, match=r"x\.yaml: format"):
        load_tuned(tmp_path / "x.yaml")


def test_the_defaults_are_what_was_found() -> None:
    """The strengths in the code are those of the file in pipelines/, whose figures the docs quote."""
    found = load_tuned(Path(__file__).parents[1] / "pipelines" / "tuned_ct.yaml")
    tunable = {name: baseline for name, baseline in BASELINES.items() if baseline.smoothing is not None}
    assert {name: found[name].overall.smoothing for name in tunable} == {n: b.smoothing for n, b in tunable.items()}
    assert not any(found[name].overall.at_end for name in tunable)
