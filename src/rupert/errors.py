"""Every error that rupert raises on purpose.

    RupertError
    ├── UsageError              the user asked for something that cannot be: exit code 2
    │   ├── UnknownName         a name that does not exist; offers the nearest that does
    │   ├── InvalidValue        a field with a value outside its domain
    │   ├── DataError           a dataset that is empty, malformed or too small
    │   ├── FolderError         an output folder that holds something else
    │   └── MissingDependency   an extra that is not installed
    └── RunError                a run that had to stop: exit code 1
        ├── NonFiniteError      a loss or gradient that is not a number, found before the optimizer used it
        ├── DiskFullError       no space left; nothing half-written counts as done
        └── WorkerDied          the process that did the work is gone

Each message is one line: the field, the value with ``repr`` and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "DataError",
    "DiskFullError",
    "FolderError",
    "InvalidValue",
    "MissingDependency",
    "NonFiniteError",
    "RunError",
    "RupertError",
    "UnknownName",
    "UsageError",
    "WorkerDied",
]


class RupertError(Exception):
    """Root of the tree; the command line prints its message as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; what would act on a terminal, or cannot be printed, is written as an escape."""
        return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its message: an error crosses processes, whatever its class is made from."""
        return _remade, (type(self), *self.args), self.__dict__


def _remade(kind: type[RupertError], *args: object) -> RupertError:
    return kind.__new__(kind, *args)


def _one_line(message: str) -> str:
    """A message as one line, whatever the names in it hold."""
    return message.replace("\n", "\\n")


class UsageError(RupertError):
    """The request itself is wrong; found before a model is loaded wherever that is possible."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that does not exist; says which valid one is nearest."""

    def __init__(self, field: str, value: str, choices: Iterable[str]) -> None:
        valid = sorted(choices)
        near = difflib.get_close_matches(value, valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(valid)}"
        super().__init__(_one_line(f"{field}: {value!r} is unknown; {hint}"))


class InvalidValue(UsageError):
    """A known field with a value outside its domain."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(_one_line(f"{field}: {value!r} is not valid; {remedy}"))


class DataError(UsageError):
    """A dataset that is empty, malformed or too small for what is asked of it."""


class FolderError(UsageError):
    """An output folder that holds something else than what the command would write there."""


class MissingDependency(UsageError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; pip install 'rupert[{extra}]'")


class RunError(RupertError):
    """A run that had to stop; what it had finished stays usable."""


class NonFiniteError(RunError):
    """A loss or gradient that is not finite; raised before the optimizer step, so the weights are still good."""


class DiskFullError(RunError):
    """The disk is full; nothing half-written counts as done."""


class WorkerDied(RunError):
    """The process that did a stage is gone: killed, or it crashed. The stage can be done again by another."""
