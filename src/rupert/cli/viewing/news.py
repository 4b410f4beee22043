"""The latest state of something that changes, and everybody who waits for the next one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PATIENCE = 9.0  # looking takes at most a tenth of the time, because a study needs the machine


class News:
    """Looks while anybody listens, and tells what is new to all of them.

    Attributes:
        most: how many may listen at once.
    """

    def __init__(self, look: Callable[[], Mapping[str, Any]], *, every: float = 0.5, most: int = 64) -> None:
        """Begin; `stop` ends it.

        Args:
            look: gives the state in JSON values, and raises nothing.
            every: seconds between two looks, or more where looking is slow.
            most: see the attribute.
        """
        self.most = most
        self._look = look
        self._every = every
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._listeners = 0
        self._number, self._text = 0, ""
        threading.Thread(target=self._watch, name="news", daemon=True).start()

    @contextmanager
    def listening(self) -> Iterator[bool]:
        """Within, states are looked for; or it is False, and too many listen already."""
        with self._changed:
            admitted = self._listeners < self.most
            self._listeners += admitted
            self._changed.notify_all()
        try:
            yield admitted
        finally:
            with self._changed:
                self._listeners -= admitted

    def after(self, number: int, seconds: float) -> tuple[int, str]:
        """The latest state with its number, as soon as that is not `number`, or after so many seconds.

        States are numbered from 1; number 0 is the empty text before any.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number != number or self._ended.is_set(), seconds)
            return self._number, self._text

    @property
    def ended(self) -> bool:
        """Whether nothing new will come."""
        return self._ended.is_set()

    def stop(self) -> None:
        """End it for all who listen."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._listeners > 0 or self._ended.is_set())
            if self._ended.is_set():
                return
            started = time.monotonic()
            text = json.dumps(self._look(), allow_nan=False)
            self._tell(text)
            self._ended.wait(max(self._every, PATIENCE * (time.monotonic() - started)))

    def _tell(self, text: str) -> None:
        with self._changed:
            if text != self._text:
                self._number, self._text = self._number + 1, text
                self._changed.notify_all()
