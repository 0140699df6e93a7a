"""`medidiff suv`: factor, rule and warnings of PET series and of header files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medidiff.io.suv import suv

Cli = Callable[..., Any]
Write = Callable[..., Path]


def test_an_entry_per_slice_and_one_per_refused_series(
    tmp_path: Path, cli: Cli, write_pet: Write, write_series: Write, pet_slice: Callable[..., Any]
) -> None:
    """Scripts multiply factor, stored value and RescaleSlope; CT is passed over."""
    write_pet(tmp_path / "a", n=2, PatientWeight=70000)
    write_pet(tmp_path / "b", n=2, Units="PROPCNTS", SeriesInstanceUID="1.2.3")
    write_series(tmp_path / "c", n=2)
    code, out, _ = cli("suv", tmp_path, "--json")
    entries = json.loads(out)
    done, refused = ([e for e in entries if key in e] for key in ("factor", "error"))
    assert (code, len(done), len(refused)) == (0, 2, 1)
    assert [e["sop_instance_uid"] for e in done] == [pet_slice(k).SOPInstanceUID for k in range(2)]
    assert [e["factor"] for e in done] == list(suv([pet_slice(0)]).factors) * 2
    assert done[0]["rule"].startswith("BQML START")
    assert done[0]["warnings"] == ["PatientWeight is 70000: taken as grams"]
    assert refused[0]["error"].startswith("Units is PROPCNTS")


def test_words_for_people(tmp_path: Path, cli: Cli, write_pet: Write, pet_slice: Callable[..., Any]) -> None:
    """One line for the factor, one for the rule; no identifier of the patient."""
    write_pet(tmp_path, n=2)
    code, out, err = cli("suv", tmp_path)
    assert (code, err) == (0, "")
    assert f"SUVbw = {suv([pet_slice()]).factors[0]:.7g} x stored value x RescaleSlope" in out
    assert "rule: BQML START: decay from the date and time of injection to the series time" in out
    assert "SYNTHETIC" not in out


def test_header_files(tmp_path: Path, cli: Cli, shared_vectors: Path) -> None:
    """Keyword dictionaries without instance UIDs, as the known header sets are."""
    expected = json.loads((shared_vectors / "suv" / "expected.json").read_text())
    for file in sorted((shared_vectors / "suv").glob("*-instances.json")):
        code, out, _ = cli("suv", file, "--json")
        first, *_ = entries = json.loads(out)
        assert (code, len(entries)) == (0, 3)
        assert first["sop_instance_uid"] is None
        assert first["factor"] == pytest.approx(expected[file.name.removesuffix("-instances.json")], rel=1e-6)
    code, out, _ = cli("suv", shared_vectors / "suv", "--json")
    assert (code, len({entry["series"] for entry in json.loads(out)})) == (0, len(expected) - 2)


def test_header_files_of_every_row(tmp_path: Path, cli: Cli) -> None:
    """The private factors of vendors in groups of their own; sequences as lists; one dictionary is one slice."""
    header = {
        "Units": "CNTS",
        "CorrectedImage": ["ATTN", "DECY"],
        "DecayCorrection": "ADMIN",
        "PatientWeight": 50,
        "RadionuclideTotalDose": 1e8,
        "PhilipsPETPrivateGroup": {"ActivityConcentrationScaleFactor": "2.5 "},
    }
    (tmp_path / "h.json").write_text(json.dumps(header))
    code, out, _ = cli("suv", tmp_path / "h.json", "--json")
    assert (code, [entry["factor"] for entry in json.loads(out)]) == (0, [pytest.approx(2.5 * 5e4 / 1e8)])


def test_places_and_pixels_are_not_needed(tmp_path: Path, cli: Cli, write_pet: Write) -> None:
    """A factor follows from headers alone; that the series cannot be used otherwise is a warning."""

    def change(image: Any, k: int) -> None:
        del image.PixelData, image.ImagePositionPatient

    write_pet(tmp_path, n=2, change=change)
    code, out, _ = cli("suv", tmp_path, "--json")
    entries = json.loads(out)
    assert (code, len(entries)) == (0, 2)
    assert "the series is not usable" in entries[0]["warnings"][0]


def test_nothing_computed_is_a_failure_after_the_answer(tmp_path: Path, cli: Cli, write_pet: Write) -> None:
    """Scripts still get their JSON; the exit code is that of bad input."""
    write_pet(tmp_path, n=2, PatientWeight=None)
    code, out, err = cli("suv", tmp_path, "--json")
    assert code == 2
    assert json.loads(out)[0]["error"].startswith("PatientWeight is missing")
    assert "no SUV of 1 PET series: PatientWeight is missing" in err


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not readable as JSON"), ("[1]", "expected a list of headers"), ("[]", "expected a")]
)
def test_bad_header_files(tmp_path: Path, cli: Cli, content: str, words: str) -> None:
    (tmp_path / "h.json").write_text(content)
    code, _, err = cli("suv", tmp_path / "h.json")
    assert code == 2
    assert words in err


def test_a_folder_without_pet(tmp_path: Path, cli: Cli, write_series: Write) -> None:
    write_series(tmp_path, n=2)
    code, _, err = cli("suv", tmp_path)
    assert code == 2
    assert "no PET among 1 series" in err
