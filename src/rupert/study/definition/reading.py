"""Reads a study strictly: one YAML file, what it extends, and words of the command line, into settings and their grid.

    extends: NAME-or-PATH         a recipe, or a path relative to this file; see `layers` for what wins
    model: NAME                   or a mapping of `ModelSettings`
    seeds: [0, 1]
    defenses: {LABEL: SETTINGS}   likewise attacks and scores
    evaluation: SETTINGS
    pairs_of: LABEL               of the defense whose pairs are measured
    attacked: drop                or delta, or keep: what becomes of attacked weights
    notes: [TEXT]

Of a label's keys, `method` names the method where the label does not, and `recipe` the settings to start from (a recipe
or a path relative to the file that names it), so that a study and `--config` share them; `after` of a defense names
another one, whose hardened model it hardens further; all others are settings.
A list where a single value is meant is an axis of the grid: each value makes one entry, called LABEL-VALUE. The label
`none` among the defenses is the undefended model. Labels have no dots, because dots divide the words of the command
line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_origin

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.evaluation.fine_tuning_score import TASKS
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.settings import convert, convert_all, fields_of, parse, read_yaml, required_type
from rupert.study.definition.layers import EXTENDS, KEYS, Layers, Values, read_layers
from rupert.study.definition.problems import Problems
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Attacked, Study
from rupert.study.stage import UNDEFENDED
from rupert.training.objective import Objective

T = TypeVar("T")

LABEL = re.compile(r"\w[\w+-]*", re.ASCII)
LONGEST = 100  # characters of a label: a folder is called by two of them, and by more
REQUIRED = ("model", "defenses", "attacks")
NOTHING: tuple[Any, ...] = (None, "", {})  # what a key without a value can look like


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study; see the module's docstring.

    Args:
        path: of its YAML file.
        overrides: words such as `seeds=[0,1]`, `model=smollm2` or `attacks.fine_tune.learning_rate=[1e-4,3e-4]`, which
            win over the file.

    Raises:
        UsageError: it cannot be read, names what does not exist, or has values outside their domain: all mistakes at
            once, one a line.
    """
    problems = Problems()
    reader = _Reader(read_layers(path, overrides, problems), problems)
    found = reader.parts()
    problems.tell()
    return Study(name=path.stem, **found)


