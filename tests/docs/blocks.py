"""The fenced blocks of the documentation, and what the comments above them say of how they are tested.

A comment is an HTML comment on a line of its own, directly above the block, which no reader sees:

    <!-- test: small -->                        run, in as few steps and rows as there can be
    <!-- test: small; read A as B; add WORDS -->    with A replaced by B, and WORDS put after each rupert command
    <!-- given: S as figure-2, hardened -->     these folders or files are there beforehand; a run goes on from them
    <!-- file: mine.yaml -->                    the block is this file's content
    <!-- not run here: needs the Hub -->        its commands are only parsed, for one of `REASONS`

A block without a comment is run as it stands.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
REASONS = (
    "installs everything, and runs these tests",
    "needs a Chromium",
    "needs a login on the Hub",
    "needs a network",
    "needs another machine",
    "needs several GPUs",
    "needs several machines",
    "needs the Hub",
    "needs the Hub and a large GPU",
    "takes minutes",
)
_COMMENT = re.compile(r"<!-- *(.*?) *-->")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and how it is tested."""

    place: str
    language: str
    text: str
    small: bool = False
    swaps: tuple[tuple[str, str], ...] = ()
    added: str = ""
    given: tuple[str, ...] = ()
    file: str = ""
    not_run: str = ""

    @property
    def as_tested(self) -> str:
        """Its text, with what is read as something else."""
        text = self.text
        for before, after in self.swaps:
            assert before in text, f"{self.place}: {before!r} is not in the block"
            text = text.replace(before, after)
        return text


def documents() -> list[Path]:
    """Every page that is written by hand or by the generator of the methods' pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        if not lines[number].lstrip().startswith("```"):
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == "```")
        text = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
        place = f"{path.relative_to(ROOT)}:{number + 1}"
        yield directed(Block(place, lines[number].strip().removeprefix("```"), text), _comments_above(lines, number))
        number = end + 1


def _comments_above(lines: list[str], number: int) -> list[str]:
    found: list[str] = []
    while number and (match := _COMMENT.fullmatch(lines[number - 1].strip())):
        found.insert(0, match.group(1))
        number -= 1
    return found


def directed(block: Block, comments: list[str]) -> Block:
    for comment in comments:
        kind, colon, rest = comment.partition(": ")
        assert colon, f"{block.place}: {comment!r} says nothing that a test understands"
        block = _with(block, kind, rest)
    return block


def _with(block: Block, kind: str, rest: str) -> Block:
    if kind == "given":
        return replace(block, given=tuple(rest.split(", ")))
    if kind == "file":
        return replace(block, file=rest)
    if kind == "not run here":
        assert rest in REASONS, f"{block.place}: {rest!r} is no reason; one of: {'; '.join(REASONS)}"
        return replace(block, not_run=rest)
    assert kind == "test", f"{block.place}: no test understands {kind!r}"
    for part in rest.split("; "):
        block = _tested(block, part)
    return block


def _tested(block: Block, part: str) -> Block:
    if part == "small":
        return replace(block, small=True)
    if part.startswith("add "):
        return replace(block, added=part.removeprefix("add "))
    before, as_, after = part.removeprefix("read ").partition(" as ")
    assert as_, f"{block.place}: no test understands {part!r}"
    assert part.startswith("read "), f"{block.place}: no test understands {part!r}"
    return replace(block, swaps=(*block.swaps, (before, after)))
