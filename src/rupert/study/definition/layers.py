"""A study's YAML before it is understood: its file, the files that it extends, and what the command line sets on top.

Each of these is a layer, and a later one wins: defaults < extended file < the study's own file < command line.
Mappings are merged key by key, the items of `notes` are added up, and anything else is replaced. `drop` in place of a
label's settings takes out a defense, attack or score that a layer below has; an empty value cannot do that, because it
means the undefended model, or a method with its own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rupert.errors import InvalidValue, UnknownName
from rupert.settings import read_value, read_yaml
from rupert.study.definition.problems import Problems, at
from rupert.study.definition.recipes import find_recipe

SECTIONS = ("defenses", "attacks", "scores")  # of which each holds labels
KEYS = ("model", "seeds", *SECTIONS, "evaluation", "pairs_of", "attacked", "notes")
EXTENDS = "extends"
DROP = "drop"
FORM = "write KEY=VALUE, such as seeds=[0,1] or attacks.LABEL.learning_rate=1e-4"

Values = Mapping[Any, Any]  # as YAML gives them: nothing is known of keys and values yet


@dataclass(frozen=True, slots=True)
class Layer:
    """One place that says something about a study.

    Attributes:
        name: of the file; of what the command line sets, `override`.
        folder: what paths to other YAML files are relative to.
        values: what it says.
    """

    name: str
    folder: Path
    values: Values

    def says(self, keys: Sequence[Any]) -> bool:
        """Whether it has a value at the place that the keys lead to."""
        place: Any = self.values
        for key in keys:
            if not isinstance(place, Mapping) or key not in place:
                return False
            place = place[key]
        return True


@dataclass(frozen=True, slots=True)
class Layers:
    """What all layers of a study say together.

    Attributes:
        values: of all layers.
        layers: the most general first.
        own: the study's own file.
    """

    values: Values
    layers: tuple[Layer, ...]
    own: Layer

    def origin(self, *keys: Any) -> Layer:
        """The layer that the value at a place comes from; the study's own file where none says anything."""
        return next((layer for layer in reversed(self.layers) if layer.says(keys)), self.own)

    def where(self, *keys: Any) -> str:
        """How a message names a place: its file, and its keys as the command line takes them."""
        return f"{self.origin(*keys).name}: {'.'.join(map(str, keys))}"


def read_layers(path: Path, overrides: Sequence[str], problems: Problems) -> Layers:
    """Read a study's file and those that it extends, and put the overrides on top.

    Args:
        path: of the study's file.
        overrides: words such as `attacks.fine_tune.learning_rate=[1e-4,3e-4]`.
        problems: where mistakes go that leave something to be read.

    Raises:
        UsageError: a file that cannot be read, or files that extend each other in a circle.
    """
    layers = _files(path)
    merged: Values = {}
    for layer in layers:
        merged = _merged(merged, layer, problems)
    own = layers[-1]
    for word in overrides:
        with problems.noted():
            layer = _override(word, merged)
            layers.append(layer)
            merged = _merged(merged, layer, problems)
    return Layers(merged, tuple(layers), own)


def _files(path: Path) -> list[Layer]:
    """The layers of a file and of those that it extends, the most general first."""
    layers: list[Layer] = []
    names, seen, place = [path.name], [], ""
    while True:
        with at(place):
            values = read_yaml(path)
        seen.append(path.resolve())
        layers.insert(0, Layer(path.name, path.parent, {key: values[key] for key in values if key != EXTENDS}))
        if EXTENDS not in values:
            return layers
        place = f"{path.name}: {EXTENDS}"
        path = _extended(values[EXTENDS], path, place)
        names.append(path.name)
        if path.resolve() in seen:
            raise InvalidValue(place, values[EXTENDS], f"a circle: {' -> '.join(names)}")


def _extended(name: Any, path: Path, place: str) -> Path:
    if not isinstance(name, str):
        raise InvalidValue(place, name, "name one recipe, or the path of one YAML file")
    return find_recipe(name, place, path.parent)


def _override(word: str, below: Values) -> Layer:
    """One word of the command line."""
    path, equals, text = word.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InvalidValue("override", word, FORM)
    first, *rest = keys
    if first not in KEYS:
        raise UnknownName("override: key", first, KEYS)
    labels = below.get(first) if first in SECTIONS else None
    if first in SECTIONS and rest and not labels:
        raise InvalidValue("override", word, f"the study has no {first}; write {first}={{LABEL: {{SETTING: VALUE}}}}")
    if rest and isinstance(labels, Mapping) and rest[0] not in labels:
        raise UnknownName(f"override: {first}", rest[0], map(str, labels))
    value = read_value(text, f"override: {path}")
    for key in reversed(keys):
        value = {key: value}
    return Layer("override", Path(), value)


def _merged(below: Values, layer: Layer, problems: Problems) -> Values:
    merged = _laid_over(_with_named_model(below, layer.values), layer.values)
    above, known = layer.values.get("notes"), below.get("notes")
    if isinstance(above, list) and isinstance(known, list):
        merged["notes"] = known + above
    for section in SECTIONS:
        if isinstance(merged.get(section), Mapping):
            where = f"{layer.name}: {section}"
            merged[section] = _without_dropped(merged[section], below.get(section), where, problems)
    return merged


def _with_named_model(below: Values, above: Values) -> Values:
    """A model that is named by its name alone is a mapping too, when another layer sets its dtype."""
    name = below.get("model")
    if isinstance(name, str) and isinstance(above.get("model"), Mapping):
        return {**below, "model": {"model": name}}
    return below


def _laid_over(below: Values, above: Values) -> dict[Any, Any]:
    merged = dict(below)
    for key, value in above.items():
        deeper = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _laid_over(below[key], value) if deeper else value
    return merged


def _without_dropped(labels: Values, below: Any, where: str, problems: Problems) -> Values:
    known = below if isinstance(below, Mapping) else {}
    dropped = [label for label, given in labels.items() if given == DROP]
    for label in dropped:
        if not known:
            problems.add(InvalidValue(f"{where}.{label}", DROP, "there is nothing to be dropped"))
        elif label not in known:
            problems.add(UnknownName(f"{where}: {DROP}", str(label), map(str, known)))
    return {label: given for label, given in labels.items() if label not in dropped}
