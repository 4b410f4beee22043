"""A judge as it is written on the command line and in YAML: a name, and settings after a question mark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin
from urllib.parse import unquote

from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.evaluation.judges.judge import Judge
from rupert.records import content_hash
from rupert.settings import as_mapping, fields_of, parse, required_type

# Where and how a judge runs: no part of its name, nor of what its verdicts are.
RUNTIME = frozenset(
    {"api_key_variable", "base_url", "batch_size", "cache", "concurrency", "device", "max_retries", "timeout"}
)
LONGEST = 40  # characters of a judge's name, so that a terminal shows it
SPEAKING = frozenset({"model", "local_model", "rubric"})  # whose value says enough without the setting's name
FORM = "write NAME or NAME?setting=value&setting=value"


def parse_judge(spec: str, judges: Mapping[str, type[Judge]], presets: Mapping[str, Judge], field: str) -> Judge:
    """The judge that a text such as `language_model?model=NAME&rubric=strongreject` means.

    A comma divides the items of a list; `%26` stands for an ampersand inside a value.

    Args:
        spec: the text.
        judges: by name.
        presets: judges with some settings given, by name.
        field: what the user calls this setting, for the messages.

    Raises:
        UnknownName: no such judge or setting.
        InvalidValue: a text of another form, or a value outside its domain.
    """
    name = spec.partition("?")[0]
    if name in presets:
        judge, start = type(presets[name]), as_mapping(presets[name])
    elif name in judges:
        judge, start = judges[name], {}
    else:
        raise UnknownName(field, name, [*judges, *presets])
    options = _options(spec)
    if not all(key and equals for key, equals, _ in options):
        raise InvalidValue(field, spec, FORM)
    given = {key: _items(judge, key, value) for key, _, value in options}
    return parse(judge, {**start, **given}, f"{field}: {name}")


def label(spec: str) -> str:
    """What a judge's file and metrics are called: its name, and what is chosen of its model, rubric and rules."""
    name = spec.partition("?")[0]
    chosen = [_part(key, value) for key, _, value in _options(spec) if key not in RUNTIME]
    text = re.sub(r"[^\w.]+", "-", "-".join([name, *chosen])).strip("-.")
    # A template makes a long name; what tells it from others is then a hash.
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 7].rstrip('-')}-{content_hash(spec)[:6]}"


def _options(spec: str) -> list[tuple[str, str, str]]:
    """What stands after the question mark: each setting's name, "=" where there is one, and its value."""
    _, mark, options = spec.partition("?")
    pairs = [pair.partition("=") for pair in options.split("&")] if mark else []
    return [(key, equals, unquote(value)) for key, equals, value in pairs]


def _part(key: str, value: str) -> str:
    return value.rstrip("/").rpartition("/")[2] if key in SPEAKING else f"{key}-{value}"


def identity(judge: Judge) -> dict[str, Any]:
    """All of a judge's settings that its verdicts depend on; a file that one names counts by what is in it.

    A judge whose code began to say something else about the same answer has a `version`, which counts too.
    """
    version = getattr(judge, "version", 1)
    known = {name: _content(value) for name, value in as_mapping(judge).items() if name not in RUNTIME}
    return known | ({"version": version} if version > 1 else {})


def _content(value: Any) -> Any:
    is_file = isinstance(value, str) and value.endswith((".yaml", ".yml")) and Path(value).is_file()
    return Path(value).read_text(encoding="utf-8") if is_file else value


def check_labels(specs: Sequence[str], field: str) -> None:
    """Make sure that each judge gets a file of its own.

    Raises:
        UsageError: two judges would be called the same.
    """
    labels = [label(spec) for spec in specs]
    for name in labels:
        if labels.count(name) > 1:
            raise UsageError(f"{field}: {name!r} is named twice; name each judge once")


def _items(judge: type[Judge], name: str, value: str) -> Any:
    """A list for a setting that is one, and the text for any other."""
    annotations = {field.name: required_type(field.annotation) for field in fields_of(judge)}
    return value.split(",") if get_origin(annotations.get(name)) is tuple else value
