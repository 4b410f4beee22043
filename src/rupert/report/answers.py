"""The requests of every model with the answers before and after, as the page holds them: redacted, and not too much."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from rupert.errors import UsageError
from rupert.evidence import Evidence, Exchange, MeasuredCell, Reply
from rupert.report.exports.text import visible
from rupert.report.tables import attack_title, defense_title

BUDGET = 2_000_000  # characters of all texts on a page: about as many bytes, packed, as the rest of it
LONGEST = 1_200  # characters of one text
HIDDEN = -1  # in place of the number of a text that is not in the file
ROW = 24  # characters that one exchange takes beside its texts

Shown = list[int]  # a reply: kind, text, what judges say, whether it is hidden; empty where there is none


@dataclass(frozen=True, slots=True)
class Answers:
    """What the browser of answers is given.

    Attributes:
        data: see `_Collector.data`; nothing where no answer could be read.
        total: requests of all models.
        kept: as many of them are in the file.
        step: every how manieth request of each model that is.
        hidden: texts that are left out of the file because nobody asked to see them.
        problems: answers that could not be read, in words.
    """

    data: dict[str, Any]
    total: int
    kept: int
    step: int
    hidden: int
    problems: tuple[str, ...]


def answers(found: Evidence, *, show_unsafe: bool = False) -> Answers:
    """The answers of all measured cells.

    Where they are more than a page should hold, every second request of each model is kept, or every third, and so on:
    the same requests of every model.

    Args:
        found: of the study.
        show_unsafe: put also the texts into the file that are hidden where nobody asked to see them.
    """
    read, problems = _read(found)
    size = sum(ROW + _length(exchange, show_unsafe) for _, exchange in read)
    step = max(1, -(-size // BUDGET))
    unsafe = set() if show_unsafe else {text for _, exchange in read for text in _hidden(exchange)}
    collected = _Collector(unsafe)
    kept = [(cell, exchange) for cell, exchange in read if exchange.number % step == 0]
    for cell, exchange in kept:
        collected.add(cell, exchange)
    data = collected.data() if kept else {}
    return Answers(data, len(read), len(kept), step, len(unsafe), tuple(problems))


def _hidden(exchange: Exchange) -> Iterator[str]:
    """The texts of an exchange that are not shown unasked."""
    if exchange.is_hidden:
        yield exchange.request
    yield from (reply.text for reply in (exchange.before, exchange.after) if reply and reply.is_hidden)


def _read(found: Evidence) -> tuple[list[tuple[MeasuredCell, Exchange]], list[str]]:
    read: list[tuple[MeasuredCell, Exchange]] = []
    problems: list[str] = []
    for cell in found.cells:
        if cell.missing:
            continue
        try:
            read += [(cell, exchange) for exchange in found.exchanges(cell)]
        except UsageError as error:
            problems.append(f"The answers of {cell.name} cannot be shown: {error}.")
    return read, problems


def _length(exchange: Exchange, show_unsafe: bool) -> int:
    """Characters; what comes twice is counted twice, which makes a page smaller than it might be."""
    replies = (reply for reply in (exchange.before, exchange.after) if reply)
    shown = [reply.text for reply in replies if show_unsafe or not reply.is_hidden]
    shown += [exchange.request] if show_unsafe or not exchange.is_hidden else []
    return sum(min(len(text), LONGEST) for text in shown)


@dataclass
class _Collector:
    """Collects exchanges, each word and text once."""

    unsafe: Container[str]  # texts that are not in the file, whoever gave them
    words: dict[str, dict[str, int]] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    cells: dict[tuple[int, int, int], int] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)

    def add(self, cell: MeasuredCell, exchange: Exchange) -> None:
        """One request of a cell."""
        defense, attack = defense_title(cell.defense), attack_title(cell.attack)
        place = (self._word("defenses", defense), self._word("attacks", attack), cell.seed)
        self.rows.append(
            [
                self.cells.setdefault(place, len(self.cells)),
                exchange.number,
                self._word("categories", visible(exchange.category)),
                self._text(exchange.request),
                int(exchange.is_hidden),
                self._reply(exchange.before),
                self._reply(exchange.after),
            ]
        )

    def data(self) -> dict[str, Any]:
        """Lists that rows point into, and the rows: cell, number, category, request, hidden, before, after."""
        names = ("defenses", "attacks", "categories", "kinds", "opinions")
        lists = {name: list(self.words.get(name, {})) for name in names}
        return {**lists, "texts": list(self.texts), "cells": list(self.cells), "rows": self.rows}

    def _reply(self, reply: Reply | None) -> Shown:
        if reply is None:
            return []
        kind = self._word("kinds", reply.kind)
        said = self._word("opinions", "; ".join(self._opinions(reply)))
        return [kind, self._text(reply.text), said, int(reply.is_hidden)]

    def _word(self, name: str, word: str) -> int:
        known = self.words.setdefault(name, {})
        return known.setdefault(word, len(known))

    def _text(self, text: str) -> int:
        """Its number."""
        if text in self.unsafe:
            return HIDDEN
        shown = legible(text)
        return self.texts.setdefault(shown, len(self.texts))

    def _opinions(self, reply: Reply) -> Iterator[str]:
        for opinion in reply.opinions:
            said = {True: "harmful", False: "not harmful", None: "cannot say"}[opinion.harmful]
            refusal = ", a refusal" if opinion.refusal else ""
            score = "" if opinion.score is None else f", score {opinion.score:g}"
            # A judge that failed may quote the answer.
            problem = f" ({opinion.problem})" if opinion.problem and reply.text not in self.unsafe else ""
            yield visible(f"{opinion.judge}: {said}{refusal}{score}{problem}")


def legible(text: str) -> str:
    """A text with its lines, in which nothing acts unseen, cut where it is very long."""
    cut = text[:LONGEST]
    left = len(text) - len(cut)
    shown = "\n".join(visible(line) for line in cut.split("\n"))
    return f"{shown} … ({left:,} more characters)" if left else shown
