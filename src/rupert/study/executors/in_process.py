"""The executor that does everything at once, here: what a debugger wants, and what needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from rupert.study.executors.executor import R, Resources, T


class InProcess:
    """Work is done when it is submitted; Ctrl-C goes through."""

    slots = 1

    def __init__(self, resources: Resources) -> None:
        """`resources` are those of this process, whatever they say."""

    def submit(self, work: Callable[[T], R], argument: T) -> Future[R]:
        """Do it, and return what came out."""
        future: Future[R] = Future()
        try:
            future.set_result(work(argument))
        except Exception as error:
            future.set_exception(error)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing waits, and nothing runs."""
