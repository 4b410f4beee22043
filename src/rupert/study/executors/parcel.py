"""Work on its way to another process, and what came out of it on its way back."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

from rupert.errors import RunError
from rupert.study.executors.executor import R, T


def pack(work: Callable[[T], R], argument: T) -> bytes:
    """What `perform` takes."""
    return pickle.dumps((work, argument))


def perform(parcel: bytes) -> bytes:
    """Do what was packed, in the process that it was sent to; returns what `unpack` takes.

    Ctrl-C is an outcome as well: where it ended the work, the process stays fit for other work.
    """
    try:
        work, argument = pickle.loads(parcel)  # noqa: S301 - from the process that started this one
        return _checked(work(argument), None)
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(f"in another process:\n{traceback.format_exc()}")
        return _checked_error(error)


def unpack(outcome: bytes) -> Any:
    """The result of the work.

    Raises:
        BaseException: what the work raised; its notes hold where.
    """
    result, error = pickle.loads(outcome)  # noqa: S301 - from a process that we started
    if error:
        raise error
    return result


def _checked(result: Any, error: BaseException | None) -> bytes:
    return pickle.dumps((result, error))


def _checked_error(error: BaseException) -> bytes:
    """The error itself, if it survives the way; otherwise one that says the same."""
    try:
        outcome = _checked(None, error)
        pickle.loads(outcome)  # noqa: S301 - made in the line before
        return outcome
    except Exception:
        told = RunError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            told.add_note(note)
        return _checked(None, told)
