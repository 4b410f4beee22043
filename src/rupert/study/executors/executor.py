"""What an executor is: it does the work of a study's stages, in this process or in others."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from rupert.errors import InvalidValue

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the stages of a study may use; it changes where they run, never what comes out.

    Attributes:
        workers: stages at once. None: as many as the accelerators have room for; without one, as the machine or the
            cluster has cores.
        gpus_per_stage: 0.25: four stages share one; 2: each stage has two; 0: none sees any. It counts only where
            there is one.
        address: of a Ray cluster that runs, "host:port" of its head or "auto" for the one that this machine belongs
            to; empty: one is started on this machine, and ends with the study.
    """

    workers: int | None = None
    gpus_per_stage: float = 1.0
    address: str = ""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InvalidValue("workers", self.workers, "must be at least 1")
        shared = 0 <= self.gpus_per_stage <= 1
        if not shared and not (self.gpus_per_stage > 1 and float(self.gpus_per_stage).is_integer()):
            raise InvalidValue("gpus_per_stage", self.gpus_per_stage, "must be between 0 and 1, or a whole number")


class Executor(Protocol):
    """Does work, several pieces at once where it can.

    It is entered before it is used. Leaving it waits for what was given to it; leaving it by an exception, Ctrl-C
    among them, gives up what waits, interrupts what runs (`KeyboardInterrupt`, or the work's own handler of SIGINT)
    and waits until that has stopped. A second Ctrl-C is passed on as well, a third kills.
    """

    @property
    def slots(self) -> int:
        """How many pieces of work run at once; more wait."""
        ...

    def submit(self, work: Callable[[T], R], argument: T) -> Future[R]:
        """Have `work(argument)` done.

        Args:
            work: a function that other processes can import.
            argument: can be pickled, as its result can.

        Returns:
            its result; or what it raised; or `WorkerDied`, when the process that did it is gone, while other work goes
            on; or `KeyboardInterrupt`, when it was interrupted.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
