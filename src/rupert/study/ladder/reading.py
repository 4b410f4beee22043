"""Reads a ladder strictly: one YAML file into rungs of attacks.

    rungs:                        from the weakest attackers to the strongest
      L0:
        LABEL: SETTINGS           of an attack
    evaluation: SETTINGS          what is measured; `half` is the ladder's own
    eval_steps: 0.25              steps between two looks at a model under attack; below 1: share of its steps
    harm_threshold: 0.5           and `ability_share`: when a model counts as broken
    held_out_seeds: 1             with how many other seeds each rung's chosen attack is done again

Of a label's keys, `method` names the attack where the label does not, and `recipe` the settings to start from (a recipe
or a path relative to this file). `against` lists the defenses that it is made against. `search` says which settings are
searched: `{low: 1e-5, high: 1e-3, log: true}` is a range, a list is a choice. A setting that is both given and searched
has the given value when the attack is tried for the first time. All other keys are settings. `shared` is for YAML's
anchors and is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import check_eval_steps
from rupert.evaluation.verdicts import Thresholds
from rupert.settings import convert, fields_of, parse, read_yaml, required_type
from rupert.study.definition.problems import Problems, at
from rupert.study.definition.reading import LABEL
from rupert.study.definition.recipes import find_recipe
from rupert.study.ladder.rungs import Axis, Choice, Entry, Ladder, Range, Rung, as_text

THRESHOLDS = tuple(field.name for field in fields(Thresholds))
KEYS = ("rungs", "evaluation", "eval_steps", *THRESHOLDS, "held_out_seeds", "shared")
RANGE_KEYS = ("low", "high", "log")
STAND_IN = "potionworld"  # for the undefended model, while an attack that needs one is only read

Values = Mapping[Any, Any]  # as YAML gives them


def read_ladder_file(path: Path) -> Ladder:
    """Read a ladder; see the module's docstring.

    Raises:
        UsageError: it cannot be read, names what does not exist, or has values outside their domain: all mistakes at
            once, one a line.
    """
    values, problems = read_yaml(path), Problems()
    for key in values:
        if key not in KEYS:
            problems.add(UnknownName(f"{path.name}: key", str(key), KEYS))
    reader = _Reader(path, values, problems)
    found: dict[str, Any] = {}
    for key, read in {
        "rungs": reader.rungs,
        "evaluation": reader.evaluation,
        "eval_steps": reader.eval_steps,
        "thresholds": reader.thresholds,
        "held_out_seeds": reader.held_out_seeds,
    }.items():
        with problems.noted():
            found[key] = read()
    problems.tell()
    return Ladder(name=path.stem, **found)


class _Reader:
    """Reads the parts of one ladder."""

    def __init__(self, path: Path, values: Values, problems: Problems) -> None:
        self._path = path
        self._values = values
        self._problems = problems

    def _where(self, *keys: Any) -> str:
        return f"{self._path.name}: {'.'.join(map(str, keys))}"

    def _mapping(self, value: Any, *keys: Any) -> Values:
        if not isinstance(value, Mapping):
            raise InvalidValue(self._where(*keys), value, "write one `name: value` a line under it")
        return value

    def evaluation(self) -> Evaluation:
        """What is measured."""
        given = self._mapping(self._values.get("evaluation") or {}, "evaluation")
        if "half" in given:
            remedy = "a ladder chooses on one half and scores on the other; leave it out"
            raise InvalidValue(self._where("evaluation", "half"), given["half"], remedy)
        return parse(Evaluation, given, self._where("evaluation"))

    def eval_steps(self) -> float:
        """Steps between two looks."""
        where = self._where("eval_steps")
        steps = float(convert(float, self._values.get("eval_steps", 0.25), where))
        with at(self._path.name):
            check_eval_steps(steps)
        return steps

    def thresholds(self) -> Thresholds:
        """When a model counts as broken."""
        return parse(
            Thresholds, {name: self._values[name] for name in THRESHOLDS if name in self._values}, self._path.name
        )

    def held_out_seeds(self) -> int:
        """How often the chosen attacks are done again."""
        where = self._where("held_out_seeds")
        count = int(convert(int, self._values.get("held_out_seeds", 1), where))
        if count < 1:
            raise InvalidValue(where, count, "must be above 0")
        return count

    def rungs(self) -> tuple[Rung, ...]:
        """The rungs in their order."""
        given = self._mapping(self._values.get("rungs"), "rungs")
        found, taken = [], set[str]()
        for name, labels in given.items():
            entries = []
            with self._problems.noted():
                self._check_label(name, "rungs")
                for label, settings in self._mapping(labels, "rungs", name).items():
                    with self._problems.noted():
                        self._check_label(label, "rungs", name)
                        if label in taken:
                            raise InvalidValue(self._where("rungs", name), label, "the ladder has it twice; rename one")
                        taken.add(label)
                        entries.append(self._entry(("rungs", name, label), settings or {}))
            found.append(Rung(name=str(name), entries=tuple(entries)))
        if not found:
            raise UsageError(f"{self._where('rungs')} is empty; a ladder needs at least one")
        return tuple(found)

    def _check_label(self, label: Any, *keys: Any) -> None:
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            remedy = "it names folders; write letters, digits, _, + and -, a letter or digit first"
            raise InvalidValue(self._where(*keys), label, remedy)

    def _entry(self, keys: tuple[str, str, str], given: Any) -> Entry:
        values = dict(self._mapping(given, *keys))
        method = values.pop("method", keys[-1])
        if not isinstance(method, str) or method not in ATTACKS:
            raise UnknownName(self._where(*keys, "method"), str(method), ATTACKS)
        search = self._mapping(values.pop("search", None) or {}, *keys, "search")
        against = self._against(values.pop("against", None) or [], *keys, "against")
        if "recipe" in values:
            values = {**self._recipe(values.pop("recipe"), *keys, "recipe"), **values}
        if "seed" in (*values, *search):
            raise InvalidValue(self._where(*keys), "seed", "a ladder sets it for every attack; leave it out")
        types = {field.name: field.annotation for field in fields_of(ATTACKS[method])}
        axes = {name: self._axis(types, name, axis, *keys, "search") for name, axis in search.items()}
        first = {name: values[name] for name in axes if name in values}
        values |= {name: _plain(convert(types[name], first[name], self._where(*keys, name))) for name in first}
        entry = Entry(label=keys[-1], method=method, settings=values, search=axes, against=against)
        with at(self._where(*keys[:-1])):
            self._check(entry)
        return entry

    def _check(self, entry: Entry) -> None:
        """Make the attack at the ends of what is searched, and find out whether what is tried first is among it."""
        for _ in entry.with_undefended(STAND_IN).extremes():
            pass
        for name, axis in entry.search.items():
            if name in entry.settings and not axis.holds(entry.settings[name]):
                remedy = "what is tried first has to be among what is searched"
                raise InvalidValue(f"{entry.label}: {name}", entry.settings[name], remedy)

    def _against(self, given: Any, *keys: Any) -> tuple[str, ...]:
        defenses: tuple[str, ...] = convert(tuple[str, ...], given, self._where(*keys))
        for defense in defenses:
            if defense not in DEFENSES:
                raise UnknownName(self._where(*keys), defense, DEFENSES)
        return defenses

    def _recipe(self, name: Any, *keys: Any) -> dict[str, Any]:
        if not isinstance(name, str):
            raise InvalidValue(self._where(*keys), name, "name one recipe, or the path of one YAML file")
        return read_yaml(find_recipe(name, self._where(*keys), self._path.parent))

    def _axis(self, types: Mapping[str, Any], name: Any, given: Any, *keys: Any) -> Axis:
        where = self._where(*keys, name)
        if name not in types:
            raise UnknownName(self._where(*keys), str(name), types)
        if isinstance(given, list):
            values = tuple(_plain(convert(types[name], value, where)) for value in given)
            if not values or len(set(map(as_text, values))) < len(values):
                raise InvalidValue(where, given, "list at least one value, and each once")
            return Choice(values)
        return self._range(required_type(types[name]), given, where)

    def _range(self, wanted: Any, given: Any, where: str) -> Range:
        if not isinstance(given, Mapping) or not {"low", "high"} <= set(given):
            raise InvalidValue(where, given, "give {low: ..., high: ..., log: true}, or a list of values")
        for key in given:
            if key not in RANGE_KEYS:
                raise UnknownName(where, str(key), RANGE_KEYS)
        if wanted not in (int, float):
            raise InvalidValue(where, dict(given), f"only numbers have a range; list values{_listed(wanted)}")
        low, high = (convert(wanted, given[key], f"{where}.{key}") for key in ("low", "high"))
        log = convert(bool, given.get("log", False), f"{where}.log")
        if not low < high or (log and low <= 0):
            raise InvalidValue(where, dict(given), f"low must be below high{' and above 0' if log else ''}")
        return Range(low, high, log)


def _listed(wanted: Any) -> str:
    choices = ", ".join(map(str, get_args(wanted)))
    return f" of {choices}" if choices and Ellipsis not in get_args(wanted) else ""


def _plain(value: Any) -> Any:
    """A value as YAML has it, which can be put into settings again."""
    return list(value) if isinstance(value, tuple) else value
