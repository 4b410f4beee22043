"""Figures over the attacker's learning rate (SEAM's Figure 2, SDD's mechanism): defenses in one panel, or one each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rupert.report.figures import (
    GREY,
    MANY,
    MEASURE,
    Figure,
    Key,
    Style,
    drawing,
    error_bars,
    facts,
    figure,
    hover,
    key_of,
    layout_of,
    on_screen,
    styles,
    ticks,
)
from rupert.report.tables import (
    BENIGN,
    UNATTACKED,
    UNDEFENDED,
    Estimate,
    Grid,
    Measure,
    attack_title,
    defense_title,
    learning_rate,
    rate_text,
)

WIDTH = 0.84  # of a step between two attacks: what the marks of all defenses take up side by side
NOT_SEEN = " Attacks that differ in more than the learning rate are in the attack grid."

_HOW_TO_READ = (
    " Filled symbols are attacks; open ones, beside them, are the model before any attack and after benign fine-tuning;"
    " the dotted line carries the value before any attack across."
)
_ONE_EACH = " Each panel is one defense, with the undefended model in grey behind it. Bars are intervals."


def harm_and_ability(grid: Grid) -> Figure | None:
    """Harm and ability against the learning rate of the attack."""
    text = "Each defense after fine-tuning on harmful data, against the attacker's learning rate."
    found = _Rates.of(grid)
    if _are_many(grid) and found.rates:
        names = {"harm": "harm", "ability": "ability"}
        drawn = [found.one_each(defense, names) for defense in _defended(grid)]
        return _one_each(grid, ("harm-and-ability", "Harm and ability under attack", text), drawn, names)
    panels = (
        found.panel("harm", "Harm: rate of harmful answers"),
        found.panel("ability", "Ability: rate of right answers"),
    )
    return figure(
        "harm-and-ability", "Harm and ability under attack", text + _HOW_TO_READ + found.hint, panels, key=key_of(grid)
    )


def mechanism(grid: Grid) -> Figure | None:
    """How far the attack moved the log-probability of the paired and of held-out benign answers."""
    text = (
        "Change in mean log-probability per token (nats) from the same model before the attack. SDD pairs harmful "
        "requests with good but irrelevant answers, and predicts that learning harm pushes those answers down, and "
        "benign answers, which stand for ability, with them."
    )
    title = "The mechanism: what the attack makes less likely"
    found = _Rates.of(grid)
    if _are_many(grid) and found.rates:
        names = {"logp_paired": "paired answers", "logp_benign": "benign answers"}
        drawn = [found.one_each(defense, names, change=True) for defense in _defended(grid)]
        return _one_each(grid, ("mechanism", title, text), drawn, names)
    panels = (
        found.panel("logp_paired", "Change in log p, paired answers", change=True),
        found.panel("logp_benign", "Change in log p, benign answers", change=True),
    )
    return figure("mechanism", title, text, panels, key=key_of(grid))


def refusal(grid: Grid) -> Figure | None:
    """Refusals against the learning rate of the attack; with many defenses, the attack grid has them."""
    if _are_many(grid):
        return None
    panels = (_Rates.of(grid).panel("refusal", "Refusal: rate of refused requests"),)
    text = "Harmful requests refused. A model can be harmless without refusing: SDD answers with something irrelevant."
    return figure("refusal", "Refusals", text, panels, key=key_of(grid))


def axis_attacks(grid: Grid) -> list[str]:
    """The attacks that differ in their learning rate alone, by their labels; of several such kinds the largest."""
    kinds: dict[str, list[str]] = {}
    for attack in grid.attacks:
        if learning_rate(attack) is not None:
            kinds.setdefault(attack_title(attack).rpartition("lr ")[0], []).append(attack)
    return max(kinds.values(), key=len, default=[])


def _are_many(grid: Grid) -> bool:
    return len(grid.defenses) > MANY


def _defended(grid: Grid) -> list[str]:
    return [defense for defense in grid.defenses if defense != UNDEFENDED]


def _one_each(
    grid: Grid, heading: tuple[str, str, str], drawn: Sequence[Any], names: Mapping[str, str]
) -> Figure | None:
    """A figure of one panel for each defense, under one key."""
    name, title, text = heading
    of = [defense for defense, panel in zip(_defended(grid), drawn, strict=True) if panel is not None]
    first, second = names.values()
    key = (
        Key(f"{first}, with the defense", "var(--ink)", "solid"),
        Key(f"{second}, with the defense", "var(--ink)", "dashed"),
        Key(f"{first}, undefended", GREY, "solid"),
        Key(f"{second}, undefended", GREY, "dashed"),
    )
    return figure(name, title, text + _ONE_EACH, drawn, of=tuple(of), key=key)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where attacks lie on the logarithmic axis: learning rates in place, everything else in a gutter to their left."""

    places: Mapping[str, float]
    step: float

    @classmethod
    def of(cls, attacks: Sequence[str]) -> _Axis:
        rates = {attack: rate for attack in attacks if (rate := learning_rate(attack)) is not None}
        others = [attack for attack in attacks if attack not in rates]
        first = math.log10(min(rates.values(), default=1.0))
        step = max(0.3, 0.25 * (math.log10(max(rates.values(), default=1.0)) - first))
        gutter = {attack: 10 ** (first - step * (len(others) - number)) for number, attack in enumerate(others)}
        return cls({**gutter, **rates}, step)

    def shifted(self, attack: str, by: float) -> float:
        """The place of an attack, moved by a share of the step so that the bars of two defenses lie side by side."""
        return float(self.places[attack] * 10 ** (by * self.step))

    def layout(self) -> dict[str, Any]:
        """Plotly's axis, with a label at each place."""
        exponents = [math.log10(place) for place in self.places.values()]
        return {
            "type": "log",
            "range": [min(exponents) - self.step / 2, max(exponents) + self.step / 2],
            "tickvals": list(self.places.values()),
            "ticktext": ticks(list(self.places)),
            "tickangle": 0,
            "tickfont": {"size": 11},
            "title": {"text": "learning rate of the attack"},
            "showgrid": False,
        }


