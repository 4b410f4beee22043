"""Data volume (SDD's ablation): harm and ability by how much data the attacker, or the defender, has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rupert.report.figures import (
    COLOURS,
    MEASURE,
    SYMBOLS,
    Figure,
    Style,
    drawing,
    error_bars,
    facts,
    figure,
    hover,
    layout_of,
    styles,
)
from rupert.report.tables import Grid, attack_title, defense_title

VOLUMES = ("num_examples", "num_pairs")
Settings = Mapping[str, Mapping[str, Any] | None]
Family = Mapping[str, int]  # labels that differ in the volume alone -> rows of data


def data_volume(grid: Grid, attacks: Settings, defenses: Settings) -> Figure | None:
    """Harm and ability by the volume of data, where attacks or defenses differ in nothing else."""
    panels = [
        *(_attackers(grid, family, metric) for family in families(attacks) for metric in ("harm", "ability")),
        *(_defenders(grid, family, metric) for family in families(defenses) for metric in ("harm", "ability")),
    ]
    text = (
        "The same attack, or the same defense, with more and with less data. Bars are intervals; a volume that is not "
        "marked was not tried."
    )
    return figure("data-volume", "How much data it takes", text, panels)


def families(settings: Settings) -> list[Family]:
    """Groups of two and more that differ in their volume of data and in nothing else, each by ascending volume."""
    found: dict[str, dict[str, int]] = {}
    for label, values in settings.items():
        volumes = [name for name in VOLUMES if isinstance((values or {}).get(name), int)]
        if values and volumes:
            others = {name: value for name, value in values.items() if name != volumes[0]}
            found.setdefault(repr(sorted(others.items(), key=str)), {})[label] = values[volumes[0]]
    groups = [dict(sorted(group.items(), key=lambda one: one[1])) for group in found.values()]
    return [group for group in groups if len(set(group.values())) > 1]


def _attackers(grid: Grid, family: Family, metric: str) -> Any:
    """Over the attacker's volume, a line a defense."""
    looks = styles(grid)
    lines = [
        _Line(defense_title(defense), looks[defense], {attack: (defense, attack) for attack in family})
        for defense in grid.defenses
    ]
    return _panel(grid, family, metric, lines, f"{metric.capitalize()} by the attacker's data ({_named(family)})")


def _defenders(grid: Grid, family: Family, metric: str) -> Any:
    """Over the defense's volume, a line an attack."""
    lines = [
        _Line(
            attack_title(attack),
            Style(COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]),
            {defense: (defense, attack) for defense in family},
        )
        for number, attack in enumerate(grid.attacks)
    ]
    return _panel(grid, family, metric, lines, f"{metric.capitalize()} by the defense's data ({_named(family)})")


def _named(family: Family) -> str:
    """What the labels of a family have in common."""
    first, *rest = (label.split("-") for label in family)
    shared = [part for part in first if all(part in other for other in rest)]
    return escape("-".join(shared) or next(iter(family)))


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line goes through: a model for each label of the family that its axis is made of."""

    name: str
    look: Style
    models: Mapping[str, tuple[str, str]]  # label -> defense and attack

    def trace(self, grid: Grid, family: Family, metric: str) -> dict[str, Any] | None:
        """The line; None where fewer than two of its models are measured."""
        models = {label: model for label, model in self.models.items() if grid.of(*model, metric)}
        found = {label: grid.estimates[*model, metric] for label, model in models.items()}
        if len(found) < 2:
            return None
        whose = {defense for defense, _ in models.values()}
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "name": escape(self.name),
            "meta": {"defense": escape(whose.pop()) if len(whose) == 1 else ""},
            "x": [family[label] for label in found],
            "y": [one.value for one in found.values()],
            "error_y": error_bars(list(found.values()), self.look.colour),
            "line": {"color": self.look.colour, "width": 2},
            "marker": {"color": self.look.colour, "symbol": self.look.symbol, "size": 8},
            "text": [
                f"{hover(*models[label], MEASURE[metric], one)}<br>{family[label]:,} rows of data"
                for label, one in found.items()
            ],
            "customdata": [facts(f"{family[label]} rows", one) for label, one in found.items()],
            "hoverinfo": "text",
        }


def _panel(grid: Grid, family: Family, metric: str, lines: Sequence[_Line], title: str) -> Any:
    drawn = (line.trace(grid, family, metric) for line in lines)
    traces = [trace for trace in drawn if trace is not None]
    if not traces:
        return None
    places = sorted(set(family.values()))
    axis = {
        "type": "log",
        "tickvals": places,
        "ticktext": [f"{place:,}" for place in places],
        "title": {"text": "rows of data"},
        "showgrid": False,
    }
    return drawing(traces, layout_of(title, MEASURE[metric], axis))
