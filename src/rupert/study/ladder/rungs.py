"""A ladder as a value: rungs of attacks, what is fixed of each and what is searched, and how they are scored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rupert.attacks import ATTACKS, Attacker
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.verdicts import Thresholds
from rupert.settings import fields_of, parse

TOWARDS = "towards"  # the setting of an attack that needs the model before it was defended


@dataclass(frozen=True, slots=True)
class Range:
    """Every value from `low` to `high`, both included; `log`: drawn evenly over the orders of magnitude."""

    low: float
    high: float
    log: bool = False

    def ends(self) -> tuple[Any, ...]:
        """The values that say whether all are valid."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, which have no order."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """The values that say whether all are valid."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values


Axis = Range | Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An attack of a rung.

    Attributes:
        label: unique in its ladder.
        method: one of `ATTACKS`.
        settings: what is fixed of it, and, of what is searched, what is tried first.
        search: what is searched.
        against: the defenses that it is made against; empty: against any.
    """

    label: str
    method: str
    settings: Mapping[str, Any]
    search: Mapping[str, Axis]
    against: tuple[str, ...] = ()

    def attack(self, chosen: Mapping[str, Any], seed: int = 0) -> Attacker:
        """The attack with what was chosen of what is searched.

        Raises:
            UsageError: a setting does not exist or has a value outside its domain.
        """
        made: Attacker = parse(ATTACKS[self.method], {**self.settings, **chosen, "seed": seed}, self.label)
        return made

    def extremes(self) -> Iterator[Attacker]:
        """The attack at each end of each range and with each choice, all else as it is tried first; itself, if none."""
        first = {name: axis.ends()[-1] for name, axis in self.search.items() if name not in self.settings}
        yield self.attack(first)
        for name, axis in self.search.items():
            for value in axis.ends():
                yield self.attack({**first, name: value})

    def largest(self) -> Attacker:
        """The attack with the last choice and the high end of all that is searched."""
        return self.attack({name: axis.ends()[-1] for name, axis in self.search.items()})

    @property
    def needs_undefended(self) -> bool:
        """Whether it needs the model before it was defended."""
        names = {field.name for field in fields_of(ATTACKS[self.method])}
        return TOWARDS in names and not self.settings.get(TOWARDS)

    def with_undefended(self, model: str) -> Entry:
        """The same with the model before it was defended, where it needs one."""
        if not self.needs_undefended:
            return self
        return replace(self, settings={**self.settings, TOWARDS: model})

    @property
    def different(self) -> float:
        """How many different attacks it has: infinite where a range is searched."""
        counts = (math.inf if isinstance(axis, Range) else len(axis.values) for axis in self.search.values())
        return math.prod(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Attackers of one strength.

    Attributes:
        name: such as L0.
        entries: in the order in which they are first tried.
    """

    name: str
    entries: tuple[Entry, ...]

    @property
    def different(self) -> float:
        """How many different attacks it has."""
        return sum(entry.different for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Attackers, the weakest first, and how what they do is scored.

    Attributes:
        name: of the file that it was read from.
        rungs: from the weakest attackers to the strongest.
        evaluation: what is measured.
        eval_steps: steps between two looks at a model under attack; below 1: share of the attack's steps.
        thresholds: when a model counts as broken.
        held_out_seeds: with how many other seeds each rung's chosen attack is done again.
    """

    name: str
    rungs: tuple[Rung, ...]
    evaluation: Evaluation
    eval_steps: float
    thresholds: Thresholds
    held_out_seeds: int = 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An attack that is not tried, and why."""

    rung: str
    label: str
    reason: str


def for_attacker(
    rungs: Sequence[Rung], defense: str | None, undefended: str
) -> tuple[tuple[Rung, ...], tuple[LeftOut, ...]]:
    """The rungs as an attacker climbs them who knows so much, and what that leaves out.

    Args:
        rungs: of the ladder.
        defense: what the attacker knows of the model's defense; None for nothing, and then all is tried.
        undefended: the model before it was defended; empty where the attacker does not have it.
    """
    left_out: list[LeftOut] = []
    kept: list[Rung] = []
    for rung in rungs:
        entries = []
        for entry in rung.entries:
            if entry.needs_undefended and not undefended:
                left_out.append(LeftOut(rung.name, entry.label, "needs --undefended"))
            elif entry.against and defense is not None and defense not in entry.against:
                left_out.append(LeftOut(rung.name, entry.label, f"made against {', '.join(entry.against)}"))
            else:
                entries.append(entry.with_undefended(undefended))
        kept.append(Rung(name=rung.name, entries=tuple(entries)))
    return tuple(kept), tuple(left_out)


def divided(budget: int, rungs: Sequence[Rung]) -> dict[str, int]:
    """How many trials each rung gets, by its name.

    They are dealt one at a time to the rungs in turn, the weakest first, and a rung that has no other attack left gets
    no more. So a budget smaller than the number of rungs leaves the strongest untried.
    """
    dealt = {rung.name: 0 for rung in rungs}
    while True:
        open_rungs = [rung.name for rung in rungs if dealt[rung.name] < rung.different]
        for name in open_rungs:
            if sum(dealt.values()) == budget:
                return dealt
            dealt[name] += 1
        if not open_rungs:
            return dealt


def as_text(value: Any) -> str:
    """A choice as the search knows it: text that is different for different values."""
    return json.dumps(value, sort_keys=True)
