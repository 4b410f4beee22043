"""`rupert diff`: where two studies or two stages differ, in settings and in numbers."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rupert.cli.arguments import Parser
from rupert.errors import FolderError
from rupert.records import RESULT_FILE, read_record
from rupert.report.results import CSV_FILE
from rupert.report.tables import read_csv
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.evidence.difference import (
    MISSING,
    Difference,
    Differences,
    NumberDifference,
    Side,
    differences,
    stage_side,
    study_side,
)
from rupert.study.store import STUDY_FILE, Store
from rupert.terminal import printable

HASH = re.compile("[0-9a-f]{64}")


def configure(parser: Parser) -> None:
    """The command's arguments."""
    for side in ("a", "b"):
        parser.add_argument(
            side, metavar=side.upper(), help="a study's folder, YAML file or recipe; or a stage's folder"
        )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Print what differs."""
    found = differences(_side(arguments.a), _side(arguments.b))
    if arguments.json:
        print(json.dumps(_as_json(found), indent=2, default=str))
        return 0
    console = Console(highlight=False)
    if found.facts:
        console.print(_facts_table(found.facts))
    if found.numbers:
        console.print(_numbers_table(found.numbers))
    if found.equal:
        console.print(f"equal numbers: {found.equal}")
    if not found.facts and not found.numbers:
        console.print("no difference")
    return 0


def _side(name: str) -> Side:
    folder = Path(name)
    if (folder / STUDY_FILE).exists():
        results = folder / CSV_FILE
        return study_side(Store(folder).study(), read_csv(results) if results.exists() else [])
    if (folder / RESULT_FILE).exists():
        return stage_side(read_record(folder))
    if folder.is_dir():
        raise FolderError(f"{name!r} holds no {STUDY_FILE} and no {RESULT_FILE}; name a study or a stage that is done")
    return study_side(read_study(find_recipe(name, "study")), [])


def _as_json(found: Differences) -> dict[str, Any]:
    """A side that has no value has no key."""
    facts = [asdict(one) for one in found.facts]
    numbers = [{**asdict(one), "difference": one.change} for one in found.numbers]
    return {
        "facts": [{key: value for key, value in one.items() if value != MISSING} for one in facts],
        "numbers": [{key: value for key, value in one.items() if value is not None} for one in numbers],
        "equal_numbers": found.equal,
    }


def _facts_table(found: Sequence[Difference]) -> Table:
    table = _table("setting", "A", "B")
    for one in found:
        table.add_row(*(Text(printable(text)) for text in (one.name, _shown(one.a), _shown(one.b))))
    return table


def _numbers_table(found: Sequence[NumberDifference]) -> Table:
    table = _table("cell", "metric")
    for heading in ("A", "B", "B - A"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        numbers = ("" if value is None else f"{value:.4g}" for value in (one.a, one.b, one.change))
        table.add_row(Text(printable(one.cell)), Text(printable(one.metric)), *numbers)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _shown(value: Any) -> str:
    """A value as JSON; a method, with all its settings, by its name; of a hash, enough to see that it is another."""
    if value == MISSING:
        return MISSING
    if isinstance(value, Mapping):
        return f"{value.get('method', '')}, {len(value)} settings".lstrip(", ")
    if isinstance(value, str) and HASH.fullmatch(value):
        return f"{value[:12]}…"
    return json.dumps(value, ensure_ascii=False, default=str)
