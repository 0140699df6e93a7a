"""`medidiff inspect`: one line per series for people, JSON for scripts, one sentence for what is no scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from medidiff.cli.app import main

Write = Callable[..., Path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["medidiff", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def folder(tmp_path: Path, write_series: Write) -> Path:
    """A smooth series, a sharp one with a slice missing, a PET series without SUV and a text file."""
    write_series(tmp_path / "a", n=6, seed=1, Exposure=150)
    write_series(tmp_path / "b", n=6, seed=2, kernel="B70f")
    (tmp_path / "b" / "IM0003").unlink()
    write_series(tmp_path / "c", n=3, seed=3, Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    (tmp_path / "notes.txt").write_text("no scan")
    return tmp_path


def test_one_line_per_series_with_the_verdict(run: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, out, err = run(folder)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 5)
    cells = [[cell for cell in line.split("  ") if cell] for line in lines]
    assert [c.strip() for c in cells[1][:9]] == [
        *("1", "CT", "6 x 48 x 48", "2 x 0.8 x 0.8", "HU", "B40f", "120", "150", "explicit little endian")
    ]
    assert cells[1][-1] == "usable"
    assert "about 1 slice missing" in lines[2]
    assert "RescaleIntercept is -1024, must be 0 in PET" in lines[3]
    assert lines[4].startswith("1 of 3 series usable, 1 files ignored (research use only")
    assert "SYNTHETIC" not in out


def test_json_gives_uids_and_the_noise_that_was_added(run: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    """The fixture adds normal noise of 20 HU; a low percentile reads a little below it."""
    code, out, _ = run(folder, "--json")
    answer = json.loads(out)
    first, second, third = answer["series"]
    assert (code, answer["ignored"], answer["damaged"]) == (0, 1, [])
    assert first["uid"] == pydicom.dcmread(folder / "a" / "IM0000").SeriesInstanceUID
    assert (first["usable"], first["slices"], first["spacing_mm"]) == (True, 6, [2.0, 0.8, 0.8])
    assert 15 < first["noise_hu"] < 21
    assert (second["usable"], second["only_gaps"]) == (False, True)
    assert (third["modality"], third["noise_hu"]) == ("PT", None)


def test_pet_shows_its_unit_its_rule_and_what_is_doubtful(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, write_pet: Callable[..., Path]
) -> None:
    """Noise is measured in HU and is not told for PET."""
    write_pet(tmp_path, PatientWeight=70000)
    _, out, _ = run(tmp_path)
    assert "SUV" in out.splitlines()[1]
    assert "usable; BQML START: decay from" in out
    assert "PatientWeight is 70000: taken as grams" in out
    _, out, _ = run(tmp_path, "--json")
    (series,) = json.loads(out)["series"]
    assert (series["unit"], series["noise_hu"], series["usable"]) == ("SUV", None, True)
    assert series["suv_rule"].startswith("BQML START")
    assert series["warnings"] == ["PatientWeight is 70000: taken as grams"]


def test_a_stream_that_cannot_be_decoded_makes_a_series_unusable(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, write_series: Write
) -> None:
    file = write_series(tmp_path, n=1) / "IM0000"
    dataset = pydicom.dcmread(file)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(1000)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.save_as(file)
    code, out, _ = run(tmp_path)
    assert code == 0
    assert "IM0000: the pixel data cannot be decoded" in out
    assert "0 of 1 series usable" in out


@pytest.mark.parametrize("content", ["empty", "photos", "none"])
def test_a_folder_without_dicom_is_one_sentence(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, content: str
) -> None:
    if content == "photos":
        for k in range(3):
            (tmp_path / f"{k}.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(1000))
    path = tmp_path / "none" if content == "none" else tmp_path
    expected = {
        "empty": "no DICOM series among 0 files looked at",
        "photos": "no DICOM series among 3 files looked at",
        "none": "no such file or folder",
    }
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert expected[content] in err
    assert err.count("\n") == 1


def test_damaged_files_are_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path, write_series: Write) -> None:
    file = write_series(tmp_path, n=3) / "IM0001"
    file.write_bytes(file.read_bytes()[:-10])
    code, out, _ = run(tmp_path)
    assert code == 0
    assert "1 file of the series cannot be read" in out
    assert f"damaged: {file}: cut short" in out
