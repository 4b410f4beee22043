"""Break costs for people: a table for the terminal, a CSV file, and a page with the curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.records import write_text
from rupert.report import html
from rupert.report.figures import COLOURS, GREY, SYMBOLS, Figure, Style, drawing, template
from rupert.report.sheets import Column
from rupert.report.sheets import Table as Sheet

if TYPE_CHECKING:
    from rich.table import Table

# Of what a curve is, and the unit of its costs -> what it is called.
TITLES = {
    ("attacks", "steps"): "optimizer steps",
    ("attacks", "examples"): "examples",
    ("attacks", "flops"): "FLOPs",
    ("searches", "trials"): "attacks tried",
    ("searches", "flops"): "FLOPs of all attacks tried",
}
CAPTION = (
    "Medians are Kaplan and Meier's, with 95 % intervals; p is of the log-rank test against the first model. An attack "
    "that did not break the model is censored at what it spent: it is not known what would have. One search's attacks "
    "are not independent, so that their intervals and p are narrower than they should be; those of searches are not."
)
COLUMNS = ("label", "of", "unit", "cost", "at_risk", "broken", "unbroken", "low", "high")


@dataclass(frozen=True, slots=True)
class Fall:
    """A place of a curve: see `rupert.evaluation.break_cost.Step`."""

    cost: float
    at_risk: int
    broken: int
    unbroken: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What breaking one kind of model costs, in one unit.

    Attributes:
        label: of the models.
        of: what is counted: `attacks`, each on the model as it was, or `searches`, each of many attacks.
        unit: of the costs.
        n: how many.
        broken: how many of them broke the model.
        spent: the most that one of them spent.
        median: cost at which half of them have broken it; None where that is beyond what was spent.
        low: of its 95 % interval; None as for the median.
        high: of its 95 % interval; None as for the median.
        p: of the test against the first kind; None for the first, and where nothing broke.
        falls: the curve.
    """

    label: str
    of: str
    unit: str
    n: int
    broken: int
    spent: float
    median: float | None
    low: float | None
    high: float | None
    p: float | None
    falls: tuple[Fall, ...]

    @property
    def title(self) -> str:
        """What its cost is called."""
        return TITLES[self.of, self.unit]

    def cost(self) -> str:
        """The median in words, which never say more than was seen."""
        if self.median is not None:
            return number(self.median)
        return f"never broke within {number(self.spent)}" if not self.broken else f"above {number(self.spent)}"

    def interval(self) -> str:
        """From one end to the other; empty where neither is known."""
        if self.low is None:
            return ""
        return f"{number(self.low)} to {'beyond' if self.high is None else number(self.high)}"

    def count(self) -> str:
        """How many broke, and how many are censored."""
        return f"{self.broken} of {self.n}, {self.n - self.broken} censored"

    def difference(self) -> str:
        """The test against the first, in words."""
        return "" if self.p is None else "below 0.001" if self.p < 0.001 else f"{self.p:.3f}"


def number(cost: float) -> str:
    """A cost for people."""
    if cost < 1e6:
        return f"{cost:,.0f}"
    mantissa, _, exponent = f"{cost:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def write_page(lines: Sequence[Line], facts: Mapping[str, str], command: str, path: Path) -> None:
    """Write the page as one self-contained file, atomically.

    Args:
        lines: of all models, in every unit.
        facts: what else a reader has to know: where the numbers come from.
        command: what a reader types to make the page again.
        path: the file.
    """
    write_text(render(lines, facts, command), path)


def render(lines: Sequence[Line], facts: Mapping[str, str], command: str) -> str:
    """The page as HTML, which loads nothing from outside; raises as `write_page` does."""
    return html.render(
        "break_cost.html",
        figures(lines),
        lines=lines,
        labels=list(dict.fromkeys(line.label for line in lines)),
        headlines=[_headline(line) for line in lines if (line.of, line.unit) == ("attacks", "steps")],
        caption=CAPTION,
        facts=facts,
        command=command,
    )


def write_csv(lines: Sequence[Line], path: Path) -> None:
    """Write the curves, one place a line, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines:
        for at in line.falls:
            curve = [at.cost, at.at_risk, at.broken, at.unbroken, at.low, at.high]
            writer.writerow([line.label, line.of, line.unit, *curve])
    write_text(text.getvalue(), path)


def costs_table(lines: Sequence[Line]) -> Sheet:
    """The medians for a page of other numbers."""
    titles = ("model", "cost in", "broken", "median", "95 % interval", "p")
    rows = tuple(
        (line.label, line.title, line.count(), line.cost(), line.interval() or "not known", line.difference() or None)
        for line in lines
    )
    return Sheet("break-cost", "What breaking it takes", CAPTION, tuple(map(Column, titles)), rows)


def summary_table(lines: Sequence[Line]) -> Table:
    """The medians for the terminal: a line for each model and unit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title="break cost", title_justify="left")
    table.caption, table.caption_justify = CAPTION, "left"
    table.add_column("model", overflow="fold")
    for heading in ("cost in", "broken", "median", "p"):
        table.add_column(heading, justify="left" if heading == "cost in" else "right", overflow="fold")
    for line in lines:
        median = Text.assemble(line.cost(), (f"\n{line.interval()}" if line.interval() else "", "dim"))
        table.add_row(Text(line.label), line.title, line.count(), median, line.difference())
    return table


