"""Settings: a method's frozen dataclass, read strictly from YAML or flags and written back as JSON values.

A settings class is a frozen, keyword-only dataclass whose fields are made by `setting`:

    @dataclass(frozen=True, kw_only=True)
    class SDD:
        learning_rate: float = setting(5e-7, "peak learning rate (paper: 5e-7)")

Fields may be int, float, bool, str, Literal[...], tuple[X, ...] of these, and X | None of all of them.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rupert.errors import InvalidValue, UnknownName, UsageError

if TYPE_CHECKING:
    import yaml

__all__ = [
    "SettingField",
    "as_mapping",
    "check_choices",
    "check_not_negative",
    "check_positive",
    "check_range",
    "convert",
    "convert_all",
    "defining",
    "fields_of",
    "parse",
    "read_value",
    "read_yaml",
    "required_type",
    "setting",
]

_T = TypeVar("_T")

_TOO_DEEP = "its values are nested too deeply"


@dataclass(frozen=True, slots=True)
class SettingField:
    """One field of a settings class: what the command line, YAML and the documentation need to know of it."""

    name: str
    annotation: Any
    default: Any
    help: str
    later: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one plain type reads: `read` raises ValueError for anything else."""

    noun: str
    read: Callable[[Any], Any]


def setting(default: _T, text: str, *, later: bool = False) -> _T:
    """A dataclass field with its default and the help text that the command line shows.

    Args:
        default: its value where none is given.
        text: what it is, and where the default is from.
        later: it came to a method that was used without it, and its default leaves all as it was; see `defining`.
    """
    return dataclasses.field(default=default, metadata={"help": text, "later": later})


def fields_of(cls: type) -> tuple[SettingField, ...]:
    """The fields of a settings class, in their order.

    Raises:
        TypeError: a field was not made by `setting`, or its type is not one that settings may have.
    """
    if cls not in _FIELDS:
        hints = get_type_hints(cls)
        _FIELDS[cls] = tuple(_field(cls, field, hints[field.name]) for field in dataclasses.fields(cls) if field.init)
    return _FIELDS[cls]


_FIELDS: dict[type, tuple[SettingField, ...]] = {}  # finding the types out takes longer than all that is done with them


def _field(cls: type, field: dataclasses.Field[Any], annotation: Any) -> SettingField:
    if "help" not in field.metadata:
        raise TypeError(f"{cls.__name__}.{field.name} must be made by rupert.settings.setting")
    if not _is_supported(required_type(annotation)):
        raise TypeError(f"{cls.__name__}.{field.name}: settings cannot be of type {annotation}")
    return SettingField(field.name, annotation, field.default, field.metadata["help"], field.metadata["later"])


def _is_supported(wanted: Any) -> bool:
    if get_origin(wanted) is tuple:
        item, *rest = get_args(wanted)
        return rest == [...] and _is_supported(item)
    return wanted in _KINDS or get_origin(wanted) is Literal


def parse(cls: type[_T], mapping: Mapping[str, Any], where: str = "") -> _T:
    """A settings object from a mapping of field names to values, as YAML gives them.

    Args:
        cls: the settings class.
        mapping: the values that differ from the defaults.
        where: what an error message begins with, such as the file's name.

    Raises:
        UsageError: unknown fields and values of the wrong type, all of them at once, one a line.
        InvalidValue: a value outside its domain, as found by the class itself.
    """
    values = convert_all(cls, mapping, lambda name: f"{where}: {name}" if where else name)
    try:
        return cls(**values)
    except UsageError as error:
        if where:
            error.args = (f"{where}: {error}",)
        raise


def convert_all(cls: type, mapping: Mapping[str, Any], label: Callable[[str], str] = str) -> dict[str, Any]:
    """The values of `mapping` in the types that the fields of `cls` ask for.

    Args:
        cls: the settings class.
        mapping: field name -> value.
        label: what a message calls a field.

    Raises:
        UsageError: unknown fields and values of the wrong type, all of them at once, one a line.
    """
    annotations = {field.name: field.annotation for field in fields_of(cls)}
    values: dict[str, Any] = {}
    errors: list[UsageError] = []
    for name, value in mapping.items():
        try:
            if name not in annotations:
                raise UnknownName(label("setting"), str(name), annotations)
            values[name] = convert(annotations[name], value, label(name))
        except UsageError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else UsageError("\n".join(map(str, errors)))
    return values


def convert(annotation: Any, value: Any, label: str) -> Any:
    """`value` in the type that `annotation` asks for.

    Text that reads as a number becomes one (YAML takes `1e-4` for text), integers become floats, lists tuples, and
    "none" or null None, where the type asks for it. Nothing else is converted.

    Raises:
        InvalidValue: it is of another type; the message begins with `label`.
        UnknownName: it is none of the choices of a Literal.
    """
    wanted = required_type(annotation)
    if wanted is not annotation and (value is None or value == "none"):
        return None
    if get_origin(wanted) is Literal:
        return _choice(get_args(wanted), value, label)
    or_none = "" if wanted is annotation else " or none"
    if get_origin(wanted) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidValue(label, value, f"give a list{or_none}")
        return tuple(convert(get_args(wanted)[0], item, label) for item in value)
    kind = _KINDS[wanted]
    try:
        return kind.read(value)
    except (OverflowError, ValueError):
        raise InvalidValue(label, value, f"give {kind.noun}{or_none}") from None


