"""A table as a value: what Markdown, LaTeX, CSV and the page write alike."""

from __future__ import annotations

from dataclasses import dataclass

from rupert.report.tables import Estimate, Measure


@dataclass(frozen=True, slots=True)
class Number:
    """A cell that holds a number.

    Attributes:
        text: as it is read, with its unit and without its interval.
        value, low, high: unrounded; none where there is no interval.
        interval: as it is read; empty where there is none.
        n: what it was measured on; none where it is not counted.
    """

    text: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int | None = None

    @classmethod
    def of(cls, measure: Measure, found: Estimate | None) -> Number | None:
        """An estimate as a cell; none where there is none."""
        if found is None:
            return None
        interval = measure.interval(found.low, found.high)
        return cls(measure.text(found.value), found.value, found.low, found.high, interval, found.n)


Cell = str | Number | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: words, or numbers.

    Attributes:
        title: its heading.
        is_number: its cells are numbers, or none where one was not measured.
        n: the number that all of its cells were measured on; none where they differ, and each says its own.
    """

    title: str
    is_number: bool = False
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: an identifier, unique among a study's tables; files are called so.
        title: the heading.
        caption: what is shown and how to read it.
        columns: each with its heading.
        rows: as many cells as columns.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def number_column(title: str, cells: list[Number | None]) -> Column:
    """A column of numbers, which says n itself where all cells have the same."""
    counts = {cell.n for cell in cells if cell is not None}
    return Column(title, is_number=True, n=counts.pop() if len(counts) == 1 else None)


def shown_n(column: Column, cell: Number) -> str:
    """The n that a cell has to say for itself; empty where its column says it, or nobody knows it."""
    return "" if cell.n is None or column.n is not None else f"n = {cell.n}"
