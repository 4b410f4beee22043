"""Tables as GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rupert.report.exports.text import visible
from rupert.report.sheets import Cell, Column, Number, Table, shown_n

_MARKUP = re.compile(r"[\\`*_\[\]#|~<>&$@]|://|(?<=\bwww)\.", re.IGNORECASE)
# The last three make links of what stands around them.
_NAMED = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;", "://": "&#58;//", ".": "&#46;"}
_LEFT, _RIGHT, _NOTHING = "---", "---:", "\N{EN DASH}"


def markdown(title: str, tables: Sequence[Table]) -> str:
    """A document with a heading and its tables."""
    return "\n\n".join([f"# {escaped(title)}", *map(markdown_table, tables)]) + "\n"


def markdown_table(table: Table) -> str:
    """One table under its own heading."""
    lines = [
        [_heading(column) for column in table.columns],
        [_RIGHT if column.is_number else _LEFT for column in table.columns],
        *([_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows),
    ]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"## {escaped(table.title)}\n\n{rows}\n\n{escaped(table.caption)}"


def escaped(text: str) -> str:
    """Text in which nothing is markup: no link, image, HTML or end of a cell."""
    return _MARKUP.sub(lambda found: _NAMED.get(found[0], f"\\{found[0]}"), visible(text))


def _heading(column: Column) -> str:
    return escaped(column.title if column.n is None else f"{column.title}, n = {column.n}")


def _cell(column: Column, cell: Cell) -> str:
    if cell is None:
        return _NOTHING
    if not isinstance(cell, Number):
        return escaped(cell) or _NOTHING
    parts = [cell.text, f"({cell.interval})" if cell.interval else "", shown_n(column, cell)]
    return " ".join(part for part in parts if part)