def required_type(annotation: Any) -> Any:
    """`X` for `X | None`, and any other type unchanged."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    others = [part for part in get_args(annotation) if part is not types.NoneType]
    return others[0] if len(others) == 1 else annotation


def _choice(choices: tuple[Any, ...], value: Any, label: str) -> Any:
    for choice in choices:
        if str(choice) == str(value):
            return choice
    if isinstance(value, str):
        raise UnknownName(label, value, map(str, choices))
    raise InvalidValue(label, value, f"give one of {', '.join(map(str, choices))}")


def _read_integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return int(value)


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _read_truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_KINDS = {
    int: _Kind("a whole number", _read_integer),
    float: _Kind("a finite number", _read_number),
    bool: _Kind("true or false", _read_truth),
    str: _Kind("text", _read_text),
}


def as_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `parse`, in JSON values; settings that are equal give the same JSON (1 and 1.0 both give 1.0)."""
    values = {field.name: getattr(settings, field.name) for field in fields_of(type(settings))}
    return {name: _listed(value) for name, value in convert_all(type(settings), values).items()}


def defining(settings: Any) -> dict[str, Any]:
    """As `as_mapping`, without what came later and is as if it had not: what was done before it came is still known."""
    later = {field.name for field in fields_of(type(settings)) if field.later and _is_default(settings, field)}
    return {name: value for name, value in as_mapping(settings).items() if name not in later}


def _is_default(settings: Any, field: SettingField) -> bool:
    return bool(getattr(settings, field.name) == field.default)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def check_positive(settings: object, *names: str) -> None:
    """Raise `InvalidValue` unless each field that is not None is above 0; of a tuple, each item."""
    _check(settings, names, lambda value: value > 0, "must be above 0")


def check_not_negative(settings: object, *names: str) -> None:
    """Raise `InvalidValue` unless each field that is not None is 0 or above; of a tuple, each item."""
    _check(settings, names, lambda value: value >= 0, "must be 0 or above")


def check_range(settings: object, name: str, low: float, high: float) -> None:
    """Raise `InvalidValue` unless the field is None or from `low` to `high`, both included; of a tuple, each item."""
    _check(settings, (name,), lambda value: low <= value <= high, f"must be from {low} to {high}")


def check_choices(settings: object) -> None:
    """Raise `UnknownName` for a field whose Literal type does not hold its value: for settings made in Python."""
    for field in fields_of(type(settings)):
        if get_origin(required_type(field.annotation)) is Literal:
            convert(field.annotation, getattr(settings, field.name), field.name)


def _check(settings: object, names: tuple[str, ...], holds: Callable[[Any], bool], remedy: str) -> None:
    for name in names:
        value = getattr(settings, name)
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if item is not None and not holds(item):
                raise InvalidValue(name, item, remedy)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file holds an empty one.

    Raises:
        UsageError: no such file, not YAML (the message has the line), a key given twice, or not a mapping.
    """
    import yaml

    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())  # noqa: S506 - a SafeLoader
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{str(path)!r} does not exist; name a YAML file") from None
    except IsADirectoryError:
        raise UsageError(f"{str(path)!r} is a folder; name a YAML file") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{path}: {line}{error.problem}; correct the YAML") from None
    except RecursionError:
        raise UsageError(f"{path}: {_TOO_DEEP}; correct the YAML") from None
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"{str(path)!r} is not YAML text in UTF-8; name a YAML file") from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error.strerror}); name a YAML file") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{path}: holds {type(value).__name__} {value!r:.40}; write one `name: value` a line")
    return value


def read_value(text: str, label: str) -> Any:
    """The value that a word of the command line means, read as YAML: `3`, `true`, `[1e-4, 3e-4]`, plain text.

    Raises:
        InvalidValue: not YAML, or a key given twice; the message begins with `label`.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_strict_loader())  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InvalidValue(label, text, "write it as in YAML, such as 3, true, text or [1e-4, 3e-4]") from None


@cache
def _strict_loader() -> type[yaml.SafeLoader]:
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """PyYAML's safe loader, which says where a value cannot be read, and refuses what no setting can be.

        Refused are the second of two equal keys, values that hold themselves, and numbers too long to be shown.
        """

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ARG002
            try:
                # Deep: what holds itself is found out.
                value = super().construct_object(node, deep=True)
                str(value if isinstance(value, int) else "")
            except (AttributeError, LookupError, TypeError, ValueError):
                raise yaml.constructor.ConstructorError(None, None, _unreadable(node), node.start_mark) from None
            return value

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys: list[Any] = []
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                keys.append(key.value)
            return super().construct_mapping(node, deep)

    return StrictLoader


def _unreadable(node: yaml.Node) -> str:
    kind = node.tag.rpartition(":")[2]
    return (
        f"{node.value!r:.40} cannot be read as {kind}" if isinstance(node.value, str) else f"no {kind} can be read here"
    )
