"""`rupert gc`: what a study's folder holds and the study does not need, and how to be rid of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from rupert.cli.arguments import Parser
from rupert.study.survey.garbage import Found, Garbage, delete, find
from rupert.terminal import printable


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", type=Path, help="of `rupert run`: its --output-dir")
    parser.add_argument("--delete", action="store_true", help="delete what is listed; without it nothing is")


def run(arguments: argparse.Namespace) -> int:
    """List what is not needed, and delete it where that is asked for."""
    found, left = delete(arguments.folder) if arguments.delete else (find(arguments.folder), ())
    console = Console(highlight=False)
    for line in _lines(found, left, arguments.folder.resolve()):
        console.print(Text(printable(line)), soft_wrap=True)
    if arguments.delete:
        console.print(f"{decimal(sum(one.size for one in found.garbage if one not in left))} deleted")
    else:
        total = decimal(sum(one.size for one in found.garbage))
        console.print(f"{total} can be deleted; add --delete" if found.garbage else "nothing can be deleted")
    return 0


def _lines(found: Found, left: tuple[Garbage, ...], folder: Path) -> Iterator[str]:
    for one in found.garbage:
        in_use = "; left, somebody works on it" if one in left else ""
        yield f"{decimal(one.size):>10}  {one.path.relative_to(folder)}  {one.about}{in_use}"
    for path in found.foreign:
        yield f"not made by rupert, left: {path.relative_to(folder)}"
