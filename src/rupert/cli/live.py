"""The live table of a running study: how much is done, and how far each stage is that is worked on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rupert.study.running.progress import read_progress
from rupert.study.running.run import Board
from rupert.terminal import progress_console

BAR_WIDTH = 20


@contextmanager
def watching(board: Board) -> Iterator[Console]:
    """Show a board on standard error, where that is a terminal; what is printed on the console stands above it."""
    console = progress_console()
    started = time.monotonic()

    def table() -> RenderableType:
        return draw(board, time.monotonic() - started)

    live = Live(get_renderable=table, console=console, transient=True) if console.is_terminal else nullcontext()
    with console.held(), live:
        yield console


def draw(board: Board, seconds: float) -> Table:
    """The table: a line for the study, and one for each stage that is worked on."""
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1)  # the one that is cut where the terminal is narrow
    table.add_row("stages", _bar(board.done, board.total), f"{board.done}/{board.total}", f"{seconds:.0f} s")
    for label, path in sorted(board.running.items()):
        progress = read_progress(path)
        if progress is None:
            table.add_row(label, _bar(0, None), "", "starting")
            continue
        count = f"{progress.done:.0f}" if progress.total is None else f"{progress.done:.0f}/{progress.total:.0f}"
        table.add_row(label, _bar(progress.done, progress.total), count, f"{progress.title}  {progress.note}".strip())
    return table


def _bar(done: float, total: float | None) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=BAR_WIDTH, pulse=total is None)
