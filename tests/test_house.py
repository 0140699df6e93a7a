"""What a fresh machine relies on: set-up, the wheel, licences, help texts, and documents that say what is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medidiff import DISCLAIMER
from medidiff.cli.app import VERBS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch", "monai", "numba", "scipy", "skimage", "matplotlib", "pandas", "pyarrow", "sqlalchemy", "pydicom",
    "nibabel",
)  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    """scripts/licences.py as a module."""
    spec = importlib.util.spec_from_file_location("licences", ROOT / "scripts" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from a copy of the sources, so that nothing stale gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("medidiff", "dashboard", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(zipfile.ZipFile(next((source / "dist").glob("*.whl"))).namelist())


def test_the_wheel_holds_what_is_not_code(wheel: set[str]) -> None:
    """Typing marker, dashboard files, recipes and the licence are installed with the code."""
    recipes = {f"pipelines/{path.name}" for path in (ROOT / "pipelines").iterdir() if path.suffix in (".yaml", ".csv")}
    pages = {str(p.relative_to(ROOT)) for p in (ROOT / "dashboard").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert recipes
    assert pages
    assert {"medidiff/py.typed"} | recipes | pages <= wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
    assert any(name.endswith("licenses/NOTICE") for name in wheel)


def test_the_wheel_holds_the_embedded_model(wheel: set[str]) -> None:
    """A model works from the wheel alone: the CT weights and every other weight file are in it, cards beside them."""
    weights = {path.name for path in (ROOT / "medidiff" / "weights").glob("*.safetensors")}
    assert "ct.safetensors" in weights
    cards = {name.replace(".safetensors", ".md") for name in weights}
    assert {f"medidiff/weights/{name}" for name in weights | cards} <= wheel


def test_the_wheel_holds_no_scans_tests_or_caches(wheel: set[str]) -> None:
    """Sample data, tests and what numba compiled on this machine stay out."""
    assert not [name for name in wheel if re.search(r"\.(dcm|nii|gz|nbi|nbc|pyc)$|^tests/|^data_samples/", name)]


def test_every_licence_is_listed(licences: ModuleType) -> None:
    """docs/licences.md has a row for each package that medidiff needs, as installed here."""
    page = read("docs/licences.md")
    packages = licences.closure("medidiff", frozenset({"dev"}))
    missing = {name for name, package in packages.items() if f"| {package.metadata['Name']} |" not in page}
    assert not missing, f"run python scripts/licences.py: {missing}"
    assert "| not stated |" not in page


def test_no_runtime_dependency_is_copyleft(licences: ModuleType) -> None:
    """What ships beside Apache-2.0 code carries no GPL licence (pylibjpeg-libjpeg would)."""
    stated = {name: licences.licence(package) for name, package in licences.closure("medidiff").items()}
    assert "pydicom" in stated
    assert not {name: text for name, text in stated.items() if re.search(r"GPL|GNU|non-?commercial", text, re.I)}
    assert "pylibjpeg-libjpeg" not in stated


def test_constraints_pin_everything_and_nothing_heavy(licences: ModuleType) -> None:
    """Each dependency has one exact version; torchvision and CUDA packages are not among them."""
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins.values())  # no +cpu or other build
    assert not [name for name in pins if name == "torchvision" or name.startswith(("nvidia", "cuda", "triton"))]
    builds = {
        name for name in licences.closure("medidiff", frozenset({"dev"})) if not re.match("nvidia|cuda|triton", name)
    }
    assert not builds - pins.keys()


def test_the_changelog_speaks_of_numbers() -> None:
    """Keep a Changelog, with a section for changes that alter results."""
    changelog = read("CHANGELOG.md")
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", changelog, re.M)
    assert "### Numerics" in changelog


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_commands_that_exist(document: str) -> None:
    """Every `make TARGET` and `medidiff VERB` in a document's code is one that the Makefile or the program has."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`|^    .*$", read(document), re.S | re.M))
    targets = set(re.findall(r"\bmake ([a-z]+)", code))
    verbs = set(re.findall(r"^\s*`?medidiff ([a-z]+)", code, re.M))
    assert targets <= set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
    assert verbs <= set(VERBS)


def test_the_readme_shows_every_verb_and_its_links_lead_somewhere() -> None:
    """A reader finds each verb with an example, and no link or picture is dead."""
    text = read("README.md")
    assert not [verb for verb in VERBS if f"medidiff {verb}" not in text]
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")}
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_make_does_nothing_twice(system_tool: Callable[[str], str], tmp_path: Path) -> None:
    """Once set up for these requirements, set-up runs no command; changed constraints run it again."""
    make = system_tool("make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def commands() -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = [make, "--no-print-directory", "--dry-run", "setup"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    first = commands()
    assert "pip install" in first
    stamp = tmp_path / re.findall(r"touch (\S+)", first)[0]
    stamp.parent.mkdir()
    stamp.touch()
    assert "pip install" not in commands()
    (tmp_path / "constraints.txt").write_text("torch==0\n")
    assert "pip install" in commands()


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)], ids=lambda verb: " ".join(verb) or "medidiff")
def test_help_is_light_and_says_what_the_program_is_for(verb: tuple[str, ...]) -> None:
    """Help comes without loading torch, DICOM or plotting libraries, and says: research use only."""
    script = (
        f"import sys; sys.argv = {['medidiff', *verb, '--help']!r}\n"
        "from medidiff.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules], 'code:', code)"
    )
    environment = os.environ | {"COLUMNS": "100", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert "loaded: [] code: 0" in done.stdout, done.stdout + done.stderr
    assert DISCLAIMER in " ".join(done.stdout.replace("│", " ").lower().split())
