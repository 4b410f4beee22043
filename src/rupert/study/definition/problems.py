"""A user's mistakes, collected so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rupert.errors import UsageError


class Problems:
    """Mistakes that were found so far, each message once."""

    def __init__(self) -> None:
        self._found: dict[str, UsageError] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, error: UsageError) -> None:
        """Keep a mistake for later."""
        self._found.setdefault(str(error), error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What goes wrong inside is kept for later."""
        try:
            yield
        except UsageError as error:
            self.add(error)

    def tell(self) -> None:
        """Raise what was found, one mistake a line, if there is any.

        Raises:
            UsageError: the mistake itself where it is the only one.
        """
        found = list(self._found.values())
        if found:
            raise found[0] if len(found) == 1 else UsageError("\n".join(map(str, found)))


@contextmanager
def at(where: str) -> Iterator[None]:
    """Put the place before the message of what goes wrong inside; nothing where it is empty."""
    try:
        yield
    except UsageError as error:
        if where:
            error.args = (f"{where}: {error}",)
        raise
