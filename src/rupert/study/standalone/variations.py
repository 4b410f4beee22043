"""Variations of an attack that is measured: each changes one detail, of the attack, the model or the evaluation.

    LABEL: {attack: {SETTING: VALUE}, model: {chat_template: VALUE}, evaluation: {SETTING: VALUE}}

A VALUE is as in any YAML of that setting, or {plus: X} or {times: X}, relative to the value that is varied; a whole
number stays one, and what is negative or none stays as it is: it stands for "as many as there are".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rupert.attacks import Attacker
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.settings import as_mapping, convert, convert_all, fields_of, read_yaml
from rupert.study.definition.recipes import find_recipe

T = TypeVar("T")

LABEL = re.compile(r"\w[\w+.-]{,99}", re.ASCII)
PARTS = ("attack", "model", "evaluation")
OF_MODEL = ("chat_template", "dtype")  # every other setting would be another model
SHIPPED = "sensitivity"
RELATIVE = {"plus": lambda value, by: value + by, "times": lambda value, by: value * by}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An attack on a model, and how what comes out is measured."""

    attack: Attacker
    model: ModelSettings
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Variation:
    """One detail that is varied: of each of `PARTS`, values by the name of their setting.

    Attributes:
        where: what a message about it begins with.
    """

    where: str
    values: Mapping[str, Mapping[str, Any]]

    def around(self, base: Case) -> Case:
        """`base` with the detail varied.

        Raises:
            UsageError: a setting that does not exist, or a value that it cannot have.
        """
        return Case(**{part: self._varied(getattr(base, part), part) for part in PARTS})

    def applies_to(self, base: Case) -> bool:
        """Whether `base` has the settings that are varied."""
        return all(set(values) <= _names(getattr(base, part)) for part, values in self.values.items())

    def _varied(self, settings: T, part: str) -> T:
        given = self.values.get(part, {})
        for name in given:
            if part == "model" and name not in OF_MODEL:
                raise UnknownName(f"{self.where}.{part}", str(name), OF_MODEL)
        values = {name: self._value(settings, part, name, value) for name, value in given.items()}
        read = convert_all(type(settings), values, lambda name: f"{self.where}.{part}.{name}")
        try:
            return replace(settings, **read)  # type: ignore[type-var]
        except UsageError as error:
            error.args = (f"{self.where}.{part}: {error}",)
            raise

    def _value(self, settings: Any, part: str, name: str, value: Any) -> Any:
        """The value itself, or what a relative one comes to."""
        if not isinstance(value, Mapping) or name not in _names(settings):
            return value
        where = f"{self.where}.{part}.{name}"
        if len(value) != 1 or set(value) - set(RELATIVE):
            raise InvalidValue(where, dict(value), "write a value, {plus: X} or {times: X}")
        way, by = next(iter(value.items()))
        own = getattr(settings, name)
        if own is not None and (isinstance(own, bool) or not isinstance(own, int | float)):
            raise InvalidValue(where, dict(value), f"it is {own!r}, which is no number; write a value")
        amount = convert(float, by, f"{where}.{way}")
        if own is None or own < 0:
            return own
        varied = RELATIVE[way](own, amount)
        if isinstance(own, float):
            return varied
        return max(1, round(varied)) if way == "times" and own >= 1 else round(varied)


def _names(settings: Any) -> set[str]:
    return {field.name for field in fields_of(type(settings))}


def read_variations(path: Path) -> dict[str, Variation]:
    """Variations by their labels, from a YAML file as the module's docstring has it.

    Raises:
        UsageError: there are none, or one is not written so.
    """
    found = {str(label): _variation(f"{path}: {label}", str(label), given) for label, given in read_yaml(path).items()}
    if not found:
        raise UsageError(f"{path}: holds no variation; write `LABEL: {{attack: {{SETTING: VALUE}}}}`")
    return found


def _variation(where: str, label: str, given: Any) -> Variation:
    if not LABEL.fullmatch(label):
        raise InvalidValue(where, label, "a label is letters, digits and - + . _, at most 100")
    if not isinstance(given, Mapping) or not given:
        raise InvalidValue(where, given, f"write settings of {', '.join(PARTS)}")
    for part, values in given.items():
        if part not in PARTS:
            raise UnknownName(where, str(part), PARTS)
        if not isinstance(values, Mapping) or not values:
            raise InvalidValue(f"{where}.{part}", values, "write SETTING: VALUE")
    return Variation(where, given)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cases to look at, and the variations that would be none.

    Attributes:
        cases: label -> case.
        same: labels of those that change nothing here.
        foreign: labels of those of settings that the attack does not have; only of those that ship with rupert.
    """

    cases: Mapping[str, Case]
    same: tuple[str, ...]
    foreign: tuple[str, ...]


def choose(name: str, base: Case) -> Chosen:
    """What can be varied around a case.

    Args:
        name: of a YAML file with variations; empty for those that ship with rupert.
        base: what they are around.

    Raises:
        UsageError: one cannot be, or none is left.
    """
    found = read_variations(find_recipe(name or SHIPPED, "--variations"))
    foreign = () if name else tuple(label for label, one in found.items() if not one.applies_to(base))
    cases = {label: one.around(base) for label, one in found.items() if label not in foreign}
    same = tuple(label for label, case in cases.items() if _described(case) == _described(base))
    left = {label: case for label, case in cases.items() if label not in same}
    if not left:
        raise UsageError(f"--variations: none of {', '.join(found)} changes this attack; name others")
    return Chosen(left, same, foreign)


def _described(case: Case) -> list[dict[str, Any]]:
    """What counts of it: 0 and 0.0 are one value."""
    return [as_mapping(getattr(case, part)) for part in PARTS]
