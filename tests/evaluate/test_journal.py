"""What is noted as finished comes back to the bit, and only for the very work that it was."""

import math

import pytest

from medidiff.evaluate.journal import Journal, work_key
from medidiff.evaluate.measure import Function, Value
from medidiff.results.names import file_stem
from medidiff.results.rows import CaseFacts

VALUES = (Value("RMSE", 0.1 + 0.2, "HU", "hu"), Value("PSNR", math.inf, "dB", "abdomen", "liver"))
FUNCTIONS = (Function("NPS", (0.0, 0.5), (1.5, math.nan), "1/mm", "HU^2 mm^2"),)
FACTS = CaseFacts("A", "P001", "B40f", 0.25, "shared", 12, (("kvp", 120),))


def test_an_entry_comes_back_as_it_was_put(tmp_path):
    """Numbers, also infinite ones and nan, curves and facts survive the file to the last bit."""
    Journal(tmp_path).put("A", "m", "k", VALUES, FUNCTIONS, FACTS, seconds=1.5)
    found = Journal(tmp_path).get("A", "m", "k")
    assert found is not None
    assert (found.values, found.facts, found.seconds) == (VALUES, FACTS, 1.5)
    assert repr(found.functions) == repr(FUNCTIONS)  # nan is not equal to itself
    assert [row.value for row in found.rows] == [0.1 + 0.2, math.inf]
    assert {(curve.case, curve.method) for curve in found.curves} == {("A", "m")}


def test_other_work_is_not_finished(tmp_path):
    """Another key, case or method is not taken for finished; putting again replaces."""
    journal = Journal(tmp_path)
    journal.put("A", "m", "old", VALUES, (), FACTS)
    assert not journal.has("A", "m", "new")
    assert not journal.has("B", "m", "old")
    journal.put("A", "m", "new", VALUES[:1], (), FACTS)
    assert journal.has("A", "m", "new")
    assert not journal.has("A", "m", "old")


def test_a_damaged_or_foreign_file_is_work_to_be_done(tmp_path):
    """A file that is cut short, or something else, does not stop a resumed run: that case is done anew."""
    journal = Journal(tmp_path)
    journal.put("A", "m", "k", VALUES, FUNCTIONS, FACTS)
    file = tmp_path / ".rows" / "A--m.json"
    for content in (file.read_text()[:50], "[1, 2]", "{}"):
        file.write_text(content)
        assert not journal.has("A", "m", "k")


@pytest.mark.parametrize(
    "names", [[("a/b", "m"), ("a-b", "m")], [("a--b", "c"), ("a", "b--c")], [("ä", "m"), ("ö", "m")]]
)
def test_names_that_look_alike_keep_apart(tmp_path, names):
    """Names with separators, spaces or letters that a file system may refuse get files of their own."""
    stems = {file_stem(case, method) for case, method in names}
    assert len(stems) == len(names)
    assert all("/" not in stem for stem in stems)


def test_a_key_depends_on_every_part():
    """The same parts give the same key in any order of a mapping; a change of any gives another."""
    assert work_key({"a": 1, "b": 2}, "x") == work_key({"b": 2, "a": 1}, "x")
    assert len({work_key({"a": 1}, "x"), work_key({"a": 2}, "x"), work_key({"a": 1}, "y")}) == 3