class _Reader:
    """Reads the parts of one study; what is wrong with a part is noted, and leaves it out."""

    def __init__(self, layers: Layers, problems: Problems) -> None:
        self._layers = layers
        self._values = layers.values
        self._problems = problems
        self._where = layers.where
        self._after: dict[str, tuple[Any, str]] = {}  # label -> what it names, and where

    def parts(self) -> dict[str, Any]:
        """The fields of `Study`, but for its name."""
        self._check_keys()
        found: dict[str, Any] = {}
        readers: dict[str, Callable[[], Any]] = {
            "model": self._model,
            "seeds": self._seeds,
            "defenses": self._defenses,
            "attacks": lambda: self._methods("attacks", ATTACKS, self._mapping("attacks")),
            "evaluation": lambda: self._settings(Evaluation, self._mapping("evaluation"), "evaluation"),
            "scores": lambda: self._methods("scores", TASKS, self._mapping("scores")),
            "attacked": lambda: self._plain("attacked", Attacked, "drop"),
            "notes": lambda: self._plain("notes", tuple[str, ...], []),
        }
        for key, read in readers.items():
            told = len(self._problems)
            with self._problems.noted():
                part = read()
                found |= {key: part} if len(self._problems) == told else {}
        if "defenses" in found:  # one that could not be read may be the one that is named
            with self._problems.noted():
                found["after"] = self._chained(found["defenses"])
            with self._problems.noted():
                found["pairs_of"] = self._pairs_of(found["defenses"])
        return found

    def _check_keys(self) -> None:
        for key in self._values:
            if key not in KEYS:
                self._problems.add(UnknownName(f"{self._layers.origin(key).name}: key", str(key), [*KEYS, EXTENDS]))
        for key in REQUIRED:
            if self._values.get(key) in NOTHING:
                needed = f"{key} is missing; a study needs a model, defenses and attacks"
                self._problems.add(UsageError(f"{self._layers.own.name}: {needed}"))

    def _plain(self, key: str, annotation: Any, default: Any) -> Any:
        return convert(annotation, self._values.get(key, default), self._where(key))

    def _mapping(self, key: str) -> Values:
        value = self._values.get(key)
        if value in NOTHING:
            return {}
        if not isinstance(value, Mapping):
            raise InvalidValue(self._where(key), value, "write one `name: value` a line under it")
        return value

    def _model(self) -> ModelSettings | None:
        """A model by its name alone, or by a mapping of settings."""
        given = self._values.get("model")
        if given in NOTHING:
            return None  # told already
        return self._settings(ModelSettings, given if isinstance(given, Mapping) else {"model": given}, "model")

    def _seeds(self) -> tuple[int, ...]:
        seeds: tuple[int, ...] = self._plain("seeds", tuple[int, ...], [0])
        where = self._where("seeds")
        if not seeds or len(set(seeds)) < len(seeds):
            raise InvalidValue(where, list(seeds), "give at least one, and each once")
        if min(seeds) < 0:
            raise InvalidValue(where, min(seeds), "must be 0 or above")
        return seeds

    def _defenses(self) -> dict[str, Objective | None]:
        """The undefended model first, where it is asked for."""
        named = dict(self._mapping("defenses"))
        undefended: dict[str, Objective | None] = {UNDEFENDED: None} if UNDEFENDED in named else {}
        given = named.pop(UNDEFENDED, None)
        if given:
            remedy = "it is the undefended model, which has no settings; leave it empty"
            self._problems.add(InvalidValue(self._where("defenses", UNDEFENDED), given, remedy))
        return undefended | self._methods("defenses", DEFENSES, named)

    def _chained(self, defenses: Mapping[str, Objective | None]) -> dict[str, str]:
        """Defense -> the one that it goes on from."""
        for label, (earlier, where) in self._after.items():
            if not isinstance(earlier, str) or defenses.get(earlier) is None:
                raise UnknownName(where, str(earlier), defenses.keys() - {UNDEFENDED, label})
            chain = [label]
            while chain[-1] in self._after:
                chain.append(self._after[chain[-1]][0])
                if chain[-1] in chain[:-1]:
                    raise InvalidValue(where, earlier, f"a circle: {' -> '.join(chain)}")
        return {label: earlier for label, (earlier, _) in self._after.items()}

    def _pairs_of(self, defenses: Mapping[str, Objective | None]) -> str:
        if self._values.get("pairs_of") in NOTHING:
            return ""
        label = str(self._plain("pairs_of", str, ""))
        where = self._where("pairs_of")
        if label not in defenses:
            raise UnknownName(where, label, defenses)
        defense = defenses[label]
        if defense is None or "pairs" not in defense.streams:
            raise InvalidValue(where, label, "it is hardened on no pairs; name a defense that is")
        return label

    def _methods(self, section: str, family: Mapping[str, type[T]], given: Values) -> dict[str, T]:
        """Label -> settings, for each combination of what is listed."""
        found: dict[str, T] = {}
        for label, values in given.items():
            with self._problems.noted():
                self._check_label(section, label)
                self._add_grid(found, (section, label), values, family)
        return found

    def _check_label(self, section: str, label: Any) -> None:
        where = f"{self._layers.origin(section, label).name}: {section}"
        if not isinstance(label, str):
            raise InvalidValue(where, label, "a label is text; put it in quotes")
        if not LABEL.fullmatch(label):
            raise InvalidValue(
                where, label, "it names folders; write letters, digits, _, + and -, a letter or digit first"
            )
        if label == UNDEFENDED:
            raise InvalidValue(where, label, "that stands for what was not attacked; choose another label")

    def _add_grid(self, found: dict[str, T], keys: tuple[str, str], given: Any, family: Mapping[str, type[T]]) -> None:
        """Add one entry for each combination of a label's listed values; its label says which."""
        where = self._where(*keys)
        if given is not None and not isinstance(given, Mapping):
            raise InvalidValue(where, given, "write its settings under it, or nothing")
        values = dict(given or {})
        cls = self._method(values.pop("method", keys[1]), keys, family)
        earlier = values.pop("after", None) if keys[0] == "defenses" else None
        places = {name: self._where(*keys, name) for name in values}
        if "recipe" in values:
            path = self._recipe(values.pop("recipe"), keys)
            shared = read_yaml(path)
            # What the study says itself comes last, so that axes have the order in which it lists them.
            values = {name: value for name, value in shared.items() if name not in values} | values
            places = {name: f"{path.name}: {name}" for name in shared} | places
        if "seed" in values:
            remedy = "a study sets it for every method; write it under seeds"
            self._problems.add(InvalidValue(places["seed"], values.pop("seed"), remedy))
        for name, one in _grid(keys[1], cls, values, places):
            with self._problems.noted():
                _check_name(name, found, where)
                found[name] = _parsed(cls, one, where, places)
                self._after |= {name: (earlier, self._where(*keys, "after"))} if earlier is not None else {}

    def _method(self, name: Any, keys: tuple[str, str], family: Mapping[str, type[T]]) -> type[T]:
        if not isinstance(name, str) or name not in family:
            raise UnknownName(self._where(*keys, "method"), str(name), family)
        return family[name]

    def _recipe(self, name: Any, keys: tuple[str, str]) -> Path:
        where = self._where(*keys, "recipe")
        if not isinstance(name, str):
            raise InvalidValue(where, name, "name one recipe, or the path of one YAML file")
        return find_recipe(name, where, self._layers.origin(*keys, "recipe").folder)

    def _settings(self, cls: type[T], given: Values, key: str) -> T:
        return _parsed(cls, given, self._where(key), {name: self._where(key, name) for name in given})


