"""Tables as LaTeX with booktabs: a file that compiles alone, and whose tables can be copied into a paper."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rupert.report.exports.text import visible
from rupert.report.sheets import Cell, Column, Number, Table, shown_n

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{NO-BREAK SPACE}": "~",
    "\N{MINUS SIGN}": r"$-$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
}
_LAST_KNOWN = 0xFF  # Latin-1, which every LaTeX has

PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\usepackage{graphicx}
"""


def latex(title: str, tables: Sequence[Table]) -> str:
    """A whole document; `booktabs` and `graphicx` are all that its tables need in another."""
    body = "\n\n".join(map(latex_table, tables))
    heading = f"\\section*{{{escaped(title)}}}"
    return f"{PREAMBLE}\\begin{{document}}\n{heading}\n\n{body}\n\n\\end{{document}}\n"


def latex_table(table: Table) -> str:
    """One floating table, made smaller where it is wider than the text."""
    columns = "".join("r" if column.is_number else "l" for column in table.columns)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        f"\\caption{{{escaped(table.title)}. {escaped(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _line([_heading(column) for column in table.columns]),
        r"\midrule",
        *(_line([_cell(*pair) for pair in zip(table.columns, row, strict=True)]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text in which nothing is a command; letters that LaTeX may not have are written by their numbers."""
    return "".join(map(_written, visible(unicodedata.normalize("NFC", text))))


def _written(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    return character if ord(character) <= _LAST_KNOWN else f"U+{ord(character):04X}"


def _line(cells: Sequence[str]) -> str:
    # A cell that begins with a bracket would be read as an argument of the line before.
    return f"{' & '.join(f'{{}}{cell}' if cell.startswith('[') else cell for cell in cells)} \\\\"


def _heading(column: Column) -> str:
    return escaped(column.title) + ("" if column.n is None else f" ($n = {column.n}$)")


def _cell(column: Column, cell: Cell) -> str:
    if cell is None:
        return "--"
    if not isinstance(cell, Number):
        return escaped(cell) or "--"
    interval = f"{{\\footnotesize ({escaped(cell.interval)})}}" if cell.interval else ""
    parts = [escaped(cell.text), interval, shown_n(column, cell).replace("n", "$n$", 1)]
    return " ".join(part for part in parts if part)
