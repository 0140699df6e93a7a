"""What fails at the end of a run is named and costs nothing else; records tell no paths; folders have an owner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medidiff.errors import InputError, OutputError
from medidiff.evaluate.output import Kind, holder, noting, provenance, record, without_paths

KIND = Kind("a-format-1", "study", "output=FOLDER")


def test_what_a_user_can_mend_is_said_as_it_is_and_faults_with_their_place() -> None:
    """Errors of both kinds end in the notes, the work goes on, and Ctrl-C does not."""
    notes: list[str] = []
    with noting(notes.append):
        raise InputError("a.nii: damaged")
    with noting(notes.append):
        {}["of case\nP001"]
    assert notes[0] == "a.nii: damaged"
    assert notes[1].startswith(
        "a fault of medidiff, please report it (KeyError: 'of case\\nP001', test_output.py line "
    )
    with pytest.raises(KeyboardInterrupt), noting(notes.append):
        raise KeyboardInterrupt


def test_a_folder_belongs_to_what_its_record_says(tmp_path: Path) -> None:
    """Free, ours with its identity, or refused: a file, another format, a damaged record."""
    out = tmp_path / "out"
    assert holder(out, KIND) is None
    out.mkdir()
    (out / ".lock").touch()
    assert holder(out, KIND, {".lock"}) is None
    record(out, provenance(KIND, "finished", "abc", {"baseline": "identity"}, failures=["x"]))
    assert holder(out, KIND) == "abc"
    written = json.loads((out / "study.json").read_text())
    assert (written["baseline"], written["failures"], written["status"]) == ("identity", ["x"], "finished")
    for content in ('{"format": "another", "identity": "abc"}', "{", "[]"):
        (out / "study.json").write_text(content)
        with pytest.raises(OutputError, match=r"no study of medidiff; name a new folder with output=FOLDER"):
            holder(out, KIND)
    with pytest.raises(OutputError, match="is a file"):
        holder(out / "study.json", KIND)


def test_no_path_is_told() -> None:
    """Folders called by patients vanish with all that is below them; words that only look alike stay."""
    told = without_paths("/data/Doe/1.dcm: damaged; see /data/Doe: no; x/data/Doe", [Path("/data/Doe"), Path("/data")])
    assert told == "a file: damaged; see a file: no; x/data/Doe"
    assert without_paths("a fault near a/b.nii: cut", [Path("a/b.nii")]) == "a fault near a file: cut"
