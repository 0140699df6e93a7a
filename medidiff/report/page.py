"""The report: one HTML page that needs nothing else, tables for papers, and the methods paragraph.

    FOLDER/report.html   summary, plots, pictures, methods, provenance; styles and images are inside
    FOLDER/tables/       each table as LaTeX (booktabs) and Markdown
    FOLDER/methods.txt   the paragraph alone

It is made from the folder of results alone and can be made again at any time; each file is there whole or not at all.
Everything that came from outside is escaped: by Jinja2 in the page, by `tables` elsewhere.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medidiff import DISCLAIMER, __version__
from medidiff.io.files import write_whole
from medidiff.report import curves, planes, plots
from medidiff.report.folder import Results, read_results
from medidiff.report.methods import paragraphs, subjects
from medidiff.report.pictures import Shown, choose, pictures
from medidiff.report.styles import look
from medidiff.report.summary import tables
from medidiff.report.tables import Cell, Column, Table, latex, markdown
from medidiff.report.words import dose_words, leaves, listed, many
from medidiff.results.names import METHODS, PAGE, TABLES

PNG, SVG = "image/png", "image/svg+xml"
SPOKEN = 12  # sentences of the statistics that are shown at once


def build(folder: Path, *, title: str = "") -> Path:
    """Write report.html, tables/ and methods.txt into a folder of results; returns the path of the page.

    Raises InputError where the folder holds no results, or damaged ones, and OutputError where it cannot be written.
    """
    results = read_results(folder)
    found, text = [*tables(results), cases_table(results)], paragraphs(results)
    html = _environment().get_template("report.html.j2").render(_content(results, title, found, text))
    for table in found:
        _write(folder / TABLES / f"{table.name}.tex", latex(table))
        _write(folder / TABLES / f"{table.name}.md", markdown(table))
    _write(folder / METHODS, "\n\n".join(text) + "\n")
    return _write(folder / PAGE, html)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_whole(path, text.encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medidiff.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_uri"] = _data_uri
    return environment


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _content(results: Results, title: str, found: list[Table], text: list[str]) -> dict[str, Any]:
    """Everything that the template shows."""
    named, shown = {table.name: table for table in found}, choose(results)
    findings = _findings(results)
    with look():
        sections = [
            ("Every patient", [*plots.distributions(results)]),
            ("Dose", [*plots.dose_responses(results)]),
            ("Agreement", [*plots.bland_altman(results)]),
            ("Noise and resolution", [*curves.spectra(results), *planes.planes(results), *curves.transfers(results)]),
            ("Uncertainty", [*curves.calibrations(results)]),
        ]
    return {
        "title": title or str(results.record.get("settings", {}).get("title") or "") or "Evaluation of denoising",
        "disclaimer": DISCLAIMER, "compared": _compared(results), "named": named,
        "failures": [str(failure) for failure in results.record.get("failures", ())],
        "warnings": [str(warning) for warning in results.record.get("warnings", ())],
        "unfinished": results.record.get("status") == "unfinished", "extremes": shown,
        "findings": findings[:SPOKEN], "further": findings[SPOKEN:],
        "explained": [sentence for sentence in results.sentences if sentence not in findings],
        "sections": [(name, made) for name, made in sections if made], "pictures": _by_method(results, shown),
        "paragraphs": text, "provenance": _provenance(results),
        "origins": leaves(results.record.get("cases", {})), "PNG": PNG, "SVG": SVG,
    }  # fmt: skip


def _findings(results: Results) -> list[str]:
    """What the comparisons of primary outcomes say, without how it was found."""
    lines = results.comparisons
    primary = {*lines["sentence"][lines["primary"].astype(bool)]}
    return [sentence for sentence in results.sentences if sentence in primary]


def _compared(results: Results) -> str:
    """What was compared, on whom, in one sentence."""
    cases = results.cases
    groups = [group for group in sorted({*cases["group"]}) if group]
    doses = [f"{100 * dose:.6g}" for dose in sorted({*cases["dose"].dropna()})]
    where = [f"{listed(doses)} % of the full dose"] * bool(doses)
    where += [f"{'groups' if len(groups) > 1 else 'group'} {listed(groups)}"] * bool(groups)
    counted = f"{subjects(results)} ({many(len(cases), 'case')})"
    methods = f"{many(len(results.methods), 'method')} ({listed(results.methods)})"
    against = f" The statistics compare with {results.baseline}." if len(results.methods) > 1 else ""
    return f"{methods} on {counted}{': ' if where else ''}{', '.join(where)}.{against}"


def _by_method(results: Results, shown: list[Shown]) -> list[tuple[str, list[Any]]]:
    drawn = pictures(results, shown)
    return [(method, found) for method in results.methods if (found := [p for p in drawn if p.method == method])]


def cases_table(results: Results) -> Table:
    """One line a case; who the patients are is not repeated here."""
    columns = (Column("Case", numeric=False), Column("Group", numeric=False), Column("Dose"), Column("Slices"),
               Column("Reference noise", numeric=False))  # fmt: skip
    lines = tuple(
        tuple(map(Cell, (line["case"], line["group"], dose_words(line["dose"]).removesuffix(" dose"),
                         f"{line['n_slices']:.0f}", line["reference_noise"])))
        for line in results.cases.to_dict("records")
    )  # fmt: skip
    return Table("cases", "Cases", columns, (lines,))


def _provenance(results: Results) -> list[tuple[str, str]]:
    """Where the numbers come from, one line a fact."""
    record = results.record
    elsewhere = ("settings", "failures", "warnings", "cases", "seconds", "note", "images", "worst_slice")
    facts = {key: value for key, value in record.items() if key not in elsewhere}
    seconds = [(case, method, float(s)) for case, methods in record.get("seconds", {}).items()
               for method, s in methods.items()]  # fmt: skip
    total = {m: sum(s for _, method, s in seconds if method == m) for m in results.methods}
    times = [(f"seconds.{method}", f"{spent:.1f} in all") for method, spent in total.items() if spent]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    settings = leaves(record["settings"], "settings") if "settings" in record else []
    return [*leaves(facts), *settings, *times, ("report", f"medidiff {__version__}, {made}")]
