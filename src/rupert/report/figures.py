"""How figures look, and what they are: panels under a heading, each a defense's own colour and symbol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from rupert.records import Metric
from rupert.report.tables import (
    MEASURES,
    UNDEFENDED,
    Estimate,
    Grid,
    Measure,
    attack_title,
    defense_title,
    learning_rate,
    rate_text,
)

Theme = Literal["light", "dark"]
Mark = Literal["solid", "dashed", "symbol", "patch"]

# Tints of Okabe and Ito's palette and three more that keep a contrast of 3 to 1 on both grounds; grey is the
# undefended model's alone.
GREY = "#7A8490"
COLOURS = (
    "#2E7EBF",
    "#D55E00",
    "#009E73",
    "#C2679B",
    "#B8860B",
    "#7B6FD0",
    "#1C9BB0",
    "#D9455F",
    "#6C8F2A",
    "#9A6B4B",
)
SYMBOLS = (
    "diamond",
    "square",
    "triangle-up",
    "cross",
    "triangle-down",
    "star",
    "x",
    "hexagon",
    "pentagon",
    "bowtie",
)
# The symbols as letters, for a legend in words.
LETTERS = dict(zip(("circle", *SYMBOLS), "●◆■▲✚▼★✖⬢⬟⧓", strict=True))
MANY = 4  # lines of defenses beyond this are told apart no more: each defense is given a panel

MEASURE = {measure.metric: measure for measure in MEASURES}


@dataclass(frozen=True, slots=True)
class Style:
    """How one defense looks in every figure: told apart by its symbol where the colour is not seen."""

    colour: str
    symbol: str


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the legend that all panels of a figure share; `pattern` is that of a patch, or a symbol's letter."""

    name: str
    colour: str
    mark: Mark
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels under one heading; side by side where there is room.

    Attributes:
        name: an identifier, unique on a page.
        title: the heading.
        caption: what is shown and how to read it.
        panels: plotly figures in the light theme. What `layout.meta.screen` holds is laid over the layout on a page,
            not in a file for a paper.
        of: the defense that each panel is of; empty where a panel shows several.
        key: the legend of all panels, where they have none of their own on a page.
        least: pixels that a panel needs across; a narrower page scrolls it.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Any, ...]
    of: tuple[str, ...] = ()
    key: tuple[Key, ...] = ()
    least: int = 0


def styles(grid: Grid) -> dict[str, Style]:
    """A look for each defense; the undefended model's is always the same."""
    defended = [defense for defense in grid.defenses if defense != UNDEFENDED]
    return {UNDEFENDED: Style(GREY, "circle")} | {defense: _look(number) for number, defense in enumerate(defended)}


def key_of(grid: Grid) -> tuple[Key, ...]:
    """A legend of the defenses."""
    return tuple(
        Key(defense_title(defense), look.colour, "symbol", LETTERS[look.symbol])
        for defense, look in styles(grid).items()
        if defense in grid.defenses
    )


def _look(number: int) -> Style:
    """After each round of colours the symbols move on by one, so that no look comes twice in a hundred."""
    rounds = number // len(COLOURS)
    return Style(COLOURS[number % len(COLOURS)], SYMBOLS[(number + rounds) % len(SYMBOLS)])


def template(theme: Theme) -> dict[str, Any]:
    """The layout template of a theme: everything in a figure that depends on light or dark."""
    ink, muted, line, ground = {
        "light": ("#1f252c", "#5b6570", "#e3e5e8", "#ffffff"),
        "dark": ("#e7eaee", "#a3adb8", "#343b44", "#1b2027"),
    }[theme]
    axis = {"gridcolor": line, "linecolor": line, "zerolinecolor": muted, "tickfont": {"color": muted}}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": ink, "size": 13, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"},
            "title": {"font": {"size": 14, "color": ink, "weight": 600}},
            "legend": {"font": {"color": ink}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": muted},
            "hoverlabel": {"bgcolor": ground, "bordercolor": muted, "font": {"color": ink}, "align": "left"},
            "xaxis": {**axis, "title": {"font": {"color": muted, "size": 12}}},
            "yaxis": axis,
        },
        "data": {"heatmap": [{"textfont": {"color": ink}}]},
    }


def plotly_script() -> str:
    """The source of plotly.js, to be put into a page."""
    import plotly.offline

    return str(plotly.offline.get_plotlyjs())


def drawing(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> Any:
    """One plotly figure."""
    import plotly.graph_objects

    return plotly.graph_objects.Figure(data=traces, layout=layout)


def figure(name: str, title: str, caption: str, panels: Sequence[Any], **more: Any) -> Figure | None:
    """A figure of the panels that there are; None where there is none."""
    drawn = tuple(panel for panel in panels if panel is not None)
    return Figure(name, title, caption, drawn, **more) if drawn else None


def layout_of(title: str, measure: Measure, axis: Mapping[str, Any], *, height: int = 380) -> dict[str, Any]:
    """The layout of a panel: title, legend above, and a scale that fits the measure."""
    percent = {"tickformat": ".0%", "range": [-0.04, 1.04], "dtick": 0.25, "zeroline": False}
    return {
        "template": template("light"),
        "title": {"text": title, "x": 0, "xanchor": "left", "xref": "paper", "y": 0.96},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 48, "r": 16, "t": 76, "b": 64},
        "height": height,
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": {"fixedrange": True, **axis},
        "yaxis": {"fixedrange": True, **(percent if measure.rate else {"zeroline": True})},
    }


def on_screen(layout: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A layout with what a page lays over it, where the figure's key stands in for the panel's legend."""
    margin = {"l": 44, "r": 12, "t": 34, "b": 52}
    return {**layout, "meta": {"screen": {"showlegend": False, "margin": margin, "height": 270, **changes}}}


def ticks(attacks: Sequence[str]) -> list[str]:
    """Attacks under an axis: by their learning rates alone, where these tell them apart."""
    titles = [escape(attack_title(attack)) for attack in attacks]
    rates = [learning_rate(attack) for attack in attacks]
    pairs = list(zip(titles, rates, strict=True))
    short = [title.replace(" ", "<br>") if rate is None else rate_text(rate) for title, rate in pairs]
    return short if len(set(short)) == len(short) else [title.replace(", ", ",<br>") for title in titles]


def hover(defense: str, attack: str, measure: Measure, found: Estimate) -> str:
    """What the pointer is told of one number: whose it is, its interval and its n."""
    interval = measure.interval(found.low, found.high)
    lines = [
        f"<b>{escape(defense_title(defense))}</b>, {escape(attack_title(attack))}",
        f"{measure.title}: {measure.text(found.value)}",
        f"{'95 % interval' if found.seeds == 1 else 'span of the seeds'}: {interval}" if interval else "no interval",
        "n not given" if found.n is None else f"n = {found.n}",
    ]
    return "<br>".join(lines) + (f", {found.seeds} seeds" if found.seeds > 1 else "")


def facts(place: str, found: Estimate) -> list[Any]:
    """What a figure's CSV says of one number: where it stands, its interval and its n."""
    return [escape(place), found.low, found.high, found.n]


def error_bars(found: Sequence[Estimate | Metric], colour: str) -> dict[str, Any]:
    """Plotly's bars from the low to the high end of each interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if one.high is None else max(0.0, one.high - one.value) for one in found],
        "arrayminus": [0.0 if one.low is None else max(0.0, one.value - one.low) for one in found],
        "color": colour,
        "thickness": 1.3,
        "width": 3,
    }
