"""What the executors that use other processes share: slots, work that waits for one, and what Ctrl-C does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import LifoQueue
from types import TracebackType
from typing import Any, Protocol, Self

from rupert.study.executors.executor import R, T
from rupert.study.executors.parcel import pack, unpack


class Slot(Protocol):
    """A place where one piece of work runs at a time, in another process."""

    def run(self, parcel: bytes) -> bytes:
        """Have a parcel performed (see `parcel.perform`) and return the outcome.

        Raises:
            WorkerDied: the process is gone; the next work gets another.
            KeyboardInterrupt: it was interrupted before the work had begun.
        """
        ...

    def interrupt(self) -> None:
        """Raise `KeyboardInterrupt` in the work that runs, or call its own handler of SIGINT; take no more work."""
        ...

    def kill(self) -> None:
        """End the work that runs at once."""
        ...

    def close(self) -> None:
        """End the process that waits for work."""
        ...


class Slots(ABC):
    """An executor over slots: a thread for each waits for what its process does."""

    _all: Sequence[Slot] = ()
    _threads: ThreadPoolExecutor

    @property
    def slots(self) -> int:
        """How many pieces of work run at once; known once the executor is entered."""
        return len(self._all)

    def submit(self, work: Callable[[T], R], argument: T) -> Future[R]:
        """Have it done by the first slot that is free."""
        future = self._threads.submit(self._do, work, argument)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    @abstractmethod
    def _open(self) -> Sequence[Slot]:
        """The slots there are, when the executor is entered."""

    def __enter__(self) -> Self:
        self._all = self._open()
        self._threads = ThreadPoolExecutor(self.slots)
        self._unfinished: set[Future[Any]] = set()
        self._free: LifoQueue[Slot] = LifoQueue()  # the last one is warm
        for slot in reversed(self._all):
            self._free.put(slot)
        return self

    def _do(self, work: Callable[[T], R], argument: T) -> R:
        slot = self._free.get()  # at once: there are as many threads as slots
        try:
            result: R = unpack(slot.run(pack(work, argument)))
            return result
        finally:
            self._free.put(slot)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(interrupted=kind is not None)
        finally:
            for slot in self._all:
                slot.close()

    def _wait(self, *, interrupted: bool) -> None:
        """Wait for what runs; each Ctrl-C, the one that brought us here among them, is passed on once."""
        presses = int(interrupted)
        while True:
            try:
                if presses:
                    self._threads.shutdown(wait=False, cancel_futures=True)
                    for slot in self._all:
                        slot.interrupt() if presses <= 2 else slot.kill()
                wait(tuple(self._unfinished))  # a thread whose join() was interrupted counts as ended in Python 3.11
                break
            except KeyboardInterrupt:
                presses += 1
        self._threads.shutdown()
        if presses and not interrupted:
            raise KeyboardInterrupt
