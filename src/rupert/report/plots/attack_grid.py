"""The attack grid (SEAM's Figure 3): every attack against every defense, as heat maps that hold their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rupert.report.figures import COLOURS, MANY, MEASURE, Figure, drawing, facts, figure, hover, template, ticks
from rupert.report.plots.over_rates import axis_attacks
from rupert.report.tables import BENIGN, UNATTACKED, Estimate, Grid, attack_title, defense_title

# metric -> title, and the colour of 1; every map is clear at 0
SHOWN = {
    "harm": ("Harm: rate of harmful answers", COLOURS[1]),
    "ability": ("Ability: rate of right answers", COLOURS[0]),
    "refusal": ("Refusal: rate of refused requests", COLOURS[2]),
}
STRONGEST = 0.72  # how opaque the colour of 1 is: numbers stay legible on it in both themes


def attack_grid(grid: Grid) -> Figure | None:
    """Heat maps of a study whose attacks differ in more than a learning rate, or that has many defenses."""
    along = axis_attacks(grid)
    others = [attack for attack in grid.attacks if attack not in (UNATTACKED, BENIGN, *along)]
    if not others and len(grid.defenses) <= MANY:
        return None
    text = (
        "Every attack against every defense, in percent: the fuller the colour, the higher. Full colour is bad in the "
        "map of harm and good in that of ability. An empty cell was not measured."
    )
    panels = [_map(grid, metric) for metric in SHOWN]
    across = 120 + 46 * len(grid.attacks)
    return figure("attack-grid", "Every attack against every defense", text, panels, least=across)


def _map(grid: Grid, metric: str) -> Any:
    title, colour = SHOWN[metric]
    attacks = [one for one in grid.attacks if any((name, one, metric) in grid.estimates for name in grid.defenses)]
    if not attacks:
        return None
    found = [[grid.of(defense, attack, metric) for attack in attacks] for defense in grid.defenses]
    return drawing([_cells(grid, metric, attacks, found, colour)], _layout(title, attacks, len(grid.defenses)))


def _cells(
    grid: Grid, metric: str, attacks: Sequence[str], found: list[list[Estimate | None]], colour: str
) -> dict[str, Any]:
    rows = list(zip(grid.defenses, found, strict=True))
    return {
        "type": "heatmap",
        "name": MEASURE[metric].title,
        "x": ticks(attacks),
        "y": [escape(defense_title(defense)) for defense in grid.defenses],
        "z": [[None if one is None else one.value for one in row] for row in found],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, _tint(colour, 0.0)], [1, _tint(colour, STRONGEST)]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "text": [["" if one is None else f"{100 * one.value:.0f}" for one in row] for row in found],
        "texttemplate": "%{text}",
        "hovertext": [
            [_told(defense, attack, metric, one) for attack, one in zip(attacks, row, strict=True)]
            for defense, row in rows
        ],
        "customdata": [[_fact(attack, one) for attack, one in zip(attacks, row, strict=True)] for _, row in rows],
        "hoverinfo": "text",
        "hoverongaps": False,
    }


def _told(defense: str, attack: str, metric: str, found: Estimate | None) -> str:
    return "" if found is None else hover(defense, attack, MEASURE[metric], found)


def _fact(attack: str, found: Estimate | None) -> list[Any]:
    return [escape(attack_title(attack)), None, None, None] if found is None else facts(attack_title(attack), found)


def _tint(colour: str, share: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def _layout(title: str, attacks: Sequence[str], rows: int) -> dict[str, Any]:
    slanted = len(attacks) > 8
    return {
        "template": template("light"),
        "title": {"text": title, "x": 0, "xanchor": "left", "xref": "paper", "y": 0.98, "yanchor": "top"},
        "margin": {"l": 120, "r": 8, "t": 44, "b": 110 if slanted else 56},
        "height": 30 * rows + (154 if slanted else 100),
        "dragmode": False,
        "xaxis": {
            "type": "category",
            "fixedrange": True,
            "showgrid": False,
            "tickangle": -45 if slanted else 0,
            "tickfont": {"size": 11},
        },
        "yaxis": {
            "type": "category",
            "fixedrange": True,
            "showgrid": False,
            "autorange": "reversed",
            "tickfont": {"size": 12},
        },
    }
