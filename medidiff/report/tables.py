"""Tables that are written three times from the same cells: in the page, as LaTeX (booktabs) and as Markdown.

The best value of a column is bold and starred: never by colour alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STAR = "★"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "∞": r"$\infty$", "–": "--", "±": r"$\pm$", "²": r"$^{2}$",
    "³": r"$^{3}$", "⁻": r"$^{-}$", "¹": r"$^{1}$", "α": r"$\alpha$", "≤": r"$\leq$", "·": r"$\cdot$", "★": r"$\star$",
    "†": r"$\dagger$",
    "µ": r"$\mu$",
}  # fmt: skip
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")


@dataclass(frozen=True)
class Cell:
    """One number with what stands smaller beside it; `best` marks the best of its column and group."""

    text: str
    detail: str = ""
    best: bool = False

    @property
    def whole(self) -> str:
        return _with(self.text, self.detail)


@dataclass(frozen=True)
class Column:
    """A header: its name, and smaller, what it is of."""

    name: str
    detail: str = ""
    numeric: bool = True

    @property
    def whole(self) -> str:
        return _with(self.name, self.detail)


def _with(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text


Line = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """`name` is that of its files; each group of lines is set apart from the next by a rule."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[Line, ...], ...]
    note: str = ""

    @property
    def lines(self) -> int:
        return sum(map(len, self.groups))


def latex(table: Table) -> str:
    """A floating table for `\\usepackage{booktabs}`."""
    header = " & ".join(tex(column.whole) for column in table.columns)
    groups = ["\n".join(f"{' & '.join(map(_tex_cell, line))} \\\\" for line in group) for group in table.groups]
    places = "".join("r" if column.numeric else "l" for column in table.columns)
    note = [f"\\par\\smallskip\\footnotesize {tex(table.note)}"] if table.note else []
    return "\n".join([
        "\\begin{table}", "\\centering", f"\\caption{{{tex(table.caption)}}}", f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{places}}}", "\\toprule", f"{header} \\\\", "\\midrule", "\n\\midrule\n".join(groups),
        "\\bottomrule", "\\end{tabular}", *note, "\\end{table}", "",
    ])  # fmt: skip


def markdown(table: Table) -> str:
    """A table of GitHub-flavoured Markdown, caption above and note below."""
    header = [_md(column.whole) for column in table.columns]
    rule = ["---:" if column.numeric else ":---" for column in table.columns]
    lines = [[_md_cell(cell) for cell in line] for group in table.groups for line in group]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
    return "\n\n".join(part for part in (_md(table.caption), body, _md(table.note)) if part) + "\n"


def tex(text: str) -> str:
    """Plain text with everything that LaTeX would take for a command escaped."""
    return "".join(TEX.get(letter, letter) for letter in " ".join(text.split()))


def _tex_cell(cell: Cell) -> str:
    return f"\\textbf{{{tex(cell.whole)}}}" if cell.best else tex(cell.whole)


def _md(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _md_cell(cell: Cell) -> str:
    return f"**{_md(cell.whole)}**" if cell.best else _md(cell.whole)
