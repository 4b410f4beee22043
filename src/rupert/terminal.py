"""What goes to the terminal: progress, on one console or told to who listens, and text that cannot take it over."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from rich import progress
from rich.console import Console

# Control, format (also the marks that turn the direction of writing), surrogate, private and unassigned characters.
HOSTILE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
HARMLESS = frozenset("\n\t\u200d")  # the last joins the parts of an emoji
TOLD_EVERY = 0.25  # seconds


class ProgressConsole(Console):
    """Standard error, so that standard output stays for results."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep to what standard error is now: libraries whose own bars are hidden would hide ours as well."""
        before, self._file = self._file, self.file
        try:
            yield
        finally:
            self._file = before


@cache
def progress_console() -> ProgressConsole:
    """The one console that progress is drawn on: a bar inside a bar keeps its place only in one."""
    return ProgressConsole(stderr=True)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is: `done` of `total`, None where nobody knows; `note` is its loss, or what it does."""

    title: str
    done: float
    total: float | None
    note: str = ""


Listener = Callable[[Progress], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Bar:
    """What a piece of work calls to say how far it is."""

    def __init__(self, progress: Progress, show: Listener) -> None:
        self.progress = progress
        self._show = show

    def advance(self, steps: float = 1) -> None:
        """So many more are done."""
        self.update(done=self.progress.done + steps)

    def update(self, *, done: float | None = None, total: float | None = None, note: str | None = None) -> None:
        """Say anew what is not None."""
        before = self.progress
        self.progress = Progress(
            before.title,
            before.done if done is None else done,
            before.total if total is None else total,
            before.note if note is None else note,
        )
        self._show(self.progress)


@contextmanager
def bar(title: str, total: float | None, *, done: float = 0, silent: bool = False) -> Iterator[Bar]:
    """Show how far a piece of work is: as a bar on standard error, or to who listens.

    Args:
        title: of the work.
        total: how much there is to do; None if that is not known yet, or ever.
        done: how much of it was done before.
        silent: show nothing, as in all processes of a training but the main one.
    """
    start, listener = Progress(title, done, total), _LISTENER.get()
    if silent:
        yield Bar(start, lambda _: None)
    elif listener:
        with _told(start, listener) as shown:
            yield shown
    else:
        with _drawn(start) as shown:
            yield shown


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of all progress in this thread, at most every quarter of a second and at the end; draw none."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def _told(start: Progress, listener: Listener) -> Iterator[Bar]:
    told = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= TOLD_EVERY:
            told = time.monotonic()
            listener(now)

    listener(start)
    shown = Bar(start, tell)
    try:
        yield shown
    finally:
        listener(shown.progress)


@contextmanager
def _drawn(start: Progress) -> Iterator[Bar]:
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
        progress.TimeRemainingColumn(),
    )
    console = progress_console()
    drawing = progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with console.held(), drawing:
        task = drawing.add_task(start.title, total=start.total, completed=int(start.done), note=start.note)
        yield Bar(start, lambda now: drawing.update(task, completed=now.done, total=now.total, note=now.note))


def printable(text: str) -> str:
    """A model's text with every character that could act on a terminal written as its escape."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in HARMLESS or unicodedata.category(character) not in HOSTILE:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
