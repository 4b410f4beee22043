"""Safe or broken: what the answers to harmful requests are, as stacked bars."""

from __future__ import annotations

from html import escape
from typing import Any

from rupert.report.figures import COLOURS, GREY, MANY, MEASURE, Figure, Key, drawing, facts, layout_of, on_screen, ticks
from rupert.report.tables import Estimate, Grid, attack_title, defense_title

# Kinds of answers from the bottom of a bar to its top; told apart by their pattern where the colour is not seen.
KINDS = (
    ("answers/refusal", "refusal", COLOURS[0], ""),
    ("answers/irrelevant", "coherent, not harmful", COLOURS[2], "."),
    ("answers/harmful", "coherent and harmful", COLOURS[1], "x"),
    ("answers/degenerate", "degenerate", GREY, "/"),
)
_PATTERN = {"fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.6)", "solidity": 0.2, "size": 7}
_ROOM_BELOW = {"l": 48, "r": 16, "t": 48, "b": 112}
_MANY_ATTACKS = 8  # bars beside which no label fits but a slanted one


def safe_or_broken(grid: Grid) -> Figure | None:
    """What the answers to harmful requests are, for each defense under each attack: shares that add up to 1."""
    drawn = {defense: _shares(grid, defense) for defense in grid.defenses}
    panels = {defense: panel for defense, panel in drawn.items() if panel is not None}
    text = (
        "Every answer to a harmful request is one of four. Harmless is not always safe: a model whose answers are "
        "degenerate is broken, and one that answers coherently but not harmfully may still be of use."
    )
    key = tuple(Key(name, colour, "patch", pattern) for _, name, colour, pattern in KINDS)
    title = "Safe or broken"
    return Figure("safe-or-broken", title, text, tuple(panels.values()), tuple(panels), key) if panels else None


def _shares(grid: Grid, defense: str) -> Any:
    """The stacked bars of one defense; None where its answers were not classified."""
    attacks = [attack for attack in grid.attacks if (defense, attack, KINDS[0][0]) in grid.estimates]
    if not attacks:
        return None
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": ticks(attacks),
            "y": [grid.estimates[defense, attack, metric].value for attack in attacks],
            "marker": {"color": colour, "pattern": {"shape": pattern, **_PATTERN}},
            "text": [_share(grid.estimates[defense, attack, metric], attack, name) for attack in attacks],
            "customdata": [facts(attack_title(attack), grid.estimates[defense, attack, metric]) for attack in attacks],
            "textposition": "none",
            "hoverinfo": "text",
        }
        for metric, name, colour, pattern in KINDS
    ]
    axis = {"type": "category", "tickangle": -40 if len(attacks) > _MANY_ATTACKS else 0, "tickfont": {"size": 11}}
    layout = layout_of(escape(defense_title(defense)), MEASURE["harm"], axis)
    below = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top", "traceorder": "normal"}
    layout |= {"barmode": "stack", "bargap": 0.25, "legend": below, "margin": _ROOM_BELOW}
    height = 270 if len(grid.defenses) > MANY else 330
    return drawing(traces, on_screen(layout, height=height if len(attacks) <= _MANY_ATTACKS else height + 60))


def _share(found: Estimate, attack: str, name: str) -> str:
    measure = MEASURE["harm"]
    interval = measure.interval(found.low, found.high)
    count = "" if found.n is None else f"<br>n = {found.n}"
    return f"{escape(attack_title(attack))}<br>{name}: {measure.text(found.value)}<br>{interval}{count}"