@dataclass(frozen=True, slots=True)
class _Rates:
    """A grid's numbers over the learning rate: of no attack, benign fine-tuning and the attacks that differ in it."""

    grid: Grid
    rates: Sequence[str]

    @classmethod
    def of(cls, grid: Grid) -> _Rates:
        return cls(grid, axis_attacks(grid))

    @property
    def attacks(self) -> list[str]:
        """In the order of the axis; all, where none has a learning rate."""
        return [one for one in self.grid.attacks if not self.rates or one in (UNATTACKED, BENIGN, *self.rates)]

    @property
    def hint(self) -> str:
        return NOT_SEEN if len(self.attacks) < len(self.grid.attacks) else ""

    def cells(self, metric: str, change: bool) -> tuple[Mapping[tuple[str, str, str], Estimate], list[str]]:
        """The numbers, and the attacks that any defense has one of."""
        cells = self.grid.changes if change else self.grid.estimates
        shown = [attack for attack in self.attacks if not (change and attack == UNATTACKED)]
        return cells, [one for one in shown if any((name, one, metric) in cells for name in self.grid.defenses)]

    def panel(self, metric: str, title: str, *, change: bool = False) -> Any:
        """All defenses in one; None where no attack has a number."""
        cells, attacks = self.cells(metric, change)
        if not attacks:
            return None
        axis, looks, traces = _Axis.of(attacks), styles(self.grid), []
        apart = min(0.12, WIDTH / len(self.grid.defenses))
        for number, defense in enumerate(self.grid.defenses):
            points = {one: cells[defense, one, metric] for one in attacks if (defense, one, metric) in cells}
            shift = apart * (number - (len(self.grid.defenses) - 1) / 2)
            series = _Series(defense, looks[defense], MEASURE[metric], axis, shift, points)
            traces += series.traces(defense_title(defense))
        return drawing(traces, on_screen(layout_of(title, MEASURE[metric], axis.layout()), height=330))

    def one_each(self, defense: str, names: Mapping[str, str], *, change: bool = False) -> Any:
        """One defense, with the undefended model behind it: the first measure solid, the second dashed."""
        found = {metric: self.cells(metric, change) for metric in names}
        attacks = [one for one in self.attacks if any(one in shown for _, shown in found.values())]
        if not any((defense, attack, metric) in cells for metric, (cells, _) in found.items() for attack in attacks):
            return None
        axis, looks, traces = _Axis.of(attacks), styles(self.grid), []
        for who in (UNDEFENDED, defense):
            for number, (metric, name) in enumerate(names.items()):
                cells, _ = found[metric]
                points = {one: cells[who, one, metric] for one in attacks if (who, one, metric) in cells}
                shift = 0.07 * (2 * (who == defense) + number - 1.5)
                series = _Series(who, looks[who], MEASURE[metric], axis, shift, points, is_dashed=number == 1)
                traces += series.traces(f"{name}, {defense_title(who)}", reference=False)
        layout = layout_of(escape(defense_title(defense)), MEASURE[next(iter(names))], axis.layout(), height=340)
        layout["yaxis"] |= {"range": _range(found, names)} if change else {}
        layout["margin"] |= {"t": 96}
        return drawing(traces, on_screen(layout))


