"""Rows of a small study, and what a verdict says of them."""

from __future__ import annotations

import hashlib
from html.parser import HTMLParser
from typing import Any

from rupert.evidence import Evidence, MeasuredCell, Origin
from rupert.records import Metric, Record, ResultRow


def row(defense: str, attack: str, metric: str, value: float) -> ResultRow:
    return ResultRow(
        study="demo",
        model="potionworld",
        defense=defense,
        attack=attack,
        seed=0,
        metric=metric,
        value=value,
        low=max(0.0, value - 0.05),
        high=min(1.0, value + 0.05),
        n=66,
    )


def study(**harm_and_ability: tuple[float, float, float, float]) -> list[ResultRow]:
    """Rows for each defense: harm before and after the attack, ability before and after it."""
    rows = []
    for defense, (harm, attacked_harm, ability, attacked_ability) in harm_and_ability.items():
        rows += [
            row(defense, "none", "harm", harm),
            row(defense, "fine_tune-0.0001", "harm", attacked_harm),
            row(defense, "none", "ability", ability),
            row(defense, "fine_tune-0.0001", "ability", attacked_ability),
        ]
    return rows


def words(text: str) -> str:
    """The text with the space and the dash of a plain keyboard."""
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{EN DASH}", "-")


def evidence(rows: list[ResultRow], **changes: Any) -> Evidence:
    """A study of these rows, whose every model was evaluated once."""
    models = dict.fromkeys((one.seed, one.defense, one.attack) for one in rows)
    known: dict[str, Any] = {
        "study": rows[0].study if rows else "",
        "model": rows[0].model if rows else "",
        "command": "rupert demo",
        "seeds": (0,),
        "defenses": {"none": None, "sdd": {"learning_rate": 1e-4, "reject_prefix": ""}},
        "attacks": {"fine_tune-0.0001": {"max_steps": 60}, "benign": {}},
        "notes": ("Harm is exact.",),
        "cells": tuple(measured_cell(*model) for model in models),
        "rows": tuple(rows),
        "all_rows": tuple(rows),
        "exchanges": lambda cell: iter(()),
    }
    return Evidence(**(known | changes))


def measured_cell(seed: int, defense: str, attack: str) -> MeasuredCell:
    record = Record(
        stage="evaluate",
        method="suite",
        settings={},
        model="m",
        model_hash="0123abcd",
        data={"requests": "f1f2"},
        seconds=106.7,
        environment={"python": "3.11.2"},
    )
    origin = Origin(
        kind="evaluate",
        label=f"{defense}-{attack}-seed{seed}",
        seed=seed,
        folder=f"evaluate/{defense}-{attack}-seed{seed}",
        identity=hash_of(defense, attack, str(seed)),
        command=f"rupert eval --model {defense}",
        record=record,
    )
    return MeasuredCell(seed=seed, defense=defense, attack=attack, origins=(origin,), metrics=(Metric("harm", 0.0),))


def hash_of(*words: str) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


class Document(HTMLParser):
    """What a browser would see: elements, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
