"""Tables as CSV: a number's value, interval and n in columns of their own, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from rupert.report.exports.text import visible
from rupert.report.sheets import Column, Number, Table

PARTS = ("", " low", " high", " n")  # of a column of numbers
FORMULAS = ("=", "+", "-", "@")  # what a spreadsheet takes for the beginning of one


def separated(table: Table) -> str:
    """One table; an empty field is what was not measured. Rates are shares of 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([heading for column in table.columns for heading in _headings(column)])
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        writer.writerow([field for column, cell in cells for field in _fields(column, cell)])
    return text.getvalue()


def _headings(column: Column) -> list[str]:
    return [f"{column.title}{part}" for part in PARTS] if column.is_number else [column.title]


def _fields(column: Column, cell: object) -> Iterator[object]:
    if isinstance(cell, Number):
        yield from (cell.value, cell.low, cell.high, cell.n)
    elif column.is_number:
        yield from [""] * len(PARTS)
    else:
        word = visible(str(cell or ""))
        yield f"'{word}" if word.startswith(FORMULAS) else word
