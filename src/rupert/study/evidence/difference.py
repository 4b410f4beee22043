"""What differs between two studies, or between two stages: settings, what went in, and the numbers that came out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rupert.errors import UsageError
from rupert.records import Record, ResultRow
from rupert.study.definition.study import Study, describe

MISSING = "(missing)"  # in place of the value on a side that has none


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things that are held against each other.

    Attributes:
        what: it is.
        facts: nested mappings: what defines it, and of a stage, what it was done with.
        numbers: (cell, metric) -> value; the cell of a stage's own numbers is empty.
    """

    what: Literal["study", "stage"]
    facts: Mapping[str, Any]
    numbers: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two sides differ.

    Attributes:
        name: dotted, as `attacks.fine_tune.learning_rate`.
        a, b: its value on either side, `MISSING` where there is none.
    """

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class NumberDifference:
    """One number in which two sides differ; `a` or `b` is none on a side that has no such number."""

    cell: str
    metric: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class Differences:
    """All in which two sides differ.

    Attributes:
        facts: settings, data, weights and versions.
        numbers: what was measured; none are compared where a side has none at all.
        equal: how many numbers are equal.
    """

    facts: tuple[Difference, ...]
    numbers: tuple[NumberDifference, ...]
    equal: int


def study_side(study: Study, rows: Iterable[ResultRow]) -> Side:
    """A study, with its numbers as far as it was run."""
    numbers = {(f"{row.defense} / {row.attack} / seed {row.seed}", row.metric): row.value for row in rows}
    return Side("study", {name: value for name, value in describe(study).items() if name != "stage"}, numbers)


def stage_side(record: Record) -> Side:
    """A stage that is done. The model's name is left out: its weights count, which may lie anywhere."""
    facts = {
        "stage": record.stage,
        "method": record.method,
        "settings": record.settings,
        "model_hash": record.model_hash,
        "output_hash": record.output_hash,
        "data": record.data,
        "environment": record.environment,
    }
    return Side("stage", facts, {("", metric.name): metric.value for metric in record.metrics})


def differences(a: Side, b: Side) -> Differences:
    """In what two sides differ.

    Raises:
        UsageError: one is a study and the other a stage.
    """
    if a.what != b.what:
        raise UsageError(f"a {a.what} cannot be compared with a {b.what}; name two studies or two stages")
    numbers = list(_numbers(a.numbers, b.numbers)) if a.numbers and b.numbers else []
    differing = tuple(found for found in numbers if not _are_equal(found.a, found.b))
    return Differences(tuple(_facts("", a.facts, b.facts)), differing, len(numbers) - len(differing))


def _facts(name: str, a: Any, b: Any) -> Iterator[Difference]:
    """What differs within two values; what is missing on a side is told once, with all that is below it."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from _facts(f"{name}.{key}".lstrip("."), a.get(key, MISSING), b.get(key, MISSING))
    elif a != b:
        yield Difference(name, a, b)


def _numbers(a: Mapping[tuple[str, str], float], b: Mapping[tuple[str, str], float]) -> Iterator[NumberDifference]:
    for cell, metric in dict.fromkeys([*a, *b]):
        yield NumberDifference(cell, metric, a.get((cell, metric)), b.get((cell, metric)))


def _are_equal(a: float | None, b: float | None) -> bool:
    """Also two values that are both not a number."""
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))