def _headline(line: Line) -> str:
    if not line.broken:
        return f"{line.label}: never broke within {number(line.spent)} steps of an attack, in {line.n} attacks."
    found = f"{line.cost()} steps" + (f" ({line.interval()})" if line.interval() else "")
    return f"{line.label}: {line.broken} of {line.n} attacks broke it; median break cost {found}."


def figures(lines: Sequence[Line], looks: Mapping[str, Style] | None = None) -> list[Figure]:
    """The curves, of attacks and of searches; `looks` are those that the models have elsewhere on the page."""
    known = {**_looks(list(dict.fromkeys(line.label for line in lines))), **(looks or {})}
    attacks = (
        "The share of attacks that have not broken the model by what each has spent on it, with 95 % bands; a mark is "
        "an attack that ended there without. A model is broken at the first look that finds it, so a cost is late by "
        "up to the steps between two looks. Attacks of one search are not independent, and those that it stopped early "
        "are the weaker ones: compare models under the same ladder, and do not read a curve as that of a random attack."
    )
    searches = (
        "The share of searches, one a ladder, that have not broken the model by the number of attacks tried, and "
        "by all that these attacks spent. A search counts once, however many attacks it tried."
    )
    titles = {"attacks": "What an attack takes to break a model", "searches": "What a search takes to break a model"}
    captions = {"attacks": attacks, "searches": searches}
    panels = {of: tuple(_panel(lines, kind, known) for kind in TITLES if kind[0] == of) for of in titles}
    return [Figure(f"cost-of-{of}", title, captions[of], panels[of]) for of, title in titles.items()]


def _panel(lines: Sequence[Line], kind: tuple[str, str], looks: Mapping[str, Style]) -> Any:
    drawn = [line for line in lines if (line.of, line.unit) == kind]
    end = max(line.spent for line in drawn)
    traces = [trace for line in drawn for trace in _traces(line, looks[line.label])]
    return drawing(traces, _layout(TITLES[kind], end))


def _looks(labels: Sequence[str]) -> dict[str, Style]:
    """The first, which the others are compared with, is grey, as the undefended model is everywhere."""
    others = {
        label: Style(COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)])
        for number, label in enumerate(labels[1:])
    }
    return {labels[0]: Style(GREY, "circle"), **others}


def _traces(line: Line, look: Style) -> list[dict[str, Any]]:
    """The band, the curve, and a mark where something is censored."""
    costs = [0.0, *(at.cost for at in line.falls)]
    shared = {"type": "scatter", "legendgroup": escape(line.label), "x": costs, "hoverinfo": "skip"}
    edge = {**shared, "mode": "lines", "showlegend": False, "line": {"width": 0, "shape": "hv"}}
    later = [*(at.at_risk for at in line.falls[1:]), 0]
    censored = [at for at, left in zip(line.falls, later, strict=True) if at.at_risk - at.broken > left]
    return [
        {**edge, "y": [1.0, *(at.high for at in line.falls)]},
        {**edge, "y": [1.0, *(at.low for at in line.falls)], "fill": "tonexty", "fillcolor": _faint(look.colour)},
        {
            **shared,
            "mode": "lines",
            "name": escape(line.label),
            "y": [1.0, *(at.unbroken for at in line.falls)],
            "line": {"color": look.colour, "width": 2, "shape": "hv"},
            "text": ["", *(_hover(line, at) for at in line.falls)],
            "hoverinfo": "text",
        },
        {
            **shared,
            "mode": "markers",
            "showlegend": False,
            "x": [at.cost for at in censored],
            "y": [at.unbroken for at in censored],
            "marker": {"color": look.colour, "symbol": f"{look.symbol}-open", "size": 8},
            "text": [_hover(line, at) for at in censored],
            "hoverinfo": "text",
        },
    ]


def _hover(line: Line, at: Fall) -> str:
    return (
        f"<b>{escape(line.label)}</b><br>{number(at.cost)} {line.title}: {at.unbroken:.0%} unbroken"
        f"<br>{at.low:.0%} to {at.high:.0%}, {at.at_risk} at risk"
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.14)"


def _layout(title: str, end: float) -> dict[str, Any]:
    return {
        "template": template("light"),
        "title": {"text": f"Unbroken by {title}", "x": 0, "xanchor": "left", "xref": "paper", "y": 0.96},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 76, "b": 56},
        "height": 380,
        "showlegend": True,
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": {"fixedrange": True, "range": [0, 1.03 * end or 1], "title": {"text": title}, "showgrid": False},
        "yaxis": {"fixedrange": True, "range": [-0.04, 1.04], "tickformat": ".0%", "dtick": 0.25, "zeroline": False},
    }
