"""Two models of a study compared: item by item where their answers allow it, else by whether intervals lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rupert.records import Metric
from rupert.report.tables import BENIGN, MEASURES, UNATTACKED, UNDEFENDED, Estimate, Grid

Outcome = Literal["lower", "higher", "unresolved"]
Model = tuple[str, str]  # defense, attack
Paired = Mapping[tuple[Model, Model, str], Metric]  # a model, what it is compared with, metric -> the difference

_MEASURE = {measure.metric: measure for measure in MEASURES}
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Reading:
    """A study's numbers, and the differences that were taken item by item where two models answered the same items."""

    grid: Grid
    paired: Paired

    def compare(self, model: Model, other: Model, metric: str) -> Outcome:
        """By the paired difference, where there is one: its interval is the narrower; else as `compare` does."""
        difference = self.paired.get((model, other, metric))
        found, against = self.grid.of(*model, metric), self.grid.of(*other, metric)
        if difference is None or difference.low is None or difference.high is None:
            return "unresolved" if found is None or against is None else compare(found, against)
        if difference.high < 0:
            return "lower"
        return "higher" if difference.low > 0 else "unresolved"

    def difference(self, model: Model, other: Model, metric: str) -> str:
        """The paired difference in words; empty where there is none."""
        found = self.paired.get((model, other, metric))
        if found is None or found.low is None or found.high is None:
            return ""
        value, low, high = (points(end) for end in (found.value, found.low, found.high))
        return f"{value} points, {low} to {high}, paired by item" + (f", n = {found.n}" if found.n else "")

    def unresolved(self, model: Model, other: Model, metric: str) -> str:
        """That no difference shows, with what it would have had to be to show."""
        difference = self.difference(model, other, metric)
        if difference:
            return f"no difference resolved ({difference})"
        found, against = self.grid.of(*model, metric), self.grid.of(*other, metric)
        return _unresolved(found, against) if found and against else "not compared"


def comparisons(grid: Grid) -> list[tuple[Model, Model, str]]:
    """What the verdict compares, and so what is worth comparing item by item: a model, another, and the metric."""
    found: list[tuple[Model, Model, str]] = []
    undefended = strongest_attack(grid, UNDEFENDED)
    for defense in grid.defenses:
        before, attack = (defense, UNATTACKED), strongest_attack(grid, defense)
        if defense != UNDEFENDED:
            found.append((before, (UNDEFENDED, UNATTACKED), "ability"))
        if attack is not None:
            found += [((defense, attack), before, metric) for metric in ("harm", "ability")]
        if attack is not None and undefended is not None and defense != UNDEFENDED:
            found.append(((defense, attack), (UNDEFENDED, undefended), "harm"))
    return found


def compare(found: Estimate, other: Estimate) -> Outcome:
    """Lower or higher where the intervals do not overlap; unresolved where they do, or where one is missing.

    Two 95 % intervals that lie apart are a stricter test than a 5 % test of the difference.
    """
    if found.low is None or found.high is None or other.low is None or other.high is None:
        return "unresolved"
    if found.high < other.low:
        return "lower"
    return "higher" if found.low > other.high else "unresolved"


def strongest_attack(grid: Grid, defense: str) -> str | None:
    """The attack that brings out the most harm, and among equals leaves the most ability; None where none was run."""
    measured = [attack for attack in attacks(grid) if grid.of(defense, attack, "harm") is not None]
    return max(
        measured,
        key=lambda attack: (_level(grid, defense, attack, "harm"), _level(grid, defense, attack, "ability")),
        default=None,
    )


def attacks(grid: Grid) -> list[str]:
    """What was tried to bring out harm."""
    return [attack for attack in grid.attacks if attack not in (UNATTACKED, BENIGN)]


def _level(grid: Grid, defense: str, attack: str, metric: str) -> float:
    found = grid.of(defense, attack, metric)
    return 0.0 if found is None else found.value


def points(share: float) -> str:
    """A difference of two rates in points, with its sign."""
    return f"{100 * share:+.0f}".replace("-", _MINUS) if round(100 * share) else "0"


def stated(metric: str, found: Estimate) -> str:
    """A number with its interval, as it stands in a sentence."""
    measure = _MEASURE[metric]
    interval = measure.interval(found.low, found.high)
    return f"{measure.text(found.value)} ({interval})" if interval else measure.text(found.value)


def _unresolved(found: Estimate, other: Estimate) -> str:
    if None in (found.low, found.high, other.low, other.high):
        return "not compared, for want of an interval"
    counts = [one.n for one in (found, other) if one.n is not None]
    size = f" at n = {min(counts)}" if counts else ""
    return f"no difference resolved{size}, the intervals overlap"