def _range(found: Mapping[str, tuple[Mapping[tuple[str, str, str], Estimate], list[str]]], names: Any) -> list[float]:
    """One scale for the panels of all defenses, so that they can be compared."""
    ends = [
        end
        for metric in names
        for (_, attack, name), one in found[metric][0].items()
        if name == metric and attack in found[metric][1]
        for end in (one.value, one.low, one.high)
        if end is not None
    ]
    room = 0.05 * (max(ends) - min(ends) or 1.0)
    return [min(ends) - room, max(ends) + room]


@dataclass(frozen=True, slots=True)
class _Series:
    """One measure of one defense in one panel."""

    defense: str
    style: Style
    measure: Measure
    axis: _Axis
    shift: float
    points: Mapping[str, Estimate]
    is_dashed: bool = False

    def traces(self, name: str, *, reference: bool = True) -> list[dict[str, Any]]:
        """Attacks as a line, what lies beside them as open symbols, the value before any attack as a dotted line."""
        attacks = [attack for attack in self.points if learning_rate(attack) is not None]
        beside = [attack for attack in self.points if learning_rate(attack) is None]
        traces = []
        if attacks:
            traces.append(self._points(attacks, mode="lines+markers", symbol=self.style.symbol))
        if beside:
            traces.append(self._points(beside, mode="markers", symbol=f"{self.style.symbol}-open"))
        if reference and UNATTACKED in self.points:
            traces.append(self._reference())
        look = {"name": escape(name), "legendgroup": escape(f"{self.defense} {self.measure.metric}")}
        return [{**trace, **look, "showlegend": number == 0} for number, trace in enumerate(traces)]

    def _points(self, attacks: Sequence[str], mode: str, symbol: str) -> dict[str, Any]:
        found = [self.points[attack] for attack in attacks]
        return {
            "type": "scatter",
            "mode": mode,
            "meta": {"defense": escape(self.defense)},
            "line": {"color": self.style.colour, "width": 2, "dash": "dash" if self.is_dashed else "solid"},
            "x": [self.axis.shifted(attack, self.shift) for attack in attacks],
            "y": [one.value for one in found],
            "error_y": error_bars(found, self.style.colour),
            "marker": {
                "color": self.style.colour,
                "symbol": symbol,
                "size": 8,
                "line": {"color": self.style.colour, "width": 2},
            },
            "text": [hover(self.defense, attack, self.measure, self.points[attack]) for attack in attacks],
            "customdata": [facts(_place(attack), self.points[attack]) for attack in attacks],
            "hoverinfo": "text",
        }

    def _reference(self) -> dict[str, Any]:
        level = self.points[UNATTACKED].value
        places = [self.axis.shifted(attack, self.shift) for attack in self.points]
        return {
            "type": "scatter",
            "mode": "lines",
            "meta": {"defense": escape(self.defense)},
            "x": [min(places), max(places)],
            "y": [level, level],
            "line": {"color": self.style.colour, "width": 1.2, "dash": "dot"},
            "hoverinfo": "skip",
        }


def _place(attack: str) -> str:
    rate = learning_rate(attack)
    return attack if rate is None else f"lr {rate_text(rate)}"