def _grid(
    label: str, cls: type, values: Mapping[str, Any], places: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One label and mapping for each combination of the listed values; the label says which."""
    tuples = {field.name for field in fields_of(cls) if get_origin(required_type(field.annotation)) is tuple}
    axes = {name: value for name, value in values.items() if isinstance(value, list) and name not in tuples}
    for name, axis in axes.items():
        if not axis or len(set(map(_in_label, axis))) < len(axis):
            raise InvalidValue(places[name], axis, "list at least one value, and each once")
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        yield "-".join([label, *map(_in_label, chosen.values())]), {**values, **chosen}


def _in_label(value: Any) -> str:
    """A value as a folder's name can have it."""
    text = str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
    return re.sub(r"[^\w.:@+-]+", "-", text, flags=re.ASCII)


def _check_name(name: str, taken: Mapping[str, object], where: str) -> None:
    """Each entry of the grid has a label of its own, which a folder can be called by."""
    if name in taken:
        raise InvalidValue(where, name, "the grid has this label twice; rename one")
    if len(name) > LONGEST:
        raise InvalidValue(where, name, f"a label has at most {LONGEST} characters; set long values one by one")


def _parsed(cls: type[T], values: Values, where: str, places: Mapping[Any, str]) -> T:
    """A settings object; as `settings.parse`, but each message names the file that the value stands in.

    Args:
        cls: the settings class.
        values: by the name of their field.
        where: what a message about several fields begins with.
        places: what a message about one field begins with.
    """
    problems = Problems()
    fields: dict[str, Any] = {}
    for name, value in values.items():
        with problems.noted():
            fields |= convert_all(cls, {name: value}, partial(_placed, places[name]))
    problems.tell()
    return parse(cls, fields, where)


def _placed(place: str, _field: str) -> str:
    return place
