"""Methods of other packages: entry points name them, and each is imported when its family is asked for, never before.

A package adds a defense by a line of its `pyproject.toml`, likewise `rupert.attacks` and `rupert.judges`:

    [project.entry-points."rupert.defenses"]
    gradient_difference = "rupert_example.gradient_difference:GradientDifference"

It is then found by its name wherever rupert's own are. What is wrong with one is a line that names its package, and
keeps none of the others from working. `docs/extending.md` shows how to write one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from rupert.errors import RupertError, UsageError
from rupert.settings import fields_of

__all__ = ["SPOKEN_FOR", "Family", "name_of", "packages_of"]

_T = TypeVar("_T")

_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what YAML, folders and the command line can all call a method
_RESERVED = "none"  # stands for no defense, and for no attack
# Flags of `rupert defend` and `rupert attack`, and keys of a study: settings that are called so could not be given.
SPOKEN_FOR = frozenset(
    {
        *("accelerate_config", "num_processes", "report_to", "output_dir", "config", "resume", "save_steps", "help"),
        *("model", "revision", "chat_template", "dtype", "device", "eval_config", "eval_limit", "eval_steps"),
        *("after", "method", "recipe"),
    }
)
# What importing other people's code ends in where something is wrong with it; nothing else is to fail with it.
_FAILURES = (
    *(ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError),
    *(OSError, RuntimeError, ArithmeticError, AssertionError, RupertError),
)
_PACKAGES: dict[type, tuple[str, str]] = {}  # a method that was loaded -> its package's name and version


class Family(Mapping[str, type[_T]], Generic[_T]):
    """The methods of one kind by name: rupert's own first, then those of other packages.

    Going through it leaves out what cannot be used; asking for that by its name says why. So `name in family` is true
    of every name that somebody offers.
    """

    def __init__(
        self,
        group: str,
        own: Mapping[str, type[_T]],
        protocol: type,
        *,
        taken: Collection[str] = (),
        spoken_for: Collection[str] = (),
    ) -> None:
        """Nothing is read yet.

        Args:
            group: of the entry points.
            own: rupert's methods, whose names win.
            protocol: what a method has to have.
            taken: names that stand for something else, such as a preset.
            spoken_for: names that a setting cannot have.
        """
        self.group = group
        self._own = dict(own)
        self._protocol = protocol
        self._taken = frozenset(taken) | {_RESERVED}
        self._spoken_for = frozenset(spoken_for)
        self._found: dict[str, type[_T] | str] = {}

    def __getitem__(self, name: str) -> type[_T]:
        """The method of that name.

        Raises:
            KeyError: there is none.
            UsageError: another package names one that cannot be used; the message says why.
        """
        if name in self._own:
            return self._own[name]
        found = self._find(name)
        if isinstance(found, str):
            raise UsageError(found)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in self._others if not isinstance(self._find(name), str))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def problems(self) -> list[str]:
        """What is wrong with methods of other packages, one line each."""
        clashes = [self._clash(point) for name in self._offered.keys() - self._others for point in self._offered[name]]
        found = [self._find(name) for name in self._others]
        return [*sorted(clashes), *(problem for problem in found if isinstance(problem, str))]

    @cached_property
    def _offered(self) -> dict[str, list[EntryPoint]]:
        """The entry points of other packages by name, which are read once; nothing is imported for it."""
        offered: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, _title(point))):
            offered.setdefault(point.name, []).append(point)
        return offered

    @property
    def _others(self) -> dict[str, list[EntryPoint]]:
        """Those whose names are free."""
        return {
            name: points for name, points in self._offered.items() if name not in self._own and name not in self._taken
        }

    def _clash(self, point: EntryPoint) -> str:
        own = self._own.get(point.name)
        why = (
            f"rupert's own {own.__module__}:{own.__qualname__} has its name"
            if own
            else "rupert uses its name otherwise"
        )
        return _problem(point, f"is not used, because {why}")

    def _find(self, name: str) -> type[_T] | str:
        """What another package names so, or in one line why that cannot be used."""
        if name not in self._found:
            first, *others = self._others[name]
            self._found[name] = (
                _problem(first, f"is not used, because {_title(others[0])} has one of its name")
                if others
                else self._load(first)
            )
        return self._found[name]

    def _load(self, point: EntryPoint) -> type[_T] | str:
        if not _NAME.fullmatch(point.name):
            return _problem(point, "is not used; a name has lower-case letters, digits and _, a letter first")
        try:
            method = point.load()
            wrong = _lacking(method, self._protocol) or self._misnamed(method)
        except _FAILURES as error:
            return _problem(point, f"cannot be imported ({type(error).__name__}: {error})")
        if wrong:
            return _problem(point, f"is no {self._protocol.__name__}: {wrong}")
        if method.__module__.partition(".")[0] != __package__:  # rupert's under another name is still rupert's
            _PACKAGES.setdefault(method, (_package(point), point.dist.version if point.dist else ""))
        found: type[_T] = method
        return found

    def _misnamed(self, method: type) -> str:
        names = [field.name for field in fields_of(method) if field.name in self._spoken_for]
        return f"settings cannot be called {', '.join(names)}" if names else ""


def name_of(method: type, *families: Mapping[str, type]) -> str | None:
    """What a method is called in the first family that has it; None where none has."""
    return next((name for family in families for name, cls in family.items() if cls is method), None)


def packages_of(methods: Iterable[type]) -> dict[str, str]:
    """The packages that methods are from, each with its version; rupert's own methods add nothing."""
    return dict(sorted({_PACKAGES[method] for method in methods if method in _PACKAGES}))


def _lacking(method: Any, protocol: type) -> str:
    """What a method has not that its protocol asks for; empty where it has all."""
    if not isinstance(method, type):
        return "it is no class"
    if not dataclasses.is_dataclass(method) or not vars(method)["__dataclass_params__"].frozen:
        return "it is no frozen dataclass"
    try:
        fields_of(method)
    except TypeError as error:
        return str(error)
    missing = [name for name in _members(protocol) if not _has(method, name)]
    return f"it has no {', '.join(missing)}" if missing else ""


def _members(protocol: type) -> list[str]:
    """The methods and properties that a protocol and those that it extends ask for, by name."""
    parts = [part for part in protocol.__mro__ if _is_protocol(part)]
    members = {name: value for part in parts for name, value in vars(part).items()}
    asked = [name for name, value in members.items() if callable(value) or isinstance(value, property)]
    return sorted(name for name in asked if name == "__call__" or not name.startswith("_"))


def _has(method: type, name: str) -> bool:
    """Whether a class or one that it inherits from says it; a class can always be called, and so has any `__call__`."""
    return any(name in vars(part) for part in method.__mro__ if not _is_protocol(part))


def _is_protocol(part: Any) -> bool:
    return part is not Protocol and bool(vars(part).get("_is_protocol"))


def _problem(point: EntryPoint, what: str) -> str:
    where = f"{_title(point)}: {point.group}: {point.name} = {point.value!r}"
    return " ".join(f"{where} {what}; upgrade or uninstall {_package(point)}".split())


def _title(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "the package"
